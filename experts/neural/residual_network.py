"""A residual convolutional network with one smooth output, for neural energies of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts.neural.perceptron import reference
from experts.neural.spectral_norm import hold, normalize_spectrally
from experts.parameters import number, positive, sizes, whole
from poe.core.arguments import checked
from poe.core.errors import ShapeError


class ResidualBlock(nn.Module):
    """h + conv(SiLU(conv(SiLU(h)))): (n, c, h, w) -> (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.silu(self.first(F.silu(h))))


class ResidualNetwork(nn.Module):
    r"""A network for ``NeuralEnergy``: residual convolutions with SiLU, less a quadratic.

    .. math:: f(x) = w^\top \mathrm{SiLU}(h(x)) - \frac{\lVert x \rVert^2}{2 s^2}

    Each stage is a convolution that halves the sides, then residual blocks. The last layer weighs
    every place by itself. There is no batch normalisation, which would make the energy of an image
    depend on its neighbours in the batch, and no ReLU, whose score is piecewise constant. The
    quadratic, a Gaussian reference, keeps exp f integrable, as the network grows at most linearly.

    Args:
        shape: Of x, ``(height, width)`` or ``(colours, height, width)``.
        channels: Of each stage.
        blocks: Residual blocks in each stage.
        spread: s, of the Gaussian reference, in the units of x; None leaves it out.
        spectral_norm: Whether the slope of each layer is bounded
            (`experts.neural.spectral_norm.normalize_spectrally`).

    Raises:
        ShapeError: For sides that cannot be halved once for each stage.

    References:
        Du & Mordatch (2019), Implicit generation and modeling with energy based models, appendix A,
        arXiv:1903.08689.

        Nijkamp, Hill, Zhu & Wu (2019), Learning non-convergent non-persistent short-run MCMC toward
        energy-based model, arXiv:1904.09770.

        Xie, Lu, Zhu & Wu (2016), A theory of generative ConvNet (the reference), arXiv:1602.03264.

    Example:
        >>> net = ResidualNetwork((8, 8), channels=(4, 8))
        >>> net(torch.zeros(5, 8, 8)).shape
        torch.Size([5])
    """

    @checked
    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        *,
        blocks: int = 1,
        spread: float | None = 10.0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.channels = sizes("channels", channels)
        if not self.channels:
            raise poe.PoeError("expected channels of at least one stage, got none")
        self.shape, self.blocks = require_halvable(shape, len(channels)), whole("blocks", blocks, 0)
        self.spread = None if spread is None else number("spread", spread, positive)
        self.spectral_norm = spectral_norm
        colours, height, width = self.shape if len(self.shape) == 3 else (1, *self.shape)
        stages: list[nn.Module] = []
        for before, after in itertools.pairwise((colours, *self.channels)):
            stages.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            stages += [ResidualBlock(after) for _ in range(blocks)]
        self.stages = nn.Sequential(*stages)
        places = (height * width) >> 2 * len(self.channels)
        self.last = nn.Linear(self.channels[-1] * places, 1)
        if spectral_norm:
            normalize_spectrally(self)

    def forward(self, x: Tensor) -> Tensor:
        """f(x).

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch,)``.
        """
        batch = x.shape[: x.ndim - len(self.shape)]
        colours = self.shape[0] if len(self.shape) == 3 else 1
        images = x.reshape(-1, colours, *self.shape[-2:])
        h = F.silu(self.stages(images.contiguous(memory_format=torch.channels_last)))
        value = self.last(h.flatten(1))[:, 0] + reference(images.flatten(1), self.spread)
        return value.reshape(batch)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        hold(self)
        return self


def require_halvable(shape: Sequence[int], times: int) -> tuple[int, ...]:
    """The shape itself, if it is that of an image whose sides can be halved so often.

    Args:
        shape: ``(height, width)`` or ``(colours, height, width)``.
        times: How often.

    Returns:
        The shape.

    Raises:
        ShapeError: Where it is not.
    """
    shape = sizes("shape", shape)
    if len(shape) not in (2, 3) or any(side % 2**times for side in shape[-2:]):
        raise ShapeError(
            f"expected images (height, width) or (colours, height, width) with sides divisible by "
            f"{2**times}, one halving for each number of channels, got {tuple(shape)}: pad them, "
            "or give fewer channels"
        )
    return tuple(shape)


poe.io.register_module(
    ResidualNetwork,
    ("shape", "channels", "blocks", "spread", "spectral_norm"),
    name="experts.neural.ResidualNetwork",
    formerly=("experts.residual.ResidualNetwork",),
)
