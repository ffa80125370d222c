"""What a network is told besides the pixels: the label, the noise level, the border."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from poe.core.arguments import checked, require_count


def with_border(x: Tensor) -> Tensor:
    """Adds a channel of ones, which tells paper in the picture from the padding around it.

    Shapes: (n, h, w) -> (n, 2, h, w), channels last in memory.
    """
    return torch.stack([x, torch.ones_like(x)], 1).to(memory_format=torch.channels_last)


class NoiseWaves(nn.Module):
    """The layers that embeddings of a noise level share."""

    frequencies: Tensor

    @checked
    def __init__(self, features: int) -> None:
        super().__init__()
        features = require_count("features", features)
        self.noise = nn.Linear(2 * 8, features)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU())
        self.register_buffer("frequencies", torch.arange(1, 9) * (math.pi / 8), persistent=False)

    def waves(self, noise_level: Tensor) -> Tensor:
        """Before the last layers: (n,) -> (n, features)."""
        angle = noise_level.log()[:, None] * self.frequencies
        return self.noise(torch.cat([angle.cos(), angle.sin()], -1))


class NoiseEmbedding(NoiseWaves):
    """Embeds a noise level by waves of its logarithm.

    Args:
        features: How many numbers make an embedding.
    """

    def forward(self, noise_level: Tensor) -> Tensor:
        """The embedding.

        Args:
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n, features)``.
        """
        return self.mix(self.waves(noise_level))


class LabelAndNoise(NoiseWaves):
    """Embeds a label and a noise level.

    Args:
        num_labels: How many labels there are.
        features: How many numbers make an embedding.
    """

    def __init__(self, num_labels: int, features: int) -> None:
        super().__init__(features)
        self.label = nn.Embedding(num_labels, features)

    def forward(self, label: Tensor, noise_level: Tensor) -> Tensor:
        """The embedding.

        Args:
            label: Indices, ``(n,)``.
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n, features)``.
        """
        return self.mix(self.label(label) + self.waves(noise_level))
