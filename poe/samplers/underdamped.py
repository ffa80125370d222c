"""Underdamped Langevin: a momentum that persists, with friction and noise, and no accept step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.samplers.kernel import (
    BIASED,
    Density,
    Info,
    Noise,
    OnDrawnNoise,
    is_number,
    per_chain,
    require_positive,
    sum_event,
)
from poe.samplers.langevin import add_scaled


class MomentumState(NamedTuple):
    """Position, log-density, score, and the momentum that the next step goes on with.

    ``init`` has no random numbers: it leaves the momentum unset, and the first step draws it
    afresh, so that a chain that starts at an exact draw stays at exact draws.

    Args:
        position: x, ``(chains, *event)``.
        log_density: log p̃(x), ``(chains,)``.
        score: ∇ log p̃(x), ``(chains, *event)``.
        momentum: p, ``(chains, *event)``.
        has_momentum: Whether it is set, ``(chains,)``.
    """

    position: Tensor
    log_density: Tensor
    score: Tensor
    momentum: Tensor
    has_momentum: Tensor


class WithMomentum(OnDrawnNoise[MomentumState]):
    """Starts a kernel whose state holds the score and a momentum, as yet unset."""

    needs_score: ClassVar[bool] = True
    has_memory: ClassVar[bool] = True

    def state_at(self, target: Density, x: Tensor) -> MomentumState:
        log_density, score = target.log_density_and_score(x)
        unset = torch.zeros_like(log_density, dtype=torch.bool)
        return MomentumState(x, log_density, score, torch.zeros_like(x), unset)


def set_momentum(state: MomentumState, momentum: Tensor) -> MomentumState:
    """The same state with that momentum."""
    return state._replace(momentum=momentum, has_momentum=torch.ones_like(state.has_momentum))


def where_set(state: MomentumState, momentum: Tensor, fresh: Tensor) -> Tensor:
    """``momentum`` where a chain has one, else the fresh one: ``(chains, *event)``."""
    mask = state.has_momentum.reshape(-1, *([1] * (momentum.ndim - 1)))
    return torch.where(mask, momentum, fresh)


def refresh(momentum: Tensor, normal: Tensor, time: Tensor | float) -> Tensor:
    """e^(−t) p + √(1 − e^(−2t)) z: an Ornstein-Uhlenbeck process for the time t = friction · h.

    It leaves N(0, I) invariant.

    Args:
        momentum: p, ``(chains, *event)``.
        normal: z, of the same shape.
        time: t, a number or a tensor that broadcasts to the momentum.

    Returns:
        The momentum after that time.

    References:
        Horowitz (1991), A generalized guided Monte Carlo algorithm,
        doi:10.1016/0370-2693(91)90812-5.

    Example:
        >>> refresh(torch.ones(1, 2), torch.zeros(1, 2), math.log(2.0))
        tensor([[0.5000, 0.5000]])
    """
    if isinstance(time, Tensor):
        return torch.exp(-time) * momentum + torch.sqrt(-torch.expm1(-2.0 * time)) * normal
    return add_scaled(math.exp(-time) * momentum, normal, math.sqrt(-math.expm1(-2.0 * time)))


def uncorrected(log_density: Tensor, score: Tensor) -> Info:
    """What happened in a step that is always taken: a chain that is lost is counted, not hidden."""
    is_outside = log_density == -torch.inf
    is_finite = is_number(log_density) & sum_event(score).isfinite()
    return Info(
        acceptance_probability=torch.ones_like(log_density),
        is_accepted=torch.ones_like(is_outside),
        is_outside=is_outside,
        is_undefined=~(is_finite | is_outside),
        is_divergent=~(is_finite | is_outside),
    )


@checked
@dataclass(frozen=True)
class UnderdampedLangevin(WithMomentum):
    """Underdamped (kinetic) Langevin, dx = p dt, dp = (∇log p̃(x) − γ p) dt + √(2γ) dW, by BAOAB.

    B: p ← p + h/2 ∇log p̃(x);  A: x ← x + h/2 p;  O: p ← e^(−γh) p + √(1 − e^(−2γh)) z;  A;  B.
    One gradient a step: the last B and the next first one share theirs. Biased by O(h²) in x, where
    ULA is by O(ε); on a Gaussian the bias of x is zero at any stable h, and that of Var(p) is
    −h²ω²/4 in a direction of standard deviation 1/ω. Too large a step makes the chains explode,
    which ``Info.is_undefined`` counts.

    Args:
        step_size: h, a number, or a tensor of shape () or (chains,), below 2 standard deviations
            of the narrowest direction. Nothing is rejected, so there is no acceptance rate to tune
            it on: it must be given.
        friction: γ; 1 / γ is how long the momentum lasts. In a direction of standard deviation s,
            x decorrelates in a time γs² and x² in (γ²s² + 1) / 2γ: at γ = 1/s, the best for x²,
            both are s. The default is that of the unit scale.

    Raises:
        PoeError: Where step size or friction is not positive.

    References:
        Leimkuhler & Matthews (2013), Rational construction of stochastic numerical methods for
        molecular sampling, arXiv:1203.5428.

    Example:
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
