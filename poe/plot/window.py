"""A window on a space, cut into cells, and densities normalised on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, warn
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.core.space import (
    Count,
    Interval,
    Positive,
    Space,
)
from poe.density.checks import device_of, floats_of
from poe.density.expert import Expert
from poe.normalizers.enumeration import states
from poe.plot.positions import Positions

Bound = float | Sequence[float] | None
ROWS_AT_ONCE = 2**14
NARROW = 0.5
"""With more of its mass than this in one cell, a density is too narrow for the window."""
MARGIN = 0.08
"""By which share of their range a window is wider than the draws that it is made for."""


class Window(NamedTuple):
    """Cells of a space: their midpoints x ``(n, *event)``, edges along each of d elements.

    ``log_volume`` is that of one cell, 0 for the states of a discrete space, whose ``edges`` are
    none.
    """

    x: Tensor
    edges: tuple[Tensor, ...]
    log_volume: float

    @property
    def middles(self) -> list[Tensor]:
        """The midpoints along each element."""
        return [(edges[1:] + edges[:-1]) / 2 for edges in self.edges]


def window(
    space: Space, low: Bound, high: Bound, cells: int, positions: Positions | None
) -> Window:
    """``cells`` along each element from ``low`` to ``high``, no further than the space goes.

    An end that is left out reaches a little beyond the draws, or is that of the space. Raises
    PoeError where there is neither, or nothing is left between the two.
    """
    first, last = _bounds(space, low, high, positions)
    fractions = torch.arange(cells + 1, dtype=torch.float64) / cells
    edges = tuple(a + (b - a) * fractions for a, b in zip(first, last, strict=True))
    middles = [(e[1:] + e[:-1]) / 2 for e in edges]
    x = torch.cartesian_prod(*middles).reshape(-1, *space.event_shape)
    volume = sum(math.log((b - a) / cells) for a, b in zip(first, last, strict=True))
    return Window(x, edges, volume)


def table(space: Space, low: Bound, high: Bound) -> Window:
    """All states of a small finite space; of Count those from ``low`` (or 0) to ``high``."""
    if not isinstance(space, Count):
        if low is not None or high is not None:
            raise PoeError(f"expected no low= and high= on {space}: all its states are shown")
        return Window(states(space), (), 0.0)
    if not isinstance(high, int | float):
        raise PoeError(f"expected high=, the largest count to show on {space}, got {high}")
    first = 0 if low is None else _ends("low", low, 1)[0]
    values = torch.arange(max(0, math.ceil(first)), math.floor(high) + 1)
    return Window(values.reshape(-1, *space.event_shape), (), 0.0)


def normalized(expert: Expert, name: str, on: Window) -> Tensor:
    """The density at the midpoints, which the midpoint rule integrates to 1: ``(n,)`` in float64.

    p̃(x_i) / (v Σ_j p̃(x_j)), where v is a cell's volume. Raises NonFiniteError where a log-density
    is NaN or +inf, or all are −inf; warns where the density is too narrow for the cells.
    """
    x = on.x.to(device_of(expert))
    x = x.to(floats_of(expert)) if on.x.is_floating_point() else x
    with torch.no_grad():
        values = torch.cat([expert(rows).double().cpu() for rows in x.split(ROWS_AT_ONCE)])
    _require_density(values, name)
    log_mass = values - values.logsumexp(0)
    if on.edges and float(log_mass.max()) > math.log(NARROW):
        text = (
            f"the density of {name} is hardly wider than one of the {len(x)} cells of the window: "
            "what is drawn of it is not exact; choose a narrower window"
        )
        warn([Doubt(Kind.TOO_COARSE, text)])
    return (log_mass - on.log_volume).exp()


def _require_density(values: Tensor, name: str) -> None:
    is_broken = values.isnan() | values.isposinf()
    if bool(is_broken.any()):
        raise NonFiniteError(
            f"expected log-densities of {name} that are numbers or -inf on the window, got NaN or "
            f"+inf at {int(is_broken.sum())} of {len(values)} points: choose a window without them"
        )
    if bool((values == -torch.inf).all()):
        raise NonFiniteError(
            f"expected {name} to be more than 0 somewhere on the window, and its log-density is "
            "-inf all over it: move the window to where the expert allows x"
        )


def _bounds(
    space: Space, low: Bound, high: Bound, positions: Positions | None
) -> tuple[list[float], list[float]]:
    """The ends along each element, within the space."""
    size = space.event_shape.numel()
    least, most = _support(space)
    seen = None if positions is None else space.as_vector(positions.x).double()
    first = _end("low", low, size, least, seen)
    last = _end("high", high, size, most, seen)
    first = [max(value, least) for value in first]
    last = [min(value, most) for value in last]
    if any(not a < b for a, b in zip(first, last, strict=True)):
        raise PoeError(
            f"expected low < high within {space} for each of {size} elements, got low={first} and "
            f"high={last}"
        )
    return first, last


def _end(name: str, given: Bound, size: int, limit: float, seen: Tensor | None) -> list[float]:
    if given is not None:
        return _ends(name, given, size)
    if seen is not None:
        ends = (seen.amin(0), seen.amax(0))
        near, far = ends if name == "low" else ends[::-1]
        beyond: list[float] = (near + MARGIN * (near - far)).tolist()
        return beyond
    if math.isfinite(limit):
        return [limit] * size
    raise PoeError(f"expected {name}=, a number or one for each of {size} elements, or draws=")


def _ends(name: str, given: float | Sequence[float], size: int) -> list[float]:
    values = torch.as_tensor(given, dtype=torch.float64).flatten()
    if len(values) not in (1, size) or not bool(values.isfinite().all()):
        raise ShapeError(
            f"expected {name} as one finite number, or one for each of {size} elements, got {given}"
        )
    return values.expand(size).tolist()


def _support(space: Space) -> tuple[float, float]:
    if isinstance(space, Interval):
        return space.low, space.high
    return (0.0 if isinstance(space, Positive) else -math.inf), math.inf
