"""Weighted draws: moments, effective sizes, and the tail of the weights by a Pareto fit."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.diagnostics.components import require_log_density

ENOUGH_CHAINS = 16
"""So many chains tell the error of their mean by their spread."""


class Moments(NamedTuple):
    """Of weighted draws, each of the event shape in float64.

    Args:
        mean: The weighted mean.
        sd: The weighted standard deviation.
        mcse: The standard error of the mean.
    """

    mean: Tensor
    sd: Tensor
    mcse: Tensor


@checked
def normalized_weights(log_weights: Tensor) -> Tensor:
    """w_i = exp(log w_i) / Σ_j exp(log w_j) over all draws.

    Args:
        log_weights: log w, of any shape.

    Returns:
        w of the same shape, in float64; it sums to 1.

    Example:
        >>> normalized_weights(torch.tensor([[0.0, -torch.inf, 0.0]]))
        tensor([[0.5000, 0.0000, 0.5000]], dtype=torch.float64)
    """
    return log_weights.detach().double().flatten().softmax(0).reshape(log_weights.shape)


@checked
def kish_ess(log_weights: Tensor) -> Tensor:
    """1 / Σ w_i²: the equally weighted draws that are worth as much.

    It sees the weights alone: neither that draws are copies of each other, nor what all miss.

    Args:
        log_weights: log w, of any shape.

    Returns:
        The number of draws, ``()`` in float64.

    References:
        Kish (1965), Survey sampling.

    Example:
        >>> kish_ess(torch.tensor([[0.0, 0.0, 0.0, -100.0]]))
        tensor(3., dtype=torch.float64)
    """
    return 1 / normalized_weights(log_weights).square().sum()


@checked
def weighted_moments(samples: Tensor, log_weights: Tensor) -> Moments:
    """Mean, sd, and the mean's standard error √(Σ_j (Σ_i w_ji (x_ji − mean))²) for chains j.

    From 16 chains on, only these count as independent of each other, their draws not: chains may
    be islands of particles. The error is then times √(m / (m − 1)) for m chains. Of fewer chains
    the sum is Σ w_ji² (x_ji − mean)², as for independent draws. A draw of weight zero has no say,
    whatever its value.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        log_weights: log w, ``(chains, draws)``.

    Returns:
        The three, each ``(*event,)`` in float64.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, section 9.2.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [torch.nan]]])
        >>> weighted_moments(x, torch.tensor([[0.0, 0.0, -torch.inf]])).mean
        tensor([2.], dtype=torch.float64)
    """
    require_log_density(samples, log_weights)
    weights = normalized_weights(log_weights)
    weights = weights.reshape(*weights.shape, *([1] * (samples.ndim - 2)))
    x = torch.where(weights != 0, samples.detach().double(), 0.0)
    mean = (weights * x).sum((0, 1))
    residual = weights * (x - mean)
    variance = (residual * (x - mean)).sum((0, 1))
    return Moments(mean, variance.sqrt(), _standard_error(residual))


def _standard_error(residual: Tensor) -> Tensor:
    """Of the sum of weighted residuals ``(chains, draws, *event)``."""
    num_chains = len(residual)
    if num_chains < ENOUGH_CHAINS:
        return residual.square().sum((0, 1)).sqrt()
    return (num_chains / (num_chains - 1) * residual.sum(1).square().sum(0)).sqrt()


PRIOR_INDEX, PRIOR_DRAWS = 0.5, 10
"""A weak prior, worth so many draws, that keeps small samples steady."""


def tail_index(log_weights: Tensor) -> float:
    """The index k of the generalised Pareto distribution fitted to the largest weights.

    Moments of order below 1 / k exist: beyond 0.5 the variance is infinite, beyond 0.7 the error of
    a mean cannot be told from the draws.

    Args:
        log_weights: log w, ``(n,)``.

    Returns:
        k: −inf where no weight differs, infinite where less than two weights are positive.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, sections
        2 and 3, arXiv:1507.02646.

        The fit: Zhang & Stephens (2009), A new and efficient estimation method for the generalized
        Pareto distribution, doi:10.1198/tech.2009.08017.

    Example:
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
