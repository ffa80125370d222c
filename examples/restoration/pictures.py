"""Real pictures from scikit-image and scikit-learn: some to learn from, others to restore."""

from __future__ import annotations

import numpy as np
import torch
from skimage import color, data
from sklearn.datasets import load_sample_image
from torch import Tensor

SHOWN = 128
CORNERS = {"camera": (60, 170), "brick": (100, 100), "page": (30, 60)}
"""Of the part of each held-out picture that is restored."""


def training_pictures() -> list[Tensor]:
    """Grey pictures in [0, 1], none of which is ever restored: each as it is, and at half size."""
    colour = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    colour += [data.stereo_motorcycle()[0], load_sample_image("china.jpg")]
    colour += [load_sample_image("flower.jpg")]
    grey = [color.rgb2gray(picture) for picture in colour]
    grey += [picture / 255 for picture in (data.coins(), data.gravel(), data.grass(), data.text())]
    full = [torch.as_tensor(picture, dtype=torch.float32) for picture in grey]
    return full + [torch.nn.functional.avg_pool2d(picture[None], 2)[0] for picture in full]


def held_out_picture(name: str, size: int = SHOWN) -> Tensor:
    """A part of a picture that nothing is learned from: ``(size, size)`` in [0, 1]."""
    picture: np.ndarray = {"camera": data.camera, "brick": data.brick, "page": data.page}[name]()
    row, col = CORNERS[name]
    part = picture[row : row + size, col : col + size]
    return torch.as_tensor(part / 255, dtype=torch.float32)


def random_patches(
    pictures: list[Tensor], count: int, size: int, generator: torch.Generator
) -> Tensor:
    """Square parts at random places, half of them mirrored: ``(count, size, size)``."""
    which = torch.randint(len(pictures), (count,), generator=generator).tolist()
    places = torch.rand(count, 2, generator=generator).tolist()
    patches = []
    for index, (u, v) in zip(which, places, strict=True):
        picture = pictures[index]
        row, col = (int(u * (picture.shape[0] - size + 1)), int(v * (picture.shape[1] - size + 1)))
        patches.append(picture[row : row + size, col : col + size])
    batch = torch.stack(patches)
    return torch.where(torch.rand(count, 1, 1, generator=generator) < 0.5, batch.flip(-1), batch)
