"""An energy by the reconstruction of a convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts.noised.conditional import ANY, NoisyConditional, constructor_arguments
from experts.noised.embedding import NoiseEmbedding, with_border
from experts.parameters import number, positive, sizes, whole
from poe.core.arguments import checked, require_dimensions


class FeatureShift(nn.Module):
    """Convolution, then a shift and gain from an embedding, then SiLU.

    Args:
        channels: c, of the input.
        out_channels: c', of the output.
        embedding: e, numbers of an embedding.
    """

    @checked
    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        for name, count in (("channels", channels), ("embedding", embedding)):
            whole(name, count)
        whole("out_channels", out_channels)
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * out_channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """The features.

        Args:
            h: ``(n, c, height, width)``.
            embedding: ``(n, e)``.

        Returns:
            ``(n, c', height, width)``.
        """
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        return F.silu(self.conv(h) * (1 + gain) + shift)


class TwoScales(nn.Module):
    """The first layers of the networks here: features of an image, and of it at half its size."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.enter = FeatureShift(2, channels, embedding)
        self.fine = FeatureShift(channels, channels, embedding)
        self.down = FeatureShift(channels, 2 * channels, embedding)
        self.middle = FeatureShift(2 * channels, 2 * channels, embedding)

    def features(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, h, w), embedding (n, e) -> (n, c, h, w), (n, 2c, h/2, w/2)."""
        fine = self.fine(self.enter(with_border(x), embedding), embedding)
        return fine, self.middle(self.down(F.avg_pool2d(fine, 2), embedding), embedding)


class Reconstruction(TwoScales):
    """A small U-shaped network with smooth activations: x (n, h, w), embedding -> (n, h, w)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__(channels, embedding)
        wide, wider = 2 * channels, 4 * channels
        self.deep = FeatureShift(wide, wider, embedding)
        self.deeper = FeatureShift(wider, wider, embedding)
        self.up = FeatureShift(wider + wide, wide, embedding)
        self.leave = FeatureShift(wide + channels, channels, embedding)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        fine, middle = self.features(x, embedding)
        deep = self.deeper(self.deep(F.avg_pool2d(middle, 2), embedding), embedding)
        middle = self.up(torch.cat([double(deep), middle], 1), embedding)
        fine = self.leave(torch.cat([double(middle), fine], 1), embedding)
        return self.last(fine)[:, 0]


@checked
def double(h: Tensor) -> Tensor:
    """Twice as many rows and columns, each value repeated.

    Args:
        h: ``(n, c, height, width)``.

    Returns:
        ``(n, c, 2 height, 2 width)``.
    """
    require_dimensions("h", h, "(n, c, height, width)")
    if not h.is_floating_point():
        raise poe.DtypeError(f"expected floats, got {h.dtype}: use h.float()")
    return F.interpolate(h, scale_factor=2, mode="nearest")


class Posterior(TwoScales):
    """Logits of the label of an image: x (n, h, w), embedding (n, e) -> (n, labels)."""

    def __init__(self, num_labels: int, channels: int, embedding: int) -> None:
        super().__init__(channels, embedding)
        wider = 4 * channels
        self.last = nn.Sequential(
            nn.Linear(3 * channels, wider), nn.SiLU(), nn.Linear(wider, num_labels)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        fine, middle = self.features(x, embedding)
        return self.last(torch.cat([fine.mean((-2, -1)), middle.mean((-2, -1))], -1))


class ReconstructionEnergy(NoisyConditional):
    r"""A conditional neural energy: x's reconstruction error, and the posterior of its label.

    .. math:: f_\sigma(x \mid y) = f_\sigma(x) + \log p_\sigma(y \mid x), \qquad
       f_\sigma(x) = -\frac{\lVert x - D(x, \sigma) \rVert^2}{2 \sigma^2}, \qquad
       D = \frac{s^2 x + \sigma s\, \sqrt{s^2 + \sigma^2}\, r(x, \sigma)}{s^2 + \sigma^2}

    with a network r, the spread s, and a second network for the posterior. Under the last label,
    "any", it is :math:`f_\sigma(x)`: the exact marginal, as the posterior sums to one.
    Unnormalised. f is trained by denoising score matching of its gradient, which is a true gradient
    field, unlike a free score network; the posterior by cross-entropy.

    Shapes: x ``(*batch, height, width)``, label ``()`` or ``(batch,)``.

    Args:
        shape: Of an image x, ``(height, width)``, both divisible by 4.
        labels: Names of the values of y, the last of them "any".
        noise_level: σ, in the units of x, positive: one number, or ``(batch,)``, one for each
            chain.
        channels: Of the first layers; those at half the size have twice as many.
        spread: s, the spread of the data, in the units of x.

    Raises:
        ShapeError: For sides that are not divisible by 4.
        PoeError: Where the last label is not "any", and for a noise level that is not positive.

    References:
        Vincent (2011), A connection between score matching and denoising autoencoders,
        doi:10.1162/NECO_a_00142.

        Karras, Aittala, Aila & Laine (2022), Elucidating the design space of diffusion-based
        generative models (the form of D), arXiv:2206.00364.

        Grathwohl et al. (2020), Your classifier is secretly an energy based model and you should
        treat it like one, eq. 4 (one energy for x and its label), arXiv:1912.03263.

    Example:
        >>> labels = ["thin", "thick", "any"]
        >>> model = ReconstructionEnergy((8, 8), labels, noise_level=0.1, channels=4)
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
        channels: int = 24,
        spread: float = 0.3,
    ) -> None:
        channels, spread = whole("channels", channels), number("spread", spread, positive)
        if any(side % 4 for side in sizes("shape", shape)):
            raise poe.ShapeError(
                f"expected sides divisible by 4, got {tuple(shape)}: pad the images"
            )
        if not labels or labels[-1] != ANY:
            raise poe.PoeError(f"expected {ANY!r} as the last label, got {list(labels)}: add it")
        super().__init__(poe.Real(shape), labels, noise_level)
        self.embed = NoiseEmbedding(64)
        self.net = Reconstruction(channels, 64)
        if len(labels) > 1:
            self.embed_for_posterior = NoiseEmbedding(64)
            self.posterior = Posterior(len(labels) - 1, channels, 64)
        self.spread = spread
        self.settings = {"channels": channels, "spread": spread}

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        return self.log_marginal_at(x, noise_level) + self.log_ratio_at(x, label, noise_level)

    def log_marginal_at(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """f(x), whatever the label.

        Args:
            x: ``(n, height, width)``.
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n,)``.
        """
        level = noise_level[:, None, None]
        total = (self.spread**2 + level**2).sqrt()
        r = self.net(x / total, self.embed(noise_level))
        # (x - D) / sigma, written so that nothing is divided by a small number.
        residual = (x * level / total - self.spread * r) / total
        return -0.5 * residual.square().sum((-2, -1))

    def log_ratio_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        if len(self.labels) == 1:
            return torch.zeros_like(noise_level)
        known = self.log_posterior_at(x, noise_level)
        # "any" is certain.
        return torch.cat([known, torch.zeros_like(known[:, :1])], 1).gather(1, label[:, None])[:, 0]

    def log_posterior_at(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """log p(y | x) of every label but "any".

        Args:
            x: ``(n, height, width)``.
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n, labels - 1)``.
        """
        total = (self.spread**2 + noise_level[:, None, None] ** 2).sqrt()
        logits = self.posterior(x / total, self.embed_for_posterior(noise_level))
        return logits.log_softmax(-1)


poe.io.register_module(
    ReconstructionEnergy,
    constructor_arguments,
    name="experts.ReconstructionEnergy",
    formerly=("experts.neural.ReconstructionEnergy",),
)
