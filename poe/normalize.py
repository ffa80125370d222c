"""``poe.normalize``: any expert as a normalised density, its log Z and that one's error with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poe.core.doubt import together, warn
from poe.core.errors import NonFiniteError
from poe.density.capabilities import check_proper, exact_log_partition, is_normalized, tails
from poe.density.expert import Expert, require_expert
from poe.normalizers.choose import log_partition as estimate_log_partition
from poe.partition import LogPartition

Estimator = Callable[[Expert], LogPartition]
"""How log Z is found."""


class Normalized(Expert):
    """An expert with its normaliser: log p(x) = log p̃(x) − log Z, on the expert's space.

    Where log Z is an estimate, so is ``log_prob``: all of it is off by one and the same number, of
    standard error ``log_prob_error`` ``()``. Then the normaliser does not count as known: nothing
    built from it claims a ``log_prob`` of its own. ``log_partition`` tells how log Z was found.
    ``sample`` exists where the expert has one. Raises NonFiniteError where log Z is not finite.

    >>> found = poe.log_partition(experts.Gaussian([0.0], scale=[1.0]) ** 2)
    >>> p = Normalized(experts.Gaussian([0.0], scale=[1.0]) ** 2, found)
    >>> p.log_prob(torch.zeros(1, 1)), p.log_prob_error
    (tensor([-0.5724]), tensor(0.))
    """

    value: Tensor
    std_error: Tensor
    lower: Tensor
    upper: Tensor

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

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.expert(x)
        return value - self.value.to(value)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x): `(*batch, *event) -> (*batch,)`; equals ``log_density``."""
        return self(x)

    def extra_repr(self) -> str:
        if self.value.is_meta:
            return f"log Z by {self._found.method}"
        return f"log Z={self.value:.5g} ± {self.std_error:.2g} by {self._found.method}"

    def __getattr__(self, name: str) -> Any:
        if name == "sample" and hasattr(self.expert, "sample"):
            return self.expert.sample
        return super().__getattr__(name)


@is_normalized.register
def _(expert: Normalized) -> bool:
    return expert._found.is_exact


@exact_log_partition.register
def _(expert: Normalized) -> Tensor | None:
    return torch.zeros_like(expert.value) if expert._found.is_exact else None


@check_proper.register
def _(expert: Normalized) -> None:
    check_proper(expert.expert)


@tails.register
def _(expert: Normalized) -> Tensor | None:
    return tails(expert.expert)


def normalize(
    expert: Expert,
    log_partition: LogPartition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Normalized:
    """The expert divided by its Z: ``log_partition``, or what ``poe.log_partition`` finds.

    Warns (TrustWarning) where the ``log_partition`` that is given is not to be trusted. Raises what
    ``poe.log_partition`` raises, and NonFiniteError where log Z is not finite.

    >>> quartic = poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(1))
    >>> p = normalize(quartic)
    >>> p.log_prob(torch.zeros(1, 1, dtype=torch.float64))
    tensor([-0.5949], dtype=torch.float64)
    """
    if log_partition is None:
        return Normalized(expert, estimate_log_partition(expert, generator=generator))
    check_proper(expert)
    heading = (
        f"the log Z that {type(expert).__name__} is normalised by is not to be trusted, and so "
        "neither is log_prob"
    )
    warn(together(heading, log_partition.doubts))
    return Normalized(expert, log_partition)


def estimator_or_default(
    estimator: Estimator | None, generator: torch.Generator | None
) -> Estimator:
    """The ``estimator``, or ``poe.log_partition`` with that generator."""
    if estimator is not None:
        return estimator
    return lambda target: estimate_log_partition(target, generator=generator)
