"""What is known of a log partition: its value, its error, its bounds, and whether to believe it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, texts


class LogPartition(NamedTuple):
    """log Z with its uncertainty, and how it came about.

    - ``value``, ``std_error`` ``()``: the estimate and its standard error, 0 for exact methods;
    - ``lower``, ``upper`` ``()``: bounds on log Z that hold together with probability
      ``confidence``; ``rests_on`` says in words what they assume;
    - ``method``: what was done, in words;
    - ``ess``: how many independent draws it is worth, infinite for exact methods;
    - ``num_evaluations``: of the target's log-density, what it cost;
    - ``doubts``: why it should not be believed; ``remarks`` are their words. None of them: it is
      trusted.

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
        """Whether nothing speaks against it."""
        return not self.doubts

    @property
    def is_exact(self) -> bool:
        """Whether it is known rather than estimated, up to rounding."""
        return self.ess == math.inf and bool(self.std_error == 0)


def exact(value: Tensor, method: str, num_evaluations: int = 0) -> LogPartition:
    """log Z without an error."""
    zero = torch.zeros_like(value)
    return LogPartition(value, zero, value, value, method, num_evaluations=num_evaluations)
