"""The studio's pictures, as matplotlib figures of which pyplot knows nothing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

import poe
from poe.studio.draw import Frame
from poe.studio.plane import HALF_WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, FAINT = "#1f2a37", "#5c6672", "#d5d9e0"
COLORS = ("#2a5c99", "#b4552d", "#3d8a5f", "#8a5a9e", "#a8841c")
"""One for each expert of the product, in its order."""
CELLS = 120
ENLARGED = 8
"""Times, so that pictures are smooth."""
GAP = 6
"""Around an enlarged picture, in its pixels."""


def color(index: int) -> str:
    """Of the expert at that place in the product."""
    return COLORS[index % len(COLORS)]


def draws(product: poe.Product, frame: Frame) -> Figure:
    """The chains: as points on the plane, else as a grid of pictures."""
    if product.space == poe.Real(2):
        return plane(product, frame)
    is_ink = frame.x.shape[-1] == 16
    return images(frame.x, *((0.0, 1.0, "gray_r") if is_ink else (-1.0, 1.0, "gray")))


def images(x: Tensor, low: float, high: float, colormap: str) -> Figure:
    """Pictures ``(n, h, w)`` in a grid that is about square."""
    figure, axis = _blank(5.2, 5.2)
    rows = math.isqrt(len(x))
    columns = -(-len(x) // rows)
    large = functional.interpolate(x[:, None], scale_factor=ENLARGED, mode="bilinear")[:, 0]
    padded = functional.pad(large, (GAP, GAP, GAP, GAP), value=torch.nan)
    room = padded.new_full((rows * columns, *padded.shape[1:]), torch.nan)
    room[: len(x)] = padded
    sheet = room.unflatten(0, (rows, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    axis.imshow(sheet.numpy(), cmap=colormap, vmin=low, vmax=high, interpolation="nearest")
    return figure


def plane(product: poe.Product, frame: Frame) -> Figure:
    """Points on the product's density, with a line around most of each expert."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axis = _blank(5.2, 5.2)
    middle = HALF_WIDTH * (2 * (torch.arange(CELLS) + 0.5) / CELLS - 1)
    grid = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)
    with torch.no_grad():
        values = product.contributions(grid)
    density = values.sum(-1)
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    shades = LinearSegmentedColormap.from_list("ink", ["#ffffff", "#dfe7f0", "#9fb9d4"])
    axis.imshow((density - density.max()).exp().numpy(), origin="lower", extent=extent, cmap=shades)
    for index, one in enumerate(values.unbind(-1)):
        level = one.max().item() - 1.5
        if one.min().item() < level:
            axis.contour(
                one.numpy(), levels=[level], extent=extent, colors=color(index), linewidths=1.4,
                linestyles="solid", alpha=0.8,
            )  # fmt: skip
    if frame.draws is not None:
        earlier = frame.draws.samples[:, -8:-1].flatten(0, 1).numpy()
        axis.scatter(earlier[:, 0], earlier[:, 1], s=3, color=INK, alpha=0.25, linewidths=0)
    x = frame.x.numpy()
    axis.scatter(x[:, 0], x[:, 1], s=13, color=INK, alpha=0.85, linewidths=0)
    axis.set(xlim=(-HALF_WIDTH, HALF_WIDTH), ylim=(-HALF_WIDTH, HALF_WIDTH))
    return figure


def trace(frame: Frame) -> Figure:
    """The energy of each chain, picture by picture on the way, then draw by draw."""
    figure, axis = _axis(2.7, 1.5, left=0.15, bottom=0.26)
    energy, before = frame.energy, frame.num_before
    place = torch.arange(energy.shape[1])
    shown = energy[:40]
    if before:
        axis.plot(place[:before], shown[:, :before].T.numpy(), color="#b6bdc7", lw=0.8)
    axis.plot(place[before:], shown[:, before:].T.numpy(), color=COLORS[0], lw=0.8, alpha=0.55)
    if 0 < before < energy.shape[1]:
        axis.axvline(before - 0.5, color=GREY, lw=0.8, ls=":")
    axis.set_ylim(*_range(energy, before))
    axis.set_xlim(-0.3, max(8, energy.shape[1] - 1) + 0.3)
    axis.set_xlabel("on the way (grey), then draws" if before else "draws", fontsize=8, color=GREY)
    return figure


def _range(energy: Tensor, before: int) -> tuple[float, float]:
    """All draws, and of the way to them what is not far above."""
    told = energy[:, before:] if before < energy.shape[1] else energy[:, -1:]
    told = told[told.isfinite()]
    if not len(told):
        return 0.0, 1.0
    low, high = told.min().item(), told.max().item()
    room = max(high - low, 1e-3)
    return low - 0.6 * room, high + 1.2 * room


def contributions(names: Sequence[str], values: Tensor) -> Figure:
    """What each expert says of each chain, ``(chains, experts)``, less its mean; mean beside it."""
    height = 0.5 + 0.36 * len(names)
    figure, axis = _axis(2.7, height, left=0.02, bottom=0.42 / height)
    centred = values - values.mean(0)
    reach = max(centred[centred.isfinite()].abs().max().item(), 1e-6) * 1.1
    for row, name in enumerate(names):
        axis.axhline(row, color=FAINT, lw=0.8, zorder=0)
        points = centred[:, row].numpy()
        axis.scatter(points, [row] * len(points), s=22, color=color(row), alpha=0.6, linewidths=0)
        axis.text(-reach, row - 0.24, name, fontsize=9, color=color(row), va="bottom")
        said = f"{values[:, row].mean().item():+.1f} \u00b1 {values[:, row].std().item():.1f}"
        axis.text(reach, row - 0.24, said.replace("-", "\u2212"), fontsize=9, color=INK,
                  ha="right", va="bottom")  # fmt: skip
    axis.set_ylim(len(names) - 0.6, -0.75)
    axis.set_xlim(-reach, reach)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("nats, less the mean", fontsize=8, color=GREY)
    return figure


def data_url(figure: Figure) -> str:
    """The figure as a PNG that a page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    axis: Axes = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    return figure, axis


def _axis(width: float, height: float, left: float, bottom: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    axis: Axes = figure.add_axes((left, bottom, 0.97 - left, 0.96 - bottom))
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(labelsize=8, color=FAINT, labelcolor=GREY)
    return figure, axis
