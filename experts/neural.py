"""Neural energies: any network's output as an unnormalised log-density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
import poe.io
from experts.noise import LabelAndNoise, NoisyConditional, constructor_arguments


class NeuralEnergy(poe.Expert):
    r"""An unnormalised density whose log is the output of a network.

    .. math:: \tilde p(x) = \exp f(x), \qquad E(x) = -f(x)

    ``net`` maps ``(*batch, *event)`` to ``(*batch,)``. The normaliser is unknown, so there is no
    ``log_prob``. Raises ``poe.ShapeError`` when called if the network returns another shape.

    >>> net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))
    >>> NeuralEnergy(net, poe.Real(2))(torch.ones(3, 2)).shape
    torch.Size([3])
    """

    def __init__(self, net: nn.Module, space: poe.Space) -> None:
        super().__init__()
        self.net = net
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.net(x)
        return value


class FeatureShift(nn.Module):
    """Convolution, then a shift and gain from an embedding, then SiLU.

    Shapes: (n, c, h, w), (n, e) -> (n, c', h, w).
    """

    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * out_channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        return F.silu(self.conv(h) * (1 + gain) + shift)


class Reconstruction(nn.Module):
    """A small U-shaped network with smooth activations: x (n, h, w), embedding -> (n, h, w)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        wide, wider = 2 * channels, 4 * channels
        self.enter = FeatureShift(2, channels, embedding)
        self.fine = FeatureShift(channels, channels, embedding)
        self.down = FeatureShift(channels, wide, embedding)
        self.middle = FeatureShift(wide, wide, embedding)
        self.deep = FeatureShift(wide, wider, embedding)
        self.deeper = FeatureShift(wider, wider, embedding)
        self.up = FeatureShift(wider + wide, wide, embedding)
        self.leave = FeatureShift(wide + channels, channels, embedding)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        # The second channel tells the network where the picture ends.
        image = torch.stack([x, torch.ones_like(x)], 1).to(memory_format=torch.channels_last)
        fine = self.fine(self.enter(image, embedding), embedding)
        middle = self.middle(self.down(F.avg_pool2d(fine, 2), embedding), embedding)
        deep = self.deeper(self.deep(F.avg_pool2d(middle, 2), embedding), embedding)
        middle = self.up(torch.cat([double(deep), middle], 1), embedding)
        fine = self.leave(torch.cat([double(middle), fine], 1), embedding)
        return self.last(fine)[:, 0]


def double(h: Tensor) -> Tensor:
    """Twice as many rows and columns, each value repeated."""
    return F.interpolate(h, scale_factor=2, mode="nearest")


class ReconstructionEnergy(NoisyConditional):
    r"""A conditional neural energy: how far x is from its own reconstruction.

    .. math:: f_\sigma(x \mid y) = -\frac{\lVert x - D(x, y, \sigma) \rVert^2}{2 \sigma^2},
       \qquad D = \frac{s^2 x + \sigma s\, \sqrt{s^2 + \sigma^2}\, r(x, y, \sigma)}{s^2 + \sigma^2}

    with a network r and the spread s of the data. Unnormalised. Trained by denoising score matching
    of its gradient, which is a true gradient field, unlike a free score network.
    Sources: Vincent 2011; Karras et al. 2022 (the form of D); Du et al. 2023, section 4 (energies).

    Shapes: x ``(*batch, height, width)`` with sides divisible by 4, label ``()`` or ``(batch,)``.
    Raises ``poe.ShapeError`` for sides that are not.

    >>> model = ReconstructionEnergy((8, 8), ["thin", "thick"], noise_level=0.1, channels=4)
    >>> model.given("thick")(torch.zeros(3, 8, 8)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        labels: Sequence[str],
        noise_level: float | Tensor,
        *,
        channels: int = 24,
        spread: float = 0.3,
    ) -> None:
        if any(side % 4 for side in shape):
            raise poe.ShapeError(
                f"expected sides divisible by 4, got {tuple(shape)}: pad the images"
            )
        super().__init__(poe.Real(shape), labels, noise_level)
        self.embed = LabelAndNoise(len(labels), 64)
        self.net = Reconstruction(channels, 64)
        self.spread = spread
        self.settings = {"channels": channels, "spread": spread}

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        embedding = self.embed(label, noise_level)
        level = noise_level[:, None, None]
        total = (self.spread**2 + level**2).sqrt()
        r = self.net(x / total, embedding)
        # (x - D) / sigma, written so that nothing is divided by a small number.
        residual = (x * level / total - self.spread * r) / total
        return -0.5 * residual.square().sum((-2, -1))


poe.io.register_module(ReconstructionEnergy, constructor_arguments)
poe.io.register(
    NeuralEnergy,
    lambda expert: {"net": expert.net, "space": expert.space},
    lambda fields: NeuralEnergy(**fields),
)
