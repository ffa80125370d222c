"""Differences of log-densities: of one target, where the normaliser cancels, or of two targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.density.expert import Expert, Mixture, Product, shared_space
from poe.density.normalized import Normalized
from poe.density.trials import require_no_batch_statistics
from poe.probabilities.normalize import Estimator, estimator_or_default
from poe.probabilities.normalizer_error import combined_error, sensitivities


class LogRatio(NamedTuple):
    """log p(x) − log q(x), with the error that their normalisers leave.

    Args:
        value: The log-ratio, ``(*batch,)``.
        std_error: Its standard error, ``(*batch,)``.
    """

    value: Tensor
    std_error: Tensor


@checked
def log_ratio(target: Expert, x: Tensor, x_prime: Tensor) -> Tensor:
    """The log-ratio of two points, log p̃(x) − log p̃(x'), where the normaliser cancels.

    Args:
        target: Any expert.
        x: Positions, ``(*batch, *event)``.
        x_prime: x', of the same shape.

    Returns:
        The ratio, ``(*batch,)``: −inf where only x is excluded, +inf where only x' is.

    Raises:
        ShapeError: Where the two shapes differ.
        NonFiniteError: Where a log-density is NaN or +inf, or both points are excluded: there the
            ratio does not exist.
        PoeError: For an expert with batch normalisation in training mode.

    Example:
        >>> g = experts.Gaussian([0.0], scale=[1.0])
        >>> log_ratio(g, torch.zeros(1, 1), torch.ones(1, 1))
        tensor([0.5000])
    """
    _require_same_shape(x, x_prime)
    require_no_batch_statistics(target)
    first, second = target(x), target(x_prime)
    _require_ratio(target, first, second)
    return first - second


@checked
def log_ratio_contributions(
    product: Product, x: Tensor, x_prime: Tensor, *, rows_at_once: int | None = None
) -> Tensor:
    """What each expert adds to the log-ratio of two points.

    c_i(x) − c_i(x') with c = ``product.contributions``; they sum to
    ``log_ratio(product, x, x_prime)``.

    Args:
        product: The product.
        x: Positions, ``(*batch, *event)``.
        x_prime: x', of the same shape.
        rows_at_once: So many pairs are evaluated together, which bounds the memory; by default all.

    Returns:
        Contributions, ``(*batch, n_experts)``, in the order of ``product.names``.

    Raises:
        PoeError: For what is no product, for less than one row at once, and for an expert with
            batch normalisation in training mode.
        ShapeError: Where the two shapes differ.
        NonFiniteError: Where a log-density is NaN or +inf, or both points are excluded.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[0.5])
        >>> log_ratio_contributions(poe.Product(a=a, b=b), torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[ 0.5000, -2.0000]])
    """
    if not isinstance(product, Product):
        raise PoeError(f"expected a product of experts, got {type(product).__name__}")
    if rows_at_once is not None and rows_at_once < 1:
        raise PoeError(f"expected rows_at_once >= 1, got {rows_at_once}")
    _require_same_shape(x, x_prime)
    require_no_batch_statistics(product)
    first, second = (_contributions(product, each, rows_at_once) for each in (x, x_prime))
    _require_ratio(product, first.sum(-1), second.sum(-1))
    return first - second


@checked
def log_prob_ratio(
    p: Expert,
    q: Expert,
    x: Tensor,
    *,
    estimator: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> LogRatio:
    """The log-ratio of two normalised targets at the same x, log p(x) − log q(x).

    A target whose normaliser is not known is normalised first; give a ``poe.Normalized`` to do that
    once. The standard error is that of all normalisers that were estimated (0 where none was); one
    that is part of both counts once, by the difference. Raises what ``poe.log_partition`` raises,
    too.

    Args:
        p: The target above.
        q: The target below, on the same space.
        x: Positions, ``(*batch, *event)``.
        estimator: How log Z is found, expert to ``poe.LogPartition``; by default
            ``poe.log_partition``.
        generator: The source of randomness of the default; a fresh one by default.

    Returns:
        The log-ratio and its standard error, ``(*batch,)`` each.

    Raises:
        SpaceMismatchError: Where the two live on different spaces.
        NonFiniteError: Where a log-density is NaN or +inf, or both exclude an x.

    Example:
        >>> p, q = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([0.0], scale=[1.0]) ** 2
        >>> log_prob_ratio(p, q, torch.zeros(1, 1))
        LogRatio(value=tensor([-0.3466]), std_error=tensor([0.]))
    """
    shared_space(("p", "q"), [p, q], "ratio")
    find = estimator_or_default(estimator, generator)
    first, second = (
        one if isinstance(one, Normalized | Mixture) else Normalized(one, find(one))
        for one in (p, q)
    )
    above, below = first(x), second(x)
    _require_density("x", above, first)
    _require_density("x", below, second)
    _require_one_inside(above, below, "both densities")
    slopes = sensitivities(first, x)
    for normalized, slope in sensitivities(second, x).items():
        slopes[normalized] = slopes.get(normalized, torch.zeros_like(slope)) - slope
    return LogRatio(above - below, combined_error(slopes, above))


def _contributions(product: Product, x: Tensor, rows_at_once: int | None) -> Tensor:
    if rows_at_once is None:
        return product.contributions(x)
    batch = product.space.batch_shape(x)
    rows = x.reshape(batch.numel(), *product.space.event_shape)
    parts = [product.contributions(part) for part in rows.split(rows_at_once)]
    return torch.cat(parts).reshape(*batch, len(product.names))


def _require_same_shape(x: Tensor, x_prime: Tensor) -> None:
    if x.shape != x_prime.shape:
        raise ShapeError(
            f"expected x and x_prime of the same shape, got {tuple(x.shape)} and "
            f"{tuple(x_prime.shape)}; use expand_as to repeat one of them"
        )


def _require_ratio(target: Expert, first: Tensor, second: Tensor) -> None:
    for name, value in (("x", first), ("x_prime", second)):
        _require_density(name, value, target)
    _require_one_inside(first, second, f"both points under {type(target).__name__}")


def _require_one_inside(first: Tensor, second: Tensor, where: str) -> None:
    both_excluded = (first == second) & first.isinf()
    if bool(both_excluded.any()):
        raise NonFiniteError(
            f"{int(both_excluded.sum())} of {first.numel()} pairs have log-density -inf at "
            f"{where}, so their ratio does not exist; compare points of which one lies in the "
            "support"
        )


def _require_density(name: str, value: Tensor, target: Expert) -> None:
    is_broken = value.isnan() | value.isposinf()
    if bool(is_broken.any()):
        raise NonFiniteError(
            f"{int(is_broken.sum())} of {value.numel()} log-densities at {name} are NaN or +inf "
            f"under {type(target).__name__}; look at target.contributions({name}) for the expert "
            "to blame"
        )
