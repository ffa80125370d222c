"""Weighted draws: their averages, and how many equally weighted ones they are worth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ENOUGH_CHAINS = 16
"""So many chains tell the error of their mean by their spread."""


class Moments(NamedTuple):
    """Of weighted draws, each of the event shape in float64."""

    mean: Tensor
    sd: Tensor
    mcse: Tensor


def normalized_weights(log_weights: Tensor) -> Tensor:
    """w_i = exp(log w_i) / Σ_j exp(log w_j) over all draws, in float64; the same shape.

    >>> normalized_weights(torch.tensor([[0.0, -torch.inf, 0.0]]))
    tensor([[0.5000, 0.0000, 0.5000]], dtype=torch.float64)
    """
    return log_weights.detach().double().flatten().softmax(0).reshape(log_weights.shape)


def kish_ess(log_weights: Tensor) -> Tensor:
    """1 / Σ w_i²: the equally weighted draws that are worth as much; a scalar. Source: Kish 1965.

    It sees the weights alone: neither that draws are copies of each other, nor what all miss.

    >>> kish_ess(torch.tensor([[0.0, 0.0, 0.0, -100.0]]))
    tensor(3., dtype=torch.float64)
    """
    return 1 / normalized_weights(log_weights).square().sum()


def weighted_moments(samples: Tensor, log_weights: Tensor) -> Moments:
    """Mean, sd, and the mean's standard error √(Σ_j (Σ_i w_ji (x_ji − mean))²) for chains j.

    From 16 chains on, only these count as independent of each other, their draws not: chains may
    be islands of particles. Of fewer chains the sum is Σ w_ji² (x_ji − mean)², as for independent
    draws. ``samples`` ``(chains, draws, *event)``, ``log_weights`` ``(chains, draws)``. A draw of
    weight zero has no say, whatever its value. Source: Owen 2013, section 9.2.

    >>> x = torch.tensor([[[1.0], [3.0], [torch.nan]]])
    >>> weighted_moments(x, torch.tensor([[0.0, 0.0, -torch.inf]])).mean
    tensor([2.], dtype=torch.float64)
    """
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
