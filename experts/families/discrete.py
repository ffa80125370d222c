"""Exponential families on bits, labels and counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import poe
from experts.families.exponential_family import Samplable
from experts.parameters import ArrayLike, alike, positive, real
from poe.core.arguments import checked, require_dimensions
from poe.core.errors import ShapeError
from poe.core.randomness import choose
from poe.density.capabilities import (
    Conditionals,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
)
from poe.structure.elements import ElementLogDensity, element_log_density


class Bernoulli(Samplable):
    """p(x) = σ(θ)^x (1 − σ(θ))^(1−x) for x in {0, 1}, independently for each element.

    T = x, A = Σ log(1 + e^θ).

    Args:
        logits: θ = log p(1) − log p(0), ``(*event)``, finite: a probability of 0 or 1 is no member.

    Raises:
        PoeError: Where a logit is not finite, or requires a gradient: what is learned goes to
            ``with_natural``.

    Example:
        >>> Bernoulli([0.0]).log_prob(torch.tensor([[1.0]]))
        tensor([-0.6931])
    """

    @checked
    def __init__(self, logits: ArrayLike) -> None:
        (logits,) = alike(real, logits=logits)
        super().__init__(logits, poe.Binary(tuple(logits.shape)))

    @property
    def logits(self) -> Tensor:
        """log p(1) − log p(0), ``(*event)``."""
        return self.natural

    def statistics(self, x: Tensor) -> Tensor:
        return x.to(self.natural.dtype)

    def log_partition(self, natural: Tensor) -> Tensor:
        return torch.logaddexp(natural, torch.zeros_like(natural)).sum()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        shape = (num_samples, *self.natural.shape)
        return torch.bernoulli(self.natural.sigmoid().expand(shape), generator=generator)


@conditionals.register
def _(expert: Bernoulli) -> Conditionals:
    """The logits, whatever the other elements are."""
    edges = torch.empty((2, 0), dtype=torch.int64, device=expert.logits.device)
    return Conditionals(edges, 0, lambda x, uniforms: expert.logits.expand_as)


@spin_pairs.register
def _(expert: Bernoulli) -> SpinPairs:
    """θx = (θ/2) s + θ/2: half the logits as fields, and no couplings."""
    logits = expert.logits.detach().flatten()
    edges = torch.empty((2, 0), dtype=torch.int64, device=logits.device)
    return SpinPairs(edges, logits.new_empty(0), logits / 2)


class Categorical(Samplable):
    """p(x) = softmax(θ)ₓ for x in 0 ... k − 1, independently for each element.

    T = the one-hot vector of x, A = Σ log Σ e^θ.

    Args:
        logits: θ, log p up to a constant of each element, ``(*event, k)``, finite.

    Raises:
        PoeError: Where a logit is not finite, or requires a gradient: what is learned goes to
            ``with_natural``.
        ShapeError: Where there is no dimension for the classes.

    Example:
        >>> Categorical([0.0, 0.0]).log_prob(torch.tensor([1]))
        tensor([-0.6931])
    """

    @checked
    def __init__(self, logits: ArrayLike) -> None:
        (logits,) = alike(real, logits=logits)
        if logits.ndim == 0:
            raise ShapeError("expected logits of shape (*event, k), got ()")
        super().__init__(logits, poe.Categorical(tuple(logits.shape[:-1]), logits.shape[-1]))

    @property
    def logits(self) -> Tensor:
        """log p up to a constant, ``(*event, k)``."""
        return self.natural

    def statistics(self, x: Tensor) -> Tensor:
        k = self.natural.shape[-1]
        return F.one_hot(x.long().clamp(0, k - 1), k).to(self.natural.dtype)

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The log-density as a smooth function of the one-hot encoding, θ'z − log Σ e^θ.

        Args:
            z: One-hot vectors, or weights between, ``(*batch, *event, k)``.

        Returns:
            log p, ``(*batch,)``.
        """
        natural = self.natural
        terms = z.reshape(*z.shape[: z.ndim - natural.ndim], -1) @ natural.flatten()
        return terms - self.log_partition(natural)

    def log_partition(self, natural: Tensor) -> Tensor:
        return natural.logsumexp(-1).sum()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        rows = self.natural.softmax(-1).reshape(-1, self.natural.shape[-1])
        draws = choose(rows, num_samples, generator=generator)
        return draws.T.reshape(num_samples, *self.natural.shape[:-1])


@label_pairs.register
def _(expert: Categorical) -> LabelPairs:
    """The logits as fields, and no couplings."""
    fields = expert.logits.detach().reshape(-1, expert.logits.shape[-1])
    edges = torch.empty((2, 0), dtype=torch.int64, device=fields.device)
    return LabelPairs(edges, fields.new_empty(0), fields)


class Poisson(Samplable):
    """p(x) = λ^x e^(−λ) / x! for counts x, independently for each element.

    θ = log λ, T = x, h = 1 / x!, A = Σ λ.

    Exponents that sum to 1 give a Poisson, others do not, as h does not come out as h.

    Args:
        rate: λ, the mean count, ``(*event)``, positive.

    Raises:
        PoeError: Where a rate is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.

    Example:
        >>> product = Poisson([1.0]) ** 0.5 * Poisson([4.0]) ** 0.5
        >>> poe.simplify(product).expert.rate
        tensor([2.])
    """

    @checked
    def __init__(self, rate: ArrayLike) -> None:
        (rate,) = alike(positive, rate=rate)
        super().__init__(rate.log(), poe.Count(tuple(rate.shape)))

    @property
    def rate(self) -> Tensor:
        """λ, ``(*event)``."""
        return self.natural.exp()

    def statistics(self, x: Tensor) -> Tensor:
        return x.to(self.natural.dtype)

    @property
    def has_base_measure(self) -> bool:
        """Whether h is anything but 1: it is 1 / x!."""
        return True

    def log_base_measure(self, x: Tensor) -> Tensor:
        return -(self.statistics(x) + 1).lgamma().sum(tuple(range(-self.natural.ndim, 0)))

    def log_partition(self, natural: Tensor) -> Tensor:
        return natural.exp().sum()

    def tails(self, natural: Tensor) -> Tensor:
        ones = torch.ones_like(natural)  # by x log x, x and log x, of Stirling's formula
        return torch.stack([ones, -ones - natural, 0.5 * ones]).flatten()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.rate.expand(num_samples, *self.rate.shape), generator=generator)


@element_log_density.register
def _(expert: Poisson) -> ElementLogDensity | None:
    if expert.natural.is_meta:
        return None
    natural = expert.natural.detach().double()
    return lambda x: natural * x.double() - natural.exp() - (x.double() + 1).lgamma()


@checked
def data_log_odds(data: Tensor) -> Tensor:
    """log p̂ − log(1 − p̂) of each column of bits, with half a row of each value added.

    Args:
        data: Rows of 0 and 1, ``(n, v)``, of any dtype.

    Returns:
        The log-odds ``(v,)``, float32, finite where a column has one value alone too.

    Example:
        >>> data_log_odds(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([1.6094, 0.0000])
    """
    require_dimensions("data", data, "(n, v)")
    if not data.is_meta and not bool(((data == 0) | (data == 1)).all()):
        raise poe.PoeError("expected rows of 0 and 1, got others: use (data > threshold).float()")
    ones = data.sum(0, dtype=torch.float64)
    return torch.log((ones + 0.5) / (len(data) - ones + 0.5)).float()
