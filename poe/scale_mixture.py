"""Experts that are Gaussian once their hidden weights are known: what block Gibbs draws from."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from poe.expert import Expert, Product, experts_in


class Linear(Protocol):
    """A linear map with its adjoint, and the diagonal of A' diag(w) A."""

    out_shape: torch.Size

    def __call__(self, x: Tensor) -> Tensor:
        """A x: ``(n, *event) -> (n, *out_shape)``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A'y: ``(n, *out_shape) -> (n, *event)``."""

    def column_squares(self, weights: Tensor) -> Tensor:
        """The diagonal of A' diag(w) A: ``(n, *out_shape) -> (n, *event)``."""


class ScaleMixture(NamedTuple):
    """A factor p̃(x) = ∫ exp(−½ Σⱼ wⱼ (A x − y)ⱼ²) dm(w), a mixture of Gaussians of responses A x.

    - ``operator``: A; ``target``: y ``(*out_shape)``, or what broadcasts to it;
    - ``draw``: w ~ p(w | x), of the responses ``(n, *out_shape)`` and uniforms of the same shape:
      precisions, not negative. Given w, x is Gaussian.
    """

    operator: Linear
    target: Tensor
    draw: Callable[[Tensor, Tensor], Tensor]


@singledispatch
def scale_mixtures(expert: Expert) -> tuple[ScaleMixture, ...] | None:
    """The factors of an expert as Gaussian scale mixtures; None where it is not made of such.

    Families register here. Those of a product are those of all its factors.

    Source: Andrews & Mallows 1974; of products of linear responses: Welling, Hinton & Osindero
    2003; Schmidt, Gao & Roth 2010.

    >>> blurred = experts.Gaussian(torch.zeros(2, 2), scale=1.0)
    >>> len(scale_mixtures(blurred * blurred))
    2
    """
    return None


@scale_mixtures.register
def _(expert: Product) -> tuple[ScaleMixture, ...] | None:
    found = [scale_mixtures(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    return tuple(one for part in known for one in part) if len(known) == len(found) else None
