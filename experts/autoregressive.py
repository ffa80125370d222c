"""Autoregressive images: every pixel a mixture of Gaussians given the pixels before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
import poe.io.tree
from experts.embedding import LabelAndNoise, with_border
from experts.noise import NoisyConditional, constructor_arguments
from poe.core.randomness import resolve


class CausalConv2d(nn.Conv2d):
    """A convolution that sees the rows above and, in its own row, what lies to the left.

    The kernel covers ``rows`` rows up to and including the pixel's own and ``2 * reach + 1``
    columns. With ``sees_itself=False`` the pixel itself is hidden too (mask A, van den Oord et al.
    2016, "Pixel Recurrent Neural Networks", section 3.4). Shapes: (n, c, h, w) -> (n, c', h, w).
    """

    mask: Tensor

    def __init__(
        self, channels: int, out_channels: int, rows: int, reach: int, *, sees_itself: bool = True
    ) -> None:
        super().__init__(channels, out_channels, (rows, 2 * reach + 1))
        self.rows = rows
        self.around = (reach, reach, rows - 1, 0)
        mask = torch.ones(rows, 2 * reach + 1)
        mask[-1, reach + int(sees_itself) :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.unpadded(F.pad(x, self.around))

    def unpadded(self, x: Tensor) -> Tensor:
        """The convolution where the kernel fits into x: (n, c, rows, columns) gives one pixel."""
        return F.conv2d(x, self.weight * self.mask, self.bias)


class GatedBlock(nn.Module):
    """Residual causal block, its gate shifted by an embedding.

    Shapes: (n, c, h, w), (n, e) -> (n, c, h, w).

    Source: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", eq. 4.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.causal = CausalConv2d(channels, 2 * channels, rows=2, reach=1)
        self.shift = nn.Linear(embedding, 2 * channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.gated(h, self.causal(h), embedding)

    def gated(self, h: Tensor, seen: Tensor, embedding: Tensor) -> Tensor:
        """h and what was seen around it, merged."""
        value, gate = (seen + self.shift(embedding)[:, :, None, None]).chunk(2, 1)
        return h + self.out(F.silu(value) * torch.sigmoid(gate))


class PixelCNN(nn.Module):
    """Parameters of each pixel's mixture from the pixels before it.

    Shapes: x (n, h, w), label (n,), noise level (n,) -> (n, 3 * components, h, w).
    """

    def __init__(self, num_labels: int, channels: int, blocks: int, components: int) -> None:
        super().__init__()
        self.embed = LabelAndNoise(num_labels, 64)
        self.first = CausalConv2d(2, channels, rows=5, reach=5, sees_itself=False)
        self.blocks = nn.ModuleList(GatedBlock(channels, 64) for _ in range(blocks))
        self.last = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 3 * components, 1),
        )

    def residual(self) -> list[GatedBlock]:
        """The residual blocks, in order."""
        return [block for block in self.blocks if isinstance(block, GatedBlock)]

    def forward(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        embedding = self.embed(label, noise_level)
        h = self.first(with_border(x))
        for block in self.residual():
            h = block(h, embedding)
        return self.last(h)

    def blank(self, x: Tensor) -> list[Tensor]:
        """Room for what each layer sees, with its padding: all zeros, and the border's ones."""
        n, height, width = x.shape
        layers = [self.first, *(block.causal for block in self.residual())]
        room = []
        for layer in layers:
            left, right, top, _ = layer.around
            room.append(x.new_zeros(n, layer.in_channels, height + top, width + left + right))
        left, right, top, _ = self.first.around
        room[0][:, 1, top:, left:-right] = 1
        return room

    def pixel(self, seen: list[Tensor], embedding: Tensor, row: int, column: int) -> Tensor:
        """Parameters of one pixel (n, 3 * components, 1, 1), from what the layers saw before it.

        Writes what this pixel's features are into ``seen``, for the pixels to come.
        """
        h = self.first.unpadded(window(seen[0], self.first, row, column))
        for block, features in zip(self.residual(), seen[1:], strict=True):
            _, reach, top, _ = block.causal.around
            features[:, :, row + top, column + reach] = h[:, :, 0, 0]
            around = window(features, block.causal, row, column)
            h = block.gated(h, block.causal.unpadded(around), embedding)
        return self.last(h)


def window(features: Tensor, layer: CausalConv2d, row: int, column: int) -> Tensor:
    """What the layer's kernel covers at one pixel of padded features: (n, c, rows, columns)."""
    rows, columns = layer.kernel_size
    return features[:, :, row : row + rows, column : column + columns]


class PixelMixture(NoisyConditional):
    r"""A conditional autoregressive density of images on the real line.

    .. math:: \log p_\sigma(x \mid y) = \sum_i \log \sum_k \pi_{ik} N(x_i; \mu_{ik}, \sigma^2
        + \tau_{ik}^2), \qquad (\pi, \mu, \tau)_i = \text{PixelCNN}(x_{<i}, y, \sigma)

    in raster order. No conditional is narrower than the noise, as is true of noised data, so the
    score stays bounded on the scale of the noise. Natively continuous: the base measure is Lebesgue
    measure on pixels and no dequantisation takes part.

    Shapes: x ``(*batch, height, width)``, label ``()`` or ``(batch,)``. ``sample`` is ancestral and
    exact.

    >>> model = PixelMixture((4, 4), ["a", "b"], noise_level=0.1, channels=8, blocks=1)
    >>> expert = model.given("b")
    >>> x = expert.sample(5, generator=torch.Generator().manual_seed(0))
    >>> x.shape, expert.log_prob(x).shape
    (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    is_normalized = True

    def __init__(
        self,
        shape: tuple[int, int],
        labels: Sequence[str],
        noise_level: float | Tensor,
        *,
        channels: int = 32,
        blocks: int = 6,
        components: int = 5,
    ) -> None:
        super().__init__(poe.Real(shape), labels, noise_level)
        self.net = PixelCNN(len(labels), channels, blocks, components)
        self.settings = {"channels": channels, "blocks": blocks, "components": components}

    def mixture(
        self, x: Tensor, label: Tensor, noise_level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and standard deviations, each (n, components, h, w)."""
        return as_mixture(self.net(x, label, noise_level), noise_level)

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        weight, mean, scale = self.mixture(x, label, noise_level)
        z = (x[:, None] - mean) / scale
        pixel = (weight - 0.5 * z**2 - scale.log()).logsumexp(1)
        size = self.space.event_shape.numel()
        return pixel.sum((-2, -1)) - 0.5 * math.log(2 * math.pi) * size

    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral samples, pixel by pixel: (num_samples, height, width). Exact.

        Every layer keeps what it has seen, so that an image costs about one evaluation of its
        density.
        """
        generator = resolve(generator, self.noise_level.device)
        level = self.noise_levels(torch.Size((num_samples,)))
        embedding = self.net.embed(condition.expand(num_samples), level)
        x = level.new_zeros(num_samples, *self.space.event_shape)
        seen = self.net.blank(x)
        _, reach, top, _ = self.net.first.around
        for row, column in itertools.product(range(x.shape[1]), range(x.shape[2])):
            parameters = self.net.pixel(seen, embedding, row, column)
            x[:, row, column] = draw(*as_mixture(parameters, level), generator)[:, 0, 0]
            seen[0][:, 0, row + top, column + reach] = x[:, row, column]
        return x


poe.io.register_module(
    PixelMixture,
    constructor_arguments,
    name="experts.PixelMixture",
    formerly=("experts.autoregressive.PixelMixture",),
)


def as_mixture(parameters: Tensor, noise_level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights, means and scales (n, components, h, w) from (n, 3 * components, h, w)."""
    weight, mean, spread = parameters.chunk(3, 1)
    scale = (noise_level[:, None, None, None] ** 2 + F.softplus(spread - 3) ** 2).sqrt()
    return weight.log_softmax(1), mean, scale


def draw(weight: Tensor, mean: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from each mixture: (n, components, h, w) three times -> (n, h, w)."""
    size = weight[:, :1].shape
    u = torch.rand(size, generator=generator, device=weight.device, dtype=weight.dtype)
    below = (weight.exp().cumsum(1)[:, :-1] < u).sum(1, keepdim=True)
    noise = torch.randn(size, generator=generator, device=weight.device, dtype=weight.dtype)
    return (mean.gather(1, below) + scale.gather(1, below) * noise)[:, 0]
