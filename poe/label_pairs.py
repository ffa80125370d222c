"""What a model of labels is made of, of powers and products."""

from __future__ import annotations

from poe.density.capabilities import LabelPairs, label_pairs
from poe.density.expert import Product, Tempered, experts_in


@label_pairs.register
def _(expert: Product) -> LabelPairs | None:
    """All factors' pairs; fields add. None if one factor is None."""
    return LabelPairs.of_product([label_pairs(factor) for factor in experts_in(expert.experts)])


@label_pairs.register
def _(expert: Tempered) -> LabelPairs | None:
    """p^w: couplings and fields times w."""
    found = label_pairs(expert.expert)
    return None if found is None else found.to_the_power(expert.exponent)
