"""Coordinates for quadrature, in which both ends of every element's range are e-folds away.

Towards infinity, and towards an edge at which a density grows, an integral is a sum over scales:
x = sinh t and x = exp t, and x = low + h exp t next to an edge, where h is the width of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import NormalizationError
from poe.core.space import Interval, Positive, Real, Space

INITIAL_CELLS = {1: 512, 2: 24, 3: 8}
"""In each of so many dimensions."""
EDGE_CELLS = {1: 64, 2: 6, 3: 3}
"""Next to an edge at which a density grows, or farther out, and at most one for 4 e-folds."""
WINDOW = 2.0
"""E-folds, at least, from which it is told how mass dies out at an end."""
FEW_ULPS = {torch.float64: 2.0**10, torch.float32: 2.0**6}
"""An edge is reached up to here, where a distance to it is still known to a percent."""
NEAR = 1e-3
"""The share of an interval's width at which what is next to an edge begins."""
GROWS = 0.5
"""Nats by which a density rises next to an edge at which it is taken to grow without bound."""
NUM_PROBES = 32

Ends = tuple[bool, bool]
Map = Callable[[Tensor], Tensor]


class Axis(NamedTuple):
    """One element of x as a function of t.

    - ``blur``: the relative error of distances to an edge, since x is rounded;
    - ``breaks`` ``(cells + 1,)``: the first cells, in t;
    - ``is_open``: whether mass may lie beyond the first and the last of them;
    - ``window``: so many cells at an end tell how it dies out there.
    """

    to_x: Map
    log_jacobian: Map
    blur: Map
    breaks: Tensor
    is_open: Ends
    window: int = 1


class Chart(NamedTuple):
    """t ``(points, d)`` to the elements of x, each by its axis.

    - ``low``, ``high``: the numbers next to the borders of the space, inside of it.
    """

    axes: tuple[Axis, ...]
    low: float
    high: float

    def to_x(self, t: Tensor, like: Tensor) -> Tensor:
        """The elements of x, of another tensor's dtype: ``(points, d)``."""
        parts = [axis.to_x(part) for axis, part in zip(self.axes, t.unbind(1), strict=True)]
        return torch.stack(parts, 1).to(like).clamp(self.low, self.high)

    def log_jacobian(self, t: Tensor) -> Tensor:
        """log |det dx/dt|: ``(points,)``."""
        pairs = zip(self.axes, t.unbind(1), strict=True)
        return torch.stack([axis.log_jacobian(part) for axis, part in pairs]).sum(0)

    def blur(self, t: Tensor) -> Tensor:
        """How far the rounding of x may move a density that is a power of a distance: relative."""
        pairs = zip(self.axes, t.unbind(1), strict=True)
        return torch.stack([axis.blur(part) for axis, part in pairs]).sum(0)

    def cells(self) -> tuple[Tensor, Tensor]:
        """The first ones: centres and half widths, both ``(cells, d)``."""
        d = len(self.axes)
        lows = torch.cartesian_prod(*[axis.breaks[:-1] for axis in self.axes]).reshape(-1, d)
        highs = torch.cartesian_prod(*[axis.breaks[1:] for axis in self.axes]).reshape(-1, d)
        return (lows + highs) / 2, (highs - lows) / 2


def has_chart(space: Space) -> bool:
    """Whether quadrature knows this kind of space."""
    return isinstance(space, Real | Positive | Interval)


def can_integrate(space: Space) -> bool:
    """Whether quadrature knows this space: its kind, and one to three dimensions."""
    return has_chart(space) and space.event_shape.numel() in INITIAL_CELLS


def chart_of(
    space: Space, like: Tensor, log_density: Callable[[Tensor], Tensor], *, is_wide: bool = False
) -> Chart:
    """Coordinates for a density.

    Args:
        space: Of one to three continuous dimensions.
        like: A tensor of the dtype and on the device at which the density wants x.
        log_density: Elements ``(points, d)`` to values ``(points,)``, in float64.
        is_wide: Whether mass is looked for as far out as numbers go.

    Returns:
        The chart.

    Raises:
        NormalizationError: Where the space has none.
    """
    d, info = space.event_shape.numel(), torch.finfo(like.dtype)
    if isinstance(space, Real):
        reach = 0.5 * math.log(info.max) - 3 if is_wide else 25.0
        axis = _folded(torch.sinh, lambda t: t.cosh().log(), d, 25.0, reach, like)
        return Chart((axis,) * d, -info.max, info.max)
    if isinstance(space, Positive):
        reach = math.log(info.max) - 1 if is_wide else 80.0
        axis = _folded(torch.exp, lambda t: t, d, 80.0, reach, like)
        return Chart((axis,) * d, info.tiny, info.max)
    if isinstance(space, Interval):
        ends = _growing_ends(space, like, log_density)
        axes = tuple(_between(space, d, is_open, like) for is_open in ends)
        return Chart(axes, *_next_to_borders(space, like))
    raise NormalizationError(
        f"quadrature knows Real, Positive and Interval spaces, not {space}; "
        "move the expert there with Transformed(expert, bijection)"
    )


def _folded(to_x: Map, log_jacobian: Map, d: int, near: float, reach: float, like: Tensor) -> Axis:
    """Cells of one width up to ``near``, and wider ones beyond."""
    count = INITIAL_CELLS[d]
    breaks = torch.linspace(-near, near, count + 1, dtype=torch.float64, device=like.device)
    window = max(1, round(WINDOW * count / (2 * near)))
    if reach > near:
        beyond = torch.linspace(near, reach, EDGE_CELLS[d] + 1, dtype=torch.float64)
        beyond = beyond[1:].to(like.device)
        breaks, window = torch.cat([-beyond.flip(0), breaks, beyond]), 1
    return Axis(to_x, log_jacobian, torch.zeros_like, breaks, (True, True), window)


def _between(space: Interval, d: int, is_open: Ends, like: Tensor) -> Axis:
    """x = low + h (1 + t) between borders, and low + h exp t before t = 0 where it grows there."""
    count = INITIAL_CELLS[d]
    h, last = (space.high - space.low) / count, float(count - 2)

    def to_x(t: Tensor) -> Tensor:
        x = space.low + h * (1 + t)
        if is_open[0]:
            x = torch.where(t < 0, space.low + h * t.clamp(max=0).exp(), x)
        if is_open[1]:
            x = torch.where(t > last, space.high - h * (last - t).clamp(max=0).exp(), x)
        return x

    def log_jacobian(t: Tensor) -> Tensor:
        log_slope = torch.full_like(t, math.log(h))
        if is_open[0]:
            log_slope = log_slope + t.clamp(max=0)
        return log_slope + (last - t).clamp(max=0) if is_open[1] else log_slope

    def blur(t: Tensor) -> Tensor:
        below = _ulp(space.low, space.high, like.dtype) / h * (-t).clamp(min=0).exp()
        above = _ulp(space.high, space.low, like.dtype) / h * (t - last).clamp(min=0).exp()
        return is_open[0] * below + is_open[1] * above

    before = _zone(space.low, space.high, h, d, is_open[0], like)
    after = _zone(space.high, space.low, h, d, is_open[1], like)
    middle = torch.linspace(0, last, count - 1, dtype=torch.float64, device=like.device)
    breaks = torch.cat([-before.flip(0), middle, last + after])
    return Axis(to_x, log_jacobian, blur, breaks, is_open)


def _zone(edge: float, other: float, h: float, d: int, is_open: bool, like: Tensor) -> Tensor:
    """How far the cells next to an edge reach, in e-folds of the distance where it is open."""
    if not is_open:
        return torch.ones(1, dtype=torch.float64, device=like.device)
    reach = math.log(h / _nearest(edge, other, like.dtype))
    count = max(3, min(EDGE_CELLS[d], round(reach / 4)))
    return torch.linspace(0, reach, count + 1, dtype=torch.float64, device=like.device)[1:]


def _nearest(edge: float, other: float, dtype: torch.dtype) -> float:
    """The distance to an edge up to which distances can be told apart."""
    return torch.finfo(dtype).tiny if edge == 0 else FEW_ULPS[dtype] * _ulp(edge, other, dtype)


def _ulp(edge: float, other: float, dtype: torch.dtype) -> float:
    """From an edge to the next number inside; 0 from 0."""
    if edge == 0:
        return 0.0
    number, towards = torch.tensor([edge, other], dtype=dtype)
    return float((torch.nextafter(number, towards) - number).abs())


def _next_to_borders(space: Interval, like: Tensor) -> tuple[float, float]:
    low, high = torch.tensor([space.low, space.high], dtype=like.dtype)
    first = torch.nextafter(low, high)
    tiny = torch.finfo(like.dtype).tiny  # what is smaller may count as 0
    least = torch.where(low == 0, torch.full_like(low, tiny), first)
    most = torch.where(high == 0, torch.full_like(low, -tiny), torch.nextafter(high, low))
    return float(least), float(most)


def _growing_ends(
    space: Interval, like: Tensor, log_density: Callable[[Tensor], Tensor]
) -> list[Ends]:
    """At which edges the density grows, element by element."""
    d = space.event_shape.numel()
    golden = torch.tensor([0.8191725134, 0.6710436067, 0.5497004779], dtype=torch.float64)[:d]
    inside = (torch.arange(1, NUM_PROBES + 1, dtype=torch.float64)[:, None] * golden) % 1
    x = (space.low + (space.high - space.low) * (0.02 + 0.96 * inside)).to(like.device)

    def grows(element: int, edge: float, other: float) -> bool:
        return _grows_at(log_density, x, element, edge, other, like.dtype)

    return [
        (grows(element, space.low, space.high), grows(element, space.high, space.low))
        for element in range(d)
    ]


def _grows_at(
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    element: int,
    edge: float,
    other: float,
    dtype: torch.dtype,
) -> bool:
    """Whether the density rises as one element of positions ``(n, d)`` goes to an edge."""
    width, nearest = other - edge, _nearest(edge, other, dtype)
    if not nearest < 0.1 * NEAR * abs(width):  # numbers are too coarse there
        return False
    distances = torch.tensor([NEAR * abs(width), nearest], dtype=x.dtype, device=x.device)
    moved = x.repeat(2, 1)
    moved[:, element] = edge + math.copysign(1, width) * distances.repeat_interleave(len(x))
    near, nearer = log_density(moved).reshape(2, -1)
    return bool(((nearer - near).nan_to_num(0.0, 0.0, 0.0) > GROWS).any())
