"""What a loss returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """A number to minimise, and what it is made of.

    - ``value`` ``()``: carries the gradient in the expert's parameters;
    - ``parts``: scalars ``()`` by name, detached, on the loss's device, for a log.
    """

    value: Tensor
    parts: dict[str, Tensor]
