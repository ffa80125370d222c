"""Finite spaces, event by event: their number, a table, and sums over all of them in a stream."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.errors import NonFiniteError, NormalizationError
from poe.core.space import Binary, Space
from poe.density.expert import Expert
from poe.samplers.guarded import Guarded, Raised

MAX_TABLE = 2**20
"""The most states of which a table is made."""
MAX_STATES = 2**25
"""The most states that are summed over."""
STATES_AT_ONCE = 2**14


def num_states(space: Space) -> float:
    """How many events a space has; infinity where they are not finite, or far too many.

    >>> num_states(Binary(3)), num_states(poe.Categorical((2,), 5))
    (8, 25)
    """
    values, size = space.num_values or 0, space.event_shape.numel()
    if values == 0 or size * math.log(values) > 2 * math.log(MAX_STATES):
        return math.inf
    return values**size


def states(space: Space) -> Tensor:
    """All events of a small finite space, in lexicographic order.

    Args:
        space: Of finitely many events.

    Returns:
        Events, ``(n_states, *event)``.

    Raises:
        NormalizationError: Above 2^20 of them.

    Example:
        >>> states(Binary(2))
        tensor([[0., 0.],
                [0., 1.],
                [1., 0.],
                [1., 1.]])
    """
    count = num_states(space)
    if count > MAX_TABLE:
        raise NormalizationError(f"expected at most {MAX_TABLE} states, got {space}")
    return _states(space, 0, int(count), None)


def log_sum(target: Expert, raised: Raised | None = None) -> Tensor:
    """log of the sum of p̃ over all events of a finite space, in bounded memory.

    Args:
        target: p̃.
        raised: Where errors at some events are kept, which have no probability.

    Returns:
        log Z, ``()``.

    Raises:
        NonFiniteError: Where a log-density is NaN or +inf.
    """
    asked = Guarded(target, Raised() if raised is None else raised)
    total: Tensor | None = None
    with torch.no_grad():
        for part in _batches(target):
            values = asked(part)
            if bool((values.isnan() | values.isposinf()).any()):
                raise NonFiniteError(f"a log-density of {type(target).__name__} is NaN or +inf")
            partial = torch.logsumexp(values.double(), 0)
            total = partial if total is None else torch.logaddexp(total, partial)
    assert total is not None
    return total.to(values.dtype)


def _batches(target: Expert) -> Iterator[Tensor]:
    """All events, some at a time, with a progress bar where they take seconds."""
    device = next((t.device for t in itertools.chain(target.parameters(), target.buffers())), None)
    count = int(num_states(target.space))
    with tqdm(
        total=count, unit="state", unit_scale=True, delay=2, leave=False, file=sys.stderr
    ) as bar:
        for first in range(0, count, STATES_AT_ONCE):
            last = min(first + STATES_AT_ONCE, count)
            yield _states(target.space, first, last, device)
            bar.update(last - first)


def _states(space: Space, first: int, last: int, device: torch.device | None) -> Tensor:
    """The events of those places in lexicographic order: the digits of their numbers."""
    values, size = space.num_values or 0, space.event_shape.numel()
    place = torch.arange(first, last, device=device)
    powers = torch.tensor([values**k for k in reversed(range(size))], device=device)
    table = (place[:, None] // powers % values).reshape(-1, *space.event_shape)
    return table.to(torch.get_default_dtype()) if isinstance(space, Binary) else table
