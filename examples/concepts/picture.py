"""Rows of pictures with green frames where they are as asked for, and red ones where not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import pyplot as plt
from torch import Tensor

from examples.concepts.data import CELL, CELLS

NAMES = 2.2
"""Inches for the names of the rows."""
RIGHT, WRONG = "#2a9d5c", "#c1442e"


class Row(NamedTuple):
    """Ink (n, 3, 32, 32), which are right (n,), titles above each, cells (n, k) to mark."""

    name: str
    ink: Tensor
    is_right: Tensor
    titles: Sequence[str] | None = None
    cells: Tensor | None = None


def draw_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the picture."""
    columns = max(len(row.ink) for row in rows)
    heights = [1.75 if row.titles else 1.0 for row in rows]
    width = NAMES + 0.82 * columns
    figure: Any = plt.figure(figsize=(width, 0.84 * sum(heights)))
    bands = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for band, row, height in zip(bands, rows, heights, strict=True):
        axes = band.subplots(1, columns, squeeze=False)[0]
        band.subplots_adjust(NAMES / width, 0.03, 0.995, 0.97 / height, wspace=0.08)
        axes[0].set_ylabel(row.name, rotation=0, ha="right", va="center", fontsize=8, wrap=True)
        for index, axis in enumerate(axes):
            draw_one(axis, row, index)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def draw_one(axis: Any, row: Row, index: int) -> None:
    """One picture of a row in its frame; nothing beyond the last."""
    axis.set(xticks=[], yticks=[])
    if index >= len(row.ink):
        axis.set_axis_off()
        return
    axis.imshow((1 - row.ink[index]).clamp(0, 1).permute(1, 2, 0).numpy())
    for spine in axis.spines.values():
        spine.set(color=RIGHT if row.is_right[index] else WRONG, linewidth=1.6)
    if row.titles:
        axis.set_title(row.titles[index], fontsize=6.5)
    if row.cells is not None:
        cell = row.cells[index]
        x, y = (cell % CELLS + 0.5) * CELL - 0.5, (cell // CELLS + 0.5) * CELL - 0.5
        axis.plot(x, y, "x", color="black", markersize=4, markeredgewidth=0.8)
