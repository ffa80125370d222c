"""Masked convolutions: each pixel sees those before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.noised.embedding import LabelAndNoise, with_border


class CausalConv2d(nn.Conv2d):
    """A convolution that sees the rows above and, in its own row, what lies to the left.

    Shapes: (n, c, h, w) -> (n, c', h, w).

    Args:
        channels: c, of the input.
        out_channels: c', of the output.
        rows: How many rows the kernel covers, up to and including the pixel's own.
        reach: The kernel covers ``2 * reach + 1`` columns.
        sees_itself: Whether the pixel itself is seen; else it is hidden too (mask A).

    References:
        van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel recurrent neural networks, section
        3.4, arXiv:1601.06759.
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

    References:
        van den Oord et al. (2016), Conditional image generation with PixelCNN decoders, eq. 4,
        arXiv:1606.05328.
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
