"""Whether a composition has a finite normaliser, where that can be decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import ImproperError
from poe.core.space import (
    Count,
    Positive,
    PositiveDefinite,
    Real,
    Space,
)
from poe.density.capabilities import Term, check_proper, combine, is_normalized, tails
from poe.density.closed_forms import family_of, terms_of
from poe.density.expert import Expert, Product, Tempered, is_power, is_product
from poe.structure.quadratic_forms import decide
from poe.structure.tails import (
    MAX_NUMBERS,
    all_sums,
    ends,
    name_direction,
    name_end,
)

MAX_CHOICES = 64
"""With more choices of components of mixtures than these, nothing is decided from their tails."""
ROUNDING = 1e-9
REMEDY = "use a smaller weight, or multiply by an expert that falls off faster there"


def is_proper(expert: Expert) -> bool | None:
    """Whether the normaliser is finite; None where that cannot be decided.

    A product is decided by its family, where all its experts are of one, and else by its tails
    (``poe.density.capabilities.tails``): by how fast −log p̃ grows, to leading order, towards
    infinity and towards the other ends of the space. ``poe.density.capabilities.check_proper``
    raises where this is False.

    >>> sharp, broad = (experts.Gaussian([0.0], scale=[s]) for s in (1.0, 2.0))
    >>> is_proper((sharp | broad) / broad**0.9), is_proper((sharp | broad) / sharp**0.9)
    (True, False)
    """
    try:
        if is_power(expert) or is_product(expert):
            return True if _is_proven(expert) else None
        check_proper(expert)
    except ImproperError:
        return False
    return True if is_normalized(expert) else None


def suspects(target: Expert) -> tuple[str, ...]:
    """The factors that may leave infinite mass: those of negative exponent, where none is proven.

    >>> sharp, broad = (experts.Gaussian([0.0], scale=[s]) for s in (1.0, 2.0))
    >>> suspects(sharp / broad), suspects(sharp / poe.FromLogDensity(abs, space=poe.Real(1)))
    ((), ('FromLogDensity',))
    """
    names = [
        name
        for name, factor in target._factors()
        if any(isinstance(m, Tempered) and m.exponent.item() < 0 for m in factor.modules())
    ]
    return () if not names or is_proper(target) else tuple(names)


def is_decided(target: Expert) -> bool:
    """Whether its normaliser is known to be finite; if not, infinite mass is to be looked for.

    >>> is_decided(experts.Gaussian([0.0], scale=[1.0]))
    True
    >>> is_decided(poe.FromEnergy(abs, space=poe.Real(1)))
    False
    """
    return target.space.num_values is not None or bool(is_proper(target))


@check_proper.register(Tempered)
@check_proper.register(Product)
def _(expert: Tempered | Product) -> None:
    _is_proven(expert)


def _is_proven(expert: Tempered | Product) -> bool:
    """Whether it is shown to be proper; raises ImproperError where it is shown not to be."""
    if any(tensor.is_meta for tensor in [*expert.parameters(), *expert.buffers()]):
        return False
    if expert.space.num_values is not None:  # a finite sum, infinite only where a term is
        return False
    with torch.no_grad():
        terms = terms_of(expert)
        is_one_family = len({family_of(term.expert) for term in terms}) == 1
        if is_one_family and combine(terms[0].expert, terms) is not None:
            return True
        _refuse_inverses(expert.space, terms)
        return _is_proven_by_tails(expert.space, _shares(terms))


def _refuse_inverses(space: Space, terms: Sequence[Term]) -> None:
    """Π p_i^(−w_i) of densities p_i, w_i ≥ 0, where the space itself has no finite measure.

    By Hölder's inequality ∞ = ∫ 1 ≤ Π (∫ p_i)^(w_i b) (∫ Π p_i^(−w_i))^b, b = 1 / (1 + Σ w_i).
    """
    if not isinstance(space, Real | Positive | PositiveDefinite | Count):
        return
    if all(t.exponent == 0 or (t.exponent < 0 and is_normalized(t.expert)) for t in terms):
        raise ImproperError(
            f"expected an expert with a positive exponent, as {space} has no finite measure; "
            f"{_named(terms)} alone leaves infinite mass towards infinity; multiply by an expert "
            "with a finite integral"
        )


class _Share(NamedTuple):
    """What a term adds to the growth of −log p̃: the least of ``growth`` ``(k, ...)``, or the most.

    The most where the exponent is negative, as it turns a minimum into a maximum.
    """

    term: Term
    growth: Tensor

    @property
    def is_least(self) -> bool:
        return self.term.exponent.item() > 0

    def of(self, values: Tensor) -> float:
        """The one of ``(k,)`` that counts."""
        return float(values.amin() if self.is_least else values.amax())


def _is_proven_by_tails(space: Space, shares: list[_Share]) -> bool:
    if not shares:
        return False
    none = torch.zeros_like(shares[0].growth[:1])
    least = all_sums([none, *(share.growth for share in shares if share.is_least)])
    most = all_sums([none, *(share.growth for share in shares if not share.is_least)])
    if least is None or most is None or not _is_affordable(least, most):
        return False
    if isinstance(space, Real):
        return _by_curvature(space, shares, least, most)
    decided = _by_orders if isinstance(space, Count) else _by_ends
    return decided(space, shares, least, most)


def _shares(terms: Sequence[Term]) -> list[_Share]:
    """Of the terms that have a say; none at all where the tails of one are not known."""
    shares = []
    for term in terms:
        if term.exponent != 0:
            found = tails(term.expert)
            if found is None:
                return []
            shares.append(_Share(term, term.exponent.to("cpu", torch.float64) * found))
    return shares


def _is_affordable(least: Tensor, most: Tensor) -> bool:
    pairs = len(least) * len(most)
    return (
        len(most) <= MAX_CHOICES
        and pairs <= 4 * MAX_CHOICES
        and (pairs * least[0].numel() <= MAX_NUMBERS)
    )


def _by_curvature(space: Space, shares: list[_Share], least: Tensor, most: Tensor) -> bool:
    """On Real: the curvature of −log p̃ far out, in every direction."""
    is_positive, u = decide(least, most)
    if u is not None:
        curvatures = [share.of((share.growth @ u) @ u) for share in shares]
        raise _improper(shares, curvatures, name_direction(u, space.event_shape))
    return is_positive


def _by_ends(space: Space, shares: list[_Share], least: Tensor, most: Tensor) -> bool:
    """Elsewhere: the powers of x at a finite end, the rate at infinity, beside their limits."""
    found = ends(space)
    assert found is not None
    margin = ROUNDING * (found.limit.abs() + sum(s.growth.abs().amax(0) for s in shares))
    excess = (least.amin(0) + most.amax(0) - found.limit) / margin.clamp(min=ROUNDING**2)
    worst = int(excess.argmin())
    if excess[worst] < -1:
        growths = [share.of(share.growth[:, worst]) for share in shares]
        raise _improper(shares, growths, name_end(worst, space))
    if space.event_shape.numel() == 1:  # one end at a time is all there is
        return bool((excess > 1).all())
    is_enough = least[:, None] + most > found.limit + margin
    return bool(is_enough.all(-1).any(1).all())


def _by_orders(space: Space, shares: list[_Share], least: Tensor, most: Tensor) -> bool:
    """On Count: the first of x log x, x and log x that differs from its limit."""
    found = ends(space)
    assert found is not None
    margin = ROUNDING * (found.limit + sum(share.growth.abs().amax(0) for share in shares))
    excess = least[:, None] + most - found.limit
    sign = _first_sign(*(part.unflatten(-1, (3, -1)) for part in (excess, margin)))
    is_infinite = (sign < 0).all(1).any(0)
    if bool(is_infinite.any()):
        exponents = [share.term.exponent.item() for share in shares]
        raise _improper(shares, exponents, name_end(int(is_infinite.int().argmax()), space))
    return bool((sign > 0).all(-1).any(1).all())


def _first_sign(excess: Tensor, margin: Tensor) -> Tensor:
    """Of the first order that is not 0; 0 where it is mere rounding: ``(..., 3, n) -> (..., n)``.

    >>> excess, margin = torch.tensor([[0.0, 0.0], [-2.0, 1e-20], [3.0, 1.0]]), torch.tensor(1e-9)
    >>> _first_sign(excess, margin)
    tensor([-1.,  0.])
    """
    first = (excess != 0).int().argmax(-2, keepdim=True)
    is_rounding = excess.abs() <= margin
    return excess.sign().masked_fill(is_rounding, 0.0).gather(-2, first).squeeze(-2)


def _improper(shares: list[_Share], growths: list[float], where: str) -> ImproperError:
    blamed = [share.term for share, growth in zip(shares, growths, strict=True) if growth < 0]
    return ImproperError(
        f"expected a product with a finite integral; {_named(blamed)} takes away more than the "
        f"others give {where}, so that there is infinite mass; {REMEDY}"
    )


def _named(terms: Sequence[Term]) -> str:
    return ", ".join(f"{term.name} ** {term.exponent.item():g}" for term in terms)
