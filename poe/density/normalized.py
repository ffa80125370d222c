"""An expert with its log partition: ``log p(x) = log p̃(x) − log Z``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, texts
from poe.core.errors import NonFiniteError
from poe.density.capabilities import (
    exact_log_partition,
    is_normalized,
    log_density_of_one_hot,
)
from poe.density.expert import Expert, Wrapper, require_expert
from poe.density.one_hot import OneHotLogDensity


class LogPartition(NamedTuple):
    """log Z with its uncertainty, and how it came about.

    Args:
        value: The estimate, ``()``.
        std_error: Its standard error, ``()``; 0 for exact methods.
        lower: Lower bound on log Z, ``()``.
        upper: Upper bound on log Z, ``()``.
        method: What was done, in words.
        ess: How many independent draws it is worth, infinite for exact methods.
        num_evaluations: Of the target's log-density, what it cost.
        confidence: The probability with which both bounds hold together.
        rests_on: What the bounds assume, in words.
        doubts: Why it should not be believed; ``remarks`` are their words. None of them: it is
            trusted.

    Example:
        >>> exact(torch.tensor(0.5), "closed form").is_trusted
        True
    """

    value: Tensor
    std_error: Tensor
    lower: Tensor
    upper: Tensor
    method: str
    ess: float = math.inf
    num_evaluations: int = 0
    confidence: float = 1.0
    rests_on: str = ""
    doubts: tuple[Doubt, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against it, and it is a number."""
        return not self.doubts and (self.value.is_meta or not bool(self.value.isnan()))

    @property
    def is_exact(self) -> bool:
        """Whether it is known rather than estimated, up to rounding."""
        return self.ess == math.inf and bool(self.std_error == 0)


def exact(value: Tensor, method: str, num_evaluations: int = 0) -> LogPartition:
    """log Z without an error."""
    zero = torch.zeros_like(value)
    return LogPartition(value, zero, value, value, method, num_evaluations=num_evaluations)


class Normalized(Wrapper):
    """An expert with its normaliser: log p(x) = log p̃(x) − log Z, on the expert's space.

    Where log Z is an estimate, so is ``log_prob``: all of it is off by one and the same number, of
    standard error ``log_prob_error`` ``()``. Then the normaliser does not count as known: nothing
    built from it claims a ``log_prob`` of its own. ``sample`` exists where the expert has one.

    Args:
        expert: Of log-density log p̃.
        log_partition: log Z, and how it was found.

    Raises:
        NonFiniteError: Where log Z is not finite.
        OperatorError: Where ``expert`` is no expert.

    Example:
        >>> found = poe.log_partition(experts.Gaussian([0.0], scale=[1.0]) ** 2)
        >>> p = Normalized(experts.Gaussian([0.0], scale=[1.0]) ** 2, found)
        >>> p.log_prob(torch.zeros(1, 1)), p.log_prob_error
        (tensor([-0.5724]), tensor(0.))
    """

    value: Tensor
    std_error: Tensor
    lower: Tensor
    upper: Tensor
    may_be_infinite = ("std_error", "lower", "upper")

    @checked
    def __init__(self, expert: Expert, log_partition: LogPartition) -> None:
        super().__init__()
        self.space = require_expert(expert).space
        self.expert = expert
        self._found = log_partition
        for name in ("value", "std_error", "lower", "upper"):
            self.register_buffer(name, torch.as_tensor(getattr(log_partition, name)).detach())
        if not self.value.is_meta and not bool(self.value.isfinite()):
            raise NonFiniteError(
                f"expected a finite log Z to normalise {type(expert).__name__}, got "
                f"{self.value.item()}"
            )

    @property
    def log_partition(self) -> LogPartition:
        """log Z as it was found, its numbers where this module lies."""
        return self._found._replace(
            value=self.value, std_error=self.std_error, lower=self.lower, upper=self.upper
        )

    @property
    def log_prob_error(self) -> Tensor:
        """The standard error of ``log_prob``, the same at every x: `()`."""
        return self.std_error

    def inner(self) -> Expert:
        """The expert, whose structure does not depend on its normaliser."""
        return self.expert

    def forward(self, x: Tensor) -> Tensor:
        """log p̃(x) − log Z.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The log-density, ``(*batch,)``.
        """
        value: Tensor = self.expert(x)
        return value - self.value.to(value)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density of the normalised expert; equals ``log_density``.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self(x)

    def extra_repr(self) -> str:
        if self.value.is_meta:
            return f"log Z by {self._found.method}"
        return f"log Z={self.value:.5g} ± {self.std_error:.2g} by {self._found.method}"


@is_normalized.register
def _(expert: Normalized) -> bool:
    return expert._found.is_exact


@exact_log_partition.register
def _(expert: Normalized) -> Tensor | None:
    return torch.zeros_like(expert.value) if expert._found.is_exact else None


@log_density_of_one_hot.register
def _(expert: Normalized) -> OneHotLogDensity | None:
    inner = log_density_of_one_hot(expert.expert)
    return None if inner is None else lambda z: inner(z) - expert.value.to(z)
