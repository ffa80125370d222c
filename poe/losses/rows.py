"""What a loss asks of the rows that it averages: their shape, and how large they may be."""

from __future__ import annotations

from torch import Tensor

from poe.core.errors import ShapeError
from poe.density.expert import Expert
from poe.density.nonfinite import Rows

EXPLODED = 1e4
"""Nats for each element of an event: a Gaussian says as much at 140 standard deviations."""


def log_densities(expert: Expert, where: str, x: Tensor, values: Tensor) -> Rows:
    """Rows of log-densities, which explode beyond ``EXPLODED`` nats for each element."""
    return Rows(expert, where, x, values, EXPLODED * max(1, expert.space.event_shape.numel()))


def require_rows(expert: Expert, where: str, x: Tensor) -> None:
    """Refuse x that is not ``(n, *event)`` with n >= 1."""
    if len(expert.space.batch_shape(x)) != 1 or len(x) == 0:
        event = ", ".join(map(str, expert.space.event_shape))
        raise ShapeError(
            f"expected the rows of {where} in shape (n, {event}) with n >= 1, got {tuple(x.shape)}"
        )
