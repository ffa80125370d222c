"""Whether chains agree beyond chance: R-hat and ESS of a few components, in bounded time."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from poe.diagnostics.components import MIN_DRAWS, extremes, group_shape, grouped, split
from poe.diagnostics.convergence import scale_reduction
from poe.diagnostics.ess import effective_size, normal_scores, scores_of_half_ranks

MAX_R_HAT = 1.01
"""Of Vehtari et al. 2021, section 4."""
FALSE_ALARMS = 0.01
"""How often chains that agree may be accused, over all components together."""
FORGETTING = 0.25
"""How much of a chain's second half its first may foretell: half a chain is some 2.5 times as long
as it remembers."""
SLOW = 4
"""Chains whose draws are worth a quarter of as many independent ones are not slow yet."""
VERY_SLOW = 16
"""A short chain's draws may be worth a sixteenth of as many independent ones before they are few:
the smallest of several ESS of 50 draws a chain comes out at half of their true one."""
NUMBERS = 2**15
"""So many are compared: a few components of many, and every few draws of very many."""
LEAST_DRAWS = 20
"""A chain is thinned to no fewer."""
LEAST_SERIES = 8
"""Draws are thinned before fewer series than this are compared."""
ESS_OF_A_CHAIN = 10.0
TAIL = NormalDist().inv_cdf(0.95)
"""The normal score of the quantiles of which the tail's ESS is."""


class Series(NamedTuple):
    """What is compared.

    Args:
        values: The log-density, and components of x: ``(chains, draws, series)`` in float32, each
            around its mean.
        num_components: Of which these were chosen.
        stride: Every so many draws of a chain are looked at.
    """

    values: Tensor
    num_components: int
    stride: int


class Agreement(NamedTuple):
    """What a comparison of chains came to.

    Args:
        r_hat: Of each series, or of the halves of each chain where that has a density of its own;
            of many short chains that of groups of them.
        has_stayed: Whether chains that were compared in groups stay where others do not come.
        ess: The smaller one of bulk and tail, likewise.
        limit: An R-hat that chance explains, ``MAX_R_HAT`` at least.
        few: An ESS that is few.
        said: What was compared, in words.
    """

    r_hat: Tensor
    has_stayed: bool
    ess: Tensor
    limit: float
    few: float
    said: str

    @property
    def largest_r_hat(self) -> float:
        """NaN where there is none."""
        return _largest(self.r_hat)

    @property
    def smallest_ess(self) -> float:
        """NaN where there is none."""
        return -_largest(-self.ess)


def agreement(chosen: Series, *, is_batch: bool = False) -> Agreement:
    r"""R-hat and ESS of some series, and what of them chance explains.

    R-hat's limit is the larger one of 1.01 and what chains would show by chance whose draws are
    worth a quarter of as many independent ones: with s series, m half chains of n draws,

    .. math:: \hat R^2 \le 1 + (4 q - 1) / n, \qquad
        q = \chi^2_{m - 1, 1 - 0.01 / 2 s} / (m - 1)

    since n · var(means) / W is χ² / (m − 1) for independent draws. Of many short chains, groups of
    them count as the chains here. ESS is few below ten a chain, or below a sixteenth of the draws
    where these are fewer than 160 a chain.

    Args:
        chosen: What to compare.
        is_batch: Whether each chain has a density of its own, and is compared with itself alone.

    Returns:
        What was found; a single chain is compared by its halves.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, section 4,
        doi:10.1214/20-BA1221; Gelman et al. (2013), Bayesian data analysis, third edition, section
        11.5 (an ESS of ten a chain).

    Example:
        >>> x = torch.randn(4, 250, 3, generator=torch.Generator().manual_seed(0))
        >>> apart = x + torch.arange(4.0)[:, None, None]
        >>> [agreement(series(y, y.sum(-1))).largest_r_hat > 1.1 for y in (x, apart)]
        [False, True]
    """
    values = chosen.values
    if is_batch:  # (1, draws, chains * series): the halves of a chain alone
        values = values.transpose(0, 1).flatten(1)[None]
    r_hat, foretold, ess = _statistics(values, chosen.stride)
    chains, draws = values.shape[:2]
    groups, length = group_shape(chains, draws // 2, chosen.stride)
    slowness = max(1.0, SLOW / chosen.stride)
    has_stayed = _largest(foretold) > _foretold_by_chance(chains, r_hat.numel())
    return Agreement(
        r_hat,
        groups < chains and has_stayed,
        ess,
        _limit(2 * groups, length, r_hat.numel(), slowness),
        min(ESS_OF_A_CHAIN * groups, chains * draws / VERY_SLOW),
        _said(chosen, is_batch),
    )


def _statistics(values: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """R-hat, what halves of chains foretell, and the smaller one of bulk and tail ESS.

    Each ``(series,)``, from two sorts.

    NaN for fewer than four draws a chain, and where a series does not vary or is not finite.
    """
    x = values.permute(2, 0, 1).flatten(1).unflatten(1, values.shape[:2])
    nothing = torch.full((len(x),), math.nan, dtype=torch.float32, device=x.device)
    low, high = extremes(x)
    varies = (low.isfinite() & high.isfinite() & (low != high)).nonzero().flatten()
    if values.shape[1] < MIN_DRAWS or len(varies) == 0:
        return nothing, nothing, nothing
    x = split(x[varies])
    table = scores_of_half_ranks(x[0].numel(), x.device).float()
    median = x.flatten(1).median(1).values[:, None, None]
    scores, distances = normal_scores(x, table), normal_scores((x - median).abs(), table)
    parts = torch.stack([scale_reduction(grouped(part, stride)) for part in (scores, distances)])
    tails = ((scores < -TAIL).float(), (scores > TAIL).float())
    sizes = torch.stack([effective_size(part) for part in (scores, *tails)])
    return (
        nothing.index_copy(0, varies, parts.nan_to_num(0.0, posinf=math.inf).amax(0)),
        nothing.index_copy(0, varies, _foretold(scores).float()),
        nothing.index_copy(0, varies, sizes.amin(0).float()),
    )


def _foretold(x: Tensor) -> Tensor:
    """The correlation over chains of the means of their first and second halves: ``(series,)``.

    Small where chains are long enough to forget; an Ornstein-Uhlenbeck process that has forgotten
    1 - 1 / e of where it was after half a chain has 0.54. x as ``split`` gives it.
    """
    first, second = x.mean(2).unflatten(1, (2, -1)).unbind(1)
    first, second = (half - half.mean(1, keepdim=True) for half in (first, second))
    return (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))


def _foretold_by_chance(chains: int, count: int) -> float:
    """What chains show of it that forget in less than half their length, of so many series."""
    normal = NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * count))
    return FORGETTING + normal / math.sqrt(chains)


def series(samples: Tensor, log_density: Tensor) -> Series:
    """The log-density, and the components of which there is time for: those that differ most.

    Shapes: samples ``(chains, draws, *event)``, log_density ``(chains, draws)``.

    >>> x = torch.randn(4, 1000, 100, generator=torch.Generator().manual_seed(0))
    >>> found = series(x, x.sum(-1))
    >>> found.values.shape, found.num_components
    (torch.Size([4, 1000, 8]), 100)
    """
    chains, draws = log_density.shape
    x = samples.detach().reshape(chains, draws, -1)
    wanted = min(x.shape[2] + 1, LEAST_SERIES)
    stride = -(-chains * draws * wanted // NUMBERS)
    stride = max(1, min(stride, draws // LEAST_DRAWS))
    count = max(2, NUMBERS // (chains * -(-draws // stride)))
    x = x[:, ::stride]
    if count <= x.shape[2]:
        x = x[:, :, _difference(x).topk(count - 1).indices]
    values = torch.cat([log_density.detach()[:, ::stride, None].double(), x.double()], 2)
    centred = (values - values.mean((0, 1))).float()
    return Series(centred, math.prod(samples.shape[2:]), stride)


def _difference(x: Tensor) -> Tensor:
    """How far the half chains are apart in mean or in variance, by normal theory: ``(k,)``.

    A look at every component, which costs little beside ranks; 1 where they agree.
    """
    half = x.shape[1] // 2
    if half < 2:
        return torch.zeros(x.shape[2], device=x.device)
    x = x if x.is_floating_point() else x.float()
    parts = [torch.var_mean(part, 1) for part in (x[:, :half], x[:, -half:])]
    variance, mean = (torch.cat(both) for both in zip(*parts, strict=True))
    within = variance.mean(0)
    in_mean, in_variance = mean.var(0) / within, variance.var(0) / within.square() / 2
    return (half * torch.maximum(in_mean, in_variance)).nan_to_num(0.0, 0.0, 0.0)


def _limit(num_halves: int, length: int, count: int, slowness: float) -> float:
    """The R-hat that chance explains, of so many half chains of that length and so many series."""
    if length < 2:
        return math.inf
    df = num_halves - 1
    normal = NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * count))
    ratio = (1 - 2 / (9 * df) + normal * math.sqrt(2 / (9 * df))) ** 3  # Wilson and Hilferty
    return max(MAX_R_HAT, math.sqrt(max(0.0, 1 + (slowness * ratio - 1) / length)))


def _said(chosen: Series, is_batch: bool) -> str:
    count, total = chosen.values.shape[2] - 1, chosen.num_components
    number = f"{total}" if count == total else f"the {count} of {total}"
    which = f"the log-density and {number} component{'s' * (total != 1)}"
    which += " that differ most" * (count != total)
    which += f", every {chosen.stride} draws" * (chosen.stride > 1)
    halves = ", each chain by its halves"
    return which + halves * (is_batch or len(chosen.values) == 1)


def _largest(values: Tensor) -> float:
    known = values[~values.isnan()]
    return known.max().item() if known.numel() else math.nan
