"""``poe.evidence_ratio``: how much more two experts agree than two others do."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, texts
from poe.density.expert import Expert, shared_space
from poe.density.normalized import LogPartition
from poe.probabilities.normalize import Estimator, estimator_or_default


class EvidenceRatio(NamedTuple):
    """log Z_numerator − log Z_denominator, and what is known of it.

    - ``value``, ``std_error`` ``()``: the estimate and its standard error, 0 where both are exact;
    - ``lower``, ``upper`` ``()``: bounds that hold together with probability ``confidence`` at
      least, from those of the two;
    - ``numerator``, ``denominator``: the two log partitions.
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


def evidence_ratio(
    numerator: Expert | LogPartition,
    denominator: Expert | LogPartition,
    *,
    estimator: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> EvidenceRatio:
    """log Z_numerator − log Z_denominator of two whole compositions on one space.

    With normalised b and c, Z of a·b against Z of a·c says which of the two goes better with a: for
    a likelihood a it is the Bayes factor of the priors b and c (Kass & Raftery 1995, eq. 1).
    Unnormalised experts bring their own constants into it.

    A log partition at hand may be given in place of its expert; the others are found one after the
    other, so that their errors are independent, by ``estimator`` or by ``poe.log_partition``.
    Raises what that raises, and SpaceMismatchError for experts on two spaces.

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
