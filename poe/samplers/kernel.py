"""The kernel protocol: what every sampler is, and what the loop may rely on.

A kernel is a frozen dataclass of its settings with ``init`` and ``step``. The batch dimension of a
position *is* the chains: a kernel always evaluates the target on all of them, in order, so that a
target may be a batch of densities (one condition per chain). A step draws its random numbers first
and then calls a pure ``transition(target, state, noise)`` free of host synchronisation, the form
that compiles in one graph. What a kernel can do beside is asked in ``poe.samplers.questions``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import (
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    cast,
    runtime_checkable,
)

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from poe.core.arguments import REFUSED, Kind, register_kind, require
from poe.core.errors import PoeError
from poe.core.space import Space
from poe.density.nonfinite import require_start

EXACT = "exact"
ASYMPTOTICALLY_EXACT = "asymptotically exact"
BIASED = "biased"
DIVERGENT = -1000.0
"""The log acceptance ratio below which a trajectory has left the level set: as in Stan."""


class Density(Protocol):
    """What a kernel asks of its target: every Expert has it."""

    def log_density(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Positions, ``(chains, *event)``.

        Returns:
            log p̃(x), ``(chains,)``.
        """

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density and its gradient, both detached.

        Args:
            x: Positions, ``(chains, *event)``.

        Returns:
            log p̃(x), ``(chains,)``, and ∇ log p̃(x), ``(chains, *event)``.
        """


class Info(NamedTuple):
    """What happened in one step, for each chain; nothing the next step needs.

    Shapes: every field ``(chains,)``.

    Args:
        acceptance_probability: The probability with which the proposal was accepted.
        is_accepted: Whether it was.
        is_outside: The proposal has log-density −inf: outside the support, a legal value.
        is_undefined: The proposal's log-density or score is NaN, or its log-density +inf: a fault
            of the target. Of an uncorrected kernel also a chain that exploded.
        is_divergent: The log acceptance ratio is below −1000, or undefined, or the proposal no
            finite position: the discretisation broke down.
    """

    acceptance_probability: Tensor
    is_accepted: Tensor
    is_outside: Tensor
    is_undefined: Tensor
    is_divergent: Tensor


class State(Protocol):
    """What the next step needs: a NamedTuple with at least these two fields."""

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``."""

    @property
    def log_density(self) -> Tensor:
        """``(chains,)``."""


class MetropolisState(NamedTuple):
    """The state of a kernel that needs no score.

    Args:
        position: x, ``(chains, *event)``.
        log_density: log p̃(x), ``(chains,)``.
    """

    position: Tensor
    log_density: Tensor


@runtime_checkable
class Kernel(Protocol):
    """A Markov kernel over many chains at once. ``Any`` stands for the kernel's own State.

    That is all that a kernel must have. What else it may say of itself, by attributes such as
    ``guarantee`` and ``is_reversible``, and what is taken where it does not, is listed in
    ``poe.samplers.questions``.
    """

    def init(self, target: Density, x: Tensor) -> Any:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there, a NamedTuple with at least ``position`` and ``log_density``.
        """

    def step(self, target: Density, state: Any, *, generator: torch.Generator) -> tuple[Any, Info]:
        """One transition of every chain.

        Args:
            target: The density to leave invariant.
            state: Where the chains are.
            generator: Of all that is drawn.

        Returns:
            The next state, and what happened, ``poe.samplers.Info``.
        """


@runtime_checkable
class TunableKernel(Kernel, Protocol):
    """A kernel whose one scale setting may be left out (None) and tuned on the acceptance rate."""

    @property
    def guarantee(self) -> str:
        """``"asymptotically exact"`` where the target is left invariant, else ``"biased"``."""

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The setting that warm-up tunes; None where it was left out."""

    @property
    def target_acceptance(self) -> float:
        """The mean acceptance probability to tune for."""

    def with_scale(self, value: Tensor | float) -> Self:
        """The same kernel with that setting.

        Args:
            value: Positive, a number or a tensor of shape () or ``(chains,)``.

        Returns:
            A copy.
        """


class Noise(NamedTuple):
    """The random numbers of one Metropolis step.

    Args:
        normal: Standard normals for the proposal, ``(chains, *event)``.
        uniform: In [0, 1), to decide by, ``(chains,)``.
    """

    normal: Tensor
    uniform: Tensor


def floats_like(x: Tensor, *shape: int) -> Tensor:
    """An empty tensor in the dtype of x, or in the default one where its values are counted.

    >>> floats_like(torch.tensor([1, 2]), 3).dtype
    torch.float32
    """
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return x.new_empty(shape, dtype=dtype)


def draw_noise(position: Tensor, generator: torch.Generator) -> Noise:
    """Standard normals for the proposal, and one uniform in [0, 1) **for each chain**.

    >>> noise = draw_noise(torch.zeros(3, 2), torch.Generator().manual_seed(0))
    >>> noise.normal.shape, noise.uniform.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """
    if not position.is_floating_point():
        raise PoeError(
            f"expected a kernel that moves on integers, got one that adds normals to "
            f"{position.dtype}: use one for discrete spaces, such as Gibbs(space) or DMALA(space)"
        )
    normal = torch.empty_like(position).normal_(generator=generator)
    uniform = torch.empty_like(position[(...,) + (0,) * (position.ndim - 1)])
    return Noise(normal, uniform.uniform_(generator=generator))


S = TypeVar("S", bound=State)


class OnDrawnNoise(Generic[S]):
    """A step in two parts: the random numbers first, then a pure transition on them.

    A kernel implements ``transition``; and ``draw_noise`` where it needs other random numbers than
    a normal for each element and a uniform for each chain, ``state_at`` where its state is more
    than a ``MetropolisState``. Then its steps may be compiled.
    """

    def init(self, target: Density, x: Tensor) -> S:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            NonFiniteError: Where its log-density, or a score that it holds, is not finite.
        """
        x = x.detach()
        state = self.state_at(target, x)
        require_start(target, x, state.log_density, *leaves(state))
        return state

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> S:
        """The same state as of ``init``, not checked: pure, as is ``transition``.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.
        """
        return cast(S, MetropolisState(x, target.log_density(x)))

    def step(self, target: Density, state: S, *, generator: torch.Generator) -> tuple[S, Info]:
        """One transition of every chain.

        Args:
            target: The density to leave invariant.
            state: Where the chains are.
            generator: Of all that is drawn.

        Returns:
            The next state, and what happened.
        """
        return self.transition(target, state, self.draw_noise(state.position, generator))

    @property
    def draws_beforehand(self) -> bool:
        """Whether the random numbers of a step are known before it, so that it can be compiled."""
        return True

    @property
    def gradients_per_step(self) -> int:
        """How often a step evaluates the target, with its score where the kernel needs one.

        What costs as much counts as an evaluation: log-odds of all elements, a surrogate's drift.
        """
        return 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        """All the random numbers of one step.

        Args:
            position: Positions, ``(chains, *event)``, of which shape, dtype and device count.
            generator: Of all that is drawn.

        Returns:
            A NamedTuple of tensors, for ``transition``.
        """
        return draw_noise(position, generator)

    def transition(self, target: Density, state: S, noise: Any) -> tuple[S, Info]:
        """One transition of every chain on random numbers drawn before: pure.

        Args:
            target: The density to leave invariant.
            state: Where the chains are.
            noise: What ``draw_noise`` drew.

        Returns:
            Where they go on from, and what happened, as of ``step``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement transition")


@dataclass(frozen=True)
class DrawnAsItGoes(OnDrawnNoise[Any]):
    """A kernel of ``init`` and ``step`` alone as part of another: its noise is the generator."""

    kernel: Kernel

    @property
    def draws_beforehand(self) -> bool:
        """It draws as it goes."""
        return False

    def init(self, target: Density, x: Tensor) -> Any:
        state = started(self.kernel, target, x.detach())
        require_start(target, x, state.log_density)
        return state

    def state_at(self, target: Density, x: Tensor) -> Any:
        """The same, checked as it likes."""
        return started(self.kernel, target, x)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> torch.Generator:
        """The generator, from which the step draws what it needs."""
        return generator

    def transition(self, target: Density, state: Any, noise: torch.Generator) -> tuple[Any, Info]:
        return stepped(self.kernel, target, state, generator=noise)


def in_two_parts(kernel: Kernel) -> OnDrawnNoise[Any]:
    """The kernel as one that draws its random numbers first: as it does, or as if it did."""
    return kernel if isinstance(kernel, OnDrawnNoise) else DrawnAsItGoes(kernel)


def require_kernel(kernel: object) -> None:
    """Refuse what is no kernel.

    Args:
        kernel: Anything.

    Raises:
        PoeError: Where it has no ``init`` or ``step``, is a class, or claims a guarantee that there
            is not.
    """
    require("kernel", kernel, Kernel)
    if (claimed := getattr(kernel, "guarantee", BIASED)) not in (ASYMPTOTICALLY_EXACT, BIASED):
        raise PoeError(
            f"expected {type(kernel).__name__}.guarantee to be {ASYMPTOTICALLY_EXACT!r} or "
            f"{BIASED!r}, got {claimed!r}: set it to one of them, as an attribute or a property"
        )


def started(kernel: Kernel, target: Density, x: Tensor) -> Any:
    """The state from which a chain begins, as ``kernel.init`` gives it.

    Args:
        kernel: Any.
        target: The density to leave invariant.
        x: Positions, ``(chains, *event)``.

    Returns:
        The state there.

    Raises:
        PoeError: Where it has no position and log-density of every chain.
    """
    state = kernel.init(target, x)
    _require_state(kernel, "init", state, x.shape)
    return state


def stepped(
    kernel: Kernel, target: Density, state: Any, *, generator: torch.Generator
) -> tuple[Any, Info]:
    """One transition of every chain, as ``kernel.step`` makes it.

    Args:
        kernel: Any.
        target: The density to leave invariant.
        state: Where the chains are.
        generator: Of all that is drawn.

    Returns:
        The next state, and what happened.

    Raises:
        PoeError: Where these are not what came, or the state not of as many chains as before.
    """
    came = kernel.step(target, state, generator=generator)
    if not (isinstance(came, tuple) and len(came) == 2 and hasattr(came[1], "is_accepted")):
        raise PoeError(
            f"expected {type(kernel).__name__}.step to return the next state and an Info "
            f"(poe.samplers.Info), got {_types(came)}"
        )
    _require_state(kernel, "step", came[0], state.position.shape)
    return came


def _kernel(value: object) -> object:
    return REFUSED if isinstance(value, type) or _absent(value) else value


def _absent(kernel: object) -> list[str]:
    return [name for name in ("init", "step") if not callable(getattr(kernel, name, None))]


def _how_to_make_one(kernel: object) -> str:
    if isinstance(kernel, str):
        return ": make one, such as poe.samplers.MALA()"
    absent = _absent(kernel)
    return f", without {absent[0]}" if absent else ": make one, with its settings"


_WORDS = "a kernel, with `init(target, x)` and `step(target, state, *, generator)`"
register_kind(Kernel, Kind(_WORDS, _kernel, _how_to_make_one))


def require_inside(kernel: Kernel | None, space: Space, positions: Tensor) -> None:
    """Refuse a kernel whose steps left a discrete space, which no acceptance rate would tell.

    Args:
        kernel: What made the steps.
        space: Where they should have stayed; on a continuous one chains move in coordinates.
        positions: Where they ended, ``(chains, *event)``.

    Raises:
        PoeError: Where one of them is elsewhere.
    """
    if space.is_discrete and not bool(space.contains(positions).all()):
        raise PoeError(
            f"expected a kernel that stays in {space}, got {type(kernel).__name__}, whose steps "
            "leave it, so that its draws are none of the target: use one for discrete spaces, such "
            "as Gibbs(space) or DMALA(space), and Alternating for a Joint"
        )


def _require_state(kernel: object, method: str, state: object, shape: torch.Size) -> None:
    got = {
        name: getattr(getattr(state, name, None), "shape", None)
        for name in ("position", "log_density")
    }
    if got != {"position": shape, "log_density": shape[:1]}:
        told = ", ".join(f"{name} {tuple(s)}" for name, s in got.items() if s is not None)
        raise PoeError(
            f"expected {type(kernel).__name__}.{method} to return a state with position "
            f"{tuple(shape)} and log_density {tuple(shape[:1])}, got {_types(state)}"
            f"{' with ' + told if told else ''}: make it a NamedTuple of tensors, such as "
            "poe.samplers.MetropolisState"
        )


def _types(came: object) -> str:
    if type(came) is tuple:
        return f"({', '.join(type(part).__name__ for part in came)})"
    return type(came).__name__


def require_rows(kernel: object, state: Any, num_rows: int) -> None:
    """Refuse a state that cannot be put together row by row.

    Args:
        kernel: Whose state it is.
        state: A NamedTuple of tensors, as it should be.
        num_rows: How many rows each should have.

    Raises:
        PoeError: Where it is not so.
    """
    if not _has_rows(state, num_rows):
        raise PoeError(
            f"expected {type(kernel).__name__} to have a state that is a NamedTuple of tensors, "
            f"each with a row for each of {num_rows} chains, so that a chain can go on from "
            f"another's, got {type(state).__name__}"
        )


def _has_rows(state: object, num_rows: int) -> bool:
    if isinstance(state, Tensor):
        return state.shape[:1] == (num_rows,)
    is_named = isinstance(state, tuple) and hasattr(state, "_fields")
    return is_named and all(_has_rows(part, num_rows) for part in cast(tuple[object], state))


class Corrected(OnDrawnNoise[S]):
    """A step that ends in an accept decision, which leaves the target invariant."""

    @property
    def guarantee(self) -> str:
        """Corrected by an accept step: asymptotically exact."""
        return ASYMPTOTICALLY_EXACT


Copied = TypeVar("Copied")


def copied(kernel: Copied, /, **settings: object) -> Copied:
    """A frozen kernel with settings that were computed here, whose kinds need no check.

    That would wait for numbers that lie on a device.

    >>> copied(poe.samplers.MALA(0.5), step_size=torch.tensor(0.25))
    MALA(step_size=tensor(0.2500))
    """
    other = copy.copy(kernel) if _has_slots(kernel) else _like(kernel)
    for name, value in settings.items():
        object.__setattr__(other, name, value)
    getattr(other, "__post_init__", lambda: None)()
    return other


def _has_slots(kernel: object) -> bool:
    return "__slots__" in vars(type(kernel))


def _like(kernel: Copied) -> Copied:
    """A copy in a third of the time that `copy.copy` takes: it is made at every step."""
    other = object.__new__(type(kernel))
    vars(other).update(vars(kernel))
    return other


class WithScale:
    """A kernel with one scale, the field that ``scale_field`` names; None is tuned in warm-up."""

    scale_field: ClassVar[str] = "step_size"

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The setting that warm-up tunes."""
        value: Tensor | float | None = getattr(self, self.scale_field)
        return value

    def with_scale(self, value: Tensor | float | None) -> Self:
        """The same kernel with that scale.

        Args:
            value: A number, or a tensor of shape () or ``(chains,)``; None leaves it to be tuned.

        Returns:
            A copy.
        """
        if isinstance(value, Tensor):  # at each step of a warm-up
            return copied(self, **{self.scale_field: value})
        return replace(self, **{self.scale_field: value})  # type: ignore[type-var]


def per_chain(value: Tensor | float | None, like: Tensor) -> Tensor | float:
    """A setting ready to multiply positions: ``(chains,)`` becomes ``(chains, 1, ..., 1)``.

    In the positions' dtype, which that of the target's log-density may exceed.

    Args:
        value: A number, or a tensor of shape () or ``(chains,)``.
        like: Positions, ``(chains, *event)``.

    Returns:
        What broadcasts to positions.

    Raises:
        PoeError: Where it was left out, or its shape is neither ``()`` nor ``(chains,)``.

    Example:
        >>> per_chain(torch.tensor([0.1, 0.2]), torch.zeros(2, 3, 3)).shape
        torch.Size([2, 1, 1])
    """
    if value is None:
        raise PoeError(
            "this kernel's step size was left out: expected a number or a tensor of shape () or "
            "(chains,), got None. Give one, or let poe.sample tune it in warm-up."
        )
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape != like.shape[:1]:
        raise PoeError(
            f"expected a step size of shape () or (chains,) = {tuple(like.shape[:1])}, got "
            f"{tuple(value.shape)}: give one number for all chains, or one for each."
        )
    return value.reshape(-1, *([1] * (like.ndim - 1))).to(like.dtype)


def require_positive(name: str, value: Tensor | float | None) -> None:
    """Refuse a step size that is not positive and finite; None (tune it) passes."""
    if value is None or torch.compiler.is_compiling():
        return
    if isinstance(value, Tensor):
        is_seen = value.device.type == "cpu" and not value.ndim  # what costs no host sync
        is_fine = not is_seen or 0.0 < float(value) < float("inf")
    else:
        is_fine = 0.0 < value < float("inf")
    if not is_fine:
        raise PoeError(f"expected a positive finite {name}, got {value}")


def accept(log_ratio: Tensor, log_density: Tensor, uniform: Tensor) -> Info:
    """The Metropolis decision: accept with probability min(1, exp(log_ratio)).

    A proposal whose log-density is −inf, +inf or NaN, or whose log_ratio is NaN, is rejected.

    Args:
        log_ratio: log p̃(y) q(x|y) − log p̃(x) q(y|x), ``(chains,)``.
        log_density: log p̃(y), ``(chains,)``.
        uniform: In [0, 1), ``(chains,)``.

    Returns:
        What happened.

    References:
        Metropolis et al. (1953), Equation of state calculations by fast computing machines,
        doi:10.1063/1.1699114; Hastings (1970), Monte Carlo sampling methods using Markov chains and
        their applications, eq. 6, doi:10.1093/biomet/57.1.97.

    Example:
        >>> ratio, value = torch.tensor([0.0, float("nan")]), torch.tensor([-1.0, float("nan")])
        >>> accept(ratio, value, torch.tensor([0.5, 0.5])).is_accepted
        tensor([ True, False])
    """
    is_outside = log_density == -torch.inf
    is_broken = log_ratio.isnan() | (log_density == torch.inf)
    # Of truth values a > b is "a and not b", in one pass.
    is_undefined = is_broken > is_low(log_density)
    is_divergent = (is_broken | (log_ratio < DIVERGENT)) > is_outside
    probability = log_ratio.exp().clamp_(max=1.0)
    probability = probability.masked_fill_(is_outside | is_broken, 0.0)
    return Info(probability, uniform < probability, is_outside, is_undefined, is_divergent)


FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LOWEST = {dtype: -float(torch.finfo(dtype).max ** 0.75) for dtype in FLOATS}
"""Of finite positions: tempered down to 1e-8, the log-density of nowhere is lower."""


def nowhere(dtype: torch.dtype) -> float:
    """The log-density of a position that is not finite: nearly the least number.

    Neither −inf, which is a legal value outside the support, nor NaN, which is a fault of the
    target: a step that leads there is divergent. Such values may be added and tempered.
    """
    return torch.finfo(dtype).min / 8


def is_low(log_density: Tensor) -> Tensor:
    """Whether log-densities are −inf, or those of positions that are not finite.

    >>> is_low(torch.tensor([-1e20, torch.nan, -torch.inf, nowhere(torch.float32) * 1e-6]))
    tensor([False, False,  True,  True])
    """
    return log_density < LOWEST[log_density.dtype]


def is_number(log_density: Tensor) -> Tensor:
    """Whether log-densities are finite, and of finite positions.

    >>> is_number(torch.tensor([-1e20, torch.nan, -torch.inf, nowhere(torch.float32)]))
    tensor([ True, False, False, False])
    """
    return (log_density >= LOWEST[log_density.dtype]) & (log_density < torch.inf)


def all_accepted(log_density: Tensor) -> Info:
    """What a kernel that draws from conditionals tells: there is nothing to reject.

    Save that a draw of log-density NaN or +inf is undefined, and so divergent.

    >>> all_accepted(torch.tensor([0.0, float("nan")])).is_divergent
    tensor([False,  True])
    """
    is_undefined = log_density.isnan() | (log_density == torch.inf)
    nowhere, accepted = torch.zeros_like(is_undefined), ~is_undefined
    return Info(accepted.to(log_density.dtype), accepted, nowhere, is_undefined, is_undefined)


def or_nothing(log_density: Tensor) -> Tensor:
    """−inf in place of what is no density: NaN and +inf; the same shape.

    >>> or_nothing(torch.tensor([1.0, float("nan"), float("inf")]))
    tensor([1., -inf, -inf])
    """
    return log_density.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def where_accepted(is_accepted: Tensor, proposed: Tensor, current: Tensor) -> Tensor:
    """The proposed value where a chain accepted, else the current one."""
    mask = is_accepted.reshape(-1, *([1] * (current.ndim - 1)))
    return torch.where(mask, proposed, current)


def leaves(state: Any) -> list[Tensor]:
    """The tensors of nested NamedTuples, in order; what is neither has none that are known."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def map_leaves(function: Callable[..., Tensor], *states: Any) -> Any:
    """A state like the first, of what a function makes of the states' tensors, one from each.

    >>> noise = Noise(torch.zeros(2, 3), torch.ones(2))
    >>> map_leaves(torch.add, noise, noise).uniform
    tensor([2., 2.])
    """
    return tree_map(function, *states)


def sum_event(x: Tensor) -> Tensor:
    """The sum over each chain's event: ``(chains, *event) -> (chains,)``."""
    return x.reshape(len(x), -1).sum(1)
