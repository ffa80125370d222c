"""How powers, products and mixtures answer, and what is made of the answers.

Imported by ``poe`` for its rules, before any other module of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from poe.core.errors import DtypeError, ImproperError, NonFiniteError, NormalizationError, PoeError
from poe.density.capabilities import (
    Term,
    can_sample_exactly,
    check_proper,
    combine,
    conditionals,
    distribute,
    exact_log_partition,
    label_pairs,
    spin_pairs,
    tails,
    widen,
)
from poe.density.checks import GO_BACK, HALF, dtype_of, require_numbers
from poe.density.expert import (
    Expert,
    LogDensity,
    Mixture,
    Product,
    Sampler,
    Simplified,
    Tempered,
    conjunction,
    experts_in,
    is_known_sum,
    is_normalized,
    is_power,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    simplify,
)
from poe.density.one_hot import OneHotLogDensity
from poe.density.questions import is_altered, keeps_default
from poe.density.trials import training_layers

MAX_COMPONENTS = 1024
"""A product of mixtures with more than these is not multiplied out."""


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
    families: dict[object, list[Term]] = {}
    for term in terms_of(expert):
        families.setdefault(family_of(term.expert), []).append(term)
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


def family_of(expert: Expert) -> object:
    """What experts have in common that may be merged: their class; of an altered one, itself."""
    return expert if is_altered(expert) else type(expert)


def terms_of(expert: Expert) -> list[Term]:
    """The factors of a product, those of smaller families as members of larger ones beside them."""
    product = Product(expert)
    factors = [factor for _, factor in product._factors()]
    terms = [_term(name, factor) for name, factor in zip(product.names, factors, strict=True)]
    families = frozenset(type(term.expert) for term in terms)
    return [term._replace(expert=widen(term.expert, families)) for term in terms]


@log_prob_of.register(Tempered)
@log_prob_of.register(Product)
def _(expert: Tempered | Product) -> LogDensity | None:
    simple = simplify(expert).expert
    return None if isinstance(simple, Product | Tempered) else log_prob_of(simple)


@sampler_of.register(Tempered)
@sampler_of.register(Product)
def _(expert: Tempered | Product) -> Sampler | None:
    simple = simplify(expert).expert
    return None if isinstance(simple, Product | Tempered) else sampler_of(simple)


@exact_log_partition.register(Tempered)
@exact_log_partition.register(Product)
def _(expert: Tempered | Product) -> Tensor | None:
    check_proper(expert)
    simple, log_constant = simplify(expert)
    if isinstance(simple, Tempered | Product):
        return None
    inner = exact_log_partition(simple)
    return None if inner is None else inner + log_constant


@distribute.register
def _(factor: Mixture, others: Sequence[Expert]) -> Simplified | None:
    """(Σ wₖ pₖ) q = Σ wₖ Zₖ (pₖ q / Zₖ), with the log Zₖ of each product in closed form."""
    mixtures = [factor, *(other for other in others if isinstance(other, Mixture))]
    count = math.prod(len(mixture.experts) for mixture in mixtures)
    if count > MAX_COMPONENTS or not is_known_sum(factor):
        return None
    parts: list[Expert] = []
    log_weights: list[Tensor] = []
    for component, weight in zip(experts_in(factor.experts), factor.proportions, strict=True):
        simple, log_constant = simplify(Product(component, *others))
        if isinstance(simple, Product | Tempered):
            return None
        before, after = exact_log_partition(component), exact_log_partition(simple)
        if before is None or after is None:
            return None
        inner = simple if is_known_sum(simple) else Mixture([simple])
        parts += experts_in(inner.experts)
        log_weights.append(
            inner.proportions.double().log() + (weight.log() + log_constant + after - before)
        )
    return _weighted(parts, torch.cat(log_weights))


@log_prob_of.register
def _(expert: Mixture) -> LogDensity | None:
    """The log-density itself, where no component's normaliser is an estimate."""
    is_known = is_known_sum(expert) and all(map(is_normalized, experts_in(expert.experts)))
    return expert.__call__ if is_known else None


@sampler_of.register
def _(expert: Mixture) -> Sampler | None:
    """A component by what it counts in the density, and a draw of it; each log Z must be known."""
    samplers = [sampler_of(component) for component in experts_in(expert.experts)]
    weights = None if None in samplers else _shares(expert)
    if weights is None:
        return None

    def sample(num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return expert._sample(weights, num_samples, generator)

    return sample


def _shares(expert: Mixture) -> Tensor | None:
    """The mass of each component in the density as it is, of sum 1: wₖ Zₖ / Ẑₖ where Ẑₖ is given.

    None where the true Zₖ of one is not known.
    """
    components = experts_in(expert.experts)
    if all(estimate is None for estimate in expert.estimates):
        return expert.proportions if all(map(is_normalized, components)) else None
    with torch.no_grad():
        gaps = [
            _log_gap(component, estimate)
            for component, estimate in zip(components, expert.estimates, strict=True)
        ]
        known = [gap for gap in gaps if gap is not None]
        if len(known) < len(gaps):
            return None
        return (expert.proportions.double().log() + torch.tensor(known).double()).softmax(0)


def _log_gap(component: Expert, estimate: float | None) -> float | None:
    """log Z of a component as the mixture takes it, 0 where it is right; None if not known."""
    if estimate is None:
        return 0.0 if is_normalized(component) else None
    log_z = exact_log_partition(component)
    return None if log_z is None else float(log_z) - estimate


@log_density_of_one_hot.register
def _(expert: Mixture) -> OneHotLogDensity | None:
    """That of the sum; None where one component's, or its normaliser, is not known."""
    components = experts_in(expert.experts)
    found = [log_density_of_one_hot(component) for component in components]
    log_z = [
        exact_log_partition(component) if estimate is None else torch.tensor(estimate)
        for component, estimate in zip(components, expert.estimates, strict=True)
    ]
    parts = [(f, z) for f, z in zip(found, log_z, strict=True) if f is not None and z is not None]
    if len(parts) < len(components):
        return None

    def of_one_hot(z: Tensor) -> Tensor:
        values = [part(z) - constant.to(z) for part, constant in parts]
        return (torch.stack(values, -1) + expert.proportions.log().to(z)).logsumexp(-1)

    return of_one_hot


@check_proper.register
def _(expert: Mixture) -> None:
    for component, weight in zip(experts_in(expert.experts), expert.proportions, strict=True):
        if not weight.is_meta and weight > 0:
            check_proper(component)


@tails.register
def _(expert: Mixture) -> Tensor | None:
    components = zip(experts_in(expert.experts), expert.proportions.tolist(), strict=True)
    found = [tails(component) for component, weight in components if weight > 0]
    known = [part for part in found if part is not None]
    # Components that differ in their location alone have the same tails.
    return torch.cat(known).unique(dim=0) if known and len(known) == len(found) else None


@log_density_of_one_hot.register
def _(expert: Product) -> OneHotLogDensity | None:
    """The sum; None if one factor's is."""
    found = [log_density_of_one_hot(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        return None
    return lambda z: conjunction(torch.stack([part(z) for part in known]))


@log_density_of_one_hot.register
def _(expert: Tempered) -> OneHotLogDensity | None:
    """Times the exponent."""
    inner = log_density_of_one_hot(expert.expert)
    return None if inner is None else lambda z: expert.weigh(inner(z))


def exact_sample(
    expert: Expert, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Independent exact draws: `(num_samples, *event)`.

    Raises `NormalizationError` where there is no exact sampler, `ImproperError` where there is
    nothing to sample, `DtypeError` where draws are half precise.
    """
    require_numbers(expert)
    check_proper(expert)
    if not can_sample_exactly(expert):
        raise NormalizationError(
            f"{type(expert).__name__} has no exact sampler; use poe.sample(expert, num_samples)"
        )
    x = expert.sample(num_samples, generator=generator)
    if x.dtype in HALF:
        raise DtypeError(
            f"expected draws of float32 or float64 from {type(expert).__name__}, got {x.dtype}, "
            "whose probabilities are rounded as coarsely: use expert.float()"
        )
    return x


@torch.no_grad()
def require_agreement(target: Expert, x: Tensor) -> None:
    """Refuse an expert whose closed form is that of another density than it evaluates to.

    At some events, where they are numbers: the log-density, its simpler form, and ``log_prob`` with
    log Z must be the same to half of the digits. Experts in training mode are not asked.

    Args:
        target: An expert with a closed form.
        x: Events, ``(*batch, *event)``.

    Raises:
        NonFiniteError: Where the log-density is NaN.
        PoeError: Where two of them differ.

    >>> class Shifted(experts.Gaussian):
    ...     def log_prob(self, x):
    ...         return super().log_prob(x - 1)
    >>> require_agreement(Shifted([0.0], scale=[1.0]), torch.zeros(1, 1))
    Traceback (most recent call last):
    poe.PoeError: expected the log-density of Shifted and its log_prob to say the same, got -0.91...
    """
    if training_layers(target):
        return
    value = target(x)
    if bool(value.isnan().any()):
        raise NonFiniteError(
            f"expected a log-density that is a number, got NaN at {int(value.isnan().sum())} of "
            f"{value.numel()} events of {target.space}, from {_nan_sayers(target, x)}; {GO_BACK}"
        )
    size = 1 + torch.stack([factor(x).abs() for _, factor in target._factors()]).sum(0)
    simple, log_constant = simplify(target)
    if simple is not target:
        _require_same(target, "its simpler form", value, simple(x) + log_constant, size)
    log_prob, log_z = log_prob_of(target), exact_log_partition(target)
    if log_prob is not None and log_z is not None:
        _require_same(target, "its log_prob", value, log_prob(x) + log_z.to(value), size)


def _nan_sayers(target: Expert, x: Tensor) -> str:
    names = [repr(name) for name, factor in target._factors() if factor(x).isnan().any()]
    return f"expert {', '.join(names)}" if names else type(target).__name__


def _require_same(target: Expert, other: str, value: Tensor, said: Tensor, size: Tensor) -> None:
    digits = max(torch.finfo(value.dtype).eps, torch.finfo(said.dtype).eps) ** 0.5
    gap = (value - said).abs()
    is_wrong = value.isfinite() & said.isfinite() & (gap > digits * size)
    if bool(is_wrong.any()):
        raise PoeError(
            f"expected the log-density of {type(target).__name__} and {other} to say the same, got "
            f"{value[is_wrong][0].item():g} and {said[is_wrong][0].item():g} at one event: a "
            "method of its class or one put in its place is that of another density; override "
            "both or neither"
        )


def is_source(expert: Expert) -> bool:
    """Whether it has both exact draws and a known normaliser: what estimates can start from."""
    return can_sample_exactly(expert) and exact_log_partition(expert) is not None


def require_source(start: Expert) -> Tensor:
    """log Z of what an estimate starts from: `()`; raises `NormalizationError` for no source."""
    require_numbers(start)
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
        while is_power(factor):
            is_positive = is_positive and factor.exponent.item() > 0
            factor = factor.expert
        if is_positive and can_sample_exactly(factor):
            return name, factor
    return None


def _term(name: str, expert: Expert) -> Term:
    exponent = torch.ones((), dtype=torch.float64)
    while is_power(expert):
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


def _weighted(parts: Sequence[Expert], log_weights: Tensor) -> Simplified | None:
    """The mixture with these weights; None where one is too small for a number.

    It may count far from the others' components, and a simpler form says the same everywhere.
    """
    total = log_weights.logsumexp(0)
    weights = (log_weights - total).exp()
    if bool(((weights == 0) & log_weights.isfinite()).any()):
        return None
    mixture = Mixture(parts, weights)
    mixture.weights = weights  # in float64, of the larger range
    return Simplified(mixture, total.to(dtype_of(mixture.experts)))


keeps_default(Mixture, "0, where there is a log_prob", exact_log_partition)
keeps_default(
    Mixture,
    "the logarithm of a sum is no sum over elements or pairs",
    conditionals,
    spin_pairs,
    label_pairs,
)
