"""The log partition log Z, by closed form, by enumeration or by quadrature; never by hope."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.enumeration import MAX_STATES, log_sum, num_states
from poe.errors import ImproperError, NonFiniteError, NormalizationError
from poe.expert import Expert
from poe.partition import LogPartition, exact
from poe.properties import check_proper, exact_log_partition
from poe.quadrature import integrate


def log_partition(target: Expert, *, generator: torch.Generator | None = None) -> LogPartition:
    """log Z = log of the integral (or sum) of p̃ over its space.

    In order: closed form; enumeration of at most 2^25 states; adaptive quadrature in up to three
    continuous dimensions, which may miss a needle on the slope of a much broader peak.
    `generator` is for stochastic estimators; these methods need none.
    Raises `ImproperError` where Z is infinite, `NonFiniteError` where p̃ is NaN or +inf or zero
    everywhere, and `NormalizationError` where none of the methods applies.

    >>> a, b = experts.Gaussian([-1.0], scale=[1.0]), experts.Gaussian([2.0], scale=[0.5])
    >>> log_partition(a * b).value, log_partition(a * b).method
    (tensor(-4.6305), 'closed form')
    """
    check_proper(target)
    closed = exact_log_partition(target)
    if closed is not None:
        return _exact(closed, "closed form")
    if num_states(target.space) <= MAX_STATES:
        return _exact(log_sum(target), "enumeration")
    if not target.space.is_discrete and target.space.event_shape.numel() <= 3:
        value, error = integrate(target)
        return LogPartition(value, error, value - 2 * error, value + 2 * error, "quadrature")
    raise NormalizationError(
        f"no method here gives log Z of {type(target).__name__} on {target.space}: it has no "
        f"closed form, more than {MAX_STATES} states and more than three continuous dimensions; "
        "estimate it by poe.smc(target, num_samples).log_partition, or use poe.log_ratio, which "
        "needs no normaliser"
    )


def _exact(value: Tensor, method: str) -> LogPartition:
    if not bool(value.isfinite()):
        raise (ImproperError if float(value) > 0 else NonFiniteError)(
            f"expected a finite log partition, got {float(value)}"
        )
    return exact(value, method)
