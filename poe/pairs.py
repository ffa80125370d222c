"""Models of pairs and fields, whatever a pair's coupling rewards: what products make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Couplings of pairs of elements, and fields of single ones.

    ``edges`` ``(2, m)`` int64: pairs of flattened elements, repeated or not; ``couplings``
    ``(m,)``; ``fields`` ``(n, ...)``, element by element. `SpinPairs` and `LabelPairs` say what
    they stand for.
    """

    edges: Tensor
    couplings: Tensor
    fields: Tensor

    @property
    def is_attractive(self) -> bool:
        """Whether no pair has a negative coupling."""
        return bool((self.couplings >= 0).all())

    def to_the_power(self, exponent: Tensor) -> Self | None:
        """Those of p^w, couplings and fields times w; None of an exponent without a value."""
        if exponent.is_meta:
            return None
        weight = float(exponent.detach())
        return self._replace(couplings=weight * self.couplings, fields=weight * self.fields)

    @classmethod
    def of_product(cls, parts: Sequence[Self | None]) -> Self | None:
        """All factors' pairs; fields add. None if one factor is None."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        edges, couplings, fields = zip(*known, strict=True)
        return cls(torch.cat(edges, 1), torch.cat(couplings), torch.stack(fields).sum(0))
