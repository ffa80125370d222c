"""Independent groups of estimates of one log Z: their mean, its error, and whether they agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.diagnostics.weights import kish_ess

CONFIDENCE = 0.95
"""Of all bounds on log Z."""
ENOUGH_GROUPS = 10.0
"""So many groups of equal weight give a standard error that can be trusted."""
NUM_BISECTIONS = 60
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
    """Of Student's t for so many groups, what the confidence leaves out on both sides together.

    P(|t| < √ν tan θ) is a finite sum for ν = groups − 1 degrees of freedom, solved for θ by
    bisection.

    Args:
        groups: How many, at least 2.

    Returns:
        The quantile.

    References:
        Abramowitz & Stegun (1972), Handbook of mathematical functions, 26.7.3 and 26.7.4.

    Example:
        >>> [round(t_quantile(groups), 3) for groups in (2, 3, 4, 16)]
        [12.706, 4.303, 3.182, 2.131]
    """
    df, low, high = groups - 1, 0.0, 0.5 * math.pi
    for _ in range(NUM_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _mass_within(middle, df) < CONFIDENCE else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _mass_within(angle: float, df: int) -> float:
    """P(|t| < √df tan(angle)) of Student's t."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = df % 2 == 1
    term = cosine if is_odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(2 + is_odd, df - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2.0 / math.pi * (angle + sine * total) if is_odd else sine * total
