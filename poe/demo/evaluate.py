"""How often the attributes hold, and how different the samples of one combination are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poe.demo.attributes import Combination, measure
from poe.demo.judge import Judge

Held = NDArray[np.bool_]

COLUMNS = {
    "class": (0,),
    "slant": (1,),
    "thickness": (2,),
    "class+slant": (0, 1),
    "class+thickness": (0, 2),
    "slant+thickness": (1, 2),
    "all three": (0, 1, 2),
}


def held(images: Tensor, combinations: Sequence[Combination], judge: Judge) -> Held:
    """Whether each attribute is as wanted: (n, 16, 16) and n combinations -> (n, 3)."""
    measured = measure(images.numpy())
    found = np.stack(
        [judge.classify(images).numpy(), measured.slant_index(), measured.thickness_index()], -1
    )
    return np.asarray(found == np.array(combinations))


def rates(attributes_held: Held) -> dict[str, float]:
    """The fraction of samples in which each attribute, each pair and all three hold: (n, 3)."""
    return {
        name: float(attributes_held[:, list(columns)].all(-1).mean())
        for name, columns in COLUMNS.items()
    }


def pairwise_distance(images: Tensor) -> float:
    """Mean Euclidean distance in pixels between two different images: (n, 16, 16) -> number."""
    return float(torch.pdist(images.flatten(1)).mean())


def diversity(
    images: Tensor, combinations: Sequence[Combination], real_distance: Sequence[float]
) -> float:
    """Mean over combinations of their pairwise distance, over that of real digits of the class.

    ``real_distance`` has one number for each class, of digits with the same noise.
    """
    ratios = []
    for one in sorted(set(combinations)):
        rows = [index for index, other in enumerate(combinations) if other == one]
        if len(rows) > 1:
            ratios.append(pairwise_distance(images[rows]) / real_distance[one.digit])
    return float(np.mean(ratios))
