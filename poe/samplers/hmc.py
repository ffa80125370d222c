"""Hamiltonian Monte Carlo: a few leapfrog steps along the score, then one accept step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.samplers.kernel import Density, Info, Noise, accept, per_chain, sum_event, where_accepted
from poe.samplers.langevin import CorrectedWithScore, LangevinState, add_scaled


@dataclass(frozen=True)
class HMC(CorrectedWithScore):
    """Hamiltonian Monte Carlo with fresh momentum p ~ N(0, I) and L leapfrog steps of size h.

    p ← p + h/2 ∇log p̃(x);  x ← x + h p;  p ← p + h/2 ∇log p̃(x);  L times; accepted with
    min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)). One step costs L gradients. With L = 1 it
    is MALA of step size ε = h²/2; with more it goes on in one direction where MALA turns anew.

    - ``step_size`` h: a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
      an acceptance rate of 0.65.
    - ``num_steps`` L: the same for all chains. A direction of standard deviation s comes back to
      where it was after h L = 2π s.

    A trajectory that leaves the support anywhere is rejected. Raises PoeError for L < 1.

    Source: Neal 2011, "MCMC using Hamiltonian dynamics", section 3.2; optimal rate: Beskos et al.
    2013.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> kernel = HMC(step_size=0.5, num_steps=4)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, info.acceptance_probability.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    num_steps: int = 5

    target_acceptance: ClassVar[float] = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1:
            raise PoeError(f"expected num_steps >= 1, got {self.num_steps}")

    def _transition(
        self, target: Density, state: LangevinState, noise: Noise
    ) -> tuple[LangevinState, Info]:
        proposed, momentum = self._leapfrog(target, state, noise.normal)
        # |p|² − |p'|² as a product: two large sums would lose the difference.
        kinetic = 0.5 * sum_event((noise.normal - momentum) * (noise.normal + momentum))
        log_ratio = proposed.log_density - state.log_density + kinetic
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _leapfrog(
        self, target: Density, state: LangevinState, momentum: Tensor
    ) -> tuple[LangevinState, Tensor]:
        """Where the trajectory ends: state and momentum; log-density −inf if it left the support.

        To reject for any point on the way keeps the balance: the way back has the same points.
        """
        h = per_chain(self.step_size, state.position)
        position, is_outside = state.position, torch.zeros_like(state.log_density, dtype=torch.bool)
        momentum = add_scaled(momentum, state.score, 0.5 * h)
        for step in range(self.num_steps):
            position = add_scaled(position, momentum, h)
            log_density, score = target.log_density_and_score(position)
            is_outside = is_outside | (log_density == -torch.inf)
            momentum = add_scaled(momentum, score, h if step < self.num_steps - 1 else 0.5 * h)
        log_density = log_density.masked_fill(is_outside, -torch.inf)
        return LangevinState(position, log_density, score), momentum
