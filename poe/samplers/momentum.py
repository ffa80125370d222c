"""What the kernels share that keep their momentum from step to step."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.samplers.kernel import Density, Info, OnDrawnNoise, sum_event
from poe.samplers.langevin import add_scaled


class MomentumState(NamedTuple):
    """Position, log-density, score, and the momentum that the next step goes on with.

    Shapes: position, score and momentum ``(chains, *event)``; log_density and has_momentum
    ``(chains,)``. ``init`` has no random numbers: it leaves the momentum unset, and the first step
    draws it afresh, so that a chain that starts at an exact draw stays at exact draws.
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
        """Position, log-density and score; the momentum is unset."""
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

    It leaves N(0, I) invariant. ``time`` is a number or a tensor that broadcasts to the momentum.

    Source: Horowitz 1991.

    >>> refresh(torch.ones(1, 2), torch.zeros(1, 2), math.log(2.0))
    tensor([[0.5000, 0.5000]])
    """
    if isinstance(time, Tensor):
        return torch.exp(-time) * momentum + torch.sqrt(-torch.expm1(-2.0 * time)) * normal
    return add_scaled(math.exp(-time) * momentum, normal, math.sqrt(-math.expm1(-2.0 * time)))


def uncorrected(log_density: Tensor, score: Tensor) -> Info:
    """What happened in a step that is always taken: a chain that is lost is counted, not hidden."""
    is_outside = log_density == -torch.inf
    is_finite = log_density.isfinite() & sum_event(score).isfinite()
    return Info(
        acceptance_probability=torch.ones_like(log_density),
        is_accepted=torch.ones_like(is_outside),
        is_outside=is_outside,
        is_undefined=~(is_finite | is_outside),
        is_divergent=~(is_finite | is_outside),
    )
