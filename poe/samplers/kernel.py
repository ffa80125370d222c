"""The kernel protocol: what every sampler is, and what the loop may rely on.

A kernel is a frozen dataclass of its settings with ``init`` and ``step``. The batch dimension of a
position *is* the chains: a kernel always evaluates the target on all of them, in order, so that a
target may be a batch of densities (one condition per chain). A step draws its random numbers first
and then calls a pure ``_transition(target, state, noise)`` free of host synchronisation, the form
that compiles in one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from poe.density.expert import Product
from poe.errors import NonFiniteError, PoeError

ASYMPTOTICALLY_EXACT = "asymptotically exact"
BIASED = "biased"
DIVERGENT = -1000.0
"""The log acceptance ratio below which a trajectory has left the level set: as in Stan."""


class Density(Protocol):
    """What a kernel asks of its target: every Expert has it."""

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x): ``(chains, *event) -> (chains,)``."""

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and ∇ log p̃(x), detached: ``(chains,)`` and ``(chains, *event)``."""


class Info(NamedTuple):
    """What happened in one step, for each chain; nothing the next step needs.

    Shapes: every field ``(chains,)``.
    """

    acceptance_probability: Tensor
    is_accepted: Tensor
    is_outside: Tensor
    """The proposal has log-density −inf: outside the support, a legal value."""
    is_undefined: Tensor
    """The proposal's log-density or score is NaN, or its log-density +inf: a fault of the target
    or an exploded chain."""
    is_divergent: Tensor
    """The log acceptance ratio is below −1000, or undefined: the discretisation broke down."""


class State(Protocol):
    """What the next step needs: a NamedTuple with at least these two fields."""

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``"""

    @property
    def log_density(self) -> Tensor:
        """``(chains,)``"""


@runtime_checkable
class Kernel(Protocol):
    """A Markov kernel over many chains at once. ``Any`` stands for the kernel's own State."""

    @property
    def guarantee(self) -> str:
        """``"asymptotically exact"`` where the target is left invariant, else ``"biased"``."""

    def init(self, target: Density, x: Tensor) -> Any:
        """State at the positions ``x`` of shape ``(chains, *event)``."""

    def step(self, target: Density, state: Any, *, generator: torch.Generator) -> tuple[Any, Info]:
        """One transition of every chain."""


@runtime_checkable
class TunableKernel(Kernel, Protocol):
    """A kernel whose one scale setting may be left out (None) and tuned on the acceptance rate."""

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The setting that warm-up tunes; None where it was left out."""

    @property
    def target_acceptance(self) -> float:
        """The mean acceptance probability to tune for."""

    def with_scale(self, value: Tensor | float) -> Self:
        """The same kernel with that setting."""


class Noise(NamedTuple):
    """The random numbers of one Metropolis step: ``(chains, *event)`` and ``(chains,)``."""

    normal: Tensor
    uniform: Tensor


def draw_noise(position: Tensor, generator: torch.Generator) -> Noise:
    """Standard normals for the proposal, and one uniform in [0, 1) **for each chain**.

    >>> noise = draw_noise(torch.zeros(3, 2), torch.Generator().manual_seed(0))
    >>> noise.normal.shape, noise.uniform.shape
    (torch.Size([3, 2]), torch.Size([3]))
    """
    normal = torch.empty_like(position).normal_(generator=generator)
    uniform = torch.empty_like(position[(...,) + (0,) * (position.ndim - 1)])
    return Noise(normal, uniform.uniform_(generator=generator))


S = TypeVar("S", bound=State)


class OnDrawnNoise(Generic[S]):
    """A step in two parts: the random numbers first, then a pure transition on them.

    A kernel implements ``state_at`` and ``_transition``.
    """

    def init(self, target: Density, x: Tensor) -> S:
        """State at the positions ``x`` of shape ``(chains, *event)``.

        Raises NonFiniteError where its log-density, or a score that it holds, is not finite.
        """
        x = x.detach()
        state = self.state_at(target, x)
        require_start(target, x, state.log_density, *leaves(state))
        return state

    def state_at(self, target: Density, x: Tensor) -> S:
        """The same state, not checked: pure, as is ``_transition``."""
        raise NotImplementedError(f"{type(self).__name__} must implement state_at")

    def step(self, target: Density, state: S, *, generator: torch.Generator) -> tuple[S, Info]:
        """One transition of every chain."""
        return self._transition(target, state, self.draw_noise(state.position, generator))

    @property
    def gradients_per_step(self) -> int:
        """How often a step evaluates the target's score."""
        return 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        """All the random numbers of one step at positions like these, as a NamedTuple."""
        return draw_noise(position, generator)

    def _transition(self, target: Density, state: S, noise: Any) -> tuple[S, Info]:
        raise NotImplementedError(f"{type(self).__name__} must implement _transition")


class Corrected(OnDrawnNoise[S]):
    """A step that ends in an accept decision, which leaves the target invariant."""

    @property
    def guarantee(self) -> str:
        """Corrected by an accept step: asymptotically exact."""
        return ASYMPTOTICALLY_EXACT


def per_chain(value: Tensor | float | None, like: Tensor) -> Tensor | float:
    """A setting ready to multiply positions: ``(chains,)`` becomes ``(chains, 1, ..., 1)``.

    In the positions' dtype, which that of the target's log-density may exceed.

    Raises PoeError where it was left out, or its shape is neither ``()`` nor ``(chains,)``.

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
    if value is None or isinstance(value, Tensor):  # tensors: checked without a host sync, in use
        return
    if not 0.0 < value < float("inf"):
        raise PoeError(f"expected a positive finite {name}, got {value}")


def require_start(target: Density, x: Tensor, log_density: Tensor, *others: Tensor) -> None:
    """Refuse a start where log-density or another part of the state, such as a score, is not
    finite, naming the experts at fault."""
    if x.is_meta:
        return
    bad = ~torch.isfinite(log_density)
    for part in others:
        bad = bad | ~torch.isfinite(part).reshape(len(x), -1).all(dim=1)
    if not bad.any():
        return
    chains = bad.nonzero().flatten().tolist()
    first = chains[0]
    raise NonFiniteError(
        f"expected a finite log-density and score at the start of every chain, got others at "
        f"{len(chains)} of {len(x)}: chain {first} has log-density "
        f"{log_density[first].item()}{_culprits(target, x, first)}. Start inside the support of "
        "every expert, by `initial=` in poe.sample."
    )


def _culprits(target: Density, x: Tensor, chain: int) -> str:
    """Which experts of a product are not finite at that chain, in words."""
    if not isinstance(target, Product):
        return ""
    with torch.no_grad():
        row = target.contributions(x)[chain].tolist()
    values = dict(zip(target.names, row, strict=True))
    at_fault = {name: v for name, v in values.items() if not abs(v) < float("inf")}
    return f" ({', '.join(f'expert {n!r}: {v}' for n, v in at_fault.items())})" if at_fault else ""


def accept(log_ratio: Tensor, log_density: Tensor, uniform: Tensor) -> Info:
    """The Metropolis decision: accept with probability min(1, exp(log_ratio)).

    A proposal whose log-density is −inf, +inf or NaN, or whose log_ratio is NaN, is rejected.

    Source: Metropolis et al. 1953; Hastings 1970, eq. 6.

    >>> ratio, value = torch.tensor([0.0, float("nan")]), torch.tensor([-1.0, float("nan")])
    >>> accept(ratio, value, torch.tensor([0.5, 0.5])).is_accepted
    tensor([ True, False])
    """
    is_outside = log_density == -torch.inf
    is_undefined = (log_ratio.isnan() & ~is_outside) | (log_density == torch.inf)
    is_divergent = is_undefined | ((log_ratio < DIVERGENT) & ~is_outside)
    probability = log_ratio.exp().clamp(max=1.0)
    probability = probability.masked_fill(is_outside | is_undefined, 0.0)
    return Info(probability, uniform < probability, is_outside, is_undefined, is_divergent)


def all_accepted(log_density: Tensor) -> Info:
    """What a kernel that draws from conditionals tells: there is nothing to reject."""
    nowhere = torch.zeros_like(log_density, dtype=torch.bool)
    return Info(torch.ones_like(log_density), ~nowhere, nowhere, nowhere, nowhere)


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


def leaves(state: Any) -> Iterator[Tensor]:
    """The tensors of nested NamedTuples, in order."""
    for part in state:
        yield from [part] if isinstance(part, Tensor) else leaves(part)


def map_leaves(function: Callable[..., Tensor], *states: Any) -> Any:
    """A state like the first, of what a function makes of the states' tensors, one from each.

    >>> noise = Noise(torch.zeros(2, 3), torch.ones(2))
    >>> map_leaves(torch.add, noise, noise).uniform
    tensor([2., 2.])
    """
    if isinstance(states[0], Tensor):
        return function(*states)
    parts = zip(*states, strict=True)
    return type(states[0])(*(map_leaves(function, *part) for part in parts))


def sum_event(x: Tensor) -> Tensor:
    """The sum over each chain's event: ``(chains, *event) -> (chains,)``."""
    return x.reshape(len(x), -1).sum(1)
