"""Weighted draws: their averages, and how many equally weighted ones they are worth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    """Mean, sd, and the mean's standard error √(Σ w_i² (x_i − mean)²), as for independent draws.

    ``samples`` ``(chains, draws, *event)``, ``log_weights`` ``(chains, draws)``. A draw of weight
    zero has no say, whatever its value. Source: Owen 2013, section 9.2.

    >>> x = torch.tensor([[[1.0], [3.0], [torch.nan]]])
    >>> weighted_moments(x, torch.tensor([[0.0, 0.0, -torch.inf]])).mean
    tensor([2.], dtype=torch.float64)
    """
    weights = normalized_weights(log_weights).flatten()
    has_say = weights != 0
    weights = weights[has_say]
    x = samples.detach().double().flatten(0, 1)[has_say]
    mean = torch.tensordot(weights, x, 1)
    squares = (x - mean).square()
    variance = torch.tensordot(weights, squares, 1)
    error = torch.tensordot(weights.square(), squares, 1)
    return Moments(mean, variance.sqrt(), error.sqrt())
