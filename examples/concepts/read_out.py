"""The factors of a picture by measurement: no network has a say in what a sample shows.

The object's colour, area and centre are moments of its ink; its shape and rotation are those of the
polygon of that area and centre that covers it best. The overlap with that polygon says whether it
is an object at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from examples.concepts.data import AREAS, CELL, INKS, PERIODS, PLACES, SIZE, coverage

INK_THRESHOLD = 0.45
"""Of the length of a pixel's ink; a full pixel has 0.9 to 1.2."""
WHOLE = 0.7
"""The least overlap (intersection over union) with a polygon of something that is one."""
ANGLES = 8
"""So many in each period are tried."""
LEAST_AREA = 10
"""Pixels of the smallest piece of ink that counts as an object."""
TOLERANCE = 0.5
"""Pixels by which an object's centre may miss its cell."""


class Reading(NamedTuple):
    """The six labels ``(n, 6)``, the overlap with the best polygon and the number of pieces (n,),
    and the centre ``(n, 2)`` and area ``(n,)`` as measured."""

    labels: Tensor
    overlap: Tensor
    pieces: Tensor
    centre: Tensor
    area: Tensor

    @property
    def is_whole(self) -> Tensor:
        """Whether the picture shows one polygon and nothing else: (n,)."""
        return (self.pieces == 1) & (self.overlap > WHOLE)


def ink_mask(ink: Tensor) -> Tensor:
    """Where there is ink: (n, 3, 32, 32) -> (n, 32, 32)."""
    return ink.norm(dim=1) > INK_THRESHOLD


def read(ink: Tensor) -> Reading:
    """What n pictures (n, 3, 32, 32) of one object show."""
    mask = ink_mask(ink)
    mean = mean_ink(ink, mask)
    # The share of each pixel that is covered, by least squares.
    covered = torch.einsum("nchw,nc->nhw", ink, mean / mean.square().sum(1, keepdim=True))
    covered = covered * F.max_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0]
    area = covered.sum((1, 2)).clamp(min=1.0)
    pixel = torch.arange(SIZE) + 0.5
    centre = torch.stack([covered.sum(1) @ pixel, covered.sum(2) @ pixel], -1) / area[:, None]
    shape, is_turned, overlap = best_polygon(covered, area, centre)
    columns = (
        shape,
        torch.cdist(mean, INKS).argmin(1),
        (area > AREAS.log().mean().exp()).long(),
        *(torch.bucketize(c.contiguous(), (PLACES[1:] + PLACES[:-1]) / 2) for c in centre.T),
        is_turned.long(),
    )
    pieces = torch.tensor([len(one) for one in centres(ink)])
    return Reading(torch.stack(columns, -1), overlap, pieces, centre, area)


def mean_ink(ink: Tensor, mask: Tensor) -> Tensor:
    """Mean ink (n, 3) of the pixels with ink all around them, or else of all with ink."""
    inner = 1 - F.max_pool2d(1 - mask[:, None].float(), 3, 1, 1)
    weight = inner + 1e-3 * mask[:, None] + 1e-6
    return (ink * weight).sum((2, 3)) / weight.sum((2, 3))


def best_polygon(covered: Tensor, area: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, whether it is turned, and overlap, of the polygon nearest to each (n, 32, 32)."""
    n = len(covered)
    kinds = torch.cartesian_prod(torch.arange(len(PERIODS)), torch.arange(ANGLES))
    overlaps = []
    for shape, step in kinds:
        angle = PERIODS[shape] * step / ANGLES
        polygon = coverage(shape.expand(n), area, centre, angle.expand(n))
        both = torch.minimum(covered, polygon).sum((1, 2))
        overlaps.append(both / torch.maximum(covered, polygon).sum((1, 2)))
    overlap, best = torch.stack(overlaps).max(0)
    fraction = kinds[best, 1] / ANGLES
    return kinds[best, 0], (fraction - 0.5).abs() < 0.25, overlap


def centres(ink: Tensor) -> list[np.ndarray]:
    """The centres (k, 2), x and y, of the k pieces of ink in each picture."""
    from scipy import ndimage

    found = []
    for mask in ink_mask(ink).numpy():
        label, count = ndimage.label(mask)
        index = np.arange(1, count + 1)
        large = index[ndimage.sum_labels(mask, label, index) >= LEAST_AREA] if count else index
        middle = np.array(ndimage.center_of_mass(mask, label, large)).reshape(-1, 2)
        found.append(middle[:, ::-1] + 0.5)
    return found


def hits(ink: Tensor, cells: Tensor) -> Tensor:
    """Whether a piece's centre is in each asked cell: cells (n, k) -> (n, k)."""
    per_row = SIZE // CELL
    corner = torch.stack([cells % per_row, cells // per_row], -1) * CELL
    told = []
    for middle, low in zip(centres(ink), corner.numpy(), strict=True):
        beyond = np.abs(middle[None] - (low[:, None] + CELL / 2)).max(-1)
        told.append((beyond <= CELL / 2 + TOLERANCE).any(1))
    return torch.tensor(np.array(told))
