"""Scores as histograms, and the most and least anomalous pictures with who objects to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from torch import Tensor

from examples.anomaly_images.pictures import Split
from examples.anomaly_images.scores import Answers

COLOURS = {"clothes": "#5b9bd5", "digits": "#c94f4f", "silhouettes": "#7fb069"}
VOICES = ("#152a52", "#e08e45", "#3aa6a0")
CURVES = (
    ("log p", "autoregressive", "autoregressive expert, log p"),
    ("log p", "product", "product of three, log p"),
    ("log p / background", "equally loud", "product of ratios, equally loud"),
)
REPAIRED = "log p / background"
LOUDEST = 8.0
"""Standard deviations at which a bar is full."""
REACH = 6.0
"""Standard deviations of the learned set's scores that a histogram reaches."""


def draw(
    found: dict[str, dict[str, Answers]], sets: dict[str, Split], path: Path, shown: int = 12
) -> None:
    """Histograms, a row for each learned set; below, pictures and who objects, for the first."""
    figure = plt.figure(figsize=(11, 2.4 * len(found) + 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2.4 * len(found), 6.2))
    axes = above.subplots(len(found), len(CURVES), squeeze=False)
    for row, (learned, answered) in zip(axes, found.items(), strict=True):
        for axis, (composition, name, title) in zip(row, CURVES, strict=True):
            histogram(axis, answered[composition].scores()[name], learned)
            axis.set_title(f"learned {learned}: {title}", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=8)
    learned = next(iter(found))
    gallery(below, learned, found[learned][REPAIRED], sets, shown)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def histogram(axis: Any, scores: dict[str, Tensor], learned: str) -> None:
    """One histogram a set; what is too far from the learned one piles up at the border, cut off."""
    middle, spread = scores[learned].median(), scores[learned].std()
    low = max(min(float(value.min()) for value in scores.values()), float(middle - REACH * spread))
    high = min(max(float(value.max()) for value in scores.values()), float(middle + REACH * spread))
    bins, tallest = np.linspace(low, high, 60), 0.0
    for name, value in scores.items():
        shown = value.clamp(low, high).numpy()
        heights, *_ = axis.hist(
            shown, bins, density=True, color=COLOURS[name], alpha=0.5, label=name
        )
        tallest = max(tallest, heights[1:-1].max())
    axis.set_ylim(0, 1.3 * tallest)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="x", nbins=5)
    axis.spines[["top", "right", "left"]].set_visible(False)


def gallery(
    figure: Any, learned: str, answered: Answers, sets: dict[str, Split], shown: int
) -> None:
    """Pictures, and under each one bar for each expert: to the right, it objects."""
    scores = answered.scores()["equally loud"]
    rows = [(kind, name) for kind in ("least", "most") for name in scores]
    rows.sort(key=lambda row: row[1] != learned)  # what was learned first
    surprise = answered.surprise()
    axes = figure.subplots(2 * len(rows), shown, height_ratios=[3, 1] * len(rows))
    for (kind, name), images, bars in zip(rows, axes[::2], axes[1::2], strict=True):
        order = scores[name].argsort(descending=kind == "least")[:shown]
        for image, bar, index in zip(images, bars, order.tolist(), strict=False):
            image.imshow(sets[name].test[index], cmap="gray", vmin=0, vmax=1)
            bar.barh(range(3), surprise[name][index].clamp(-LOUDEST, LOUDEST), color=VOICES)
            bar.set(xlim=(-LOUDEST, LOUDEST), ylim=(2.6, -0.6))
            bar.axvline(0, color="#888888", linewidth=0.6)
        images[0].set_title(f"{kind} anomalous {name}", loc="left", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.legend(
        axes[1, 0].patches,
        answered.names,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
        title="bars: by how many standard deviations each ratio is below its mean on held-out "
        f"{learned} (full at {LOUDEST:g})",
        title_fontsize=8,
    )
