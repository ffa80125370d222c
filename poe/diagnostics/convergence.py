"""Whether chains agree (R-hat), and how far their averages may be off (MCSE)."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.diagnostics.components import by_component, split
from poe.diagnostics.ess import effective_size
from poe.diagnostics.ranks import argsort, normal_scores, scores_of_half_ranks


def r_hat(samples: Tensor) -> Tensor:
    """Rank-normalised split R-hat: ``(chains, draws, *event) -> (*event,)``; 1 when chains agree.

    The larger one of that of the values and that of their distances from the median, both by their
    normal scores. NaN for a single chain. Source: Vehtari et al. 2021, sections 4.1 and 4.2.

    >>> g = torch.Generator().manual_seed(0)
    >>> r_hat(torch.randn(4, 1000, 2, generator=g)).max().item() < 1.01
    True
    """
    if len(samples) < 2:
        return samples.new_full(samples.shape[2:], torch.nan, dtype=torch.float64)
    table = scores_of_half_ranks(len(samples) * 2 * (samples.shape[1] // 2), samples.device)
    return by_component(lambda x: _rank_r_hat(split(x), table), samples)


def mcse_mean(samples: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean: ``(chains, draws, *event) -> (*event,)``.

    >>> g = torch.Generator().manual_seed(0)
    >>> round(mcse_mean(torch.randn(4, 1000, generator=g)).item(), 3)
    0.016
    """
    return by_component(_mcse_mean, samples)


def mcse_sd(samples: Tensor) -> Tensor:
    """Monte Carlo standard error of the sd: ``(chains, draws, *event) -> (*event,)``.

    By the delta method from that of the variance. Source: Kenney & Keeping 1951, as in ArviZ.

    >>> g = torch.Generator().manual_seed(0)
    >>> round(mcse_sd(torch.randn(4, 1000, generator=g)).item(), 3)
    0.012
    """
    return by_component(_mcse_sd, samples)


def _rank_r_hat(x: Tensor, table: Tensor) -> Tensor:
    bulk = _r_hat(normal_scores(x, table))
    distance = (x.double() - _median(x)).abs()
    tail = _r_hat(normal_scores(distance, table))
    return torch.where(tail > bulk, tail, bulk)  # that of the tail is NaN for two values, say


def _r_hat(x: Tensor) -> Tensor:
    """√((B / W + n − 1) / n): ``(components, chains, draws) -> (components,)``."""
    n = x.shape[2]
    between, within = n * x.mean(2).var(1), x.var(2).mean(1)
    return ((between / within + n - 1) / n).sqrt()


def _median(x: Tensor) -> Tensor:
    """The median, midway between the two middle values: ``(components, 1, 1)``.

    There are two: halved chains have an even number of values in all.
    """
    rows = x.flatten(1)
    order = argsort(rows)
    middle = order[:, order.shape[1] // 2 - 1 : order.shape[1] // 2 + 1]
    return rows.gather(1, middle).double().mean(1)[:, None, None]


def _mcse_mean(x: Tensor) -> Tensor:
    x = x.double()
    return x.flatten(1).std(1) / effective_size(split(x)).sqrt()


def _mcse_sd(x: Tensor) -> Tensor:
    x = x.double()
    squares = (x - x.mean((1, 2), keepdim=True)).square()
    variance = squares.mean((1, 2))
    spread = squares.square().mean((1, 2)) - variance.square()
    return (spread / effective_size(split(squares)) / variance / 4).sqrt()
