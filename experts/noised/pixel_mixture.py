"""Autoregressive model of pictures: each pixel a mixture given those before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

import poe
from experts.noised.conditional import NoisyConditional, constructor_arguments
from experts.noised.pixel_cnn import PixelCNN
from experts.parameters import whole
from poe.core.arguments import checked
from poe.core.randomness import resolve


class PixelMixture(NoisyConditional):
    r"""A conditional autoregressive density of images on the real line.

    .. math:: \log p_\sigma(x \mid y) = \sum_i \log \sum_k \pi_{ik} N(x_i; \mu_{ik}, \sigma^2
        + \tau_{ik}^2), \qquad (\pi, \mu, \tau)_i = \text{PixelCNN}(x_{<i}, y, \sigma)

    in raster order. No conditional is narrower than the noise, as is true of noised data, so the
    score stays bounded on the scale of the noise. Natively continuous: the base measure is Lebesgue
    measure on pixels and no dequantisation takes part.

    Shapes: x ``(*batch, height, width)``, label ``()`` or ``(batch,)``. ``sample`` is ancestral and
    exact.

    Args:
        shape: Of an image x, ``(height, width)``.
        labels: Names of the values of y.
        noise_level: σ, in the units of x, positive: one number, or ``(batch,)``, one for each
            chain.
        channels: Of each layer.
        blocks: How many gated residual blocks there are.
        components: How many Gaussians each pixel's mixture has.

    Raises:
        PoeError: For a noise level that is not positive.

    Example:
        >>> model = PixelMixture((4, 4), ["a", "b"], noise_level=0.1, channels=8, blocks=1)
        >>> expert = model.given("b")
        >>> x = expert.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, expert.log_prob(x).shape
        (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    may_be_infinite = ()

    is_normalized = True

    @checked
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
        channels, components = whole("channels", channels), whole("components", components)
        blocks = whole("blocks", blocks, 0)
        self.net = PixelCNN(len(labels), channels, blocks, components)
        self.settings = {"channels": channels, "blocks": blocks, "components": components}

    def mixture(
        self, x: Tensor, label: Tensor, noise_level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture of each pixel, given those before it.

        Args:
            x: ``(n, height, width)``.
            label: Indices of the labels, ``(n,)``.
            noise_level: σ, ``(n,)``.

        Returns:
            Log-weights, means and standard deviations, each ``(n, components, height, width)``.
        """
        return as_mixture(self.net(x, label, noise_level), noise_level)

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        weight, mean, scale = self.mixture(x, label, noise_level)
        z = (x[:, None] - mean) / scale
        pixel = (weight - 0.5 * z**2 - scale.log()).logsumexp(1)
        size = self.space.event_shape.numel()
        return pixel.sum((-2, -1)) - 0.5 * math.log(2 * math.pi) * size

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Ancestral samples, pixel by pixel: exact.

        Every layer keeps what it has seen, so that an image costs about one evaluation of its
        density.

        Args:
            condition: Index of the label, ``()`` or ``(num_samples,)``.
            num_samples: How many images.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, height, width)``.
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
