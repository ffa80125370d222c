"""A lossless compressor as an expert: what it writes in few bits is likely."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor

import poe

GREY_LEVELS = 16
"""As many as noise of 0.01 leaves alone: to move a pixel over half a level takes 3.3 of it."""


def compressor() -> poe.Expert:
    r"""log q(x) = −L(x), with L(x) the length of x as a PNG file, in nats.

    Kraft's inequality makes 2^−bits a density of pictures of 16 grey levels whose sum is at most 1,
    and it knows only what any picture has: dark areas, smooth ones, repetition.

    Source: Serra et al. 2020, "Input complexity and out-of-distribution detection with
    likelihood-based generative models", eq. 1 and 2.

    >>> flat = torch.zeros(16, 16)
    >>> rough = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    >>> bool(compressor()(flat) > compressor()(rough) + 500)
    True
    """
    return poe.FromLogDensity(log_density, space=poe.Real((16, 16)))


def log_density(x: Tensor) -> Tensor:
    """−L(x): (*batch, h, w) -> (*batch,)."""
    step = 255 // (GREY_LEVELS - 1)
    grey = ((GREY_LEVELS - 1) * x.clamp(0, 1)).round().to(torch.uint8) * step
    lengths = [png_length(picture) for picture in grey.reshape(-1, *x.shape[-2:])]
    return -math.log(2) * 8 * torch.tensor(lengths).to(x).reshape(x.shape[:-2])


def png_length(picture: Tensor) -> int:
    """Bytes of the PNG file of bytes (h, w)."""
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, "PNG", optimize=True)
    return file.tell()
