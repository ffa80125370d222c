"""A multilayer perceptron with one smooth output, for neural energies of vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

import poe
from experts.neural.spectral_norm import hold, normalize_spectrally
from experts.parameters import number, positive, sizes
from poe.core.arguments import checked


class MultilayerPerceptron(nn.Module):
    r"""A network for ``NeuralEnergy``: SiLU layers, less a quadratic that keeps exp f integrable.

    .. math:: f(x) = w^\top h_L - \frac{\lVert x \rVert^2}{2 s^2}, \qquad
       h_l = \mathrm{SiLU}(W_l h_{l-1} + b_l), \quad h_0 = x

    SiLU is smooth, so the score is too, and Lipschitz, so the network grows at most linearly and
    the quadratic, a Gaussian reference, wins in every direction.

    Args:
        shape: Of x.
        hidden: Units of each hidden layer.
        spread: s, of the Gaussian reference, in the units of x; None leaves it out: then the
            density may be improper.
        spectral_norm: Whether the slope of each layer is bounded
            (`experts.neural.spectral_norm.normalize_spectrally`).

    References:
        LeCun, Chopra, Hadsell, Ranzato & Huang (2006), A tutorial on energy-based learning.

        Xie, Lu, Zhu & Wu (2016), A theory of generative ConvNet, eq. 1 (the reference),
        arXiv:1602.03264.

    Example:
        >>> net = MultilayerPerceptron((2,), hidden=(16, 16))
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    @checked
    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (128, 128),
        *,
        spread: float | None = 10.0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.hidden = sizes("shape", shape), sizes("hidden", hidden)
        self.spread = None if spread is None else number("spread", spread, positive)
        self.spectral_norm = spectral_norm
        widths = (math.prod(self.shape), *self.hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        if spectral_norm:
            normalize_spectrally(self)

    def forward(self, x: Tensor) -> Tensor:
        """f(x).

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch,)``.
        """
        rows = x.flatten(-len(self.shape)) if self.shape else x[..., None]
        return self.layers(rows)[..., 0] + reference(rows, self.spread)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        hold(self)
        return self


def reference(rows: Tensor, spread: float | None) -> Tensor:
    """The log-density of N(0, s² I), up to a constant.

    Args:
        rows: ``(*batch, n)``.
        spread: s; None for a constant density.

    Returns:
        ``(*batch,)``.
    """
    if spread is None:
        return rows.new_zeros(rows.shape[:-1])
    return rows.square().sum(-1) * (-0.5 / spread**2)


poe.io.register_module(
    MultilayerPerceptron,
    ("shape", "hidden", "spread", "spectral_norm"),
    name="experts.neural.MultilayerPerceptron",
    formerly=("experts.mlp.MultilayerPerceptron",),
)
