"""MADE: all conditionals of a binary vector by one pass of a masked network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.parameters import sizes
from poe import Binary, ShapeError
from poe.core.arguments import checked
from poe.io import register_module
from poe.structure.autoregressive import Autoregressive


class MaskedLinear(nn.Linear):
    """A linear layer in which some inputs have no say in some outputs: W * mask.

    Shapes: mask ``(out, in)``, boolean; x ``(*batch, in) -> (*batch, out)``.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Prefix(NamedTuple):
    """All elements ``(n, numel)``, those that are not there yet 0."""

    x: Tensor


class MADE(Autoregressive):
    """A masked autoencoder for distributions on x in {0, 1}^n.

    log p(x) = Σₜ xₜ aₜ − log(1 + exp(aₜ)), the log-odds aₜ a function of x₁ … xₜ₋₁: a network whose
    hidden unit of degree m sees elements 1 … m, and is seen by the outputs after m. Degrees go
    round 1 … n − 1. Beside it, every earlier element has a direct say in aₜ.

    Elements are in row-major order. ``log_prob`` takes one pass, ``sample`` n of them. Values
    between 0 and 1 are read as they are, so gradients exist at 0 and 1.

    Args:
        shape: Of x, ``(*shape)`` of n elements; an int for a vector.
        hidden: Units of each hidden layer; none of them leaves the direct say alone.

    Raises:
        ShapeError: For no elements, or a hidden layer without units.

    References:
        Germain, Gregor, Murray & Larochelle (2015), MADE: masked autoencoder for distribution
        estimation, sections 3 and 4, arXiv:1502.03509.

    Example:
        >>> model = MADE(4, hidden=(16,))
        >>> x = model.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    may_be_infinite = ()

    @checked
    def __init__(self, shape: int | tuple[int, ...], hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.space = Binary(shape)
        self.hidden = sizes("hidden", hidden, 0)
        n = self.space.event_shape.numel()
        if n == 0 or any(size < 1 for size in self.hidden):
            raise ShapeError(
                f"expected at least one element and one unit a layer, got shape {shape} and "
                f"hidden={self.hidden}"
            )
        places = torch.arange(1, n + 1)
        degrees = [places, *(_degrees(size, n) for size in self.hidden)]
        layers: list[nn.Module] = []
        for before, after in pairwise(degrees):
            layers += [MaskedLinear(after[:, None] >= before), nn.ReLU()]
        self.net = nn.Sequential(*layers, MaskedLinear(places[:, None] > degrees[-1]))
        self.direct = MaskedLinear(places[:, None] > places)

    def log_odds(self, x: Tensor) -> Tensor:
        """log p(xₜ = 1 | x₁ … xₜ₋₁) − log p(xₜ = 0 | x₁ … xₜ₋₁).

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch, n)``.
        """
        flat = self.space.as_vector(x).to(self.direct.weight.dtype)
        return self.net(flat) + self.direct(flat)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        log_odds = self.log_odds(x)
        flat = self.space.as_vector(x).to(log_odds.dtype)
        return (flat * log_odds - F.softplus(log_odds)).sum(-1)

    def log_conditionals(self, x: Tensor) -> Tensor:
        """log p(v | x₁ … xₜ₋₁), v = 0 and 1, by one pass.

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch, n, 2)``.
        """
        return both(self.log_odds(x))

    def begin(self, num_sequences: int) -> Prefix:
        return Prefix(self.direct.weight.new_zeros(num_sequences, self.direct.in_features))

    def log_next(self, state: Prefix, place: int) -> Tensor:
        x = state.x
        return both((self.net(x) + self.direct(x))[:, place])

    def append(self, state: Prefix, place: int, values: Tensor) -> Prefix:
        x = state.x.clone()
        x[:, place] = values.to(x)
        return Prefix(x)

    def extra_repr(self) -> str:
        return f"{self.space}, hidden={self.hidden}"


def both(log_odds: Tensor) -> Tensor:
    """log p of 0 and of 1.

    Args:
        log_odds: log p(1) − log p(0), ``(*batch,)``.

    Returns:
        ``(*batch, 2)``.
    """
    return torch.stack([F.logsigmoid(-log_odds), F.logsigmoid(log_odds)], -1)


def _degrees(size: int, n: int) -> Tensor:
    """How many elements each hidden unit sees: 1 … n − 1, round and round; 0 where n is 1."""
    return torch.arange(size) % max(1, n - 1) + min(1, n - 1)


register_module(
    MADE,
    lambda m: {"shape": tuple(m.space.event_shape), "hidden": m.hidden},
    name="experts.MADE",
    formerly=("experts.made.MADE",),
)
