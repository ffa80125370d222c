"""``poe.evidence_ratio``: how much more two experts agree than two others do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, texts
from poe.density.expert import Expert, shared_space
from poe.density.normalized import LogPartition
from poe.probabilities.normalize import Estimator, estimator_or_default


class EvidenceRatio(NamedTuple):
    """log Z_numerator − log Z_denominator, and what is known of it.

    Args:
        value: The estimate, ``()``.
        std_error: Its standard error, ``()``; 0 where both are exact.
        lower: Lower bound, ``()``, from those of the two.
        upper: Upper bound, ``()``, from those of the two.
        confidence: The probability with which both bounds hold together, at least.
        numerator: The log partition above.
        denominator: The log partition below.
    """

    value: Tensor
    std_error: Tensor
    lower: Tensor
    upper: Tensor
    confidence: float
    numerator: LogPartition
    denominator: LogPartition

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why it should not be believed."""
        sides = (("numerator", self.numerator), ("denominator", self.denominator))
        return tuple(doubt.about(name) for name, side in sides for doubt in side.doubts)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts


@checked
def evidence_ratio(
    numerator: Expert | LogPartition,
    denominator: Expert | LogPartition,
    *,
    estimator: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> EvidenceRatio:
    """log Z_numerator − log Z_denominator of two whole compositions on one space.

    With normalised b and c, Z of a·b against Z of a·c says which of the two goes better with a: for
    a likelihood a it is the Bayes factor of the priors b and c. Unnormalised experts bring their
    own constants into it.

    Log partitions are found one after the other, so that their errors are independent. Raises what
    ``poe.log_partition`` raises, too.

    Args:
        numerator: The composition above, or its log partition where that is at hand.
        denominator: The composition below, or its log partition where that is at hand.
        estimator: How log Z is found, expert to ``poe.LogPartition``; by default
            ``poe.log_partition``.
        generator: The source of randomness of the default; a fresh one by default.

    Returns:
        The log-ratio, with its error and bounds.

    Raises:
        SpaceMismatchError: For experts on two spaces.

    References:
        Kass & Raftery (1995), Bayes factors, eq. 1, doi:10.1080/01621459.1995.10476572.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[1.0])
        >>> c = experts.Gaussian([3.0], scale=[1.0])
        >>> evidence_ratio(a * b, a * c).value
        tensor(2.)
    """
    if isinstance(numerator, Expert) and isinstance(denominator, Expert):
        shared_space(("numerator", "denominator"), [numerator, denominator], "ratio")
    find = estimator_or_default(estimator, generator)
    above, below = (
        side if isinstance(side, LogPartition) else find(side) for side in (numerator, denominator)
    )
    return EvidenceRatio(
        above.value - below.value,
        torch.hypot(above.std_error, below.std_error.to(above.std_error)),
        above.lower - below.upper,
        above.upper - below.lower,
        max(0.0, above.confidence + below.confidence - 1),
        above,
        below,
    )
