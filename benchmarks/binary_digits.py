"""Binarised digits from a file, and digits that might as well have been in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 28


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Rows of bits to train on and to test on: uint8 ``(n, 784)``.

    The file has arrays ``train`` and ``test`` of packed bits (numpy.packbits along rows of 784).
    """
    with np.load(path) as file:
        train, test = (np.unpackbits(file[name], axis=1) for name in ("train", "test"))
    return torch.from_numpy(train), torch.from_numpy(test)


def distorted(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture ``(n, 784)`` turned, stretched, sheared and moved a little; bits stay bits.

    Standard deviations: 0.05 radians, 4 %, 0.06 and 0.28 pixels.
    """
    turn, wide, high, shear, right, down = torch.randn(6, len(rows), generator=generator)
    turn, wide, high = 0.05 * turn, 1 + 0.04 * wide, 1 + 0.04 * high
    across = torch.stack([turn.cos() * wide, 0.06 * shear - turn.sin(), 0.02 * right], 1)
    along = torch.stack([turn.sin(), turn.cos() * high, 0.02 * down], 1)
    shape = len(rows), 1, SIDE, SIDE
    places = F.affine_grid(torch.stack([across, along], 1), shape, align_corners=False)
    moved = F.grid_sample(rows.view(shape), places, mode="nearest", align_corners=False)
    return moved.view_as(rows)
