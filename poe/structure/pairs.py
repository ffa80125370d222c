"""Densities of pairwise terms over spins or labels, as matrices of couplings."""

from __future__ import annotations

from poe.density.capabilities import LabelPairs, SpinPairs, label_pairs, spin_pairs
from poe.density.expert import Product, Tempered, experts_in


@spin_pairs.register
def _(expert: Product) -> SpinPairs | None:
    """All factors' pairs; fields add. None if one factor is None."""
    return SpinPairs.of_product([spin_pairs(factor) for factor in experts_in(expert.experts)])


@spin_pairs.register
def _(expert: Tempered) -> SpinPairs | None:
    """p^w: couplings and fields times w."""
    found = spin_pairs(expert.expert)
    return None if found is None else found.to_the_power(expert.exponent)


@label_pairs.register
def _(expert: Product) -> LabelPairs | None:
    """All factors' pairs; fields add. None if one factor is None."""
    return LabelPairs.of_product([label_pairs(factor) for factor in experts_in(expert.experts)])


@label_pairs.register
def _(expert: Tempered) -> LabelPairs | None:
    """p^w: couplings and fields times w."""
    found = label_pairs(expert.expert)
    return None if found is None else found.to_the_power(expert.exponent)
