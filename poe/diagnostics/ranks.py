"""Ranks and the normal scores they become, for many components at once."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW_BITS = 2**32 - 1
_SIGN = 2**31


def normal_scores(x: Tensor, table: Tensor) -> Tensor:
    """z = Φ⁻¹((r − 3/8) / (n + 1/4)), r the rank among the component's n values.

    ``(components, chains, draws)`` to the same shape in float64; equal values share the average of
    their ranks. ``table`` is ``scores_of_half_ranks(chains * draws)``.

    Source: Blom 1958; Vehtari et al. 2021, eq. 14.

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
