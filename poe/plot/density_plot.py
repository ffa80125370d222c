"""``densities``: each expert beside the product, in one dimension, in two, and over few states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.space import Count, Space
from poe.density.expert import Expert, require_expert
from poe.draws import Draws
from poe.draws.export import component_names
from poe.normalizers.charts import has_chart
from poe.normalizers.enumeration import num_states
from poe.plot.factors import factors_of
from poe.plot.positions import Positions, evenly, positions_in
from poe.plot.style import (
    GREY,
    INK,
    SMALL,
    Array,
    add_legend,
    as_array,
    dress,
    figure_of,
    frame,
    new_figure,
    one_axis,
    refuse_axes,
    tints,
    write,
)
from poe.plot.window import Bound, Window, normalized, table, window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELLS = {1: 1000, 2: 160}
"""Along each of so many elements."""
MASSES = (0.95, 0.8, 0.6, 0.4, 0.2)
"""What the contours of a panel enclose."""
MAX_STATES = 32
POINTS = 800
TALL = 4.0
"""An expert's line leaves the axis where it is so many times as high as the product's."""
WASH = "#8a97a6"
"""Of the product's density where draws are set on it."""
PANEL = 2.25
"""Width and height of a panel in inches."""


@checked
def densities(
    product: Expert,
    low: Bound = None,
    high: Bound = None,
    *,
    draws: Draws | None = None,
    axes: Axes | None = None,
) -> Figure:
    """The densities of a product's experts beside its own, each normalised on a window.

    p_i(x) = p̃_i(x)^w_i / ∫ p̃_i^w_i over low ≤ x ≤ high, by the midpoint rule. Of one element x:
    lines, and bars on Count. Of two: a panel for each expert and for the product, with the regions
    of highest density that hold 20, 40, 60, 80 and 95 % of the window's mass. On a finite space of
    at most 32 states: bars at all of them. Experts that are divided by are dashed.

    ``low`` and ``high`` may be left out on an Interval, on a finite space, and where ``draws`` are
    given.

    Args:
        product: The product; another expert is one factor.
        low: The window's lower border, a number or one for each element.
        high: The window's upper border, a number or one for each element.
        draws: Of the product, shown beside it; by default none.
        axes: Where to draw what one axis is enough for; a new figure by default.

    Returns:
        The figure.

    Raises:
        PoeError: For other spaces, a window that is empty or not told, or draws of another space.
        NonFiniteError: Where an expert has no density on the window.

    References:
        Of the regions: Hyndman (1996), Computing and graphing highest density regions, section 2,
        doi:10.1080/00031305.1996.10474359.

    Example:
        >>> a, b = experts.Gaussian([-1.0], scale=[1.0]), experts.Gaussian([2.0], scale=[0.5])
        >>> figure = densities(a * b, -4.0, 4.0)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['Gaussian', 'Gaussian_2', 'product']
    """
    space = require_expert(product).space
    positions = None if draws is None else positions_in(space, draws)
    size = space.event_shape.numel()
    if has_chart(space) and size in CELLS:
        on = window(space, low, high, CELLS[size], positions)
        if size == 1:
            return _lines(product, on, positions, one_axis(axes, 6.4, 3.4))
        refuse_axes(axes, "a panel for each expert")
        return _panels(product, on, positions)
    if num_states(space) <= MAX_STATES or (isinstance(space, Count) and size == 1):
        return _bars(product, table(space, low, high), positions, axes)
    raise PoeError(
        f"expected one or two elements of a Real, Positive or Interval space, one of Count, or a "
        f"finite space of at most {MAX_STATES} states, got {space}: use plot.pairs of draws"
    )


def _lines(product: Expert, on: Window, positions: Positions | None, axis: Axes) -> Figure:
    x = as_array(on.middles[0])
    if positions is not None:
        _add_histogram(axis, on, positions)
    curves = _curves(product, on)
    for label, p, color, style in curves:
        is_product = color == INK
        axis.plot(x, as_array(p), style, color=color, lw=2.2 if is_product else 1.5, label=label)
        if is_product and positions is None:
            axis.fill_between(x, as_array(p), color=INK, alpha=0.07, lw=0)
    axis.set_xlim(float(on.edges[0][0]), float(on.edges[0][-1]))
    highest = [float(p.max()) for _, p, _, _ in curves]
    # An expert that is infinite at a border would leave no height for the others.
    axis.set_ylim(0, 1.06 * min(max(highest), TALL * highest[-1]))
    write(axis, x=component_names(product.space.event_shape)[0], y="density on the window")
    add_legend(axis)
    return figure_of(axis)


def _curves(product: Expert, on: Window) -> list[tuple[str, Tensor, str, str]]:
    """Label, density, colour and line of each expert, and of their product where they are more."""
    factors = factors_of(product)
    curves = [(f.label, normalized(f.expert, f.name, on), f.color, f.line) for f in factors]
    if len(factors) > 1:
        curves.append(("product", normalized(product, "the product", on), INK, "-"))
    return curves


def _add_histogram(axis: Axes, on: Window, positions: Positions) -> None:
    x = as_array(positions.x.flatten())
    low, high = float(on.edges[0][0]), float(on.edges[0][-1])
    if not ((x >= low) & (x <= high)).any():
        raise PoeError(f"expected draws within the window from {low:g} to {high:g}, got none there")
    bins = max(10, min(60, round(2 * len(x) ** (1 / 3))))
    axis.hist(
        x, bins=bins, range=(low, high), weights=as_array(positions.weights), density=True,
        color=INK, alpha=0.16, label=_with_note("draws", positions),
    )  # fmt: skip


def _with_note(label: str, positions: Positions) -> str:
    return f"{label}\n({positions.note})" if positions.note else label


def _panels(product: Expert, on: Window, positions: Positions | None) -> Figure:
    curves = _curves(product, on)
    columns = min(len(curves), 4)
    rows = math.ceil(len(curves) / columns)
    figure = new_figure(PANEL * columns + 0.6, (PANEL + 0.28) * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    shown = list(grid.flat)[: len(curves)]
    for axis, (label, p, color, _) in zip(shown, curves, strict=True):
        has_draws = positions is not None and axis is shown[-1]
        _contours(axis, on, p, color, WASH if has_draws else color)
        write(axis, title=label, color=color)
    if positions is not None:
        _add_points(shown[-1], product.space, positions)
        write(shown[-1], title=_with_note(f"{curves[-1][0]}, draws", positions))
    _name_elements(grid, component_names(product.space.event_shape))
    for axis in list(grid.flat)[len(curves) :]:
        axis.set_axis_off()
    note = "regions of highest density: 20, 40, 60, 80, 95 % of the mass on the window"
    figure.supxlabel(note, fontsize=SMALL, color=GREY)
    return figure


def _contours(axis: Axes, on: Window, p: Tensor, color: str, wash: str) -> None:
    x, y = (as_array(middles) for middles in on.middles)
    values = as_array(p.reshape(len(x), len(y)).T)
    levels = _levels(p)
    shades = tints(wash)((torch.arange(1, len(levels)) / (len(levels) - 0.4)).numpy())
    axis.contourf(x, y, values, levels=levels, colors=shades)
    axis.contour(x, y, values, levels=levels[:1], colors=[color], linewidths=0.8)
    dress(axis)
    frame(axis)


def _levels(p: Tensor) -> list[float]:
    """The densities at the borders of the regions, rising, and the largest one."""
    falling = p.sort(descending=True).values
    held = falling.cumsum(0) / falling.sum()
    index = torch.searchsorted(held, torch.tensor(MASSES, dtype=held.dtype))
    borders = falling[index.clamp(max=len(p) - 1)]
    # A hair apart, so that a density that is the same all over has a region too.
    ends = torch.stack([borders[0] * (1 - 1e-9), falling[0] * (1 + 1e-9)])
    levels: list[float] = torch.cat([borders[1:], ends]).unique().tolist()
    return levels


def _add_points(axis: Axes, space: Space, positions: Positions) -> None:
    x = space.as_vector(positions.x)[evenly(positions.weights, POINTS)]
    first, second = as_array(x.T)
    axis.scatter(first, second, s=4, color=INK, alpha=0.5, lw=0)


def _name_elements(grid: Array, names: list[str]) -> None:
    for axis in grid[-1]:
        write(axis, x=names[0])
    for axis in grid[:, 0]:
        write(axis, y=names[1])


def _bars(product: Expert, on: Window, positions: Positions | None, axes: Axes | None) -> Figure:
    states = on.x.reshape(len(on.x), -1).long()
    axis = one_axis(axes, max(4.5, 2.0 + 0.33 * len(states)), 3.2)
    curves = _curves(product, on)
    width = 0.84 / len(curves)
    places = torch.arange(len(states), dtype=torch.float64)
    for k, (label, p, color, line) in enumerate(curves):
        middles = as_array(places - 0.42 + (k + 0.5) * width)
        hatch = "////" if line == "--" else ""
        axis.bar(middles, as_array(p), 0.94 * width, color=color, label=label, hatch=hatch,
                 edgecolor="white", lw=0)  # fmt: skip
    if positions is not None:
        _add_shares(axis, states, positions, as_array(places + 0.42 - width / 2))
    axis.set_xticks(as_array(places), [_state_text(state) for state in states.tolist()])
    write(axis, x="state x", y="probability")
    add_legend(axis)
    return figure_of(axis)


def _add_shares(axis: Axes, states: Tensor, positions: Positions, places: Array) -> None:
    """The weight of the draws at each state, a mark on the product's bars."""
    x = positions.x.reshape(len(positions.x), -1).long()
    is_at = (x[:, None] == states).all(-1)
    share = (is_at.double() * positions.weights[:, None]).sum(0)
    axis.plot(places, as_array(share), "D", ms=4, mfc="white", mec=INK, mew=1.2,
              label=_with_note("draws", positions))  # fmt: skip


def _state_text(state: list[int]) -> str:
    """Digits side by side where each value is one.

    >>> _state_text([0, 1, 1]), _state_text([3, 12])
    ('011', '3,12')
    """
    return ("" if max(state, default=0) < 10 else ",").join(map(str, state))
