"""``poe.normalize``: any expert as a normalised density, its log Z and that one's error with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from poe.core.arguments import checked, require
from poe.core.doubt import together, warn
from poe.density.capabilities import check_proper
from poe.density.expert import Expert
from poe.density.normalized import LogPartition, Normalized
from poe.normalizers.choose import log_partition as estimate_log_partition

Estimator = Callable[[Expert], LogPartition]
"""How log Z is found."""


@checked
def normalize(
    expert: Expert,
    log_partition: LogPartition | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Normalized:
    """The expert divided by its Z.

    Warns (TrustWarning) where the ``log_partition`` that is given is not to be trusted. Raises what
    ``poe.log_partition`` raises, too.

    Args:
        expert: Any that has a finite normaliser.
        log_partition: log Z; by default what ``poe.log_partition`` finds.
        generator: The source of randomness of the default; a fresh one by default.

    Returns:
        The normalised expert.

    Raises:
        NonFiniteError: Where log Z is not finite.
        ImproperError: Where the expert is known to have no finite normaliser.

    Example:
        >>> quartic = poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(1))
        >>> p = normalize(quartic)
        >>> p.log_prob(torch.zeros(1, 1, dtype=torch.float64))
        tensor([-0.5949], dtype=torch.float64)
    """
    if log_partition is None:
        return Normalized(expert, estimate_log_partition(expert, generator=generator))
    check_proper(expert)
    heading = (
        f"the log Z that {type(expert).__name__} is normalised by is not to be trusted, and so "
        "neither is log_prob"
    )
    warn(together(heading, log_partition.doubts))
    return Normalized(expert, log_partition)


def estimator_or_default(
    estimator: Estimator | None, generator: torch.Generator | None
) -> Estimator:
    """The ``estimator``, or ``poe.log_partition`` with that generator."""
    if estimator is not None:
        return partial(_checked_estimate, estimator)
    return lambda target: estimate_log_partition(target, generator=generator)


def _checked_estimate(estimator: Estimator, target: Expert) -> LogPartition:
    found: LogPartition = require("what estimator= returns", estimator(target), LogPartition)
    return found
