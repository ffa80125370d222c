"""A statistic of every component of draws ``(chains, draws, *event)``, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import require_dimensions, require_values
from poe.core.errors import ShapeError

DRAWS = "(chains, draws, *event)"
"""The shape of draws, in words."""
MIN_DRAWS = 4
"""Fewer draws a chain than this have no R-hat and no ESS: they are NaN."""
DRAWS_OF_A_GROUP = 500
"""As many as half a chain has where four of 1000 draws are compared."""
LEAST_GROUPS = 4
NUMBERS_AT_ONCE = 2**19
"""Few enough to stay in a processor's cache from one operation to the next."""

Statistic = Callable[[Tensor], Tensor]
"""``(components, chains, draws) -> (components,)`` in float64."""


def by_component(statistic: Statistic, samples: Tensor) -> Tensor:
    """``statistic`` of each component: ``(chains, draws, *event) -> (*event,)`` in float64.

    It is NaN where a component does not vary or is not finite, or the draws are fewer than four.
    """
    require_dimensions("samples", samples, DRAWS)
    require_values("samples", samples)
    chains, draws, *event = samples.shape
    num_components = math.prod(event)
    if draws < MIN_DRAWS or chains * num_components == 0:
        return samples.new_full(event, math.nan, dtype=torch.float64)
    columns = _as_float(samples.detach()).reshape(chains * draws, num_components).T.contiguous()
    count = max(1, NUMBERS_AT_ONCE // (chains * draws))
    blocks = columns.reshape(num_components, chains, draws).split(count)
    return torch.cat([_or_nan(statistic, block) for block in blocks]).reshape(event)


def require_log_density(samples: Tensor, log_density: Tensor) -> None:
    """Refuse what is not one log-density for each of the draws ``(chains, draws, *event)``."""
    require_dimensions("samples", samples, DRAWS)
    if log_density.shape != samples.shape[:2]:
        raise ShapeError(
            f"expected one number for each of {tuple(samples.shape[:2])} (chains, draws), got "
            f"shape {tuple(log_density.shape)}"
        )


def split(x: Tensor) -> Tensor:
    """Each chain as two, its halves; the middle draw of an odd number is left out.

    ``(components, chains, draws) -> (components, 2 * chains, draws // 2)``

    >>> split(torch.arange(5.0).reshape(1, 1, 5))
    tensor([[[0., 1.],
             [3., 4.]]])
    """
    half = x.shape[2] // 2
    return torch.cat([x[:, :, :half], x[:, :, -half:]], 1)


def grouped(x: Tensor, stride: int = 1) -> Tensor:
    """Halves of short chains, as ``split`` gives them, joined end to end to groups of 500 draws.

    First halves with first, second with second; at least four groups of each, and none of single
    chains that are longer. Of chains of which every ``stride``-th draw is left, as many groups.
    What does not fill a group, fewer draws than there are groups, is left out.

    ``(components, 2 * chains, n) -> (components, 2 * groups, m)``

    >>> grouped(torch.zeros(1, 2 * 256, 39)).shape, grouped(torch.zeros(1, 2 * 4, 125)).shape
    (torch.Size([1, 38, 525]), torch.Size([1, 8, 125]))
    """
    chains, n = x.shape[1] // 2, x.shape[2]
    groups, length = group_shape(chains, n, stride)
    if groups == chains:
        return x
    halves = x.unflatten(1, (2, chains)).flatten(2)[:, :, : groups * length]
    return halves.unflatten(2, (groups, length)).flatten(1, 2)


def group_shape(chains: int, n: int, stride: int = 1) -> tuple[int, int]:
    """How many groups ``grouped`` makes of as many chains' halves of n draws, and of how many."""
    groups = min(chains, max(LEAST_GROUPS, chains * n * stride // DRAWS_OF_A_GROUP))
    return groups, chains * n // max(1, groups)


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each component, NaN where one value is.

    ``torch.aminmax`` takes ten times as long on a processor.

    >>> extremes(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]]))
    (tensor([0.]), tensor([3.]))
    """
    rows = x.flatten(1)
    return rows.amin(1), rows.amax(1)


def _as_float(samples: Tensor) -> Tensor:
    """In a dtype that holds every value exactly and can be sorted by its bits."""
    is_narrow = samples.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.bool)
    return samples.to(torch.float32 if is_narrow else torch.float64)


def _or_nan(statistic: Statistic, x: Tensor) -> Tensor:
    low, high = extremes(x)
    varies = low.isfinite() & high.isfinite() & (low != high)
    return statistic(x).masked_fill(~varies, math.nan)
