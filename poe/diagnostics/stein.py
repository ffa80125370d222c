"""Kernel Stein discrepancy: how far draws are from a target, by its score alone (no log Z)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked, require_dimensions
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.core.randomness import resolve
from poe.diagnostics.components import DRAWS
from poe.diagnostics.weights import normalized_weights

NUMBERS_AT_ONCE = 2**21


class SteinTest(NamedTuple):
    """Whether draws may be the target's.

    Args:
        statistic: n KSD², a V-statistic, ``()`` in float64.
        p_value: Its bootstrap p-value, ``()``.
    """

    statistic: Tensor
    p_value: Tensor


@checked
def stein_discrepancy(
    samples: Tensor, scores: Tensor, *, log_weights: Tensor | None = None, length: float = 1.0
) -> Tensor:
    """KSD = √(Σ_ij w_i w_j k_p(x_i, x_j)) >= 0: a distance, zero only at the target itself.

    k_p is the Stein kernel of the inverse multiquadric k(x, y) = (length² + |x − y|²)^(−1/2),

        k_p = s_x·s_y k + s_x·∇_y k + s_y·∇_x k + ∇_x·∇_y k,  s = ∇ log p,

    which, unlike the Gaussian one, detects draws that fail to converge in any dimension.

    The diagonal i = j keeps it positive for a finite number of exact draws, as √(E k_p(x, x) / n):
    ``squared_stein_discrepancy`` has no such bias. Time is quadratic in the draws, memory linear.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        scores: The target's score there, of the same shape.
        log_weights: ``(chains, draws)``; by default all draws weigh the same.
        length: In the units of x; of the order of the target's own scale. A discrepancy is
            comparable only with others of the same length.

    Returns:
        The discrepancy, ``()`` in float64.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where the length is not positive and finite.

    References:
        Gorham & Mackey (2017), Measuring sample quality with kernels, eqs. 2 and 3, section 3.2,
        arXiv:1703.01717.

    Example:
        >>> x = torch.randn(4, 250, 1, generator=torch.Generator().manual_seed(0))
        >>> stein_discrepancy(x, -x) < stein_discrepancy(x + 0.5, -(x + 0.5))  # a standard normal
        tensor(True)
    """
    weights = _weights(samples, log_weights)
    return _sum(samples, scores, weights, length)[0].clamp(min=0).sqrt()


@checked
def squared_stein_discrepancy(
    samples: Tensor, scores: Tensor, *, log_weights: Tensor | None = None, length: float = 1.0
) -> Tensor:
    """KSD² without bias: Σ_{i≠j} w_i w_j k_p(x_i, x_j) / (1 − Σ w_i²), a U-statistic.

    Its expectation is zero at the target, so it may be negative. k_p is that of
    ``stein_discrepancy``.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        scores: The target's score there, of the same shape.
        log_weights: ``(chains, draws)``; by default all draws weigh the same.
        length: In the units of x; of the order of the target's own scale. A discrepancy is
            comparable only with others of the same length.

    Returns:
        The squared discrepancy, ``()`` in float64.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where the length is not positive and finite.

    References:
        Liu, Lee & Jordan (2016), A kernelized Stein discrepancy for goodness-of-fit tests, eq. 14,
        arXiv:1602.03253.

    Example:
        >>> x = torch.randn(4, 250, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(squared_stein_discrepancy(x, -x).item()) < 0.01
        True
    """
    weights = _weights(samples, log_weights)
    total, diagonal = _sum(samples, scores, weights, length)
    among_others = 1 - weights.square().sum()
    if not bool(among_others > 0):
        raise PoeError("expected weights of several draws, got one that has them all")
    return (total - diagonal) / among_others


@checked
def stein_test(
    samples: Tensor,
    scores: Tensor,
    *,
    length: float = 1.0,
    num_resamples: int = 1000,
    flip_probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> SteinTest:
    """The p-value of "these draws are the target's", by the wild bootstrap.

    n KSD² is compared with n⁻¹ Σ_ij ε_i ε_j k_p(x_i, x_j), where the signs ε are a Markov chain
    along the draws of each chain. k_p is that of ``stein_discrepancy``.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        scores: The target's score there, of the same shape.
        length: In the units of x; of the order of the target's own scale.
        num_resamples: How many draws of the signs, at least 1.
        flip_probability: How often a sign flips from one draw to the next, in (0, 1/2]: 1/2 for
            independent draws, smaller for autocorrelated ones (about the inverse of the
            autocorrelation time), since then neighbours err together. Better still, thin the draws
            first.
        generator: The source of the signs; a fresh one by default.

    Returns:
        The statistic and its p-value.

    Raises:
        PoeError: Where ``flip_probability`` is outside (0, 1/2], ``num_resamples`` < 1, or the
            length is not positive and finite.
        ShapeError: Where the shapes do not fit.

    References:
        Chwialkowski, Strathmann & Gretton (2016), A kernel test of goodness of fit, section 4,
        arXiv:1602.02964.

        Liu, Lee & Jordan (2016), A kernelized Stein discrepancy for goodness-of-fit tests,
        arXiv:1602.03253.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4, 100, 1, generator=g)
        >>> stein_test(x, -x, generator=g).p_value > 0.05, stein_test(2 * x, -2 * x).p_value < 0.01
        (tensor(True), tensor(True))
    """
    require_dimensions("samples", samples, DRAWS)
    if not 0 < flip_probability <= 0.5 or num_resamples < 1:
        raise PoeError(
            "expected a flip probability in (0, 1/2] and at least one resample, got "
            f"{flip_probability} and {num_resamples}"
        )
    signs = _signs(samples, num_resamples, flip_probability, resolve(generator, samples.device))
    n = len(signs)
    observed = samples.new_zeros((), dtype=torch.float64)
    resampled = samples.new_zeros(num_resamples, dtype=torch.float64)
    for rows, kernel in _blocks(samples, scores, length):
        observed += kernel.sum() / n
        resampled += (signs[rows] * (kernel @ signs)).sum(0) / n
    exceeding = (resampled >= observed).sum()
    return SteinTest(observed, (exceeding + 1) / (num_resamples + 1))


def _signs(
    samples: Tensor, count: int, flip_probability: float, generator: torch.Generator
) -> Tensor:
    """±1 that flip now and then along each chain: ``(chains * draws, count)``."""
    shape = (*samples.shape[:2], count)
    uniform = torch.empty(shape, device=samples.device).uniform_(generator=generator)
    flips = uniform < flip_probability
    flips[:, 0] = uniform[:, 0] < 0.5
    return (1.0 - 2.0 * (flips.cumsum(1) % 2)).double().flatten(0, 1)


def _weights(samples: Tensor, log_weights: Tensor | None) -> Tensor:
    """The weights, which sum to 1: ``(chains * draws,)``."""
    shape = samples.shape[:2]
    if log_weights is None:
        log_weights = samples.new_zeros(shape, dtype=torch.float64)
    if log_weights.shape != shape:
        raise ShapeError(
            f"expected log_weights of shape (chains, draws) = {tuple(shape)}, got "
            f"{tuple(log_weights.shape)}"
        )
    if not bool((log_weights < torch.inf).all()):
        raise NonFiniteError("expected log_weights that are numbers or -inf, got NaN or inf")
    return normalized_weights(log_weights).flatten()


def _sum(samples: Tensor, scores: Tensor, weights: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """Σ_ij w_i w_j k_p(x_i, x_j), and the part of it with i = j."""
    total, diagonal = weights.new_zeros(()), weights.new_zeros(())
    for rows, kernel in _blocks(samples, scores, length):
        total += weights[rows] @ (kernel @ weights)
        diagonal += weights[rows].square() @ kernel[:, rows].diagonal()
    return total, diagonal


def _blocks(samples: Tensor, scores: Tensor, length: float) -> Iterator[tuple[slice, Tensor]]:
    """The Stein kernel's matrix, some of its rows at a time: ``(rows, n)`` in float64."""
    if not 0 < float(length) * float(length) < float("inf"):
        raise PoeError(f"expected a positive finite length, whose square is so too, got {length}")
    if samples.shape != scores.shape or samples.ndim < 2:
        raise ShapeError(
            "expected samples and scores of one shape (chains, draws, *event), got "
            f"{tuple(samples.shape)} and {tuple(scores.shape)}"
        )
    if not bool((samples.isfinite() & scores.isfinite()).all()):
        raise NonFiniteError("expected samples and scores that are finite: leave out what is not")
    n = samples.shape[:2].numel()
    x = samples.detach().double().reshape(n, -1)
    x = x - x.mean(0)  # distances come from inner products, which are exact near the origin
    s = scores.detach().double().reshape(n, -1)
    count = max(1, NUMBERS_AT_ONCE // n)
    for first in range(0, n, count):
        rows = slice(first, min(first + count, n))
        yield rows, _stein_kernel(x[rows], s[rows], x, s, length)


def _stein_kernel(x: Tensor, s: Tensor, y: Tensor, t: Tensor, length: float) -> Tensor:
    """k_p of points x with scores s and points y with scores t: ``(n, m)``.

    s·t q^(−1/2) + ((s − t)·r + d) q^(−3/2) − 3 |r|² q^(−5/2), r = x − y and q = length² + |r|².
    """
    length = float(length)  # whose square a tensor can take, however large
    square = (x.square().sum(1)[:, None] - 2 * x @ y.T + y.square().sum(1)).clamp(min=0)
    pull = (s * x).sum(1)[:, None] - s @ y.T - x @ t.T + (t * y).sum(1)
    inverse = 1 / (length**2 + square)
    bracket = s @ t.T + (pull + x.shape[1] - 3 * square * inverse) * inverse
    return bracket * inverse.sqrt()
