"""Langevin kernels: ULA follows the score with noise, MALA corrects it by an accept step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.samplers.kernel import (
    BIASED,
    Corrected,
    Density,
    Info,
    Noise,
    OnDrawnNoise,
    WithScale,
    accept,
    is_number,
    per_chain,
    require_positive,
    sum_event,
    where_accepted,
)


class LangevinState(NamedTuple):
    """Position, log-density and the score, kept so that a step costs one gradient, not two.

    Args:
        position: x, ``(chains, *event)``.
        log_density: log p̃(x), ``(chains,)``.
        score: ∇ log p̃(x), ``(chains, *event)``.
    """

    position: Tensor
    log_density: Tensor
    score: Tensor


class WithScore(OnDrawnNoise[LangevinState]):
    """Starts a kernel whose state holds the score."""

    needs_score: ClassVar[bool] = True

    def state_at(self, target: Density, x: Tensor) -> LangevinState:
        return LangevinState(x, *target.log_density_and_score(x))


@dataclass(frozen=True)
class CorrectedWithScore(WithScale, WithScore, Corrected[LangevinState]):
    """A corrected kernel along the score, with one step size that warm-up can tune."""

    step_size: Tensor | float | None = None

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)


def _sqrt(value: Tensor | float) -> Tensor | float:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def add_scaled(x: Tensor, y: Tensor, scale: Tensor | float, out: Tensor | None = None) -> Tensor:
    """x + scale · y in one pass over memory."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, y, scale, out=out)
    return torch.add(x, y, alpha=scale, out=out)


def _propose(state: LangevinState, normal: Tensor, step_size: Tensor | float) -> Tensor:
    """y = x + ε ∇log p̃(x) + √(2ε) z."""
    drifted = add_scaled(state.position, state.score, step_size)
    return add_scaled(drifted, normal, _sqrt(2.0 * step_size), out=drifted)


@checked
@dataclass(frozen=True)
class ULA(WithScore):
    """Unadjusted Langevin: y = x + ε ∇log p̃(x) + √(2ε) z, z ~ N(0, I). Biased by O(ε).

    Too large a step makes the chains explode, which is counted in ``Info.is_undefined``.

    Args:
        step_size: ε, a number, or a tensor of shape () or (chains,). Nothing is rejected, so there
            is no acceptance rate to tune it on: it must be given.

    Raises:
        PoeError: Where the step size is not positive.

    References:
        Roberts & Tweedie (1996), Exponential convergence of Langevin distributions and their
        discrete approximations, eq. 1.4 (with h = 2ε), doi:10.2307/3318418.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = ULA(step_size=0.1)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.score.shape, kernel.guarantee
        (torch.Size([5, 2]), 'biased')
    """

    step_size: Tensor | float

    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)

    @property
    def guarantee(self) -> str:
        """Unadjusted: biased."""
        return BIASED

    def transition(
        self, target: Density, state: LangevinState, noise: Noise
    ) -> tuple[LangevinState, Info]:
        position = _propose(state, noise.normal, per_chain(self.step_size, state.position))
        log_density, score = target.log_density_and_score(position)
        is_outside = log_density == -torch.inf
        is_finite = is_number(log_density) & sum_event(score).isfinite()
        info = Info(
            acceptance_probability=torch.ones_like(log_density),
            is_accepted=torch.ones_like(is_outside),
            is_outside=is_outside,
            is_undefined=~(is_finite | is_outside),
            is_divergent=~(is_finite | is_outside),
        )
        return LangevinState(position, log_density, score), info


@checked
@dataclass(frozen=True)
class MALA(CorrectedWithScore):
    """Metropolis-adjusted Langevin: propose as ULA, accept with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)).

    y = x + ε ∇log p̃(x) + √(2ε) z, so q(y|x) = N(y; x + ε ∇log p̃(x), 2ε I), whose log-density is
    −|y − x − ε ∇log p̃(x)|² / 4ε up to a constant. One gradient a step: the score at the current
    position is in the state.

    Args:
        step_size: ε, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.574.

    Raises:
        PoeError: Where the step size is not positive.

    References:
        Roberts & Tweedie (1996), Exponential convergence of Langevin distributions and their
        discrete approximations, section 1.4, doi:10.2307/3318418; Roberts & Rosenthal (1998),
        Optimal scaling of discrete approximations to Langevin diffusions,
        doi:10.1111/1467-9868.00123 (the rate).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = MALA(step_size=0.5)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.acceptance_probability.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    target_acceptance: ClassVar[float] = 0.574
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def transition(
        self, target: Density, state: LangevinState, noise: Noise
    ) -> tuple[LangevinState, Info]:
        step_size = per_chain(self.step_size, state.position)
        position = _propose(state, noise.normal, step_size)
        proposed = LangevinState(position, *target.log_density_and_score(position))
        log_ratio = self._log_ratio(state, proposed, noise.normal, step_size)
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _log_ratio(
        self,
        state: LangevinState,
        proposed: LangevinState,
        normal: Tensor,
        step_size: Tensor | float,
    ) -> Tensor:
        """log p̃(y) q(x|y) − log p̃(x) q(y|x), without forming the residuals.

        With S = ∇log p̃(x) + ∇log p̃(y) and a = √(ε/2) the way back needs the noise −(z + aS), so
        log q(x|y) − log q(y|x) = |z|²/2 − |z + aS|²/2 = −a S·(z + aS/2).
        """
        a = _sqrt(0.5 * step_size)
        scores = state.score + proposed.score
        residual = add_scaled(normal, scores, 0.5 * a)
        per_row = a.reshape(-1) if isinstance(a, Tensor) else a
        proposal_ratio = per_row * sum_event(residual.mul_(scores))
        return proposed.log_density - state.log_density - proposal_ratio
