"""The alternative without composition: many samples of one expert, of which the others choose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poe.demo.attributes import CLASSES, Combination
from poe.demo.conjunction import NOISE_LEVEL, Experts, evidence


class Pool:
    """Exact samples of the class expert, the same number of each class: (10 * size, 16, 16)."""

    def __init__(self, parts: Experts, size: int, generator: torch.Generator) -> None:
        self.size = size
        digits = torch.arange(len(CLASSES)).repeat_interleave(size)
        self.images: Tensor = parts.digit.given(digits).sample(len(digits), generator=generator)

    def rows(self, digit: int) -> slice:
        """Where the samples of a class stand."""
        return slice(digit * self.size, (digit + 1) * self.size)

    def some(self, combinations: Sequence[Combination]) -> Tensor:
        """A sample of each combination's class, another one each time: (n, 16, 16)."""
        place = [one.digit * self.size + row % self.size for row, one in enumerate(combinations)]
        return self.images[place]


def best_of(parts: Experts, pool: Pool, combinations: Sequence[Combination]) -> Tensor:
    """For each combination the best sample of its class, say the other experts: (n, 16, 16)."""
    said = evidence(parts, pool.images)
    best = [said.of(one)[pool.rows(one.digit)].argmax() for one in combinations]
    kept = [one.digit * pool.size + row for one, row in zip(combinations, best, strict=True)]
    return pool.images[torch.stack(kept)]


def resample(
    parts: Experts,
    pool: Pool,
    combinations: Sequence[Combination],
    noise_level: float,
    generator: torch.Generator,
) -> Tensor:
    """Sampling importance resampling of noised pool samples: (n, 16, 16).

    The chains of a combination start at different samples of its class, drawn with the weights that
    the other experts give them at that noise level (Gumbel-top-k, Kool et al. 2019), and repeated
    only once all samples of the class are in use.
    """
    extra = (noise_level**2 - NOISE_LEVEL**2) ** 0.5
    noised = pool.images + extra * torch.randn(pool.images.shape, generator=generator)
    said = evidence(parts.at_noise_level(noise_level), noised)
    start = noised[: len(combinations)].new_empty(len(combinations), *noised.shape[1:])
    for one in sorted(set(combinations)):
        rows = [row for row, other in enumerate(combinations) if other == one]
        weight = said.of(one)[pool.rows(one.digit)]
        gumbel = -torch.empty_like(weight).exponential_(generator=generator).log()
        order = (weight + gumbel).argsort(descending=True)
        chosen = order[torch.arange(len(rows)) % pool.size]
        start[rows] = noised[pool.rows(one.digit)][chosen]
    return start
