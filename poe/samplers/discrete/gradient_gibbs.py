"""Elements chosen by what a gradient says that changing them brings: one, or several in a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.samplers.discrete.finite import CorrectedOnFiniteSpace, moved
from poe.samplers.kernel import (
    Density,
    Info,
    WithScale,
    accept,
    per_chain,
    require_positive,
    where_accepted,
)
from poe.samplers.langevin import LangevinState


class MoveNoise(NamedTuple):
    """A Gumbel variable for each move ``(chains, n (k − 1))``, and a uniform ``(chains,)``."""

    gumbel: Tensor
    uniform: Tensor


def draw_move_noise(position: Tensor, num_moves: int, generator: torch.Generator) -> MoveNoise:
    """A Gumbel variable for each of so many moves, and a uniform, for each chain."""
    is_float = position.is_floating_point()
    dtype = position.dtype if is_float else torch.get_default_dtype()
    waits = position.new_empty((len(position), num_moves), dtype=dtype)
    gumbel = -waits.exponential_(generator=generator).log()
    uniform = position.new_empty(len(position), dtype=dtype).uniform_(generator=generator)
    return MoveNoise(gumbel, uniform)


@checked
@dataclass(frozen=True)
class GibbsWithGradients(CorrectedOnFiniteSpace):
    """Gibbs-with-gradients: one element changes at a time, chosen by the gradient.

    y differs from x in one element i, now of value v, with probability

    q(y|x) ∝ exp(d(i, v; x) / 2),  d ≈ log p̃(y) − log p̃(x),

    and is accepted with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)). The changes d of all n (k − 1) moves are
    estimated to first order from one score, exactly where log p̃ is linear in each element.

    Args:
        space: Where x lives, Binary, Categorical or Sequence. On the last two the target offers a
            gradient in the one-hot encoding (``poe.density.one_hot``); a start raises PoeError
            where it does not, and where x is not in the space.

    Raises:
        PoeError: For another space.

    References:
        Grathwohl, Swersky, Hashemi, Duvenaud & Maddison (2021), Oops I took a gradient: scalable
        sampling for discrete distributions, eqs. 3 to 6, algorithm 1, arXiv:2102.04509.

    Example:
        >>> target = experts.Ising.grid((3, 3), coupling=0.3)
        >>> kernel = GibbsWithGradients(target.space)
        >>> state = kernel.init(target, torch.zeros(5, 3, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 3, 3]), 1)
    """

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> MoveNoise:
        num_moves = self.space.event_shape.numel() * (self.num_values - 1)
        return draw_move_noise(position, num_moves, generator)

    def transition(
        self, target: Density, state: LangevinState, noise: MoveNoise
    ) -> tuple[LangevinState, Info]:
        forth = self._log_probabilities(state)
        move = (forth + noise.gumbel).argmax(1, keepdim=True)
        site, shift = move // (self.num_values - 1), move % (self.num_values - 1) + 1
        x = state.position.reshape(len(state.position), -1)
        value = moved(x.gather(1, site), shift, self.num_values)
        position = x.scatter(1, site, value).reshape(state.position.shape)
        proposed = self.state_at(target, position)
        back = site * (self.num_values - 1) + self.num_values - shift - 1
        log_q = self._log_probabilities(proposed).gather(1, back) - forth.gather(1, move)
        log_ratio = proposed.log_density - state.log_density + log_q.squeeze(1)
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _log_probabilities(self, state: LangevinState) -> Tensor:
        """log q of every move: ``(chains, n (k − 1))``."""
        return (0.5 * self._changes(state)).flatten(1).log_softmax(1)


class PathNoise(NamedTuple):
    """Gumbel variables ``(chains, n (k − 1))``; uniforms for the length and for the decision."""

    gumbel: Tensor
    length: Tensor
    uniform: Tensor


class Path(NamedTuple):
    """The sites in the order in which they change, and how: all ``(chains, longest)``.

    ``is_on``: whether the path is that long.
    """

    site: Tensor
    shift: Tensor
    is_on: Tensor


@checked
@dataclass(frozen=True)
class PathAuxiliary(WithScale, CorrectedOnFiniteSpace):
    """L different elements change one after the other, each chosen by the estimated changes d at x.

    q(path|x) = ∏ₗ exp(d(iₗ, vₗ; x) / 2) / Σ_{i not yet changed, v} exp(d(i, v; x) / 2).

    The way back goes through the same elements in reverse, by the changes at y, and y is accepted
    with min(1, p̃(y) q(path back|y) / p̃(x) q(path|x)): the path is an auxiliary variable, so there
    is no sum over the paths from x to y. One gradient a step, whatever L; with L = 1 it is
    ``GibbsWithGradients``.

    Args:
        space: Where x lives, as for ``GibbsWithGradients``.
        mean_length: U, where L is uniform on 1 … min(2U − 1, n), drawn anew for each chain. A
            number, or a tensor of shape () or (chains,); None is tuned in warm-up, to an acceptance
            rate of 0.574. Where 2U is no integer the longest path is rarer.

    Raises:
        PoeError: For another space, and a mean length that is not positive.

    References:
        Sun, Dai, Xia & Ramamurthy (2022), Path auxiliary proposal for MCMC in discrete space,
        algorithm 2 (PAFS); Sun et al. (2022), Optimal scaling for locally balanced proposals in
        discrete spaces, arXiv:2209.08183 (the rate).

    Example:
        >>> target = experts.Ising.grid((5, 5), coupling=0.2)
        >>> kernel = PathAuxiliary(target.space, mean_length=3)
        >>> state = kernel.init(target, torch.zeros(5, 5, 5))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 5, 5]), 1)
    """

    mean_length: Tensor | float | None = None

    target_acceptance: ClassVar[float] = 0.574
    scale_field: ClassVar[str] = "mean_length"
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("mean_length", self.mean_length)

    @property
    def max_scale(self) -> float:
        """The largest mean length worth tuning to: lengths of all elements, uniformly."""
        return 0.5 * (self.space.event_shape.numel() + 1)

    @property
    def longest(self) -> int:
        """The most elements that may change; all, where the length is a tensor."""
        num_sites = self.space.event_shape.numel()
        if not isinstance(self.mean_length, int | float):
            return num_sites
        return min(num_sites, max(1, math.ceil(2 * self.mean_length - 1)))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> PathNoise:
        num_moves = self.space.event_shape.numel() * (self.num_values - 1)
        gumbel, length = draw_move_noise(position, num_moves, generator)
        return PathNoise(gumbel, length, torch.empty_like(length).uniform_(generator=generator))

    def transition(
        self, target: Density, state: LangevinState, noise: PathNoise
    ) -> tuple[LangevinState, Info]:
        half = 0.5 * self._changes(state)
        path = self._draw(half, noise)
        x = state.position.reshape(len(state.position), -1)
        value = moved(x.gather(1, path.site), path.shift, self.num_values)
        position = x.scatter(1, path.site, value).reshape(state.position.shape)
        proposed = self.state_at(target, position)
        back = 0.5 * self._changes(proposed)
        log_q = self._log_back(back, path) - self._log_forth(half, path)
        log_ratio = proposed.log_density - state.log_density + log_q
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _draw(self, half: Tensor, noise: PathNoise) -> Path:
        """Elements without replacement: the largest of d / 2 + Gumbel, in falling order."""
        best, shift = (half + noise.gumbel.reshape(half.shape)).max(-1)
        site = best.topk(self.longest, 1).indices
        length = per_chain(self.mean_length, noise.length) * torch.ones_like(noise.length)
        # Never all each time, which would go from x to its complement and back.
        span = (2.0 * length - 1.0).clamp(1.0, best.shape[1])
        place = torch.arange(self.longest, device=half.device)
        is_on = place <= (noise.length * span).floor().unsqueeze(1)
        # Off the path a shift of 0 changes nothing.
        return Path(site, (shift.gather(1, site) + 1) * is_on, is_on)

    def _log_forth(self, half: Tensor, path: Path) -> Tensor:
        """log q(path|x): at each place, over what is left of the elements."""
        on_path, elsewhere = self._weights(half, path)
        left = torch.logaddexp(on_path.flip(1).logcumsumexp(1).flip(1), elsewhere)
        return self._sum(half, path, path.shift - 1, left)

    def _log_back(self, half: Tensor, path: Path) -> Tensor:
        """log q(path back|y): in reverse, so what is left are the places up to this one."""
        on_path, elsewhere = self._weights(half, path)
        left = torch.logaddexp(on_path.logcumsumexp(1), elsewhere)
        return self._sum(half, path, self.num_values - path.shift - 1, left)

    def _weights(self, half: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        """log Σᵥ exp(d / 2) of the path's elements ``(chains, longest)``, and of all others."""
        weights = half.logsumexp(-1)
        on_path = weights.gather(1, path.site).masked_fill(~path.is_on, -torch.inf)
        kept = weights.gather(1, path.site).masked_fill(path.is_on, -torch.inf)
        others = weights.scatter(1, path.site, kept)
        return on_path, others.logsumexp(1, keepdim=True)

    def _sum(self, half: Tensor, path: Path, move: Tensor, left: Tensor) -> Tensor:
        """Σ of the chosen moves' d / 2 − log of what was left, over the path: ``(chains,)``."""
        at_site = half.gather(1, path.site.unsqueeze(-1).expand(*path.site.shape, half.shape[-1]))
        chosen = at_site.gather(-1, move.clamp(0, half.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        return (chosen - left).masked_fill(~path.is_on, 0.0).sum(1)
