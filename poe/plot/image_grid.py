"""``images``: a grid of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from poe.core.arguments import checked, require_values
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.plot.style import GREY, INK, LABEL, SMALL, as_array, figure_of, on_paper, one_axis, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.08
"""Between pictures, as a share of their height; one pixel at least."""


@checked
def images(
    images: Tensor,
    *,
    rows: int | None = None,
    low: float = 0.0,
    high: float = 1.0,
    cmap: str = "gray",
    row_labels: Sequence[str] = (),
    axes: Axes | None = None,
) -> Figure:
    """Pictures in a grid, row by row, with grey values or colours from ``low`` to ``high``.

    The range is written below the grid, with the share of the values that lie beyond it, which are
    shown as its ends.

    Args:
        images: ``(n, h, w)`` or ``(n, 1, h, w)`` for grey pictures, ``(n, 3, h, w)`` for colours.
        rows: How many; by default what makes the grid about square.
        low: The value at the lower end of the colours.
        high: The value at the upper end, above ``low``.
        cmap: One of matplotlib's colour maps ("gray_r" for ink on paper), for grey pictures alone.
        row_labels: A text for each row, or none.
        axes: Where to draw; a new figure by default.

    Returns:
        The figure.

    Raises:
        ShapeError: For pictures of other shapes.
        NonFiniteError: Where a value is not finite.
        PoeError: For rows or a range that cannot be, or a number of ``row_labels`` that is not that
            of the rows.

    Example:
        >>> figure = images(torch.rand(6, 8, 8), rows=2)
        >>> figure.axes[0].images[0].get_array().shape  # pictures a pixel apart
        (17, 26)
        >>> figure.axes[0].get_xlabel()
        '0 to 1'
    """
    pictures = _as_pictures(images)
    rows = _rows(len(pictures), rows, row_labels)
    if not low < high < math.inf:
        raise PoeError(f"expected low < high, got low={low} and high={high}")
    low, high = float(low), float(high)
    is_beyond = (pictures < low) | (pictures > high)
    sheet = _sheet(((pictures - low) / (high - low)).clamp(0, 1), rows)
    height, width = sheet.shape[:2]
    scale = min(9.0 / width, 7.0 / height, 0.04)
    axis = one_axis(axes, scale * width + 0.4 + 0.9 * bool(row_labels), scale * height + 0.5)
    shown = as_array(sheet.squeeze(-1))
    axis.imshow(shown, cmap=on_paper(cmap), vmin=0, vmax=1, interpolation="nearest")
    axis.spines[:].set_visible(False)
    step = height / rows
    axis.set_xticks([])
    axis.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(row_labels))], row_labels)
    axis.tick_params(axis="y", length=0, labelsize=LABEL, labelcolor=INK)
    share = float(is_beyond.double().mean())
    beyond = f"; {share:.1%} of the values lie beyond" if share else ""
    write(axis, x=f"{low:g} to {high:g}{beyond}".replace("-", "\u2212"))
    axis.xaxis.label.set(fontsize=SMALL, color=GREY)
    return figure_of(axis)


def _as_pictures(images: Tensor) -> Tensor:
    """``(n, h, w, channels)``."""
    require_values("images", images)
    x = images.detach().cpu().double()
    if x.ndim == 3:
        x = x.unsqueeze(1)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0:
        raise ShapeError(
            "expected pictures (n, h, w), (n, 1, h, w) or (n, 3, h, w), got "
            f"{tuple(images.shape)}: of draws take draws.samples.flatten(0, 1), or the last of "
            "each chain, draws.samples[:, -1]"
        )
    if not bool(x.isfinite().all()):
        raise NonFiniteError(
            f"expected finite pictures, got {int((~x.isfinite()).sum())} values that are not"
        )
    return x.movedim(1, -1)


def _rows(count: int, rows: int | None, row_labels: Sequence[str]) -> int:
    found = round(math.sqrt(count)) if rows is None else rows
    if not 1 <= found <= count:
        raise PoeError(f"expected 1 to {count} rows for {count} pictures, got {found}")
    if row_labels and len(row_labels) != found:
        raise PoeError(f"expected {found} row labels, one a row, got {len(row_labels)}")
    return found


def _sheet(pictures: Tensor, rows: int) -> Tensor:
    """The pictures side by side, NaN between them: ``(height, width, channels)``."""
    count, height, width, channels = pictures.shape
    gap = max(1, round(GAP * height))
    columns = math.ceil(count / rows)
    # Colours have no value for "nothing here", and are set on white.
    blank = 1.0 if channels == 3 else math.nan
    cells = pictures.new_full((rows * columns, height + gap, width + gap, channels), blank)
    cells[:count, :height, :width] = pictures
    sheet = cells.unflatten(0, (rows, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    return sheet[:-gap, :-gap]
