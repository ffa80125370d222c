"""Surrogate-gradient MALA: any expert's score for the drift, the true density for the decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.density.expert import Expert, shared_space
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Noise,
    WithScale,
    require_positive,
)
from poe.samplers.langevin import MALA, LangevinState


class SurrogateState(NamedTuple):
    """Position ``(chains, *event)``, the target's log-density ``(chains,)``, the surrogate's score.

    The score depends on the position alone, and is kept so that a step costs one gradient.
    """

    position: Tensor
    log_density: Tensor
    surrogate_score: Tensor


@dataclass(frozen=True)
class SurrogateMALA(WithScale, Corrected[SurrogateState]):
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
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)

    def init(self, target: Density, x: Tensor) -> SurrogateState:
        """State at ``x``. Raises NonFiniteError where log-density or drift is not finite."""
        if isinstance(target, Expert):
            shared_space(("target", "surrogate"), [target, self.surrogate], kind="kernel")
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> SurrogateState:
        """Position, the target's log-density and the surrogate's score."""
        return SurrogateState(x, *AlongSurrogate(target, self.surrogate).log_density_and_score(x))

    def transition(
        self, target: Density, state: SurrogateState, noise: Noise
    ) -> tuple[SurrogateState, Info]:
        along = AlongSurrogate(target, self.surrogate)
        moved, info = MALA(self.step_size).transition(along, LangevinState(*state), noise)
        return SurrogateState(*moved), info


class AlongSurrogate:
    """The target's log-density, and the surrogate's score for its own: what MALA is asked to move
    by. Its decision is right for any drift."""

    def __init__(self, target: Density, surrogate: Expert) -> None:
        self.target, self.surrogate = target, surrogate

    @torch.no_grad()
    def log_density(self, x: Tensor) -> Tensor:
        """The target's: ``(chains, *event) -> (chains,)``."""
        return self.target.log_density(x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The target's log-density and the surrogate's score."""
        return self.log_density(x), self.surrogate.score(x)
