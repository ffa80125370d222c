"""Independent groups of estimates of one log Z: their mean, its error, and whether they agree."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from poe.diagnostics.weights import kish_ess

CONFIDENCE = 0.95
"""Of all bounds on log Z."""
ENOUGH_GROUPS = 10.0
"""So many groups of equal weight give a standard error that can be trusted."""

SHARED = 1.1
"""Groups share temperatures and kernels adapted to all of them: their spread is a tenth too small.

Measured in ``benchmarks/log_z_coverage.py``: errors are 1.05 to 1.25 times what the spread says.
"""


def log_mean(values: Tensor) -> Tensor:
    """log of the mean of exp(values) along the last dimension.

    >>> log_mean(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))
    tensor(-0.6931)
    """
    return torch.logsumexp(values, -1) - math.log(values.shape[-1])


def standard_error_of_log_mean(log_values: Tensor) -> Tensor:
    """Of ``log_mean``, for independent values ``(n,)``: sd(v) / (mean(v) √n), v = exp(log_values).

    >>> standard_error_of_log_mean(torch.tensor([1.0, 3.0]).log())
    tensor(0.5000)
    """
    relative = (log_values - log_mean(log_values)).exp()
    return relative.std() / math.sqrt(len(log_values))


def num_agreeing(log_z: Tensor) -> float | None:
    """How many equal groups ``(groups,)`` are worth by their weights; None if enough of them.

    >>> round(num_agreeing(torch.tensor([0.0, 30.0, 0.0])), 6), num_agreeing(torch.zeros(3))
    (1.0, None)
    """
    effective = kish_ess(log_z).item()
    is_enough = effective >= min(0.5 * len(log_z), ENOUGH_GROUPS)
    return None if is_enough else effective


def t_quantile(groups: int) -> float:
    """Of Student's t for so many groups, what one side of the confidence leaves out.

    Source: Cornish & Fisher 1938; within 1 % from 8 groups on.

    >>> round(t_quantile(16), 3)
    2.131
    """
    z, df = NormalDist().inv_cdf(0.5 + 0.5 * CONFIDENCE), groups - 1
    first = (z**3 + z) / (4 * df)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
