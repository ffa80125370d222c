"""What all plots share: matplotlib where it is asked for, one look, and texts of one size."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from poe.core.arguments import told
from poe.core.errors import PoeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

INK = "#1f2a37"
"""Of the product, and of titles."""
GREY = "#5c6672"
FAINT = "#c9ced6"
WARNING = "#c1442e"
LAST = ("product", "sum", "draws", "if independent")
"""What stands at the end of a legend, in this order."""
TITLE, LABEL, SMALL = 10, 9, 8
"""Font sizes in points: legible at 100 dots an inch."""


def imported(name: str) -> ModuleType:
    """A module of matplotlib. Raises ImportError with the remedy where that is missing.

    >>> imported("matplotlib.figure").__name__
    'matplotlib.figure'
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            'poe.plot needs matplotlib: pip install "product-of-experts[plots]"'
        ) from error


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, of which the global pyplot knows nothing."""
    figure: Figure = imported("matplotlib.figure").Figure(
        figsize=(width, height), dpi=100, layout="constrained", facecolor="white"
    )
    return figure


def one_axis(axes: Axes | None, width: float, height: float) -> Axes:
    """The axis to draw on: the one given as it is, or that of a new figure, dressed."""
    if axes is not None:
        if not callable(getattr(axes, "add_artist", None)):
            raise PoeError(f"expected axes of matplotlib, got {told(axes)}: use figure.subplots()")
        return axes
    axis: Axes = new_figure(width, height).subplots()
    dress(axis)
    return axis


def figure_of(axis: Axes) -> Figure:
    """The whole figure that an axis is on."""
    figure: Figure = axis.figure.figure
    return figure


def dress(axis: Axes) -> None:
    """Two thin lines instead of a frame, and small grey numbers."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(labelsize=SMALL, color=FAINT, labelcolor=GREY)


def frame(axis: Axes) -> None:
    """A thin line around a picture."""
    axis.spines[:].set_visible(True)
    axis.spines[:].set_color(FAINT)


def write(axis: Axes, *, title: str = "", x: str = "", y: str = "", color: str = INK) -> None:
    """The texts around an axis; an empty one leaves what is there."""
    if title:
        axis.set_title(title, fontsize=TITLE, color=color, pad=7)
    if x:
        axis.set_xlabel(x, fontsize=LABEL, color=GREY)
    if y:
        axis.set_ylabel(y, fontsize=LABEL, color=GREY)


def add_legend(axis: Axes, title: str = "") -> None:
    """Without a frame, beside the axis: the experts in their order, then what is made of them."""
    pairs = zip(*axis.get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(pairs, key=lambda pair: _place(pair[1])), strict=True)
    legend = axis.legend(
        handles, labels, fontsize=SMALL, frameon=False, labelcolor=INK, loc="center left",
        bbox_to_anchor=(1.0, 0.5), title=title or None, title_fontsize=SMALL, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(GREY)


def _place(label: str) -> int:
    return next((i for i, word in enumerate(LAST, 1) if label.startswith(word)), 0)


def tints(color: str) -> Colormap:
    """From white to a colour."""
    return imported("matplotlib.colors").LinearSegmentedColormap.from_list(
        "tints", ["#ffffff", color]
    )


def on_paper(name: str) -> Colormap:
    """One of matplotlib's colormaps, with white where there is nothing."""
    known = imported("matplotlib").colormaps
    if name not in known:
        raise PoeError(f"expected a colormap of matplotlib, such as 'gray', got {name!r}")
    colormap: Colormap = known[name]
    return colormap.with_extremes(bad="white")


def as_array(x: Tensor) -> Array:
    """In float64 on the CPU, detached."""
    return x.detach().cpu().double().numpy()


def refuse_axes(axes: Axes | None, panels: str) -> None:
    """Raise PoeError where one axis was given and several are needed."""
    if axes is not None:
        raise PoeError(
            f"expected no axes=, since this needs {panels}: leave it out, and use the figure that "
            "is returned"
        )
