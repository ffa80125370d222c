"""Densities whose elements are independent: log p̃(x) = Σᵢ fᵢ(xᵢ), element by element."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, distributions as D

from poe.density.adapt import FromDistribution
from poe.density.capabilities import is_normalized
from poe.density.expert import (
    Expert,
    Mixture,
    Product,
    Tempered,
    Wrapper,
    conjunction,
    experts_in,
    is_known_sum,
)
from poe.density.normalized import Normalized
from poe.density.questions import asked_of_a_class

ElementLogDensity = Callable[[Tensor], Tensor]
"""f: x ``(*batch, *event)`` to the log-density of each element, of the same shape, in float64."""


@asked_of_a_class
def element_log_density(expert: Expert) -> ElementLogDensity | None:
    """f with log p̃(x) = Σᵢ fᵢ(xᵢ); None where that is not known. Families register here.

    Asked once: an exponent or a parameter that is changed later is not seen.

    >>> f = element_log_density(experts.Poisson([1.0, 2.0]) ** 2)
    >>> f(torch.tensor([[0.0, 1.0]]))
    tensor([[-2.0000, -2.6137]], dtype=torch.float64)
    """
    return None


@element_log_density.register
def _(expert: Tempered) -> ElementLogDensity | None:
    inner, exponent = element_log_density(expert.expert), expert.exponent.detach().double()
    return None if inner is None else lambda x: exponent * inner(x)


@element_log_density.register
def _(expert: Product) -> ElementLogDensity | None:
    found = [element_log_density(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        return None
    return lambda x: conjunction(torch.stack([part(x) for part in known]))


@element_log_density.register
def _(expert: Normalized) -> ElementLogDensity | None:
    """Its normaliser in equal shares."""
    inner, size = element_log_density(expert.expert), expert.space.event_shape.numel()
    return None if inner is None else lambda x: inner(x) - expert.value.double() / size


@element_log_density.register
def _(expert: FromDistribution) -> ElementLogDensity | None:
    """Of independent univariate distributions."""
    if any(tensor.is_meta for tensor in (*expert.parameters(), *expert.buffers())):
        return None
    distribution = copy.deepcopy(expert.parts).double().build()
    while isinstance(distribution, D.Independent):
        distribution = distribution.base_dist
    if distribution.event_shape or isinstance(distribution, D.MixtureSameFamily):
        return None
    return lambda x: distribution.log_prob(x.double())


class InFloat64(Wrapper):
    """The same density, in float64 as far as its elements' own are known.

    What cancels in the log-density of a Poisson of mean 10^5 is lost in float32: 1 % of it.

    >>> poisson, x = experts.Poisson([1e5]), torch.tensor([[1e5]])
    >>> float(poisson(x)), round(float(InFloat64(poisson)(x)), 4)  # − ½ log(2 π 10^5)
    (-6.75, -6.6754)
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.space, self.expert = expert.space, expert
        self._ask = _in_float64(expert)

    def inner(self) -> Expert:
        """The expert, rounded as it is."""
        return self.expert

    def forward(self, x: Tensor) -> Tensor:
        return self._ask(x)


def _in_float64(expert: Expert) -> ElementLogDensity:
    f = element_log_density(expert)
    return _composed(expert) if f is None else lambda x: expert.space.as_vector(f(x)).sum(-1)


@asked_of_a_class
def _composed(expert: Expert) -> ElementLogDensity:
    return lambda x: expert(x).double()


@_composed.register
def _(expert: Tempered) -> ElementLogDensity:
    inner = _in_float64(expert.expert)
    return lambda x: expert.weigh(inner(x)).double()


@_composed.register
def _(expert: Product) -> ElementLogDensity:
    parts = [_in_float64(factor) for factor in experts_in(expert.experts)]
    return lambda x: conjunction(torch.stack([part(x) for part in parts]))


@_composed.register
def _(expert: Mixture) -> ElementLogDensity:
    components = experts_in(expert.experts)
    if not (is_known_sum(expert) and all(map(is_normalized, components))):
        return lambda x: expert(x).double()
    parts, log_weights = [_in_float64(each) for each in components], expert.proportions.log()
    return lambda x: (torch.stack([part(x) for part in parts], -1) + log_weights).logsumexp(-1)
