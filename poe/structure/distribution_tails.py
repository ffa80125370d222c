"""How fast the densities of ``torch.distributions`` fall off, as far as that is known."""

from __future__ import annotations

import copy
from functools import singledispatch

import torch
from torch import Tensor, distributions as D

from poe.core.space import Real
from poe.density.adapt import FromDistribution
from poe.density.capabilities import is_small, tails


@tails.register
def _(expert: FromDistribution) -> Tensor | None:
    if not is_small(expert.space) or any(tensor.is_meta for tensor in expert.buffers()):
        return None
    distribution = copy.deepcopy(expert.parts).to("cpu", torch.float64).build()
    is_real = isinstance(expert.space, Real)
    with torch.no_grad():
        if isinstance(distribution, D.MixtureSameFamily):
            found = _growth(distribution.component_distribution, is_real)
            has_say = distribution.mixture_distribution.logits > -torch.inf
            return None if found is None else found[has_say].unique(dim=0)
        found = _growth(distribution, is_real)
        return None if found is None else found[None]


def _growth(distribution: D.Distribution, is_real: bool) -> Tensor | None:
    """``(*batch, d, d)`` on Real, else ``(*batch, m)``."""
    if isinstance(distribution, D.MultivariateNormal):
        return torch.cholesky_inverse(distribution.scale_tril)
    found = at_ends(distribution)
    if found is None:
        return None
    num_batch = len(distribution.batch_shape)
    vectors = found.movedim(-1, num_batch).flatten(num_batch)
    return vectors.diag_embed() if is_real else vectors


@singledispatch
def at_ends(distribution: D.Distribution) -> Tensor | None:
    """The growth of −log p at each end of each element: ``(*batch, *event, ends)``.

    >>> at_ends(D.Gamma(torch.tensor([3.0]), torch.tensor([2.0])))
    tensor([[2., 2.]])
    """
    return None


@at_ends.register(D.Independent)
def _(distribution: D.Independent[D.Distribution]) -> Tensor | None:
    return at_ends(distribution.base_dist)


@at_ends.register
def _(distribution: D.Normal) -> Tensor:
    return distribution.scale[..., None] ** -2


@at_ends.register(D.StudentT)
@at_ends.register(D.Cauchy)
@at_ends.register(D.Laplace)
def _(distribution: D.StudentT | D.Cauchy | D.Laplace) -> Tensor:
    """Slower than x²."""
    return torch.zeros_like(distribution.scale)[..., None]


@at_ends.register
def _(distribution: D.Exponential) -> Tensor:
    return torch.stack([torch.zeros_like(distribution.rate), distribution.rate], -1)


@at_ends.register
def _(distribution: D.Gamma) -> Tensor:
    return torch.stack([distribution.concentration - 1, distribution.rate], -1)


@at_ends.register
def _(distribution: D.Beta) -> Tensor:
    return torch.stack([distribution.concentration1, distribution.concentration0], -1) - 1


@at_ends.register
def _(distribution: D.Dirichlet) -> Tensor:
    return distribution.concentration[..., None] - 1


@at_ends.register
def _(distribution: D.Uniform) -> Tensor:
    return torch.zeros_like(torch.stack([distribution.low, distribution.high], -1))


@at_ends.register
def _(distribution: D.Poisson) -> Tensor:
    """By Stirling's formula: x log x − (1 + log λ) x + ½ log x."""
    ones = torch.ones_like(distribution.rate)
    return torch.stack([ones, -ones - distribution.rate.log(), 0.5 * ones], -1)


@at_ends.register
def _(distribution: D.Geometric) -> Tensor:
    zeros = torch.zeros_like(distribution.probs)
    return torch.stack([zeros, -torch.log1p(-distribution.probs), zeros], -1)


@at_ends.register
def _(distribution: D.NegativeBinomial) -> Tensor:
    """Of x^(r − 1) p^x."""
    rate, count = -distribution.probs.log(), distribution.total_count
    return torch.stack([torch.zeros_like(rate), rate, (1 - count).expand_as(rate)], -1)
