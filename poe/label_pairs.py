"""What a model of labels is made of, where an expert is one: pairs that agree, and fields."""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from poe.expert import Expert, Product, Tempered, experts_in


class LabelPairs(NamedTuple):
    """log p̃(x) = Σ Jᵢⱼ [xᵢ = xⱼ] + Σ hᵢ(xᵢ) + constant, with x in {0, ..., k − 1}^n.

    - ``edges`` ``(2, m)`` int64: pairs of flattened elements, repeated or not;
    - ``couplings`` ``(m,)`` and ``fields`` ``(n, k)``.
    """

    edges: Tensor
    couplings: Tensor
    fields: Tensor

    @property
    def is_attractive(self) -> bool:
        """Whether no pair has a negative coupling."""
        return bool((self.couplings >= 0).all())

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
    found = [label_pairs(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        return None
    edges, couplings, fields = zip(*known, strict=True)
    return LabelPairs(torch.cat(edges, 1), torch.cat(couplings), torch.stack(fields).sum(0))


@label_pairs.register
def _(expert: Tempered) -> LabelPairs | None:
    """p^w: couplings and fields times w."""
    found = label_pairs(expert.expert)
    if found is None or expert.exponent.is_meta:
        return None
    weight = float(expert.exponent.detach())
    return LabelPairs(found.edges, weight * found.couplings, weight * found.fields)
