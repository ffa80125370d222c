"""``pairs``: every element of draws, and every two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.draws import Draws
from poe.draws.export import component_names
from poe.plot.positions import positions_of
from poe.plot.style import (
    FAINT,
    GREY,
    INK,
    LABEL,
    SMALL,
    Array,
    as_array,
    dress,
    new_figure,
    tints,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ELEMENTS = 8
MAX_WHOLE = 24
"""Whole numbers of so many values get a bar each."""
COLOR = "#33557f"

Element = int | Sequence[int]


@checked
def pairs(draws: Draws, *, elements: Sequence[Element] | None = None) -> Figure:
    """Histograms of elements on the diagonal, of every two below it, correlations above.

    All are weighted where the draws are. Elements of at most 24 whole numbers have a bar for each.

    Args:
        draws: Of any target; ``draws.samples`` ``(chains, draws, *event)``.
        elements: At most 8: numbers in row-major order, or indices into the event such as
            ``(3, 4)``.

    Returns:
        The figure.

    Raises:
        PoeError: For more elements, one that does not exist, or draws none of which is finite.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = poe.sample(experts.Gaussian([0.0, 1.0], scale=[1.0, 2.0]), 500, generator=g)
        >>> figure = pairs(draws)
        >>> [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
        ['x[0]', 'x[1]']
    """
    positions = positions_of(draws)
    event = positions.x.shape[1:]
    chosen = _chosen(event, elements)
    names = [component_names(event)[place] for place in chosen]
    columns = list(as_array(positions.x.reshape(len(positions.x), -1)[:, chosen]).T)
    weights = as_array(positions.weights)
    bins = [_edges(column) for column in columns]
    size = len(chosen)
    inches = max(1.35 * size + 0.7, 3.2)
    figure = new_figure(inches, inches)
    grid = figure.subplots(size, size, squeeze=False)
    for (row, column), axis in np.ndenumerate(grid):
        if row == column:
            _histogram(axis, columns[row], bins[row], weights)
        elif row > column:
            _histogram_of_two(axis, columns[column], columns[row], bins[column], bins[row], weights)
        else:
            _correlation(axis, columns[column], columns[row], weights)
    _name(grid, names, bins)
    if positions.note:
        figure.supxlabel(positions.note, fontsize=SMALL, color=GREY)
    return figure


def _chosen(event: torch.Size, elements: Sequence[Element] | None) -> list[int]:
    count = event.numel()
    places = range(count) if elements is None else [_place(event, e) for e in elements]
    if not 1 <= len(places) <= MAX_ELEMENTS:
        raise PoeError(
            f"expected 1 to {MAX_ELEMENTS} elements, got {len(places)} of events of shape "
            f"{tuple(event)}: choose some by elements=[0, 1, ...]"
        )
    return list(places)


def _place(event: torch.Size, element: Element) -> int:
    index = (element,) if isinstance(element, int) else tuple(element)
    shape = (event.numel(),) if isinstance(element, int) else tuple(event)
    if len(index) != len(shape) or any(not 0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise PoeError(
            f"expected elements of events of shape {tuple(event)}, got {element!r}: give numbers "
            f"from 0 to {event.numel() - 1}, or one index for each dimension"
        )
    return int(np.ravel_multi_index(index, shape))


def _edges(values: Array) -> Array:
    """The borders of bins: around each whole number, or equal ones over the range."""
    low, high = float(values.min()), float(values.max())
    if high - low < MAX_WHOLE and bool((values == values.round()).all()):
        return np.arange(low - 0.5, high + 1)
    count = max(8, min(40, round(1.6 * len(values) ** (1 / 3))))
    return np.linspace(low, high, count + 1)


def _histogram(axis: Axes, values: Array, edges: Array, weights: Array) -> None:
    width = 0.84 if _is_whole(edges) else 1.0
    axis.hist(
        values, edges.tolist(), weights=weights, density=True, color=COLOR, rwidth=width, lw=0
    )
    axis.set_yticks([])
    dress(axis)
    axis.spines["left"].set_visible(False)


def _histogram_of_two(
    axis: Axes, x: Array, y: Array, x_edges: Array, y_edges: Array, weights: Array
) -> None:
    mass = np.histogram2d(x, y, [x_edges, y_edges], weights=weights)[0].T
    axis.pcolormesh(x_edges, y_edges, mass, cmap=tints(COLOR), vmin=0, rasterized=True)
    dress(axis)


def _correlation(axis: Axes, x: Array, y: Array, weights: Array) -> None:
    axis.set_axis_off()
    r = correlation(x, y, weights)
    text = "constant" if math.isnan(r) else f"{r:.2f}".replace("-", "\u2212")
    strength = FAINT if math.isnan(r) or abs(r) < 0.1 else INK
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=LABEL + 2, color=strength,
              transform=axis.transAxes)  # fmt: skip


def correlation(x: Array, y: Array, weights: Array) -> float:
    """Cov(x, y) / (sd x sd y) of weighted draws, each ``(n,)``; NaN where one is constant.

    >>> correlation(np.array([0.0, 1.0, 9.0]), np.array([1.0, 0.0, 5.0]), np.array([0.5, 0.5, 0.0]))
    -1.0
    """
    x, y = x - weights @ x, y - weights @ y
    scale = math.sqrt((weights @ x**2) * (weights @ y**2))
    return float(weights @ (x * y)) / scale if scale > 0 else math.nan


def _name(grid: np.ndarray, names: list[str], bins: list[Array]) -> None:
    """Names and numbers at the left and at the bottom alone."""
    last = len(names) - 1
    for (row, column), axis in np.ndenumerate(grid):
        if column > row:
            continue
        axis.set_xlim(bins[column][0], bins[column][-1])
        axis.locator_params(axis="x", nbins=3, integer=_is_whole(bins[column]))
        if row != column:
            axis.set_ylim(bins[row][0], bins[row][-1])
            axis.locator_params(axis="y", nbins=3, integer=_is_whole(bins[row]))
        if row < last:
            axis.tick_params(labelbottom=False)
        else:
            write(axis, x=names[column])
        if column > 0:
            axis.tick_params(labelleft=False)
        elif row > 0:
            write(axis, y=names[row])


def _is_whole(edges: Array) -> bool:
    return bool((edges % 1 == 0.5).all())
