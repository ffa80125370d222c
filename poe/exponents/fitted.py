"""What fitted exponents come to, and that they are never worse than the best expert alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, warn
from poe.core.errors import ImproperError, ShapeError
from poe.density.expert import Expert, Product, experts_in, named_product
from poe.density.nonfinite import require_finite_of_each

SAME = 1e-8
"""Directions in which experts differ by less, relative to the most, count as the same."""


class Estimate(NamedTuple):
    """Exponents and their standard errors: ``(k,)`` each."""

    weights: Tensor
    std_error: Tensor


class Loss(NamedTuple):
    """A criterion on the points held out, lower is better; its bounds are equal where it is exact.

    The bounds are those of the normaliser: that the points are few is not in them.
    """

    value: float
    lower: float
    upper: float


INFINITE = Loss(torch.inf, torch.inf, torch.inf)


@dataclass(frozen=True)
class FittedExponents:
    """Learned exponents of k experts, and how they did on the points held out.

    The choice is made on the held-out points, so ``loss`` flatters a little.

    Args:
        names: The experts.
        weights: Their exponents, times the present ones, ``(k,)``.
        std_error: Of the weights, ``(k,)``, from the spread of the points that were fitted and,
            where log Z is estimated, of the particles.
        product: With these exponents; experts of weight 0 are left out.
        criterion: What is minimised, in words.
        loss: Its value for ``product`` on the held-out points.
        alone: The same for every expert by itself, ``(k,)``; infinite where it has no normaliser.
        is_learned: False where the learned exponents lost and the best expert is returned.
    """

    names: tuple[str, ...]
    weights: Tensor
    std_error: Tensor
    product: Product
    criterion: str
    loss: float
    alone: Tensor
    is_learned: bool

    @property
    def best_alone(self) -> str:
        """The expert that does best by itself on the held-out points."""
        return self.names[int(self.alone.argmin())]

    def __str__(self) -> str:
        width = max(len("product"), *map(len, self.names))
        lines = [f"{'':<{width}}{'exponent':>12}{'+-':>10}{'held out':>12}   ({self.criterion})"]
        columns = (self.weights, self.std_error, self.alone)
        for name, *row in zip(self.names, *(c.tolist() for c in columns), strict=True):
            lines.append(f"{name:<{width}}{row[0]:>12.4g}{row[1]:>10.2g}{row[2]:>12.5g}")
        told = "" if self.is_learned else f"   ({self.best_alone} alone)"
        return "\n".join([*lines, f"{'product':<{width}}{self.loss:>34.5g}{told}"])


def weighted(product: Product, weights: Tensor) -> Product:
    """The product with every exponent times its weight ``(k,)``; those of weight 0 are left out."""
    rows = zip(product.names, experts_in(product.experts), weights.tolist(), strict=True)
    kept = [(name, expert**w) for name, expert, w in rows if w != 0]
    return named_product(tuple(name for name, _ in kept), [expert for _, expert in kept])


def said(product: Product, x: Tensor) -> Tensor:
    """What each expert says at x ``(n, *event)``, in float64 on the host: ``(n, k)``."""
    with torch.no_grad():
        values = product.contributions(x).to("cpu", torch.float64)
    require_finite(product, values)
    return values


def require_finite(product: Product, values: Tensor) -> None:
    """Raise `NonFiniteError`, naming the expert, where values ``(..., k)`` are not finite."""
    require_finite_of_each(
        product.names,
        values,
        "log-densities and scores at x",
        "leave out the points or the expert",
    )


def split(product: Product, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four fifths to fit, and at least one point held out."""
    if len(product.space.batch_shape(x)) != 1 or len(x) < 2:
        raise ShapeError(f"expected x of shape (n, *event) with n >= 2, got {tuple(x.shape)}")
    order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    num_held_out = max(1, len(x) // 5)
    return x[order[num_held_out:]], x[order[:num_held_out]]


def sandwich(hessian: Tensor, gradients: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """The standard errors of what makes the mean of n gradients zero.

    √diag(H⁺ (Cov(g) / n + N) H⁺), with the noise N of what else was estimated.

    Args:
        hessian: H, ``(k, k)``.
        gradients: g, ``(n, k)``.
        noise: N, ``(k, k)``, or a number.

    Returns:
        The standard errors, ``(k,)``; infinite where there is one point only.

    References:
        White (1982), Maximum likelihood estimation of misspecified models, theorem 3.2,
        doi:10.2307/1912526.
    """
    n = len(gradients)
    if n < 2:
        return gradients.new_full(gradients.shape[1:], torch.inf)
    centered = gradients - gradients.mean(0)
    inverse = torch.linalg.pinv(hessian, rtol=SAME, hermitian=True)
    covariance = inverse @ (centered.mT @ centered / (n * (n - 1)) + noise) @ inverse
    return covariance.diagonal().clamp(min=0).sqrt()


def never_worse(
    product: Product, learned: Estimate, loss: Callable[[Expert, Tensor], Loss], criterion: str
) -> FittedExponents:
    """The learned exponents, or the best expert's where they are not surely better held out.

    ``loss(target, weights)`` is the criterion of the product with those weights.
    """
    units = torch.eye(len(product.names), dtype=torch.float64)
    alone = [_or_infinite(product, w, loss) for w in units]
    best = min(range(len(alone)), key=lambda i: alone[i].value)
    found = _or_infinite(product, learned.weights, loss)
    if min(found.value, alone[best].value) == torch.inf:
        raise ImproperError(
            "expected a proper product or expert, got none; add an expert with a finite normaliser"
        )
    is_learned = found.upper < min(one.lower for one in alone)
    if not is_learned:
        found = alone[best]
        learned = Estimate(units[best], torch.zeros(len(units), dtype=torch.float64))
        text = (
            f"the learned exponents are not surely better on held-out points than "
            f"{product.names[best]} alone, whose weights are returned"
        )
        warn([Doubt(Kind.NOT_BETTER, text)])
    values = torch.tensor([one.value for one in alone], dtype=torch.float64)
    target = weighted(product, learned.weights)
    return FittedExponents(
        product.names, *learned, target, criterion, found.value, values, is_learned
    )


def _or_infinite(product: Product, weights: Tensor, loss: Callable[[Expert, Tensor], Loss]) -> Loss:
    """The loss, infinite where these weights make the product improper."""
    try:
        return loss(weighted(product, weights), weights)
    except ImproperError:
        return INFINITE
