"""Underdamped Langevin: a momentum that persists, with friction and noise, and no accept step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from poe.samplers.kernel import BIASED, Density, Info, Noise, per_chain, require_positive
from poe.samplers.langevin import add_scaled
from poe.samplers.momentum import (
    MomentumState,
    WithMomentum,
    refresh,
    set_momentum,
    uncorrected,
    where_set,
)


@dataclass(frozen=True)
class UnderdampedLangevin(WithMomentum):
    """Underdamped (kinetic) Langevin, dx = p dt, dp = (∇log p̃(x) − γ p) dt + √(2γ) dW, by BAOAB.

    B: p ← p + h/2 ∇log p̃(x);  A: x ← x + h/2 p;  O: p ← e^(−γh) p + √(1 − e^(−2γh)) z;  A;  B.
    One gradient a step: the last B and the next first one share theirs. Biased by O(h²) in x, where
    ULA is by O(ε); on a Gaussian the bias of x is zero at any stable h, and that of Var(p) is
    −h²ω²/4 in a direction of standard deviation 1/ω.

    - ``step_size`` h: a number, or a tensor of shape () or (chains,), below 2 standard deviations
      of the narrowest direction. Nothing is rejected, so there is no acceptance rate to tune it on:
      it must be given. Too large a step makes the chains explode, which ``Info.is_undefined``
      counts.
    - ``friction`` γ: 1 / γ is how long the momentum lasts. In a direction of standard deviation s,
      x decorrelates in a time γs² and x² in (γ²s² + 1) / 2γ: at γ = 1/s, the best for x², both are
      s. The default is that of the unit scale.

    Source: Leimkuhler & Matthews 2013.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> kernel = UnderdampedLangevin(step_size=0.5)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.momentum.shape, kernel.guarantee
    (torch.Size([5, 2]), 'biased')
    """

    step_size: Tensor | float
    friction: float = 1.0

    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("friction", self.friction)

    @property
    def guarantee(self) -> str:
        """Unadjusted: biased."""
        return BIASED

    def transition(
        self, target: Density, state: MomentumState, noise: Noise
    ) -> tuple[MomentumState, Info]:
        h = per_chain(self.step_size, state.position)
        momentum = where_set(state, state.momentum, noise.normal)
        momentum = add_scaled(momentum, state.score, 0.5 * h)
        position = add_scaled(state.position, momentum, 0.5 * h)
        # In its first step a chain has spent its noise on a fresh momentum, and feels no friction.
        refreshed = refresh(momentum, noise.normal, self.friction * h)
        momentum = where_set(state, refreshed, momentum)
        position = add_scaled(position, momentum, 0.5 * h)
        log_density, score = target.log_density_and_score(position)
        momentum = add_scaled(momentum, score, 0.5 * h)
        moved = state._replace(position=position, log_density=log_density, score=score)
        return set_momentum(moved, momentum), uncorrected(log_density, score)
