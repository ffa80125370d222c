"""``poe.smc_over_positions``: events grown element by element, weighted for the whole product."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.core.errors import NonFiniteError, PoeError
from poe.core.randomness import resolve
from poe.density.capabilities import check_proper
from poe.density.checks import device_of, require_numbers
from poe.density.conditional import require_one
from poe.density.expert import Expert
from poe.diagnostics.independent_groups import log_mean
from poe.draws import Draws
from poe.draws.verdict import tell
from poe.particles.resampling import systematic_resample
from poe.particles.smc import disagreement, doubted, partition_of_islands
from poe.samplers.discrete.suffix import SuffixMetropolisHastings
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.kernel import ASYMPTOTICALLY_EXACT, Info
from poe.structure.autoregressive import as_events, at_rows, draw_value, num_places
from poe.structure.twists import LocalProduct, normalized, twists as own_twists

REMEDY = (
    "Draw more, or give a twist that sees earlier where a prefix leads, by `twists=` "
    "(poe.structure.twists.OnPrefixes)"
)


@checked
def smc_over_positions(
    target: Expert,
    num_samples: int,
    *,
    twists: Sequence[nn.Module] = (),
    num_islands: int = 16,
    ess_threshold: float = 0.5,
    num_moves: int = 0,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Draws:
    """Weighted draws of x ~ p̃ / Z and log Z, by particles that grow one element at a time.

    For an autoregressive expert times any others on a finite discrete space. With the twists ψₜ
    of prefixes (those of the target's factors, and the given ones; an autoregressive expert is
    one, ψₜ = p(x₁ … xₜ)), a particle's next element is drawn from
    q(v | prefix) ∝ ψₜ₊₁(prefix, v) / ψₜ(prefix), its weight multiplied by the sum of these over v;
    an island whose weights have an ESS below ``ess_threshold`` of its particles is resampled; and
    at the end every weight is multiplied by p̃(x) / ψ(x). So whatever the twists, the mean of
    exp(log_weights) f(x) is an **unbiased** estimate of Σ p̃ f, and of Z with f = 1: twists change
    its variance alone. (Their ψₜ may be 0 only where no continuation has a density.) Drawing from q
    without the weights is locally constrained decoding, whose distribution is another one.

    A NaN or +inf log-density counts as 0, and is reported.

    Args:
        target: p̃, one density on a space of finitely many values.
        num_samples: At least so many draws.
        twists: Modules that say more of where a prefix leads, beside the target's own.
        num_islands: Groups of particles that resample among themselves, and share nothing.
        ess_threshold: Below this fraction of its particles an island is resampled.
        num_moves: Steps of ``SuffixMetropolisHastings`` by q at the end, where islands of a low
            ESS were resampled: copies are made different, and the weights stay right.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.
        progress: A line that says what was chosen and a progress bar, both on stderr.

    Returns:
        Draws, ``(num_islands, particles, *event)``, weighted; their ``log_partition`` is the log of
        the mean of the islands' Ẑ, its standard error by their spread.

    Raises:
        NonFiniteError: Where no particle is inside the support.
        PoeError: For settings out of range, for a space of infinitely many values and for batches
            of densities.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers,
        doi:10.1111/j.1467-9868.2006.00553.x; Whiteley & Lee (2014), Twisted particle filters,
        doi:10.1214/13-AOS1167; Zhao et al. (2024), Probabilistic inference in language models via
        twisted sequential Monte Carlo, arXiv:2404.17546.

    Example:
        >>> model, liked = experts.MADE(6), experts.RBM(torch.ones(6, 2), [-1.0] * 6, [0.0, 0.0])
        >>> target, g = model * liked * experts.graphs.parity(6), torch.Generator().manual_seed(0)
        >>> draws = smc_over_positions(target, 2000, generator=g, progress=False)
        >>> draws.samples.shape, draws.guarantee
        (torch.Size([16, 125, 6]), 'asymptotically exact')
        >>> found, truth = draws.log_partition, poe.log_partition(target)
        >>> bool((found.value - truth.value).abs() < 4 * found.std_error)
        True
    """
    began = time.perf_counter()
    _check(target, num_samples, num_islands, ess_threshold, num_moves)
    local = LocalProduct(target.space, [*own_twists(target), *twists])
    generator = resolve(generator, device_of(target))
    count = -(-num_samples // num_islands)
    run = _Growth(local, num_islands, count, ess_threshold, generator)
    names = ", ".join(type(twist).__name__ for twist in local.twists) or "no expert"
    if progress:
        tqdm.write(
            f"poe.smc_over_positions: {num_islands} islands x {count} particles, drawn element by "
            f"element from the local product of {names}",
            file=sys.stderr,
        )
    for place in tqdm(range(num_places(target.space)), disable=not progress, file=sys.stderr):
        run.extend(place)
    return _gather(run, target, num_moves, began)


class _Growth:
    """Prefixes on their way, with their weights; an island's mean weight is its Ẑ so far."""

    def __init__(
        self,
        local: LocalProduct,
        num_islands: int,
        num_particles: int,
        ess_threshold: float,
        generator: torch.Generator,
    ) -> None:
        self.local, self.ess_threshold, self.generator = local, ess_threshold, generator
        self.shape = (num_islands, num_particles)
        total = num_islands * num_particles
        device = local.even.device
        self.state: Any = local.begin(total)
        self.values = torch.zeros((total, num_places(local.space)), dtype=torch.long, device=device)
        self.log_weights = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self.log_twist = torch.zeros(total, dtype=torch.float64, device=device)
        self.num_resampled = torch.zeros(num_islands, dtype=torch.long, device=device)
        self.num_undefined = torch.zeros_like(self.num_resampled)

    @torch.no_grad()
    def extend(self, place: int) -> None:
        """Weigh by all that may follow, resample where the weights ask for it, and draw."""
        ratios = self.local.log_ratios(self.state, place).double()
        is_undefined = ratios.isnan() | (ratios == torch.inf)
        self.num_undefined += is_undefined.any(1).reshape(self.shape).sum(1)
        ratios = ratios.masked_fill(is_undefined, -torch.inf)
        self.log_weights = self.log_weights + ratios.logsumexp(1).reshape(self.shape)
        # What follows is drawn after, so that copies of a prefix go on differently.
        ratios = ratios[self.resample()]
        uniforms = torch.rand(
            len(ratios), dtype=torch.float64, device=ratios.device, generator=self.generator
        )
        chosen = draw_value(normalized(ratios), uniforms)
        self.values[:, place] = chosen
        self.log_twist = self.log_twist + ratios.gather(1, chosen[:, None]).squeeze(1)
        if place < self.values.shape[1] - 1:
            self.state = self.local.append(self.state, place, chosen)

    def finish(self, log_density: Tensor) -> None:
        """Weigh by p̃ / ψ; the values of p̃ ``(n,)`` are finite or −inf."""
        found = log_density.double() - self.log_twist
        found = found.masked_fill(log_density == -torch.inf, -torch.inf)
        is_alive = self.log_weights > -torch.inf
        found = found.reshape(self.shape).masked_fill(~is_alive, -torch.inf)
        self.log_weights = torch.where(is_alive, self.log_weights + found, self.log_weights)

    def resample(self) -> Tensor:
        """Within islands of a low ESS, which go on at their mean weight; the chosen rows."""
        islands, n = self.shape
        rows = torch.arange(islands * n, device=self.values.device).reshape(self.shape)
        weights = self.log_weights.softmax(1)
        # NaN, of an island without weight, is not below: it stays as it is.
        is_low = 1 / weights.square().sum(1) < self.ess_threshold * n
        safe = self.log_weights.masked_fill(~is_low[:, None], 0.0)
        chosen = systematic_resample(safe, n, generator=self.generator) + rows[:, :1]
        rows = torch.where(is_low[:, None], chosen, rows).flatten()
        if not bool(is_low.any()):
            return rows
        even = log_mean(self.log_weights)[:, None].expand(self.shape)
        self.log_weights = torch.where(is_low[:, None], even, self.log_weights)
        self.values, self.log_twist = self.values[rows], self.log_twist[rows]
        self.state = at_rows(self.state, rows)
        self.num_resampled += is_low
        return rows


@torch.no_grad()
def _gather(run: _Growth, target: Expert, num_moves: int, began: float) -> Draws:
    x = as_events(target, run.values)
    raised = Raised()
    asked = Guarded(target, raised)
    log_density = asked(x)
    is_undefined = log_density.isnan() | (log_density == torch.inf)
    log_density = log_density.masked_fill(is_undefined, -torch.inf)
    run.finish(log_density)
    log_z = log_mean(run.log_weights)
    if bool((log_z == -torch.inf).all()):
        raise NonFiniteError(
            f"expected a particle inside the support of {type(target).__name__}, got none of "
            f"{len(x)}: {REMEDY[0].lower()}{REMEDY[1:]}"
        )
    kernel, infos = SuffixMetropolisHastings(run.local), []
    if num_moves:
        rows = run.resample()
        x, log_density = x[rows], log_density[rows]
        state = kernel.state_at(asked, x)
        for _ in range(num_moves):
            state, info = kernel.step(asked, state, generator=run.generator)
            infos.append(info)
        x, log_density = state.position, state.log_density
    islands = len(log_z)
    draws = Draws(
        samples=x.reshape(*run.shape, *x.shape[1:]),
        log_density=log_density.reshape(run.shape),
        guarantee=kernel.guarantee if num_moves else ASYMPTOTICALLY_EXACT,
        log_weights=run.log_weights,
        kernel=kernel if num_moves else None,
        acceptance_rate=_rate(infos, islands),
        num_outside=(run.log_weights == -torch.inf).sum(1),
        num_undefined=run.num_undefined + is_undefined.reshape(run.shape).sum(1),
        num_gradients=1 + num_moves,
        seconds=time.perf_counter() - began,
        choice=f"element by element; islands resampled {run.num_resampled.tolist()} times",
        seed=run.generator.initial_seed(),
        log_partition=partition_of_islands(
            log_z, "sequential Monte Carlo over positions", len(x) * (1 + num_moves)
        ),
    )
    draws = doubted(draws, [*_doubts(draws, log_z), *raised.doubts()])
    tell(draws)
    return draws


def _rate(infos: list[Info], islands: int) -> Tensor | None:
    if not infos:
        return None
    accepted = torch.stack([info.is_accepted for info in infos]).double().mean(0)
    return accepted.reshape(islands, -1).mean(1)


def _doubts(draws: Draws, log_z: Tensor) -> list[Doubt]:
    doubts = disagreement(log_z, REMEDY)
    assert draws.num_undefined is not None
    if undefined := int(draws.num_undefined.sum()):
        text = (
            f"{undefined} particles met a NaN or +inf log-density, which was given no weight: the "
            "target, or a twist, is not defined there."
        )
        doubts.append(Doubt(Kind.UNDEFINED, text))
    return doubts


def _check(
    target: Expert, num_samples: int, num_islands: int, ess_threshold: float, num_moves: int
) -> None:
    if num_samples < 1 or num_islands < 2 or num_moves < 0:
        raise PoeError(
            "expected num_samples >= 1, num_islands >= 2 (their spread is the standard error) and "
            f"num_moves >= 0, got {num_samples}, {num_islands} and {num_moves}"
        )
    if not 0.0 <= ess_threshold <= 1.0:
        raise PoeError(f"expected 0 <= ess_threshold <= 1, got {ess_threshold}")
    require_numbers(target)
    check_proper(target)
    require_one(
        target, "islands mix their particles, so run poe.smc_over_positions once for each condition"
    )
