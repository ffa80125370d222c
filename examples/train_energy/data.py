"""Fashion-MNIST from its Debian package: 60,000 pictures to learn from, 10,000 to test on."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.common import CACHE, fetch_debian

PACKAGE = "dataset-fashion-mnist"
SIZE = 28
NOISE = 0.2
"""Standard deviation of what is added to every picture: without noise, data have no density."""
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


class Pictures(NamedTuple):
    """Images (n, 28, 28) of values in [-1, 1], and their classes (n,)."""

    images: Tensor
    labels: Tensor


def folder() -> Path:
    """Where the files lie: those of the system's package, or of one fetched into the cache."""
    installed = Path("usr/share/datasets/fashion-mnist")
    for root in (Path("/"), CACHE / PACKAGE):
        if (root / installed).is_dir():
            return root / installed
    fetch_debian([PACKAGE], CACHE / PACKAGE, "give a folder with the IDX files by --data")
    return CACHE / PACKAGE / installed


def pictures(part: str, source: Path | None = None) -> Pictures:
    """The rows to learn from (``part`` is "train") or to test on ("t10k").

    ``source`` is a folder with the IDX files; None fetches them.
    """
    place = folder() if source is None else source
    pixels = read_idx(place / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(place / f"{part}-labels-idx1-ubyte.gz")
    return Pictures(torch.as_tensor(pixels) / 127.5 - 1, torch.as_tensor(labels).long())


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format of LeCun's MNIST files."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} holds no IDX array of bytes: delete it, and it is fetched again")
    ndim = content[3]
    shape = np.frombuffer(content, ">u4", ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()


def with_noise(images: Tensor, generator: torch.Generator, level: float = NOISE) -> Tensor:
    """The images plus Gaussian noise: what the energy is learned from."""
    return images + level * torch.randn(images.shape, generator=generator)
