"""Whether chains agree: R-hat, Monte Carlo standard errors, and chains apart from the others."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import checked, require_dimensions
from poe.diagnostics.components import DRAWS, by_component, grouped, require_log_density, split
from poe.diagnostics.ess import argsort, effective_size, normal_scores, scores_of_half_ranks

MAX_DISTANCE = 10.0
"""In robust sds: a chain's median is within one of them where chains mix, and within about five
where they do not, so that ten is no accident of slow mixing or of many components."""
MIN_CHAINS = 3
"""Of two chains that disagree, neither is the one that is far away."""
QUARTER = 0.75
NORMAL_DEVIATION = 1.1503
"""Three quarters of a normal law lie within this many sds of its median."""


@checked
def r_hat(samples: Tensor) -> Tensor:
    """Rank-normalised split R-hat of each component; 1 when chains agree.

    The larger one of that of the values and that of their distances from the median, both by their
    normal scores.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        R-hat, ``(*event,)`` in float64. NaN for a single chain, for fewer than four draws a chain,
        and where a component does not vary or is not finite.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, sections 4.1 and 4.2,
        doi:10.1214/20-BA1221.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> r_hat(torch.randn(4, 1000, 2, generator=g)).max().item() < 1.01
        True
    """
    require_dimensions("samples", samples, DRAWS)
    if len(samples) < 2:
        return samples.new_full(samples.shape[2:], torch.nan, dtype=torch.float64)
    return rank_r_hat(samples)


@checked
def nested_r_hat(samples: Tensor) -> Tensor:
    """R-hat of many short chains, by groups of them: √(B / W + 1), between and within groups.

    A chain of 78 draws is off from others by chance, which says nothing of all of them together:
    the split R-hat of 256 such chains that forget in two steps is 1.013. So chains are joined end
    to end to groups of 500 draws of each half, four at least, and these are compared as ``r_hat``
    compares chains. Of chains that are longer it is ``r_hat``.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        R-hat, ``(*event,)`` in float64. NaN for a single chain, for fewer than four draws a chain,
        and where a component does not vary or is not finite.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), Nested R-hat: assessing
        the convergence of Markov chain Monte Carlo when running many short chains,
        doi:10.1214/24-BA1453.

    Example:
        >>> x = torch.randn(256, 40, generator=torch.Generator().manual_seed(0))
        >>> nested_r_hat(x).item() < 1.01
        True
    """
    require_dimensions("samples", samples, DRAWS)
    if len(samples) < 2:
        return samples.new_full(samples.shape[2:], torch.nan, dtype=torch.float64)
    table = scores_of_half_ranks(len(samples) * 2 * (samples.shape[1] // 2), samples.device)
    return by_component(lambda x: _rank_r_hat(split(x), table, grouped), samples)


def _each_by_itself(x: Tensor) -> Tensor:
    return x


def rank_r_hat(samples: Tensor) -> Tensor:
    """``r_hat``, of a single chain as well: whether its halves agree. ``(*event,)``.

    >>> x = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    >>> rank_r_hat(x).item() < 1.01
    True
    """
    table = scores_of_half_ranks(len(samples) * 2 * (samples.shape[1] // 2), samples.device)
    return by_component(lambda x: _rank_r_hat(split(x), table), samples)


@checked
def mcse_mean(samples: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean of each component.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        The error, ``(*event,)`` in float64, in the units of x. NaN for fewer than four draws a
        chain, and where a component does not vary or is not finite.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> round(mcse_mean(torch.randn(4, 1000, generator=g)).item(), 3)
        0.016
    """
    return by_component(_mcse_mean, samples)


@checked
def mcse_sd(samples: Tensor) -> Tensor:
    """Monte Carlo standard error of the standard deviation of each component.

    By the delta method from that of the variance.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        The error, ``(*event,)`` in float64, in the units of x. NaN for fewer than four draws a
        chain, and where a component does not vary or is not finite.

    References:
        Kenney & Keeping (1951), Mathematics of statistics, as in ArviZ.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> round(mcse_sd(torch.randn(4, 1000, generator=g)).item(), 3)
        0.012
    """
    return by_component(_mcse_sd, samples)


def _rank_r_hat(
    x: Tensor, table: Tensor, arranged: Callable[[Tensor], Tensor] = _each_by_itself
) -> Tensor:
    bulk = scale_reduction(arranged(normal_scores(x, table)))
    distance = (x.double() - _median(x)).abs()
    tail = scale_reduction(arranged(normal_scores(distance, table)))
    return torch.where(tail > bulk, tail, bulk)  # that of the tail is NaN for two values, say


def scale_reduction(x: Tensor) -> Tensor:
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


@checked
def longest_stay(samples: Tensor, log_density: Tensor) -> Tensor:
    """The most consecutive draws that each chain spent in one place.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        log_density: The log-density at the draws, ``(chains, draws)``.

    Returns:
        The number of draws, ``(chains,)``, at least 1.

    Example:
        >>> x = torch.tensor([[1.0, 1.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])[..., None]
        >>> longest_stay(x, torch.zeros(2, 4))
        tensor([3, 1])
    """
    require_log_density(samples, log_density)
    chains, draws = log_density.shape
    x = samples.reshape(chains, draws, -1)
    has_moved = (x[:, 1:] != x[:, :-1]).any(2) | (log_density[:, 1:] != log_density[:, :-1])
    time = torch.arange(draws, device=samples.device).expand(chains, draws)
    arrival = torch.where(has_moved, time[:, 1:], 0).cummax(1).values
    return (torch.cat([time[:, :1], time[:, 1:] - arrival], 1) + 1).amax(1)


@checked
def distance_from_others(samples: Tensor, log_density: Tensor) -> Tensor:
    """How far each chain is from the others, in pooled robust sds.

    For each component, |median of the chain − median of the chains' medians| over a robust sd. A
    chain's own is the distance from that centre within which three quarters of its draws lie, over
    1.1503; it is measured by the upper quartile of those of the *other* chains. For the log-density
    likewise, where only a chain *below* the others counts and the sd is one nat at least (in one
    dimension it is smaller, and skewed). The largest of these.

    So one chain of three that went astray cannot hide itself, and a mode that holds more than a
    quarter of the chains is not called astray. Components of zero robust sd are left out.

    Args:
        samples: Draws, ``(chains, draws, *event)``.
        log_density: The log-density at the draws, ``(chains, draws)``.

    Returns:
        The distance, ``(chains,)`` in float64. Infinite where a chain has a NaN, or is mostly
        infinite; zero for fewer than three chains.

    Example:
        >>> x = torch.randn(5, 100, 1, generator=torch.Generator().manual_seed(0))
        >>> x[4] += 50
        >>> distance_from_others(x, torch.zeros(5, 100)) > 10
        tensor([False, False, False, False,  True])
    """
    require_log_density(samples, log_density)
    if len(samples) < MIN_CHAINS:
        return samples.new_zeros(len(samples), dtype=torch.float64)
    values = samples.detach().double().reshape(*log_density.shape, -1)
    position = _deviations(values).abs().amax(1)
    depth = -_deviations(log_density.detach().double()[..., None], least_sd=1.0).amin(1)
    distance = torch.maximum(position, depth.clamp(min=0))
    return torch.where(distance.isnan(), torch.inf, distance)


def _deviations(values: Tensor, least_sd: float = 0.0) -> Tensor:
    """Of each chain's median from the others', in robust sds: ``(chains, n, k) -> (chains, k)``."""
    medians = values.median(1).values  # NaN where one value is
    centre = medians.nanmedian(0).values
    count = math.ceil(QUARTER * values.shape[1])
    own = (values - centre).abs().kthvalue(count, 1).values / NORMAL_DEVIATION
    scale = _upper_quartile_of_others(own).clamp(min=least_sd)
    is_usable = centre.isfinite() & scale.isfinite() & (scale > 0)
    return torch.where(is_usable, (medians - centre) / scale, 0.0)


def _upper_quartile_of_others(values: Tensor) -> Tensor:
    """Of each column without the row itself: ``(chains, k) -> (chains, k)``."""
    place = math.ceil(QUARTER * (len(values) - 1))
    ordered = values.sort(0).values
    return torch.where(values <= ordered[place - 1], ordered[place], ordered[place - 1])
