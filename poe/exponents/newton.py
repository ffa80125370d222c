"""The maximum of a concave function of a few exponents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.errors import ImproperError
from poe.exponents.fitted import SAME

MAX_STEPS = 50
MAX_HALVINGS = 20
ENOUGH = 1e-6
"""The gain in nats of a step after which no other is needed: what is left falls quadratically."""


def maximise(objective: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """argmax_w f(w) of a concave, twice differentiable f, by damped Newton steps from ``weights``.

    Where f raises ``ImproperError`` it counts as −∞. Directions in which f is flat are left alone.

    Args:
        objective: f, ``(k,) -> ()``.
        weights: Where the steps begin, ``(k,)``.

    Returns:
        The maximiser, ``(k,)``.

    References:
        Boyd & Vandenberghe (2004), Convex optimization, algorithm 9.5.

    Example:
        >>> maximise(lambda w: -(w - 3).square().sum(), torch.zeros(2))
        tensor([3., 3.])
    """
    for _ in range(MAX_STEPS):
        gradient, curvature = derivatives(objective, weights)
        step = torch.linalg.pinv(curvature, rtol=SAME, hermitian=True) @ gradient
        slope = float(gradient @ step)
        if slope < ENOUGH:
            return weights + step
        following = _improved(objective, weights, step, slope)
        if following is None:  # what is left to gain is less than rounding
            break
        weights = following
    return weights


def derivatives(objective: Callable[[Tensor], Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient ``(k,)`` and the negative Hessian ``(k, k)``."""
    with torch.inference_mode(False), torch.enable_grad():
        w = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(w), w, create_graph=True)
        rows = [
            torch.autograd.grad(g, w, retain_graph=True, materialize_grads=True)[0]
            if g.requires_grad
            else torch.zeros_like(w)
            for g in gradient
        ]
    return gradient.detach(), -torch.stack(rows)


def _improved(
    objective: Callable[[Tensor], Tensor], weights: Tensor, step: Tensor, slope: float
) -> Tensor | None:
    """The first of the halved steps that gains enough, if one does."""
    before, length = float(objective(weights)), 1.0
    for _ in range(MAX_HALVINGS):
        following = weights + length * step
        if _value(objective, following) > before + 1e-4 * length * slope:
            return following
        length /= 2
    return None


def _value(objective: Callable[[Tensor], Tensor], weights: Tensor) -> float:
    try:
        return float(objective(weights))
    except ImproperError:
        return -torch.inf
