"""log Z of a restricted Boltzmann machine, annealed from independent elements and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.block_gibbs import draw_bits, sweep
from experts.boltzmann.fast_linear import linear
from experts.boltzmann.rbm import RBM
from experts.families.discrete import Bernoulli, data_log_odds
from poe.core.arguments import checked
from poe.core.errors import NormalizationError, PoeError
from poe.density.capabilities import can_sample_exactly, simplify
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.density.questions import speaks_as
from poe.diagnostics.independent_groups import CONFIDENCE, log_mean
from poe.diagnostics.weights import kish_ess
from poe.normalizers.annealed import both_ways
from poe.normalizers.choose import own_method
from poe.normalizers.levels import NUM_ISLANDS, Report
from poe.normalizers.problem import Method
from poe.normalizers.sides import Sides, group_doubts

ON_DRAWS = "the upper bound rests on chains settled at the RBM being draws of it"
PILOT_LEVELS = 100
"""Of the short run that finds base rates where none are given."""


@checked
@dataclass(frozen=True)
class BaseRateAIS:
    """Annealed importance sampling of an RBM by block Gibbs, from base rates to the RBM and back.

    Log-densities along the path, from log-odds a of independent elements at β = 0:

    log p̃_β(x) = (1 − β) a'x + β b'x + Σⱼ log(1 + exp(β (c + W'x)ⱼ))

    Every level is an RBM with its hidden units summed out, so that a move is two products of
    matrices. ``num_chains`` climb with E w = Z / Z₀, as many descend from draws of the RBM with
    E w = Z₀ / Z, and the estimate is the Bennett acceptance ratio of both: a sweep x → z → x′ is
    reversible. The draws are exact where a layer has at most 20 units; else those of other chains,
    which climb half as many levels and then sweep as often at the RBM.

    ``poe.log_partition`` takes it for RBMs and products of them that are too large to enumerate.
    Its ``start`` is a ``Bernoulli`` of the data's base rates; without one the rates are those of a
    short run.

    Args:
        num_chains: Chains each way, at least 32; they are rounded up to a multiple of 16, the
            groups that the standard error comes from.
        num_levels: Steps of β from 0 to 1, equally long, at least one.

    Raises:
        PoeError: For counts out of range.
        NormalizationError: When called, for any other target or start.

    References:
        Salakhutdinov & Murray (2008), On the quantitative analysis of deep belief networks,
        doi:10.1145/1390156.1390266, section 4.1 (upward).

        Burda, Grosse & Salakhutdinov (2015), Accurate and conservative estimates of MRF
        log-likelihood using reverse annealing, arXiv:1412.8566 (downward).

        Crooks (2000), Path-ensemble averages in systems driven far from equilibrium,
        doi:10.1103/PhysRevE.61.2361 (both).

        Bennett (1976), Efficient estimation of free energy differences from Monte Carlo data,
        doi:10.1016/0021-9991(76)90078-4.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> rbm = experts.RBM(torch.randn(9, 5, generator=g), torch.zeros(9), torch.zeros(5))
        >>> found = poe.log_partition(rbm, method=BaseRateAIS(64, 50), generator=g)
        >>> abs(found.value - poe.log_partition(rbm).value) < 4 * found.std_error
        tensor(True)
    """

    num_chains: int = 128
    num_levels: int = 2000

    def __post_init__(self) -> None:
        if self.num_chains < 2 * NUM_ISLANDS or self.num_levels < 1:
            raise PoeError(
                f"expected num_chains of at least {2 * NUM_ISLANDS}, for {NUM_ISLANDS} groups, and "
                f"num_levels of at least 1, got {self.num_chains} and {self.num_levels}"
            )

    @torch.no_grad()
    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target.

        Args:
            target: An RBM, or what simplifies to one.
            start: The Bernoulli at β = 0; None for that of a short run.
            generator: Of all that is drawn.
            report: Called with β and the acceptance rate, 1, after each level.

        Returns:
            log Z, its standard error and bounds.

        Raises:
            NormalizationError: For any other target or start.
        """
        rbm, log_constant = simplify(target)
        if not speaks_as(rbm, RBM):
            raise NormalizationError(
                f"expected an RBM or a product of RBMs, got {type(rbm).__name__}: use "
                "poe.normalizers.AIS() for other targets"
            )
        count = -(-self.num_chains // NUM_ISLANDS) * NUM_ISLANDS
        path = Path(rbm, _base(rbm, start, count, generator))
        betas = torch.linspace(0, 1, self.num_levels + 1).tolist()
        up, _ = _climb(path, betas, path.draw(count, generator), generator, report)
        draws = _draws(path, count, self.num_levels, generator, report)
        down = _descend(path, betas, draws, generator, report)
        log_start = path.log_start + log_constant.double()
        up, down = up.reshape(NUM_ISLANDS, -1), down.reshape(NUM_ISLANDS, -1)
        return _concluded(rbm, log_start, up, down, self.num_levels)


@own_method.register
def _(expert: RBM, start: Expert | None) -> Method | None:
    """From base rates: those given, or those of a short run."""
    return BaseRateAIS() if start is None or speaks_as(start, Bernoulli) else None


class Path(NamedTuple):
    """RBMs from independent elements of log-odds ``base`` ``(v,)`` at β = 0 to ``rbm`` at β = 1."""

    rbm: RBM
    base: Tensor

    @property
    def log_start(self) -> Tensor:
        """log Z at β = 0: of the elements, and of hidden units that are on or off alike."""
        hidden = self.rbm.c.new_zeros(self.rbm.c.shape, dtype=torch.float64)
        return F.softplus(self.base.double()).sum() + F.softplus(hidden).sum()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws at β = 0: ``(count, v)``."""
        return draw_bits(self.base.repeat(count, 1), generator=generator)

    def difference(self, x: Tensor, log_odds: Tensor, lower: float, upper: float) -> Tensor:
        """log p̃_upper(x) − log p̃_lower(x), for log-odds c + W'x at β = 1, in float64: ``(n,)``."""
        hidden = F.softplus(log_odds * upper).sub_(F.softplus(log_odds * lower))
        visible = x @ (self.rbm.b - self.base)
        return hidden.sum(1, dtype=torch.float64) + (upper - lower) * visible.double()

    def move(self, log_odds: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """x after a sweep at β, from the log-odds, which are written over."""
        z = draw_bits(log_odds.mul_(beta), generator=generator)
        field = torch.lerp(self.base, self.rbm.b, beta)
        moved = linear(z, self.rbm.W).mul_(beta).add_(field)
        return draw_bits(moved, generator=generator)

    def log_odds(self, x: Tensor) -> Tensor:
        """c + W'x: ``(n, h)``."""
        return linear(x, self.rbm.W.mT, self.rbm.c)


def _climb(
    path: Path, betas: list[float], x: Tensor, generator: torch.Generator, report: Report
) -> tuple[Tensor, Tensor]:
    """log w of chains from draws at β = 0 upward ``(n,)``, and where they end."""
    log_weight = x.new_zeros(len(x), dtype=torch.float64)
    for lower, upper in pairwise(betas):
        log_odds = path.log_odds(x)
        log_weight += path.difference(x, log_odds, lower, upper)
        x = path.move(log_odds, upper, generator)
        report(upper, 1.0)
    return log_weight, x


def _descend(
    path: Path, betas: list[float], x: Tensor, generator: torch.Generator, report: Report
) -> Tensor:
    """log w of chains from draws at β = 1 downward, the same steps in reverse: ``(n,)``."""
    log_weight, log_odds = x.new_zeros(len(x), dtype=torch.float64), path.log_odds(x)
    for upper, lower in pairwise(reversed(betas)):
        x = path.move(log_odds, upper, generator)
        log_odds = path.log_odds(x)
        log_weight -= path.difference(x, log_odds, lower, upper)
        report(lower, 1.0)
    return log_weight


def _draws(
    path: Path, count: int, num_levels: int, generator: torch.Generator, report: Report
) -> Tensor:
    """Of the RBM, exact where there are any: ``(count, v)``."""
    if can_sample_exactly(path.rbm):
        return exact_sample(path.rbm, count, generator)
    half = num_levels // 2 + 1
    betas = torch.linspace(0, 1, half + 1).tolist()
    _, x = _climb(path, betas, path.draw(count, generator), generator, report)
    return sweep(path.rbm, x, num_steps=half, generator=generator)


def _base(rbm: RBM, start: Expert | None, count: int, generator: torch.Generator) -> Tensor:
    """The log-odds that the path begins at: ``(v,)``."""
    if start is None:
        pilot, betas = Path(rbm, rbm.b), torch.linspace(0, 1, PILOT_LEVELS + 1).tolist()
        _, x = _climb(pilot, betas, pilot.draw(count, generator), generator, lambda t, a: None)
        return data_log_odds(x).to(rbm.W)
    if not speaks_as(start, Bernoulli) or start.space != rbm.space:
        raise NormalizationError(
            f"expected a start Bernoulli(log_odds) on {rbm.space}, got {type(start).__name__} on "
            f"{start.space}: give "
            "experts.Bernoulli(experts.families.data_log_odds(data)), or no start"
        )
    return start.natural.detach().to(rbm.W)


def _concluded(
    rbm: RBM, log_start: Tensor, up: Tensor, down: Tensor, num_levels: int
) -> LogPartition:
    """From log weights ``(groups, n)`` each way."""
    value, std_error = both_ways(up, down)
    both = Sides(log_mean(up) + log_start, log_start - log_mean(down))
    ess = min(kish_ess(up).item(), kish_ess(down).item())
    doubts = [*group_doubts(both.below), *group_doubts(-both.above), *both.doubts()]
    return LogPartition(
        (value + log_start).to(rbm.W),
        std_error.to(rbm.W),
        both.lower.to(rbm.W),
        both.upper.to(rbm.W),
        f"annealed importance sampling both ways, {num_levels} levels from base rates",
        ess=ess,
        num_evaluations=2 * (num_levels + 1) * up.numel(),
        confidence=CONFIDENCE,
        rests_on="" if can_sample_exactly(rbm) else ON_DRAWS,
        doubts=tuple(doubts),
    )
