"""How heavy the tail of importance weights is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIOR_INDEX, PRIOR_DRAWS = 0.5, 10
"""A weak prior, worth so many draws, that keeps small samples steady."""


def tail_index(log_weights: Tensor) -> float:
    """The index k of the generalised Pareto distribution fitted to the largest weights ``(n,)``.

    Moments of order below 1 / k exist: beyond 0.5 the variance is infinite, beyond 0.7 the error of
    a mean cannot be told from the draws. −inf where no weight differs. Infinite where less than two
    weights are positive.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling",
    sections 2 and 3; the fit: Zhang & Stephens 2009.

    >>> u = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    >>> abs(tail_index(-0.9 * u.double().log()) - 0.9) < 0.1  # weights u^(−0.9)
    True
    """
    finite = log_weights[log_weights > -torch.inf].double()
    if len(finite) < 2:
        return math.inf
    size = int(min(0.2 * len(finite), 3 * math.sqrt(len(finite))))
    top = finite.sort().values[-max(size, 2) - 1 :]
    weights = (top - top[-1]).exp()
    excess = weights[1:] - weights[0]
    if bool(excess[-1] <= 1e-12):
        return -math.inf
    index = _fitted(excess.clamp(min=1e-300))
    n = len(excess)
    return (n * index + PRIOR_DRAWS * PRIOR_INDEX) / (n + PRIOR_DRAWS)


def _fitted(excess: Tensor) -> float:
    """The posterior mean of the index over a grid of the other parameter."""
    n = len(excess)
    grid_size = 30 + math.isqrt(n)
    steps = torch.arange(1, grid_size + 1, dtype=torch.float64, device=excess.device) - 0.5
    quartile = excess[(n + 2) // 4 - 1 if n > 2 else 0].clamp(min=1e-300)
    theta = 1 / excess[-1] + (1 - (grid_size / steps).sqrt()) / (3 * quartile)
    index = torch.log1p(-theta[:, None] * excess).mean(1)
    likelihood = n * ((-theta / index).log() - index - 1)
    weight = torch.softmax(likelihood.nan_to_num(-torch.inf), 0)
    return torch.log1p(-(weight @ theta) * excess).mean().item()
