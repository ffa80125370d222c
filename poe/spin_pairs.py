"""What a spin model is made of, where an expert is one: pairs with their couplings, and fields."""

from __future__ import annotations

from functools import singledispatch

from poe.expert import Expert, Product, Tempered, experts_in
from poe.pairs import Pairs


class SpinPairs(Pairs):
    """log p̃(x) = Σ Jᵢⱼ sᵢ sⱼ + Σ hᵢ sᵢ + constant, with spins s = 2x − 1 of a binary event.

    - ``edges`` ``(2, m)`` int64: pairs of flattened elements, repeated or not;
    - ``couplings`` ``(m,)`` and ``fields`` ``(n,)``.
    """

    @property
    def is_attractive_and_aligned(self) -> bool:
        """Whether, beside, no two fields pull in different directions."""
        h = self.fields
        return self.is_attractive and bool((h >= 0).all() | (h <= 0).all())


@singledispatch
def spin_pairs(expert: Expert) -> SpinPairs | None:
    """The couplings and fields of a binary expert, or None if it has other terms.

    Families register here. Asked once, when a kernel is built: an exponent or a coupling that is
    changed later is not seen.

    >>> pair = experts.Ising([[0.0, 0.5], [0.5, 0.0]])
    >>> found = spin_pairs(pair**2 * experts.Bernoulli([0.5, -1.0]))
    >>> found.couplings, found.fields
    (tensor([1.]), tensor([ 0.2500, -0.5000]))
    """
    return None


@spin_pairs.register
def _(expert: Product) -> SpinPairs | None:
    """All factors' pairs; fields add. None if one factor is None."""
    return SpinPairs.of_product([spin_pairs(factor) for factor in experts_in(expert.experts)])


@spin_pairs.register
def _(expert: Tempered) -> SpinPairs | None:
    """p^w: couplings and fields times w."""
    found = spin_pairs(expert.expert)
    return None if found is None else found.to_the_power(expert.exponent)
