"""Effective sample sizes by Geyer's initial sequence, of values and of their ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.arguments import checked, require_dimensions
from poe.diagnostics.components import DRAWS, by_component, extremes, split

_LOW_BITS = 2**32 - 1

_SIGN = 2**31
RESOLUTION = 1e-15
"""Values within this of each other count as one: their ESS is their number, as in ArviZ."""


def normal_scores(x: Tensor, table: Tensor) -> Tensor:
    """Normal scores z = Φ⁻¹((r − 3/8) / (n + 1/4)), r the rank among the component's n values.

    Equal values share the average of their ranks.

    Args:
        x: Values, ``(components, chains, draws)``.
        table: ``scores_of_half_ranks(chains * draws)``.

    Returns:
        Scores of the same shape, in float64.

    References:
        Blom (1958), Statistical estimates and transformed beta-variables.

        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, eq. 14,
        doi:10.1214/20-BA1221.

    Example:
        >>> x = torch.tensor([[[10.0, 20.0, 20.0, 30.0]]])
        >>> normal_scores(x, scores_of_half_ranks(4, x.device)).round(decimals=2)
        tensor([[[-1.0500,  0.0000,  0.0000,  1.0500]]], dtype=torch.float64)
    """
    rows = x.flatten(1)
    order = argsort(rows)
    place = _twice_average_ranks(rows.gather(1, order))
    scores = table.take(place)
    return torch.empty_like(scores).scatter_(1, order, scores).reshape(x.shape)


def scores_of_half_ranks(n: int, device: torch.device) -> Tensor:
    """The scores of 1, 1.5, 2, ..., n, all that an average rank can be: ``(2 n - 1,)``."""
    rank = torch.arange(2, max(2, 2 * n + 1), device=device, dtype=torch.float64) / 2
    return torch.special.ndtri((rank - 0.375) / (n + 0.25))


def argsort(rows: Tensor) -> Tensor:
    """The indices that sort each row of float32 or float64 values: ``(rows, n) -> (rows, n)``.

    The same as ``rows.argsort(1)`` up to the order of equal values, several times faster on a
    processor: non-negative integers in one dimension are sorted digit by digit, not by comparison.

    >>> argsort(torch.tensor([[0.5, -1.0, 0.25], [3.0, 1.0, 2.0]]))
    tensor([[1, 2, 0],
            [1, 2, 0]])
    """
    num_rows, n = rows.shape
    row = torch.arange(num_rows, device=rows.device)[:, None]
    if rows.dtype == torch.float32:
        high = _ordered_bits(rows.view(torch.int32)).long() + _SIGN
        order = (high + (row << 32)).flatten().argsort(stable=True)
    else:
        bits = _ordered_bits(rows.view(torch.int64))
        order = (bits & _LOW_BITS).flatten().argsort(stable=True)
        high = ((bits >> 32) + _SIGN + (row << 32)).flatten()
        order = order[high[order].argsort(stable=True)]
    return order.reshape(num_rows, n) - row * n


def _ordered_bits(bits: Tensor) -> Tensor:
    """Signed integers in the order of the floats that have these bits."""
    largest = torch.iinfo(bits.dtype).max
    return bits ^ ((bits >> (torch.iinfo(bits.dtype).bits - 1)) & largest)


def _twice_average_ranks(values: Tensor) -> Tensor:
    """Twice the ranks of sorted rows, counted from 0: ``(rows, n) -> (rows, n)``, integers.

    Only the values that are equal to a neighbour are looked at again: they are few.
    """
    num_rows, n = values.shape
    ranks = torch.arange(0, 2 * n, 2, device=values.device).repeat(num_rows, 1)
    is_equal = torch.zeros_like(values, dtype=torch.bool)  # to the value before it
    is_equal[:, 1:] = values[:, 1:] == values[:, :-1]
    later = is_equal.flatten().nonzero().flatten()
    is_new = torch.ones_like(later, dtype=torch.bool)
    is_new[1:] = later[1:] != later[:-1] + 1
    run = is_new.cumsum(0) - 1
    first, extra = later[is_new] - 1, torch.bincount(run)
    average = ranks.flatten()[first] + extra
    ranks.flatten()[first] = average
    ranks.flatten()[later] = average[run]
    return ranks


@checked
def ess_bulk(samples: Tensor) -> Tensor:
    """Effective sample size of the bulk of each component: that of the chains' normal scores.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        The size, ``(*event,)`` in float64. NaN where a component does not vary or is not finite, or
        the draws a chain are fewer than four.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, section 4,
        doi:10.1214/20-BA1221.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> 3000 < ess_bulk(torch.randn(4, 1000, generator=g)).item() < 5000
        True
    """
    require_dimensions("samples", samples, DRAWS)
    table = scores_of_half_ranks(len(samples) * 2 * (samples.shape[1] // 2), samples.device)
    return by_component(lambda x: effective_size(normal_scores(split(x), table)), samples)


@checked
def ess_tail(samples: Tensor) -> Tensor:
    """Effective sample size of the 5 and 95 % quantiles of each component.

    The smaller one of those of the two indicators x <= quantile.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        The size, ``(*event,)`` in float64. NaN where a component does not vary or is not finite, or
        the draws a chain are fewer than four.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, section 4.3,
        doi:10.1214/20-BA1221.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> 3000 < ess_tail(torch.randn(4, 1000, generator=g)).item() < 5000
        True
    """
    return by_component(_ess_tail, samples)


@checked
def ess_mean(samples: Tensor) -> Tensor:
    """Effective sample size for the mean of each component.

    That of the split chains' own values, which need a finite variance.

    Args:
        samples: Draws, ``(chains, draws, *event)``.

    Returns:
        The size, ``(*event,)`` in float64. NaN where a component does not vary or is not finite, or
        the draws a chain are fewer than four.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> 3000 < ess_mean(torch.randn(4, 1000, generator=g)).item() < 5000
        True
    """
    return by_component(lambda x: effective_size(split(x.double())), samples)


def effective_size(x: Tensor) -> Tensor:
    """n / τ of each component's chains, split or not.

    τ = −1 + 2 Σ_t ρ_t, with ρ from the variance within and between the chains, summed in pairs
    P_k = ρ_2k + ρ_2k+1 for as long as they are positive (and made to decrease); at least 1 /
    log10(n), which bounds what antithetic chains may claim.

    Args:
        x: Values, ``(components, chains, draws)``.

    Returns:
        The size, ``(components,)`` in float64.

    References:
        Geyer (1992), Practical Markov chain Monte Carlo, section 3.3, doi:10.1214/ss/1177011137.

        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, eqs. 10-13, as ArviZ
        computes them, doi:10.1214/20-BA1221.
    """
    num_chains, n = x.shape[1:]
    size = num_chains * n
    time = _autocorrelation_time(_autocorrelation(x)).clamp(min=1 / math.log10(size))
    low, high = extremes(x)
    return torch.where(high - low < RESOLUTION, float(size), size / time)


def _autocorrelation(x: Tensor) -> Tensor:
    """ρ_t over all chains, t = 0 ... draws − 1: ``(components, chains, draws) -> (components, t)``.

    The chains' spectra are averaged before the one transform back.
    """
    n = x.shape[2]
    means = x.mean(2, keepdim=True)
    length = _fast_length(2 * n)
    spectrum = torch.view_as_real(torch.fft.rfft(x - means, length)).square().mean(1).sum(-1)
    covariance = torch.fft.irfft(spectrum, length)[:, :n] / n
    within = covariance[:, :1] * n / (n - 1)
    total = covariance[:, :1] + means.squeeze(2).var(1, keepdim=True)
    rho = 1 - (within - covariance) / total
    rho[:, 0] = 1
    return rho


def _autocorrelation_time(rho: Tensor) -> Tensor:
    """τ by Geyer's sequences: ``(components, lags) -> (components,)``."""
    num_pairs = max(1, (rho.shape[1] - 1) // 2)  # the last lags are left out, as in ArviZ
    pairs = rho[:, : 2 * num_pairs].unflatten(1, (num_pairs, 2))
    sums = pairs.sum(2)
    is_end = ~(sums > 0)
    is_end[:, -1] = True
    end = is_end.int().argmax(1, keepdim=True)  # the first pair that is not positive
    is_before = torch.arange(num_pairs, device=rho.device) < end
    total = torch.where(is_before, sums.cummin(1).values, 0).sum(1)
    even, end_sum = pairs[:, :, 0].gather(1, end), sums.gather(1, end)
    rest = torch.where((even > 0) | (end_sum >= 0), even, 0).squeeze(1)
    return (2 * total + rest - 1).masked_fill(sums[:, 0].isnan(), math.nan)


def _fast_length(least: int) -> int:
    """The smallest 2^a times 1, 3, 5, 9 or 15 that is not below ``least``."""
    return min(odd << max(0, (-(-least // odd) - 1).bit_length()) for odd in (1, 3, 5, 9, 15))


def _ess_tail(x: Tensor) -> Tensor:
    low, high = (effective_size(split((x <= q).double())) for q in quantiles(x, (0.05, 0.95)))
    return torch.where(high < low, high, low)


def quantiles(x: Tensor, levels: tuple[float, ...]) -> list[Tensor]:
    """Quantiles of each component's values.

    The sum is written as in SciPy, since x is compared to it.

    Args:
        x: Values, ``(components, chains, draws)``.
        levels: In [0, 1].

    Returns:
        For each level ``(components, 1, 1)`` in float64.

    References:
        Hyndman & Fan (1996), Sample quantiles in statistical packages, type 7,
        doi:10.1080/00031305.1996.10473566.
    """
    rows = x.flatten(1)
    order = argsort(rows)
    n = rows.shape[1]
    found = []
    for level in levels:
        place = n * level + (1 - level)
        k = min(max(math.floor(place), 1), n - 1)
        part = min(max(place - k, 0.0), 1.0)
        below, above = rows.gather(1, order[:, k - 1 : k + 1]).double().unbind(1)
        found.append(((1 - part) * below + part * above)[:, None, None])
    return found
