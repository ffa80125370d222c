"""Experts that are Gaussian once their hidden variables are known: what block Gibbs draws from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from poe.core.arguments import require
from poe.density.conditional import Given
from poe.density.expert import At, Expert, Mixture, Product, Tempered, experts_in
from poe.density.latent import Chain, Marginal, Posterior
from poe.density.questions import keeps_default, question
from poe.density.transformed import Dequantized, Relaxed, Transformed
from poe.density.wrappers import Autocast


@runtime_checkable
class Linear(Protocol):
    """A linear map with its adjoint, and the diagonal of A' diag(w) A."""

    @property
    def out_shape(self) -> torch.Size:
        """Of A x, without its batch."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x: ``(n, *event) -> (n, *out_shape)``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A'y: ``(n, *out_shape) -> (n, *event)``."""

    def column_squares(self, weights: Tensor) -> Tensor:
        """The diagonal of A' diag(w) A: ``(n, *out_shape) -> (n, *event)``."""


class Weights(Protocol):
    """A symmetric positive semidefinite W on responses ``(n, *out_shape)``."""

    def times(self, responses: Tensor) -> Tensor:
        """W r, of the same shape."""

    def root(self, normals: Tensor) -> Tensor:
        """N(0, W) of standard normals, of the same shape."""

    def diagonal(self) -> Tensor:
        """The diagonal of A'WA, or what is near it and positive: ``(n, *event)``."""


class GaussianFactor(NamedTuple):
    """A factor p̃(x) = ∫ exp(−½ (A x − y)' W (A x − y)) dm(W): given W, x is Gaussian.

    Args:
        operator: A.
        target: y, ``(*out_shape)``, or what broadcasts to it.
        draw: W ~ p(W | x), of the responses A x ``(n, *out_shape)`` and uniforms of the same shape.
        is_fixed: Whether W is always the same, so that the factor itself is Gaussian.
    """

    operator: Linear
    target: Tensor
    draw: Callable[[Tensor, Tensor], Weights]
    is_fixed: bool = False


class Independent(NamedTuple):
    """W = diag(w): a precision for each response, ``(n, *out_shape)``, none negative."""

    operator: Linear
    precisions: Tensor

    def times(self, responses: Tensor) -> Tensor:
        return self.precisions * responses

    def root(self, normals: Tensor) -> Tensor:
        return self.precisions.sqrt() * normals

    def diagonal(self) -> Tensor:
        return self.operator.column_squares(self.precisions)


class Composed(NamedTuple):
    """A B, of two linear maps, B first."""

    first: Linear
    then: Linear

    @property
    def out_shape(self) -> torch.Size:
        return self.then.out_shape

    def __call__(self, x: Tensor) -> Tensor:
        return self.then(self.first(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.then.adjoint(y))

    def column_squares(self, weights: Tensor) -> Tensor:
        return self.first.column_squares(self.then.column_squares(weights))


class Through(NamedTuple):
    """The weights of responses to B x, as those of x."""

    first: Linear
    inner: Weights

    def times(self, responses: Tensor) -> Tensor:
        return self.inner.times(responses)

    def root(self, normals: Tensor) -> Tensor:
        return self.inner.root(normals)

    def diagonal(self) -> Tensor:
        return self.first.column_squares(self.inner.diagonal())


@question
def gaussian_factors(expert: Expert) -> tuple[GaussianFactor, ...] | None:
    """The factors of an expert that are Gaussian given hidden variables; None where one is not so.

    Families register here. Those of a product are those of all its experts.

    Args:
        expert: Any.

    Returns:
        A factor or more for each expert of a product; None where one of them has none.

    References:
        Andrews & Mallows (1974), Scale mixtures of normal distributions,
        doi:10.1111/j.2517-6161.1974.tb00989.x.

        Of products of linear responses: Welling, Hinton & Osindero (2003), Learning sparse
        topographic representations with products of Student-t distributions; Schmidt, Gao & Roth
        (2010), A generative perspective on MRFs in low-level vision.

    Example:
        >>> picture = experts.Gaussian(torch.zeros(2, 2), scale=1.0)
        >>> len(gaussian_factors(picture * picture))
        2
    """
    require("expert", expert, nn.Module)
    return None


@gaussian_factors.register
def _(expert: Product) -> tuple[GaussianFactor, ...] | None:
    found = [gaussian_factors(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    return tuple(one for part in known for one in part) if len(known) == len(found) else None


@gaussian_factors.register
def _(expert: At) -> tuple[GaussianFactor, ...] | None:
    """Of an expert that is read through a linear map."""
    first, found = expert.generator, gaussian_factors(expert.expert)
    if found is None or not isinstance(first, Linear):
        return None
    return tuple(_read_through(first, factor) for factor in found)


def _read_through(first: Linear, factor: GaussianFactor) -> GaussianFactor:
    def draw(responses: Tensor, uniforms: Tensor) -> Weights:
        return Through(first, factor.draw(responses, uniforms))

    return factor._replace(operator=Composed(first, factor.operator), draw=draw)


keeps_default(Tempered, "a power of a mixture of Gaussians is none", gaussian_factors)
keeps_default(Mixture, "one factor or another, not all of them", gaussian_factors)
for _moved in (Transformed, Dequantized, Relaxed):
    keeps_default(_moved, "read the expert at a linear map instead", gaussian_factors)
for _conditional in (Given, Chain, Marginal, Posterior):
    keeps_default(_conditional, "a conditional tells no Gaussian factors", gaussian_factors)
keeps_default(Autocast, "by rounding it is another density", gaussian_factors)
