"""Points given to and taken from the command line: rows of files, and pictures."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from poe.cli.terminal import BadInput
from poe.core.errors import PoeError
from poe.core.space import Space
from poe.draws import Draws
from poe.files.atomic import replacing
from poe.files.own import PICTURE

SAMPLES = "samples"
"""The name under which a file of draws has them."""
MAX_PICTURES = 64
SMALLEST_SIDE = 4
PIP = 'pip install "product-of-experts[plots]"'


def read_rows(path: Path, space: Space, dtype: torch.dtype) -> Tensor:
    """The points of a file: ``(n, *event)``; leading dimensions, as of draws, become one.

    A .csv has the numbers of one event in each line, after a line of names or not; a .safetensors
    the points under ``samples``, or alone. Raises BadInput for another shape, and for what is no
    point of a discrete space.
    """
    readers: dict[str, Callable[[Path], Tensor]] = {
        ".safetensors": _from_safetensors,
        ".npy": _from_npy,
        ".csv": _from_csv,
    }
    if path.suffix not in readers:
        raise BadInput(f"{path}: expected a file that ends in {', '.join(readers)}")
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path}: expected a file, got a folder, a device or a pipe")
        found = readers[path.suffix](path)
    except BadInput:
        raise
    except Exception as error:  # of a reader elsewhere, which may raise anything
        raise BadInput(f"{path}: cannot be read: {error}") from error
    rows = _as_events(path, found, space)
    is_float = dtype if found.is_floating_point() or not space.is_discrete else found.dtype
    rows = rows.to(is_float)
    try:
        if space.is_discrete:
            space.require(rows)
    except PoeError as error:
        raise BadInput(f"{path}: {error}") from error
    return rows


def _as_events(path: Path, found: Tensor, space: Space) -> Tensor:
    """In the event's shape, which the numbers of a row may be flattened of."""
    event, size = space.event_shape, space.event_shape.numel()
    is_whole = found.ndim >= len(event) and found.shape[found.ndim - len(event) :] == event
    is_flat = found.ndim == 2 and found.shape[1] == size
    if not (is_whole or is_flat) or not found.numel():
        raise BadInput(
            f"{path}: expected rows of {space}, of shape (n, {', '.join(map(str, event))}) or of "
            f"{size} numbers each, got shape {tuple(found.shape)}"
        )
    return found.reshape(-1, *event)


def _from_safetensors(path: Path) -> Tensor:
    tensors = load_file(path)
    if SAMPLES in tensors:
        return tensors[SAMPLES]
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "nothing"
        raise BadInput(f"{path}: expected a tensor {SAMPLES!r}, or one tensor alone; got {names}")
    return next(iter(tensors.values()))


def _from_npy(path: Path) -> Tensor:
    # Mapped, so that a header that tells of more numbers than there are takes no memory.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise BadInput(f"{path}: expected one array, got an archive of several")
    if array.dtype.kind not in "fiub":
        raise BadInput(f"{path}: expected an array of numbers, got one of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _from_csv(path: Path) -> Tensor:
    with open(path, newline="", encoding="utf-8") as file:
        lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    if lines and not _is_number(lines[0][1][0]):
        lines = lines[1:]  # the names of the columns
    if not lines:
        raise BadInput(f"{path}: expected a row of numbers, got none")
    width = len(lines[0][1])
    for number, row in lines:
        odd = [cell for cell in row if not _is_number(cell)]
        if odd or len(row) != width:
            got = repr(odd[0]) if odd else f"{len(row)}"
            raise BadInput(f"{path}: line {number}: expected {width} numbers, got {got}")
    return torch.tensor([[float(cell) for cell in row] for _, row in lines], dtype=torch.float64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def require_pictures(space: Space) -> None:
    """Raise BadInput unless an event is ``(height, width)`` and there is what draws it."""
    shape = space.event_shape
    if len(shape) != 2 or min(shape) < SMALLEST_SIDE:
        raise BadInput(
            f"a .png shows draws that are pictures, of shape (height, width); those of {space} are "
            "not: give a .safetensors"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput(f"a .png needs matplotlib: {PIP}")


def chosen(draws: Draws) -> Tensor:
    """At most 64 pictures, as far apart in each chain as can be: ``(n, height, width)``."""
    chains, length = draws.samples.shape[:2]
    each = min(length, max(1, MAX_PICTURES // chains))
    steps = [length - 1 - round(k * length / each) for k in range(each)]
    return draws.samples[:, steps].flatten(0, 1)[:MAX_PICTURES].detach().cpu()


def write(draws: Draws, path: Path) -> None:
    """Write the grid, black for the largest value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    images = chosen(draws)
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure: Any
    figure, axes = plt.subplots(rows, columns, figsize=(columns, rows), squeeze=False)
    low, high = (float(images.double().quantile(q)) for q in (0.01, 0.99))
    for index, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if index < len(images):
            axis.imshow(images[index].float().numpy(), cmap="gray_r", vmin=low, vmax=high)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, wspace=0.05, hspace=0.05)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80, metadata=PICTURE)
    plt.close(figure)
