"""Surrogate-gradient MALA: any expert's score for the drift, the true density for the decision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.density.expert import Expert, shared_space
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Noise,
    accept,
    per_chain,
    require_positive,
    sum_event,
    where_accepted,
)


class SurrogateState(NamedTuple):
    """Position ``(chains, *event)``, the target's log-density ``(chains,)``, the surrogate's score.

    The score depends on the position alone, and is kept so that a step costs one gradient.
    """

    position: Tensor
    log_density: Tensor
    surrogate_score: Tensor


@dataclass(frozen=True)
class SurrogateMALA(Corrected[SurrogateState]):
    """MALA along the score g of any other expert, exact for the target: it needs no gradient of it.

    y = x + ε g(x) + √(2ε) z, z ~ N(0, I), accepted with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)), where
    q(y|x) = N(y; x + ε g(x), 2ε I). The drift may be any function, as long as the decision uses the
    true log-density and the true density of the proposal. One evaluation of the target and one
    gradient of the surrogate a step: for a target that cannot be differentiated (it rounds, counts
    or runs elsewhere), or whose gradient is dear. With the target as its own surrogate it is MALA.

    - ``surrogate``: an expert on the target's space, in the coordinates that the chains move in. A
      poor one costs acceptance, never correctness.
    - ``step_size`` ε: a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
      an acceptance rate of 0.4, between random-walk Metropolis' 0.234 and MALA's 0.574.

    Raises SpaceMismatchError where the surrogate lives on another space.

    Source: Hastings 1970, eq. 6; a drift from another density: Christen & Fox 2005, section 2.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -x.abs().ceil().sum(-1), space=poe.Real(2))
    >>> smooth = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
    >>> kernel = SurrogateMALA(smooth, step_size=0.5)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel.guarantee
    (torch.Size([5, 2]), 'asymptotically exact')
    """

    surrogate: Expert = field(repr=False)
    step_size: Tensor | float | None = None

    target_acceptance: ClassVar[float] = 0.4

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The setting that warm-up tunes."""
        return self.step_size

    def with_scale(self, value: Tensor | float) -> SurrogateMALA:
        """The same kernel with that step size."""
        return replace(self, step_size=value)

    def init(self, target: Density, x: Tensor) -> SurrogateState:
        """State at ``x``. Raises NonFiniteError where log-density or drift is not finite."""
        if isinstance(target, Expert):
            shared_space(("target", "surrogate"), [target, self.surrogate], kind="kernel")
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> SurrogateState:
        """Position, the target's log-density and the surrogate's score."""
        with torch.no_grad():
            log_density = target.log_density(x)
        return SurrogateState(x, log_density, self.surrogate.score(x))

    def _transition(
        self, target: Density, state: SurrogateState, noise: Noise
    ) -> tuple[SurrogateState, Info]:
        step_size = per_chain(self.step_size, state.position)
        width = _sqrt(2.0 * step_size)
        moved = state.position + step_size * state.surrogate_score + width * noise.normal
        proposed = self.state_at(target, moved)
        log_ratio = proposed.log_density - state.log_density
        log_ratio = log_ratio + self._log_proposal_ratio(state, proposed, noise.normal, width)
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return SurrogateState(*map(keep, proposed, state)), info

    def _log_proposal_ratio(
        self,
        state: SurrogateState,
        proposed: SurrogateState,
        normal: Tensor,
        width: Tensor | float,
    ) -> Tensor:
        """log q(x|y) − log q(y|x): the way back needs the noise −(z + aS), S = g(x) + g(y).

        So it is |z|²/2 − |z + aS|²/2 = −aS·(z + aS/2), with a = √(ε/2) = √(2ε)/2.
        """
        shift = 0.5 * width * (state.surrogate_score + proposed.surrogate_score)
        return -sum_event(shift * (normal + 0.5 * shift))


def _sqrt(value: Tensor | float) -> Tensor | float:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)
