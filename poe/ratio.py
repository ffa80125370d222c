"""Differences of log-densities, where the normaliser cancels."""

from __future__ import annotations

from torch import Tensor

from poe.errors import NonFiniteError, ShapeError
from poe.expert import Expert


def log_ratio(target: Expert, x: Tensor, x_prime: Tensor) -> Tensor:
    """log p̃(x) - log p̃(x'): `(*batch, *event)` twice `-> (*batch,)`.

    -inf where only x is excluded, +inf where only x' is. Raises `ShapeError` where the two shapes
    differ, and `NonFiniteError` where a log-density is NaN or +inf, or both points are excluded:
    there the ratio does not exist.

    >>> g = experts.Gaussian([0.0], scale=[1.0])
    >>> log_ratio(g, torch.zeros(1, 1), torch.ones(1, 1))
    tensor([0.5000])
    """
    if x.shape != x_prime.shape:
        raise ShapeError(
            f"expected x and x_prime of the same shape, got {tuple(x.shape)} and "
            f"{tuple(x_prime.shape)}; use expand_as to repeat one of them"
        )
    first, second = target(x), target(x_prime)
    for name, value in (("x", first), ("x_prime", second)):
        _require_density(name, value, target)
    both_excluded = (first == second) & first.isinf()
    if bool(both_excluded.any()):
        raise NonFiniteError(
            f"{int(both_excluded.sum())} of {first.numel()} pairs have log-density -inf at both "
            f"points under {type(target).__name__}, so their ratio does not exist; compare points "
            "of which one lies in the support"
        )
    return first - second


def _require_density(name: str, value: Tensor, target: Expert) -> None:
    is_broken = value.isnan() | value.isposinf()
    if bool(is_broken.any()):
        raise NonFiniteError(
            f"{int(is_broken.sum())} of {value.numel()} log-densities at {name} are NaN or +inf "
            f"under {type(target).__name__}; look at target.contributions({name}) for the expert "
            "to blame"
        )
