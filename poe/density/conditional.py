"""p(x | y): bind a condition first, then compose like any other expert."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from poe.core.arguments import REFUSED, require, whole
from poe.core.errors import DtypeError, PoeError, ShapeError
from poe.core.space import Real, Space
from poe.density.capabilities import (
    check_proper,
    conditional_tails,
    conditionals,
    exact_log_partition,
    is_small,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
)
from poe.density.checks import NotInherited, own_method
from poe.density.expert import Expert, LogDensity, Sampler
from poe.density.one_hot import OneHotLogDensity
from poe.density.questions import inherits_density, keeps_default, speaks_as

Condition = int | float | Tensor


class Conditional(nn.Module):
    """A family of densities p̃(x | y); ``given(y)`` binds y and returns an Expert.

    Subclasses set ``space`` and implement ``log_density(x, condition) -> (*batch,)``. The condition
    is one for the whole batch, with ``condition_ndim`` dimensions (0, a label, unless a subclass
    says that one condition is a vector), or a tensor whose first dimension is the batch. A subclass
    whose log-density is normalised sets ``is_normalized = True``, and may define
    ``sample(condition, num_samples, *, generator=None) -> (num_samples, *event)``. One that knows
    the integral over its condition in closed form overrides ``exact_marginal``. A subclass of one
    that has another ``log_density`` inherits none of these.
    """

    space: Space
    is_normalized: bool = False
    condition_ndim: int = 0
    may_be_infinite: ClassVar[tuple[str, ...] | None] = None
    """The tensors in which an infinity means something; None where the values alone shall tell."""
    _density_methods: ClassVar[tuple[str, ...]] = ("log_density",)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, unknown in _OF_ONE_DENSITY.items():
            owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
            if not inherits_density(cls, owner):
                setattr(cls, name, unknown)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """The log-density of x where y is known, log p̃(x | y).

        Args:
            x: Positions, ``(*batch, *event)``.
            condition: y, of ``condition_ndim`` dimensions, or ``(n, ...)`` for x ``(n, *event)``.

        Returns:
            log p̃(x | y), ``(*batch,)``.
        """
        raise NotImplementedError

    def exact_marginal(self, prior: Expert) -> Expert | None:
        """The marginal ∫ p(y) p(x | y) dy, where it has a closed form.

        Args:
            prior: p(y), an expert on conditions.

        Returns:
            A normalised expert on x; None where the integral has no closed form.
        """
        return None

    def given(self, condition: Condition) -> Given:
        """The expert p̃(x | y = condition).

        Args:
            condition: y: a number, or a tensor with one condition or a batch of them.

        Returns:
            The expert on x, a ``poe.Given``.
        """
        return Given(self, condition)


_OF_ONE_DENSITY: dict[str, object] = {
    "is_normalized": False,
    "exact_marginal": Conditional.exact_marginal,
    "sample": NotInherited("sample", Conditional),
    "log_density_of_one_hot": NotInherited("log_density_of_one_hot", Conditional),
}
"""What a subclass with another log-density does not inherit, and what it has instead."""


class Given(Expert):
    """A conditional with its condition bound: log-density log p̃(x | y).

    With one condition every x has the same density. With a batch of n conditions this is a batch of
    n densities, one for each chain, and x must have the batch shape ``(n,)``.

    Args:
        conditional: The family p̃(x | y).
        condition: y: a number, or a tensor of ``conditional.condition_ndim`` dimensions, or of one
            more for a batch ``(n, ...)``. A tensor is detached.

    Raises:
        ShapeError: Where the condition has too few dimensions, and when called where x has another
            batch shape than a batch of conditions.
        DtypeError: Where the condition is neither a number nor a tensor.
        PoeError: For an ``nn.Parameter``, which would not be learned.
    """

    condition: Tensor
    may_be_infinite = ()

    def __init__(self, conditional: Conditional, condition: Condition) -> None:
        super().__init__()
        self.space = require("conditional", conditional, Conditional).space
        self.conditional = conditional
        self.register_buffer("condition", _as_condition(condition, conditional))
        if self.condition.ndim < conditional.condition_ndim:
            raise ShapeError(
                f"expected a condition of {conditional.condition_ndim} dimensions, or a batch of "
                f"such, got shape {tuple(self.condition.shape)}; use torch.tensor([...])"
            )

    def forward(self, x: Tensor) -> Tensor:
        """log p̃(x | y).

        Args:
            x: Positions, ``(*batch, *event)``; ``(n, *event)`` for a batch of n conditions.

        Returns:
            The log-density, ``(*batch,)``.
        """
        self._check_batch(self.space.batch_shape(x))
        return self.conditional.log_density(x, self.condition.clone())

    @property
    def is_batch(self) -> bool:
        """Whether there is a condition for each x of a batch, and not one for all."""
        return self.condition.ndim > self.conditional.condition_ndim

    @property
    def num_densities(self) -> int | None:
        """How many conditions there are, where each x of a batch has its own."""
        return len(self.condition) if self.is_batch else super().num_densities

    def extra_repr(self) -> str:
        if self.condition.ndim or self.condition.is_meta:
            return f"condition={tuple(self.condition.shape)}"
        return f"condition={self.condition.item():g}"

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        self._check_batch(torch.Size((num_samples,)))
        sample = conditional_sampler(self.conditional)
        assert sample is not None
        return sample(self.condition, num_samples, generator=generator)

    def _check_batch(self, batch_shape: torch.Size) -> None:
        if self.is_batch and batch_shape != self.condition.shape[:1]:
            raise ShapeError(
                f"expected x of batch shape ({len(self.condition)},), one for each condition, "
                f"got {tuple(batch_shape)}; bind a single label for a batch of another shape"
            )


def conditional_sampler(conditional: Conditional) -> Sampler | None:
    """What draws from p(x | y), ``(condition, num_samples, *, generator)``; None for nothing."""
    return own_method(conditional, "sample")


def normalizes(conditional: Conditional) -> bool:
    """Whether p(x | y) is normalised: what a conditional says of itself, by its own log-density.

    >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
    >>> normalizes(step)
    True
    >>> step.log_density = lambda x, condition: x.sum(-1)
    >>> normalizes(step)
    False
    """
    if "is_normalized" in vars(conditional):
        return conditional.is_normalized
    owner = next(base for base in type(conditional).__mro__ if "is_normalized" in vars(base))
    return conditional.is_normalized and speaks_as(conditional, owner)


def one_for_each(condition: Tensor, count: int, ndim: int) -> Tensor:
    """A condition for each of `count` rows: one of `ndim` dimensions is repeated, a batch stays.

    Args:
        condition: ``(*one)``, or ``(count, *one)``.
        count: How many rows there are.
        ndim: Dimensions of one condition.

    Returns:
        ``(count, *one)``.

    Example:
        >>> one_for_each(torch.tensor([1.0, 2.0]), 3, 1).shape
        torch.Size([3, 2])
    """
    return condition.expand(count, *condition.shape) if condition.ndim == ndim else condition


def log_density_of_rows(conditional: Conditional, x: Tensor, condition: Tensor) -> Tensor:
    """log p̃(x_i | y_i), differentiable in y too (`given` detaches it).

    `(n, *event)` and `(n, ...) -> (n,)`. Raises `ShapeError` where the conditional returns another.
    """
    value = conditional.log_density(x.clone(), condition.clone())  # it may change them
    if value.shape != x.shape[:1]:
        raise ShapeError(
            f"expected a log-density of shape {tuple(x.shape[:1])} from "
            f"{type(conditional).__name__}, got {tuple(value.shape)}"
        )
    return value


@log_prob_of.register
def _(expert: Given) -> LogDensity | None:
    return expert.__call__ if normalizes(expert.conditional) else None


@sampler_of.register
def _(expert: Given) -> Sampler | None:
    return None if conditional_sampler(expert.conditional) is None else expert._sample


@log_density_of_one_hot.register
def _(expert: Given) -> OneHotLogDensity | None:
    of_one_hot = own_method(expert.conditional, "log_density_of_one_hot")
    return None if of_one_hot is None else lambda z: of_one_hot(z, expert.condition)


@tails.register
def _(expert: Given) -> Tensor | None:
    """The part of y, where x is bound."""
    if not isinstance(expert.space, Real) or not is_small(expert.space):
        return None
    joint, size = conditional_tails(expert.conditional), expert.space.event_shape.numel()
    return None if joint is None else joint[None, -size:, -size:]


def _as_condition(condition: Condition, conditional: Conditional) -> Tensor:
    if isinstance(condition, nn.Parameter):
        raise PoeError(
            "expected a condition that is a number or a tensor, got an nn.Parameter, which would "
            "not be learned: give its value, or learn it by conditional.log_density(x, parameter)"
        )
    if isinstance(condition, Tensor):
        return condition.detach()
    is_number = isinstance(condition, float) or whole(condition) is not REFUSED
    if isinstance(condition, bool) or not is_number:
        raise DtypeError(
            f"expected a condition that is a number or a tensor, got {type(condition).__name__}"
        )
    if not -torch.inf < condition < torch.inf:
        raise PoeError(f"expected a finite condition, got {condition}")
    device = next((tensor.device for tensor in conditional.parameters()), None)
    return torch.tensor(condition, device=device)


keeps_default(
    Given,
    "of what it becomes a conditional says whether it is normalised, and no structure",
    check_proper,
    exact_log_partition,
    conditionals,
    spin_pairs,
    label_pairs,
)


def is_batch(target: Expert) -> bool:
    """Whether the target is a batch of densities, one for each chain."""
    return num_conditions(target) is not None


def num_conditions(target: Expert) -> int | None:
    """How many densities a batch of them has; None for one density.

    Args:
        target: Any.

    Returns:
        One for each chain, or None.

    Raises:
        ShapeError: Where experts of the target have different numbers of conditions.
    """
    found = (m.num_densities for m in target.modules() if isinstance(m, Expert))
    counts = sorted({count for count in found if count is not None})
    if len(counts) > 1:
        raise ShapeError(
            f"expected experts with one number of conditions, got {counts}: bind as many to each"
        )
    return counts[0] if counts else None


def require_one(target: Expert, remedy: str) -> None:
    """Refuse a batch of densities, one a condition, with what to do instead.

    Args:
        target: Any.
        remedy: What to do, in words.

    Raises:
        PoeError: Where it is a batch.
    """
    if num_conditions(target) is not None:
        raise PoeError(
            f"expected one density, got a batch of them (a condition for each chain): {remedy}"
        )
