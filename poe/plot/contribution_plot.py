"""``contributions``: who says what, at a few positions or along draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.density.expert import Expert, require_expert
from poe.density.nonfinite import require_finite_of_each
from poe.diagnostics import binds_chains, contributions_along, normalized_weights
from poe.diagnostics.experts import NO_DRAWS, names_of
from poe.draws import Draws
from poe.plot.factors import Factor, factors_of
from poe.plot.positions import evenly
from poe.plot.style import (
    FAINT,
    GREY,
    INK,
    LABEL,
    SMALL,
    Array,
    add_legend,
    as_array,
    figure_of,
    one_axis,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POSITIONS = 20
EVALUATIONS = 2000
"""Of more draws so many are evaluated, evenly chosen."""
POINTS = 300
"""In one row."""
BINS = 70


@checked
def contributions(
    product: Expert,
    x: Tensor | Draws,
    *,
    reference: Tensor | None = None,
    axes: Axes | None = None,
) -> Figure:
    """What each expert of a product says, c_i(x) = w_i log p̃_i(x), by name.

    At positions: bars set end to end, to the right where they are positive, to the left where they
    are negative, and a mark at their sum, log p̃(x).

    Along draws: a row of points for each expert, and one for the product, c_i less its mean, with
    its standard deviation: the longer the row, the louder the expert is among these draws. Where
    each chain has a condition of its own the mean is that of the chain.

    Args:
        product: The product; another expert is one factor.
        x: Up to 20 positions, ``(*batch, *event)``, or draws.
        reference: x′ ``(*event)``, for positions: with it, c_i(x) − c_i(x′) and its sum, the
            log-ratio of x to x′.
        axes: Where to draw; a new figure by default.

    Returns:
        The figure.

    Raises:
        ShapeError: For x or x′ of another shape.
        PoeError: For more positions, or a reference for draws.
        NonFiniteError: Where a contribution is NaN or +inf, or −inf along draws.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[0.5])
        >>> figure = contributions(poe.Product(a=a, b=b), torch.tensor([[0.0], [1.0]]))
        >>> [bars.get_label() for bars in figure.axes[0].containers]
        ['a', 'b']
    """
    factors = factors_of(require_expert(product))
    if not isinstance(x, Draws):
        return _at_positions(product, factors, x, reference, axes)
    if reference is not None:
        raise PoeError("expected no reference= for draws: their contributions are less their means")
    return _along_draws(product, factors, x, axes)


def _at_positions(
    product: Expert, factors: list[Factor], x: Tensor, reference: Tensor | None, axes: Axes | None
) -> Figure:
    said = _said(product, factors, x)
    if len(said) > MAX_POSITIONS:
        raise PoeError(
            f"expected at most {MAX_POSITIONS} positions, got {len(said)}: choose some, or give "
            "poe.Draws for a row of points an expert"
        )
    if reference is not None:
        said = said - _said(product, factors, _one(product, reference, x))
    axis = one_axis(axes, 6.4, 1.1 + 0.34 * len(said))
    _add_bars(axis, factors, said)
    axis.axvline(0, color=FAINT, lw=0.8, zorder=0)
    labels = [f"x{i}".translate(SUBSCRIPTS) for i in range(len(said))]
    axis.set_yticks(range(len(said)), labels, fontsize=LABEL)
    axis.invert_yaxis()
    write(
        axis,
        x="contribution to log p\u0303(x)" if reference is None
        else "contribution to log p\u0303(x) \u2212 log p\u0303(x\u2032)",
    )  # fmt: skip
    add_legend(axis)
    return figure_of(axis)


SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _said(product: Expert, factors: list[Factor], x: Tensor) -> Array:
    """``(n, k)``; raises NonFiniteError where one is NaN or +inf."""
    product.space.batch_shape(x)
    with torch.no_grad():
        said = torch.stack([f.expert(x).double().reshape(-1) for f in factors], 1)
    _require_no_more_than_zero_density(factors, said)
    return as_array(said)


def _one(product: Expert, reference: Tensor, x: Tensor) -> Tensor:
    """The reference in the shape of x, as each position may have a condition of its own."""
    if reference.shape != product.space.event_shape:
        raise ShapeError(
            f"expected a reference of shape {tuple(product.space.event_shape)}, got "
            f"{tuple(reference.shape)}"
        )
    return reference.expand(x.shape)


def _require_no_more_than_zero_density(factors: list[Factor], said: Tensor) -> None:
    for factor, values in zip(factors, said.T, strict=True):
        if bool((values.isnan() | values.isposinf()).any()):
            raise NonFiniteError(
                f"expected contributions that are numbers or -inf, got NaN or +inf of "
                f"{factor.name}: leave those positions out"
            )


def _add_bars(axis: Axes, factors: list[Factor], said: Array) -> None:
    """Bars end to end from 0; one of −inf is a sign at the left end."""
    places = np.arange(len(said))
    right, left = np.zeros(len(said)), np.zeros(len(said))
    finite = np.where(np.isfinite(said), said, 0.0)
    for factor, values in zip(factors, finite.T, strict=True):
        start = np.where(values > 0, right, left)
        axis.barh(places, values, left=start, height=0.62, color=factor.color, label=factor.label,
                  edgecolor="white", lw=0.8)  # fmt: skip
        right, left = right + values.clip(min=0), left + values.clip(max=0)
    is_inside = np.isfinite(said).all(1)
    axis.plot(said.sum(1)[is_inside], places[is_inside], "D", ms=5, color=INK, mec="white",
              label="sum", ls="none", zorder=4)  # fmt: skip
    for row, column in np.argwhere(np.isneginf(said)):
        axis.annotate(
            f"{factors[column].name}: \u2212\u221e", (left[row], row), (-4, 0), ha="right",
            va="center", textcoords="offset points", fontsize=SMALL, color=factors[column].color,
        )  # fmt: skip


def _along_draws(product: Expert, factors: list[Factor], draws: Draws, axes: Axes | None) -> Figure:
    centred, weights = _centred(product, draws)
    sd = (weights @ centred.square()).sqrt()
    shown = as_array(centred[evenly(weights, POINTS)])
    names, colors = [f.label for f in factors], [f.color for f in factors]
    if len(factors) > 1:
        names, colors = [*names, "product"], [*colors, INK]
    axis = one_axis(axes, 6.4, 1.0 + 0.62 * len(names))
    for place, (x, offset, color) in enumerate(zip(shown.T, _swarm(shown).T, colors, strict=True)):
        axis.scatter(x, place + offset, s=9, color=color, lw=0, alpha=0.75)
    _name_rows(axis, names, as_array(sd))
    mean = "its chain's mean" if binds_chains(product) else "its mean over the draws"
    write(axis, x=f"contribution to log p\u0303(x), less {mean}")
    return figure_of(axis)


def _centred(product: Expert, draws: Draws) -> tuple[Tensor, Tensor]:
    """Contributions ``(n, rows)``, with their sum where they are several, and weights ``(n,)``.

    All are less their means.
    """
    chains, length = draws.log_density.shape
    stride = max(1, -(-chains * length // EVALUATIONS))
    said = contributions_along(product, draws.samples[:, ::stride]).cpu()
    alike = torch.zeros_like(draws.log_density)
    log_weights = alike if draws.log_weights is None else draws.log_weights
    weights = normalized_weights(log_weights[:, ::stride]).cpu()
    require_finite_of_each(
        names_of(product), said[weights > 0], "contributions along the draws", NO_DRAWS
    )
    rows = torch.cat([said, said.sum(-1, keepdim=True)], -1) if said.shape[-1] > 1 else said
    rows = torch.where(weights[..., None] > 0, rows, 0.0)
    # Chains of different conditions have different densities, whose levels mean nothing together.
    means = (weights[..., None] * rows).sum(1, keepdim=True)
    total = weights.sum(1, keepdim=True)[..., None]
    centre = means / total if binds_chains(product) else means.sum(0, keepdim=True)
    return (rows - centre).flatten(0, 1), weights.flatten()


def _swarm(values: Array) -> Array:
    """Offsets that set points of one bin side by side, within ±0.4: ``(n, rows)``."""
    low, high = values.min(), values.max()
    bins = np.clip((values - low) / max(high - low, 1e-300) * BINS, 0, BINS - 1).astype(int)
    ranks = np.zeros_like(values)
    for row in range(values.shape[1]):
        for place in np.unique(bins[:, row]):
            members = np.flatnonzero(bins[:, row] == place)
            ranks[members, row] = np.arange(len(members)) - (len(members) - 1) / 2
    # Far apart where few fall together, closer where a row's fullest bin needs the room.
    return ranks * np.minimum(0.1, 0.4 / np.abs(ranks).max(0).clip(min=1.0))


def _name_rows(axis: Axes, names: list[str], sd: Array) -> None:
    axis.axvline(0, color=FAINT, lw=0.8, zorder=0)
    axis.set_yticks(range(len(names)), names, fontsize=LABEL, color=INK)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    for place, value in enumerate(sd):
        axis.text(1.01, place, f"sd {value:.2g}", transform=axis.get_yaxis_transform(),
                  va="center", fontsize=SMALL, color=GREY)  # fmt: skip
