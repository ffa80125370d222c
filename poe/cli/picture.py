"""A grid of the last draws, where draws are pictures."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from poe.cli.exit_code import BadInput
from poe.core.space import Space
from poe.core.tensor_file import replacing
from poe.draws import Draws

MAX_PICTURES = 64
SMALLEST_SIDE = 4
PIP = 'pip install "product-of-experts[plots]"'


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
        figure.savefig(temporary, dpi=80)
    plt.close(figure)
