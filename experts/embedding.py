"""What a network hears of a label and a noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Embeds a noise level: (n,) -> (n, features)."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.noise = nn.Linear(2 * 8, features)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU())
        self.register_buffer("frequencies", torch.arange(1, 9) * (math.pi / 8), persistent=False)

    def forward(self, noise_level: Tensor) -> Tensor:
        return self.mix(self.waves(noise_level))

    def waves(self, noise_level: Tensor) -> Tensor:
        """Before the last layers: (n,) -> (n, features)."""
        angle = noise_level.log()[:, None] * self.frequencies
        return self.noise(torch.cat([angle.cos(), angle.sin()], -1))


class LabelAndNoise(NoiseEmbedding):
    """Embeds a label and a noise level: (n,) and (n,) -> (n, features)."""

    def __init__(self, num_labels: int, features: int) -> None:
        super().__init__(features)
        self.label = nn.Embedding(num_labels, features)

    def forward(self, label: Tensor, noise_level: Tensor) -> Tensor:  # type: ignore[override]
        return self.mix(self.label(label) + self.waves(noise_level))
