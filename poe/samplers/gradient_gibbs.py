"""Gibbs-with-gradients: one site, chosen by what a gradient says that changing it brings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.samplers.finite import CorrectedOnFiniteSpace, moved
from poe.samplers.kernel import Density, Info, accept, where_accepted
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


@dataclass(frozen=True)
class GibbsWithGradients(CorrectedOnFiniteSpace):
    """Gibbs-with-gradients: y differs from x in one element i, now of value v, with probability

    q(y|x) ∝ exp(d(i, v; x) / 2),  d ≈ log p̃(y) − log p̃(x),

    and is accepted with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)). The changes d of all n (k − 1) moves are
    estimated to first order from one score, exactly where log p̃ is linear in each element.

    ``space``: where x lives, Binary, Categorical or Sequence. On the last two the target offers a
    gradient in the one-hot encoding (``poe.density.one_hot``). Raises PoeError where it does not,
    for another space, and for a start that is not in it.

    Source: Grathwohl, Swersky, Hashemi, Duvenaud & Maddison 2021, eqs. 3 to 6, algorithm 1.

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
        """A Gumbel variable for each move, and a uniform."""
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
