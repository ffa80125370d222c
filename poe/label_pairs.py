"""What a model of labels is made of, where an expert is one: pairs that agree, and fields."""

from __future__ import annotations

from functools import singledispatch

from poe.expert import Expert, Product, Tempered, experts_in
from poe.pairs import Pairs


class LabelPairs(Pairs):
    """log p̃(x) = Σ Jᵢⱼ [xᵢ = xⱼ] + Σ hᵢ(xᵢ) + constant, with x in {0, ..., k − 1}^n.

    - ``edges`` ``(2, m)`` int64: pairs of flattened elements, repeated or not;
    - ``couplings`` ``(m,)`` and ``fields`` ``(n, k)``.
    """

    @property
    def is_attractive_and_aligned(self) -> bool:
        """Whether, beside, there is a label that every site's field likes best."""
        is_best = self.fields == self.fields.amax(1, keepdim=True)
        return self.is_attractive and bool(is_best.all(0).any())


@singledispatch
def label_pairs(expert: Expert) -> LabelPairs | None:
    """The couplings and fields of an expert on labels, or None if it has other terms.

    Families register here. Asked once, when a kernel is built: an exponent or a coupling that is
    changed later is not seen.

    >>> chain = experts.Potts([[0], [1]], 0.5, 0.0, 2, num_labels=3)
    >>> found = label_pairs(chain**2 * experts.Categorical([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> found.couplings, found.fields
    (tensor([1.]), tensor([[0., 1., 0.],
            [0., 0., 0.]]))
    """
    return None


@label_pairs.register
def _(expert: Product) -> LabelPairs | None:
    """All factors' pairs; fields add. None if one factor is None."""
    return LabelPairs.of_product([label_pairs(factor) for factor in experts_in(expert.experts)])


@label_pairs.register
def _(expert: Tempered) -> LabelPairs | None:
    """p^w: couplings and fields times w."""
    found = label_pairs(expert.expert)
    return None if found is None else found.to_the_power(expert.exponent)
