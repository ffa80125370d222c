"""One residual energy for every level of noise and every label."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts.neural.perceptron import reference
from experts.neural.residual_network import require_halvable
from experts.noised.conditional import NoisyConditional, constructor_arguments
from experts.noised.embedding import LabelAndNoise
from experts.parameters import number, positive, sizes
from poe.core.arguments import checked


class ModulatedBlock(nn.Module):
    """A residual block that an embedding shifts: (n, c, h, w), (n, e) -> (n, c, h, w)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        inner = self.first(F.silu(h)) * (1 + gain) + shift
        return h + self.second(F.silu(inner))


class NoisyEnergy(NoisyConditional):
    r"""A neural energy for each level of noise, with one network that is told the level.

    .. math:: f_\sigma(x \mid y) = -\frac{\lVert x \rVert^2}{2 t^2}
       + \frac{t}{\sigma}\, g\!\left(\frac{x}{t}, \sigma, y\right), \qquad t^2 = s^2 + \sigma^2

    with the spread s. The first term is the density of broad noise and keeps exp f integrable; the
    factor gives the score :math:`\nabla g / \sigma` the size that it has at that level. g is
    residual convolutions with SiLU, as `ResidualNetwork`. Unnormalised, and learned by denoising
    score matching over a ladder of levels or by contrastive divergence at each.

    Shapes: x ``(*batch, height, width)``, label ``()`` or ``(batch,)``.

    Args:
        shape: Of an image x, ``(height, width)``.
        labels: Names of the values of y.
        noise_level: σ, in the units of x, positive: one number, or ``(batch,)``, one for each
            chain.
        channels: Of each stage, which halves the sides.
        spread: s, the spread of the data, in the units of x.

    Raises:
        ShapeError: For sides that cannot be halved once for each number in ``channels``.
        PoeError: For a noise level that is not positive.

    References:
        Song & Ermon (2020), Improved techniques for training score-based generative models,
        technique 3 (the factor 1 / σ), arXiv:2006.09011.

        Li, Chen & Sommer (2019), Learning energy-based models in high-dimensional spaces with
        multi-scale denoising score matching (energies), arXiv:1910.07762.

    Example:
        >>> model = NoisyEnergy((8, 8), ["thin", "thick"], noise_level=0.1, channels=(4, 8))
        >>> model.given("thick")(torch.zeros(3, 8, 8)).shape
        torch.Size([3])
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, int],
        labels: Sequence[str],
        noise_level: float | Tensor,
        *,
        channels: Sequence[int] = (32, 64),
        spread: float = 1.0,
    ) -> None:
        channels, spread = sizes("channels", channels), number("spread", spread, positive)
        height, width = require_halvable(shape, len(channels))
        super().__init__(poe.Real((height, width)), labels, noise_level)
        self.embed = LabelAndNoise(len(labels), 64)
        widths = (1, *channels)
        self.halving = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(ModulatedBlock(n, 64) for n in channels)
        places = (height * width) >> 2 * len(channels)
        self.last = nn.Linear(widths[-1] * places, 1)
        self.spread = spread
        self.settings = {"channels": channels, "spread": spread}

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        total = (self.spread**2 + noise_level**2).sqrt()
        scaled = x / total[:, None, None]
        embedding = self.embed(label, noise_level)
        h = scaled[:, None].contiguous(memory_format=torch.channels_last)
        for halve, block in zip(self.halving, self.blocks, strict=True):
            h = block(halve(h), embedding)
        g = self.last(F.silu(h).flatten(1))[:, 0]
        return reference(scaled.flatten(1), 1.0) + g * total / noise_level


poe.io.register_module(
    NoisyEnergy,
    constructor_arguments,
    name="experts.NoisyEnergy",
    formerly=("experts.noisy_energy.NoisyEnergy",),
)
