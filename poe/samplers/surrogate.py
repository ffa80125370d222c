"""Another density in the target's place: for the drift alone, or for whole steps first."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.expert import Expert, shared_space
from poe.samplers.kernel import (
    ASYMPTOTICALLY_EXACT,
    Corrected,
    Density,
    Info,
    Kernel,
    Noise,
    WithScale,
    accept,
    floats_like,
    in_two_parts,
    map_leaves,
    require_kernel,
    require_positive,
    require_rows,
    where_accepted,
)
from poe.samplers.langevin import MALA, LangevinState
from poe.samplers.questions import draws_beforehand, guarantee, is_reversible


class SurrogateState(NamedTuple):
    """The state of a chain whose drift comes from a surrogate.

    Args:
        position: x, ``(chains, *event)``.
        log_density: The target's, ``(chains,)``.
        surrogate_score: ∇ log s̃(x), ``(chains, *event)``: it depends on the position alone, and is
            kept so that a step costs one gradient.
    """

    position: Tensor
    log_density: Tensor
    surrogate_score: Tensor


@checked
@dataclass(frozen=True)
class SurrogateMALA(WithScale, Corrected[SurrogateState]):
    """MALA along the score g of any other expert, exact for the target: it needs no gradient of it.

    y = x + ε g(x) + √(2ε) z, z ~ N(0, I), accepted with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)), where
    q(y|x) = N(y; x + ε g(x), 2ε I). The drift may be any function, as long as the decision uses the
    true log-density and the true density of the proposal. One evaluation of the target and one
    gradient of the surrogate a step: for a target that cannot be differentiated (it rounds, counts
    or runs elsewhere), or whose gradient is dear. With the target as its own surrogate it is MALA.

    Args:
        surrogate: An expert on the target's space, in the coordinates that the chains move in. A
            poor one costs acceptance, never correctness. A start raises SpaceMismatchError where it
            lives on another space.
        step_size: ε, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.4, between random-walk Metropolis' 0.234 and MALA's 0.574.

    Raises:
        PoeError: Where the step size is not positive.

    References:
        Hastings (1970), Monte Carlo sampling methods using Markov chains and their applications,
        eq. 6, doi:10.1093/biomet/57.1.97; Christen & Fox (2005), Markov chain Monte Carlo using an
        approximation, section 2, doi:10.1198/106186005X76983 (a drift from another density).

    Example:
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
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            SpaceMismatchError: Where the surrogate lives on another space than the target.
            NonFiniteError: Where log-density or drift is not finite.
        """
        if isinstance(target, Expert):
            shared_space(("target", "surrogate"), [target, self.surrogate], kind="kernel")
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> SurrogateState:
        return SurrogateState(x, *AlongSurrogate(target, self.surrogate).log_density_and_score(x))

    def transition(
        self, target: Density, state: SurrogateState, noise: Noise
    ) -> tuple[SurrogateState, Info]:
        along = AlongSurrogate(target, self.surrogate)
        moved, info = MALA(self.step_size).transition(along, LangevinState(*state), noise)
        return SurrogateState(*moved), info


class AlongSurrogate:
    """The target's log-density, and the surrogate's score for its own: what MALA moves by.

    Its decision is right for any drift.
    """

    def __init__(self, target: Density, surrogate: Expert) -> None:
        self.target, self.surrogate = target, surrogate

    @torch.no_grad()
    def log_density(self, x: Tensor) -> Tensor:
        """The target's: ``(chains, *event) -> (chains,)``."""
        return self.target.log_density(x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The target's log-density and the surrogate's score."""
        return self.log_density(x), self.surrogate.score(x)


REMEDY = (
    "use MetropolisHastings, MALA or HMC, and on a discrete space RandomScanGibbs, "
    "SingleSiteMetropolis, DMALA or clusters"
)


class DelayedState(NamedTuple):
    """The state of a chain that moves on the surrogate, and is decided on by the target.

    Args:
        inner: The kernel's state on the surrogate.
        log_density: The target's there, ``(chains,)``.
    """

    inner: Any
    log_density: Tensor

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``."""
        position: Tensor = self.inner.position
        return position


class DelayedNoise(NamedTuple):
    """The random numbers of each surrogate step, and the uniforms of the last decision."""

    inner: tuple[Any, ...]
    uniform: Tensor


@checked
@dataclass(frozen=True)
class DelayedAcceptance(Corrected[DelayedState]):
    """K corrected steps x → y on a surrogate s̃ as a proposal, then one decision on the target.

    Accepted with min(1, p̃(y) s̃(x) / p̃(x) s̃(y)): the steps leave s̃ in detailed balance, so their
    proposal density cancels but for s̃. Exact for every surrogate whose support covers the target's.

    What it saves: the target is evaluated once in K steps, and never differentiated; a bad proposal
    is turned down by the surrogate before the target sees it. It pays where the target costs much
    more than the surrogate and log p̃ − log s̃ varies by no more than about 1 over the draws: what
    is rejected at the end has cost all K steps. For a drift alone see SurrogateMALA. ``Info`` is
    that of the last decision; it counts as accepted where the chain has moved.

    Args:
        kernel: With its step size, corrected and reversible, as are MetropolisHastings, MALA and
            HMC, on discrete spaces RandomScanGibbs, DMALA and SwendsenWang. One that carries a
            momentum from step to step is not, nor is a sweep through the elements in order (Gibbs,
            and BlockGibbs of several sets): those are refused. To tune it, warm it up on the
            surrogate.
        surrogate: An expert on the target's space, in the coordinates that the chains move in. A
            start raises SpaceMismatchError where it lives on another space.
        num_steps: K, at least 1.

    Raises:
        PoeError: For K < 1, and for what is no corrected and reversible kernel.

    References:
        Christen & Fox (2005), Markov chain Monte Carlo using an approximation, section 2,
        doi:10.1198/106186005X76983; Liu (2001), Monte Carlo strategies in scientific computing,
        section 9.4.3 (K steps).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -x.abs().ceil().sum(-1), space=poe.Real(2))
        >>> smooth = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(2))
        >>> kernel = DelayedAcceptance(poe.samplers.MALA(0.5), smooth, num_steps=3)
        >>> state = kernel.init(target, torch.ones(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 2]), 'asymptotically exact')
    """

    kernel: Kernel
    surrogate: Expert = field(repr=False)
    num_steps: int = 1

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        if self.num_steps < 1:
            raise PoeError(f"expected num_steps >= 1, got {self.num_steps}")
        if guarantee(self.kernel) != ASYMPTOTICALLY_EXACT:
            raise PoeError(
                f"expected a corrected kernel on the surrogate, got {type(self.kernel).__name__}, "
                f"which is not in balance with it: {REMEDY}, or say `guarantee = "
                f"{ASYMPTOTICALLY_EXACT!r}` of a kernel of your own that leaves it invariant"
            )
        if not is_reversible(self.kernel):
            raise PoeError(
                "expected a reversible kernel on the surrogate, whose steps are in detailed "
                f"balance with it, got {type(self.kernel).__name__}, which does not say that it "
                "is (a sweep in order is not, nor what carries a momentum along): "
                f"{REMEDY}, or say `is_reversible = True` of a kernel of your own that is"
            )

    @property
    def draws_beforehand(self) -> bool:
        """As the kernel on the surrogate does."""
        return draws_beforehand(self.kernel)

    def init(self, target: Density, x: Tensor) -> DelayedState:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            SpaceMismatchError: Where the surrogate lives on another space than the target.
            NonFiniteError: Where either density is not finite.
        """
        if isinstance(target, Expert):
            shared_space(("target", "surrogate"), [target, self.surrogate], kind="kernel")
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> DelayedState:
        with torch.no_grad():
            log_density = target.log_density(x)
        inner = in_two_parts(self.kernel).state_at(self.surrogate, x)
        require_rows(self.kernel, inner, len(x))
        return DelayedState(inner, log_density)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> DelayedNoise:
        kernel = in_two_parts(self.kernel)
        inner = tuple(kernel.draw_noise(position, generator) for _ in range(self.num_steps))
        uniform = floats_like(position, len(position)).uniform_(generator=generator)
        return DelayedNoise(inner, uniform)

    def transition(
        self, target: Density, state: DelayedState, noise: DelayedNoise
    ) -> tuple[DelayedState, Info]:
        inner, kernel = state.inner, in_two_parts(self.kernel)
        has_moved = torch.zeros_like(state.log_density, dtype=torch.bool)
        for drawn in noise.inner:
            inner, step_info = kernel.transition(self.surrogate, inner, drawn)
            has_moved = has_moved | step_info.is_accepted
        with torch.no_grad():
            log_density = target.log_density(inner.position)
        log_ratio = self._log_ratio(state, inner, log_density)
        info = accept(log_ratio, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        kept = DelayedState(
            map_leaves(keep, inner, state.inner), keep(log_density, state.log_density)
        )
        return kept, info._replace(is_accepted=info.is_accepted & has_moved)

    def _log_ratio(self, state: DelayedState, inner: Any, log_density: Tensor) -> Tensor:
        """log p̃(y) − log p̃(x) + log s̃(x) − log s̃(y)."""
        surrogate_difference = state.inner.log_density - inner.log_density
        return log_density - state.log_density + surrogate_difference
