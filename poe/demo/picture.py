"""The demo's picture: what each expert, pair and all three make, and the held-out combinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from poe.core.imports import require
from poe.demo.attributes import Combination
from poe.demo.evaluate import Held
from poe.files.atomic import replacing
from poe.files.own import PICTURE

RIGHT, WRONG = "#2a9d5c", "#c1442e"
HELD_OUT_TITLE = "held out: no expert saw a digit of these combinations in training"


@dataclass(frozen=True)
class Strip:
    """A labelled row of images (n, 16, 16); ``is_right`` (n,) colours the frame where it counts."""

    title: str
    images: Tensor
    is_right: Any = None


def strip(title: str, images: Tensor, held: Held | None = None) -> Strip:
    """A row whose frames say whether all three attributes hold."""
    return Strip(title, images, None if held is None else held.all(-1))


def draw_strip(axes: Sequence[Any], row: Strip) -> None:
    """One row of images, its title to the left."""
    axes[0].set_ylabel(row.title, rotation=0, ha="right", va="center", fontsize=9)
    for index, axis in enumerate(axes):
        axis.set_xticks([])
        axis.set_yticks([])
        if index >= len(row.images):
            axis.set_axis_off()
            continue
        axis.imshow(
            row.images[index].numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="bilinear"
        )
        for spine in axis.spines.values():
            if row.is_right is None:
                spine.set_visible(False)
            else:
                spine.set_color(RIGHT if row.is_right[index] else WRONG)
                spine.set_linewidth(1.3)


def draw(
    path: Path, combinations: Sequence[Combination], rows: Sequence[Strip], panel: Sequence[Strip]
) -> None:
    """Write the picture.

    ``rows`` under the combination each column asks for, then the panel of what was held out, where
    there is any.
    """
    require("matplotlib", "demo").use("Agg")
    plt = require("matplotlib.pyplot", "demo")
    parts = [strips for strips in (rows, panel) if strips]
    height = 1.3 + 0.8 * (len(rows) + len(panel))
    figure: Any = plt.figure(figsize=(2.6 + 0.78 * len(combinations), height))
    heights = [len(strips) + 0.8 for strips in parts]
    drawn = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, strips in zip(drawn, parts, strict=True):
        grid: Any = part.subplots(len(strips), len(combinations), squeeze=False)
        for axes, row in zip(grid, strips, strict=True):
            draw_strip(axes, row)
        part.subplots_adjust(left=0.2, right=0.99, bottom=0.02, wspace=0.06, hspace=0.08)
        if strips is rows:
            for axis, one in zip(grid[0], combinations, strict=True):
                axis.set_title(str(one).replace(" ", "\n"), fontsize=8)
            part.subplots_adjust(top=0.86)
        else:
            part.suptitle(HELD_OUT_TITLE, fontsize=10, y=0.99)
            part.subplots_adjust(top=0.9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata=PICTURE)
    plt.close(figure)
