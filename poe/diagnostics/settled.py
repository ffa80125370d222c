"""Whether chains settled in different places, told from slow mixing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MANY_MODES = 1.5
"""The R-hat from which chains count as settled apart."""
FAR_APART = 5.0
"""The R-hat from which it does not matter that a few chains crossed over."""
MIN_COMPARED = 20
"""The fewest positions a chain to compare it by."""
MAX_DRIFT = 1.1
"""Above this ratio of a chain's halves to its spread, it is still on its way (a walk has 1.41)."""


def r_hat_of_settled(position: Tensor) -> float:
    """The largest √(1 + B / W) of a component: variance of the chains' means over that within.

    NaN where that component still drifts within the chains, which would tell of slow mixing and not
    of different modes, and where there is nothing to compare. A few chains that crossed over drift
    as well: so by the chains' median in place of their mean, where by that they are far apart.

    Shapes: position ``(steps, chains, *event)``.

    >>> x = torch.randn(50, 8, 1, generator=torch.Generator().manual_seed(0))
    >>> here, there, walk = x, x + 10.0 * torch.arange(8)[:, None], x.cumsum(0)
    >>> r_hat_of_settled(here) < 1.1, r_hat_of_settled(there) > 5, r_hat_of_settled(walk)
    (True, True, nan)
    """
    if len(position) < MIN_COMPARED or position.shape[1] < 2:
        return math.nan
    flat = position.double().reshape(*position.shape[:2], -1)
    r_hat = _unless_drifting(flat, lambda x: x.mean(0))
    if math.isnan(r_hat):
        of_most = _unless_drifting(flat, lambda x: x.quantile(0.5, dim=0))
        return of_most if of_most > FAR_APART else math.nan
    return r_hat


def _unless_drifting(x: Tensor, average: Callable[[Tensor], Tensor]) -> float:
    """By an average of variances over the chains; x ``(steps, chains, d)``."""
    within = average(x.var(0))
    apart = (1.0 + x.mean(0).var(0) / within).sqrt()
    halves = torch.stack([half.mean(0) for half in x.tensor_split(2)])
    drift = (1.0 + average(halves.var(0)) / within).sqrt()
    worst = apart.argmax()
    return apart[worst].item() if drift[worst].item() < MAX_DRIFT else math.nan
