"""Conditionals with one density for each level of Gaussian noise added to the data."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Self

import torch
from torch import Tensor, nn

import poe


class NoisyConditional(poe.Conditional):
    r"""A family of densities ``p_sigma(x | y)`` of noised data, one for each label and noise level.

    .. math:: p_\sigma(x \mid y) = \int N(x; u, \sigma^2 I)\, p(u \mid y)\, du

    The noise makes a Lebesgue density of data that lie on a thin set, and a ladder of levels from
    broad to sharp is what annealed sampling climbs. Subclasses implement
    ``log_density_at(x, label, noise_level)`` with x ``(n, *event)``, label ``(n,)`` and noise level
    ``(n,)``, to ``(n,)``.

    ``labels`` names the values of y; ``given`` takes a name, an index, or a tensor of indices.
    """

    noise_level: Tensor

    def __init__(self, space: poe.Space, labels: Sequence[str], noise_level: float) -> None:
        super().__init__()
        self.space = space
        self.labels = tuple(labels)
        self.register_buffer("noise_level", torch.tensor(float(noise_level)))

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement log_density_at")

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.space.event_shape)]
        flat = x.reshape(-1, *self.space.event_shape)
        label = condition.expand(batch).reshape(-1)
        level = self.noise_level.expand(batch).reshape(-1)
        return self.log_density_at(flat, label, level).reshape(batch)

    def at_noise_level(self, noise_level: float | Tensor) -> Self:
        """The same weights, shared, read at another level of noise: a float, or one per chain."""
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other.noise_level = torch.as_tensor(
            noise_level, dtype=self.noise_level.dtype, device=self.noise_level.device
        )
        return other

    def given(self, condition: int | float | str | Tensor) -> NoisyGiven:
        """p(x | y) as an expert; y a label's name, its index, or a tensor with one index a chain."""
        if isinstance(condition, str):
            condition = self.index(condition)
        return NoisyGiven(self, condition)

    def index(self, label: str) -> int:
        """Position of a label's name among ``labels``."""
        if label not in self.labels:
            raise ValueError(
                f"expected one of the labels {', '.join(self.labels)}; got {label!r}: "
                "give a name from this list or its index"
            )
        return self.labels.index(label)


class NoisyGiven(poe.Given):
    """p_sigma(x | y) with its label bound; ``at_noise_level`` reads it at another level."""

    conditional: NoisyConditional


@singledispatch
def at_noise_level(expert: poe.Expert, noise_level: float | Tensor) -> poe.Expert:
    """The same composition with every expert read at another level of noise.

    Weights are shared. A product of densities of noised data is *not* the density of the noised
    product (Du et al. 2023, section 3): use it to find good starts, and end on the target itself.
    Raises ``ValueError`` for an expert without noise levels.
    """
    raise ValueError(
        f"expected an expert with noise levels, or a product of such, got {type(expert).__name__}: "
        "give a ladder for it by hand, as poe.samplers.AnnealedLangevin((first, ..., last))"
    )


@at_noise_level.register
def _(expert: NoisyGiven, noise_level: float | Tensor) -> poe.Expert:
    return expert.conditional.at_noise_level(noise_level).given(expert.condition)


@at_noise_level.register
def _(expert: poe.Tempered, noise_level: float | Tensor) -> poe.Expert:
    return at_noise_level(expert.expert, noise_level) ** expert.exponent


@at_noise_level.register
def _(expert: poe.Product, noise_level: float | Tensor) -> poe.Expert:
    moved = [at_noise_level(factor, noise_level) for factor in expert.experts]
    return poe.Product(**dict(zip(expert.names, moved, strict=True)))


def noise_ladder(expert: poe.Expert, noise_levels: Sequence[float]) -> tuple[poe.Expert, ...]:
    """The composition at each noise level, for ``poe.samplers.AnnealedLangevin``."""
    return tuple(at_noise_level(expert, level) for level in noise_levels)


class LabelAndNoise(nn.Module):
    """Embeds a label and a noise level: (n,) and (n,) -> (n, features)."""

    def __init__(self, num_labels: int, features: int) -> None:
        super().__init__()
        self.label = nn.Embedding(num_labels, features)
        self.noise = nn.Linear(2 * 8, features)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU())
        self.register_buffer("frequencies", torch.arange(1, 9) * (math.pi / 8), persistent=False)

    def forward(self, label: Tensor, noise_level: Tensor) -> Tensor:
        angle = noise_level.log()[:, None] * self.frequencies
        waves = torch.cat([angle.cos(), angle.sin()], -1)
        return self.mix(self.label(label) + self.noise(waves))


def fresh_generator(device: torch.device) -> torch.Generator:
    """A generator seeded by the operating system, for callers that gave none."""
    generator = torch.Generator(device)
    generator.seed()
    return generator
