"""The alternative without composition: many samples of one expert, of which the others choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.demo.attributes import CLASSES, Combination
from poe.demo.conjunction import Experts, evidence


class Pool(NamedTuple):
    """The same number of samples of each class, class by class: images (10 * size, 16, 16)."""

    images: Tensor

    @property
    def size(self) -> int:
        """Samples of each class."""
        return len(self.images) // len(CLASSES)

    def rows(self, digit: int) -> slice:
        """Where the samples of a class stand."""
        return slice(digit * self.size, (digit + 1) * self.size)

    def some(self, combinations: Sequence[Combination]) -> Tensor:
        """A sample of each combination's class, another one each time: (n, 16, 16)."""
        place = [one.digit * self.size + row % self.size for row, one in enumerate(combinations)]
        return self.images[place]

    def split(self, size: int) -> list[Pool]:
        """As many pools with ``size`` of the samples of each class as there are without overlap."""
        by_class = self.images.unflatten(0, (len(CLASSES), self.size))
        parts = by_class.split(size, 1)[: max(self.size // size, 1)]
        return [Pool(part.flatten(0, 1)) for part in parts]


def draw_pool(parts: Experts, size: int, generator: torch.Generator) -> Pool:
    """Exact samples of the class expert, ``size`` of each class."""
    digits = torch.arange(len(CLASSES)).repeat_interleave(size)
    return Pool(parts.digit.given(digits).sample(len(digits), generator=generator))


def best_of(parts: Experts, pool: Pool, combinations: Sequence[Combination]) -> Tensor:
    """For each combination the best sample of its class, say the other experts: (n, 16, 16)."""
    said = evidence(parts, pool.images)
    best = [said.of(one)[pool.rows(one.digit)].argmax() for one in combinations]
    kept = [one.digit * pool.size + row for one, row in zip(combinations, best, strict=True)]
    return pool.images[torch.stack(kept)]


def resample(
    parts: Experts, pool: Pool, combinations: Sequence[Combination], generator: torch.Generator
) -> Tensor:
    """Sampling importance resampling of the pool: (n, 16, 16).

    The chains of a combination start at different samples of its class, drawn with the weights that
    the other experts give them (Gumbel-top-k, Kool et al. 2019), and repeated only once all samples
    of the class are in use.
    """
    said = evidence(parts, pool.images)
    start = pool.images.new_empty(len(combinations), *pool.images.shape[1:])
    for one in sorted(set(combinations)):
        rows = [row for row, other in enumerate(combinations) if other == one]
        weight = said.of(one)[pool.rows(one.digit)]
        gumbel = -torch.empty_like(weight).exponential_(generator=generator).log()
        order = (weight + gumbel).argsort(descending=True)
        chosen = order[torch.arange(len(rows)) % pool.size]
        start[rows] = pool.images[pool.rows(one.digit)][chosen]
    return start
