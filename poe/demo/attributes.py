"""The attributes of a handwritten digit: its class, its slant, the thickness of its stroke.

Slant and thickness are *measured* from the pixels, so no learned judge is needed for them. Images
are 16 x 16 arrays of ink, 0 for paper and 1 for full ink.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from poe.core.imports import require

Array = NDArray[np.floating]

CLASSES = tuple(str(digit) for digit in range(10))
SLANTS = ("left", "upright", "right")
THICKNESSES = ("thin", "medium", "thick")

# Edges between the three values of an attribute, near the terciles of real digits.
SLANT_EDGES = (0.0, 0.25)
THICKNESS_EDGES = (2.15, 2.75)

UPSAMPLING = 4
INK_THRESHOLD = 0.4
BLUR = 0.5


class Combination(NamedTuple):
    """One value of each attribute, as indices into CLASSES, SLANTS and THICKNESSES."""

    digit: int
    slant: int
    thickness: int

    def __str__(self) -> str:
        return f"{THICKNESSES[self.thickness]} {SLANTS[self.slant]} {CLASSES[self.digit]}"


ALL_COMBINATIONS = tuple(
    Combination(digit, slant, thickness)
    for digit in range(len(CLASSES))
    for slant in range(len(SLANTS))
    for thickness in range(len(THICKNESSES))
)

# No expert has seen a digit of any of these combinations in training.
HELD_OUT = (
    Combination(0, 0, 2),
    Combination(2, 2, 1),
    Combination(3, 0, 0),
    Combination(4, 2, 0),
    Combination(5, 1, 2),
    Combination(7, 2, 2),
    Combination(8, 1, 0),
    Combination(9, 0, 1),
)

TRAINING_COMBINATIONS = tuple(c for c in ALL_COMBINATIONS if c not in HELD_OUT)


def ink_mask(images: Array) -> NDArray[np.bool_]:
    """Where there is ink, on a grid four times as fine: (n, h, w) -> (n, 4h, 4w)."""
    ndimage = require("scipy.ndimage", "demo")
    blurred = ndimage.gaussian_filter(np.asarray(images, dtype=np.float64), (0, BLUR, BLUR))
    fine = ndimage.zoom(
        blurred, (1, UPSAMPLING, UPSAMPLING), order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(fine > INK_THRESHOLD)


def slant(mask: NDArray[np.bool_]) -> Array:
    """Horizontal drift of the ink per unit of height, from second-order central moments.

    ``-mu_11 / mu_02`` with the vertical axis pointing down; positive leans to the right.
    Shapes: (n, h, w) -> (n,). An image without ink has slant 0.
    """
    rows = np.arange(mask.shape[1])[None, :, None]
    columns = np.arange(mask.shape[2])[None, None, :]
    area = np.maximum(mask.sum((1, 2)), 1)[:, None, None]
    down = rows - (mask * rows).sum((1, 2), keepdims=True) / area
    across = columns - (mask * columns).sum((1, 2), keepdims=True) / area
    covariance = (mask * down * across).sum((1, 2))
    variance = (mask * down**2).sum((1, 2))
    return np.asarray(-covariance / np.maximum(variance, 1e-9))


def thickness(mask: NDArray[np.bool_]) -> Array:
    """Mean width of the stroke, in pixels of the image: area of the ink over skeleton length.

    Shapes: (n, h, w) -> (n,). An image without ink has thickness 0.
    """
    skeletonize = require("skimage.morphology", "demo").skeletonize
    length = np.array([skeletonize(one).sum() for one in mask])
    return np.asarray(mask.sum((1, 2)) / np.maximum(length, 1) / UPSAMPLING)


class Measured(NamedTuple):
    """Slant and thickness of n images, each of shape (n,)."""

    slant: Array
    thickness: Array

    def slant_index(self) -> NDArray[np.intp]:
        return np.digitize(self.slant, SLANT_EDGES)

    def thickness_index(self) -> NDArray[np.intp]:
        return np.digitize(self.thickness, THICKNESS_EDGES)


def measure(images: Array) -> Measured:
    """Slant and thickness of images of shape (n, h, w)."""
    mask = ink_mask(images)
    return Measured(slant(mask), thickness(mask))
