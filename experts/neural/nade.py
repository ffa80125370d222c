"""NADE: conditionals of a binary vector by hidden units that take in element after element."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.neural.made import both
from experts.parameters import whole
from poe import Binary, ShapeError
from poe.core.arguments import checked
from poe.io import register_module
from poe.structure.autoregressive import Autoregressive


class Activation(NamedTuple):
    """c + Σ W xₜ of the elements so far: ``(n, hidden)``."""

    a: Tensor


class NADE(Autoregressive):
    """The neural autoregressive distribution estimator on x in {0, 1}^n.

    p(xₜ = 1 | x₁ … xₜ₋₁) = σ(bₜ + Vₜ · hₜ), hₜ = σ(c + Σ_{s<t} W_s x_s).

    Elements are in row-major order. ``log_prob`` and a draw take O(n hidden) each. Values between 0
    and 1 are read as they are, so gradients exist at 0 and 1.

    Shapes: ``W, V (n, hidden)``, ``b (n,)``, ``c (hidden,)``.

    Args:
        shape: Of x, ``(*shape)`` of n elements; an int for a vector.
        hidden: How many hidden units there are.

    Raises:
        ShapeError: For no elements or hidden units.

    References:
        Larochelle & Murray (2011), The neural autoregressive distribution estimator, AISTATS,
        algorithm 1.

    Example:
        >>> model = NADE(4, hidden=8)
        >>> x = model.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    may_be_infinite = ()

    @checked
    def __init__(self, shape: int | tuple[int, ...], hidden: int = 64) -> None:
        super().__init__()
        self.space = Binary(shape)
        n = self.space.event_shape.numel()
        hidden = whole("hidden", hidden, 0)
        if n == 0 or hidden < 1:
            raise ShapeError(
                f"expected at least one element and one hidden unit, got shape {shape} and "
                f"hidden={hidden}"
            )
        self.W = nn.Parameter(nn.init.normal_(torch.empty(n, hidden), std=n**-0.5))
        self.V = nn.Parameter(nn.init.normal_(torch.empty(n, hidden), std=hidden**-0.5))
        self.b = nn.Parameter(torch.zeros(n))
        self.c = nn.Parameter(torch.zeros(hidden))

    def log_odds(self, x: Tensor) -> Tensor:
        """log p(xₜ = 1 | x₁ … xₜ₋₁) − log p(xₜ = 0 | x₁ … xₜ₋₁).

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch, n)``.
        """
        flat = self.space.as_vector(x).to(self.W.dtype)
        said = (flat[..., None] * self.W).cumsum(-2)
        before = F.pad(said[..., :-1, :], (0, 0, 1, 0))
        return self.b + ((self.c + before).sigmoid() * self.V).sum(-1)

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
        """log p(v | x₁ … xₜ₋₁), v = 0 and 1.

        Args:
            x: ``(*batch, *shape)``.

        Returns:
            ``(*batch, n, 2)``.
        """
        return both(self.log_odds(x))

    def begin(self, num_sequences: int) -> Activation:
        return Activation(self.c.expand(num_sequences, -1))

    def log_next(self, state: Activation, place: int) -> Tensor:
        return both(self.b[place] + state.a.sigmoid() @ self.V[place])

    def append(self, state: Activation, place: int, values: Tensor) -> Activation:
        return Activation(state.a + values[:, None].to(self.W) * self.W[place])

    def extra_repr(self) -> str:
        return f"{self.space}, hidden={self.W.shape[1]}"


register_module(
    NADE,
    lambda m: {"shape": tuple(m.space.event_shape), "hidden": m.W.shape[1]},
    name="experts.NADE",
    formerly=("experts.nade.NADE",),
)
