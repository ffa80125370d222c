"""What only some experts have, by `functools.singledispatch`; families register themselves."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from poe.errors import ImproperError, NormalizationError
from poe.expert import Expert, Product, Tempered


class Term(NamedTuple):
    """One factor of a product: log-density `exponent * expert(x)`."""

    name: str
    expert: Expert
    exponent: Tensor


class Simplified(NamedTuple):
    """An equal density in a simpler form: `original(x) == expert(x) + log_constant`."""

    expert: Expert
    log_constant: Tensor


@singledispatch
def combine(first: Expert, terms: Sequence[Term]) -> Simplified | None:
    """The product of `terms`, all of `first`'s class, as one expert; None where it is none.

    A family registers here that it is closed under products and powers. Raises `ImproperError`,
    naming the experts to blame, where the product has no finite normaliser.
    """
    return None


@singledispatch
def widen(expert: Expert, families: Set[type[Expert]]) -> Expert:
    """The same density as a member of a larger family, where that is one of `families`.

    >>> widen(experts.Exponential([2.0]), {experts.Gamma}).concentration
    tensor([1.])
    """
    return expert


@singledispatch
def distribute(factor: Expert, others: Sequence[Expert]) -> Simplified | None:
    """The product of a weighted sum and other experts as a weighted sum of products.

    None where the factor is no sum, or one of those products is not normalised in closed form.
    """
    return None


@singledispatch
def simplify(expert: Expert) -> Simplified:
    """The same density in the simplest known form; an improper product stays as it is.

    Experts of one family are merged, and mixtures multiplied out where all their products have a
    closed form. The value changes by rounding alone.

    >>> g = experts.Gaussian([0.0], scale=[1.0])
    >>> simplify(g * g).expert.scale
    tensor([0.7071])
    >>> simplify((g | g) * g).expert
    Mixture(
      2 components
      (experts): ModuleList(
        (0-1): 2 x Gaussian(Real(1), diagonal covariance)
      )
    )
    """
    return Simplified(expert, torch.zeros(()))


@simplify.register(Tempered)
@simplify.register(Product)
def _(expert: Tempered | Product) -> Simplified:
    merged, log_constant = merge(expert)
    factors = [factor for _, factor in merged._factors()]
    if len(factors) > 1:
        for index, factor in enumerate(factors):
            found = distribute(factor, factors[:index] + factors[index + 1 :])
            if found is not None:
                return Simplified(found.expert, log_constant + found.log_constant)
    return Simplified(merged, log_constant)


def merge(expert: Expert) -> Simplified:
    """The same density with the experts of each family merged into one."""
    families: dict[type[Expert], list[Term]] = {}
    for term in terms_of(expert):
        families.setdefault(type(term.expert), []).append(term)
    combined = {family: _combine_if_proper(terms) for family, terms in families.items()}
    if all(simple is None for simple in combined.values()):
        return Simplified(expert, torch.zeros(()))
    factors: list[Expert] = []
    log_constant = torch.zeros(())
    for family, terms in families.items():
        simple = combined[family]
        if simple is None:
            factors += [t.expert if _is_plain(t) else t.expert**t.exponent for t in terms]
        else:
            factors.append(simple.expert)
            log_constant = log_constant + simple.log_constant
    return Simplified(factors[0] if len(factors) == 1 else Product(*factors), log_constant)


@singledispatch
def in_tractable_parts(expert: Expert) -> Expert:
    """The same density as a product with a factor that can be sampled exactly.

    Estimates of log Z start at that factor. The expert as it is, where no such factor is known.

    >>> magnet = experts.Ising.grid((20, 20), coupling=0.4, periodic=True)
    >>> in_tractable_parts(magnet).names
    ('strips', 'between')
    """
    return expert


@singledispatch
def is_normalized(expert: Expert) -> bool:
    """Whether the normaliser is known in closed form, so that `log_prob` exists."""
    return hasattr(expert, "log_prob")


@singledispatch
def exact_log_partition(expert: Expert) -> Tensor | None:
    """log of the integral of p̃ in closed form, or None where there is none.

    An expert with `log_prob` whose own log-density is not normalised registers here, such that
    `expert(x) - exact_log_partition(expert) == expert.log_prob(x)`.
    """
    return torch.zeros(()) if hasattr(expert, "log_prob") else None


@exact_log_partition.register(Tempered)
@exact_log_partition.register(Product)
def _(expert: Tempered | Product) -> Tensor | None:
    check_proper(expert)
    simple, log_constant = simplify(expert)
    if isinstance(simple, Tempered | Product):
        return None
    inner = exact_log_partition(simple)
    return None if inner is None else inner + log_constant


@singledispatch
def can_sample_exactly(expert: Expert) -> bool:
    """Whether `exact_sample` works for this expert."""
    return hasattr(expert, "sample")


def exact_sample(
    expert: Expert, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Independent exact draws: `(num_samples, *event)`.

    Raises `NormalizationError` where there is no exact sampler, `ImproperError` where there is
    nothing to sample.
    """
    check_proper(expert)
    if not can_sample_exactly(expert):
        raise NormalizationError(
            f"{type(expert).__name__} has no exact sampler; use poe.sample(expert, num_samples)"
        )
    return expert.sample(num_samples, generator=generator)


def is_source(expert: Expert) -> bool:
    """Whether it has both exact draws and a known normaliser: what estimates can start from."""
    return can_sample_exactly(expert) and exact_log_partition(expert) is not None


def require_source(start: Expert) -> Tensor:
    """log Z of what an estimate starts from: `()`; raises `NormalizationError` for no source."""
    log_z = exact_log_partition(start) if can_sample_exactly(start) else None
    if log_z is None:
        raise NormalizationError(
            f"expected a start with exact draws and a known normaliser, got "
            f"{type(start).__name__}: give a Gaussian, a flow or an autoregressive expert"
        )
    return log_z


def samplable_factor(target: Expert) -> tuple[str, Expert] | None:
    """The first factor with a positive exponent that can be sampled exactly, with its name."""
    for name, factor in target._factors():
        is_positive = True
        while isinstance(factor, Tempered):
            is_positive = is_positive and factor.exponent.item() > 0
            factor = factor.expert
        if is_positive and can_sample_exactly(factor):
            return name, factor
    return None


@singledispatch
def check_proper(expert: Expert) -> None:
    """Raise `ImproperError` where the expert can be shown to have no finite normaliser.

    Where nothing can be decided this returns in silence; samplers then watch for escape. How it is
    decided: ``poe.proper.is_proper``.
    """


def terms_of(expert: Expert) -> list[Term]:
    """The factors of a product, those of smaller families as members of larger ones beside them."""
    product = Product(expert)
    factors = [factor for _, factor in product._factors()]
    terms = [_term(name, factor) for name, factor in zip(product.names, factors, strict=True)]
    families = frozenset(type(term.expert) for term in terms)
    return [term._replace(expert=widen(term.expert, families)) for term in terms]


def _term(name: str, expert: Expert) -> Term:
    exponent = torch.ones((), dtype=torch.float64)
    while isinstance(expert, Tempered):
        exponent = exponent * expert.exponent
        expert = expert.expert
    return Term(name, expert, exponent)


def _combine_if_proper(terms: list[Term]) -> Simplified | None:
    if len(terms) == 1 and _is_plain(terms[0]):
        return Simplified(terms[0].expert, torch.zeros(()))
    try:
        return combine(terms[0].expert, terms)
    except ImproperError:  # another factor may mend it, so the terms stay as they are
        return None


def _is_plain(term: Term) -> bool:
    """Whether the exponent is 1 and stays so."""
    return not term.exponent.requires_grad and bool(term.exponent == 1)
