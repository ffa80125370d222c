"""From what an estimator found to a `LogPartition`, held against what the scouts saw."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from poe.errors import TrustWarning
from poe.groups import CONFIDENCE, SHARED
from poe.normalizers.bounds import Sides
from poe.normalizers.levels import Levels
from poe.normalizers.problem import Problem
from poe.normalizers.scouted import scout_doubts, summit_doubts, unseen_doubts
from poe.partition import LogPartition

FEW = 100.0
"""An effective sample size below this says too little."""


class Evidence(NamedTuple):
    """What an estimator found, on the way from a problem's start to its target."""

    value: Tensor
    std_error: Tensor
    sides: Sides
    name: str
    ess: float
    num_evaluations: int
    levels: Levels
    """Particles that went to the target."""
    seen: Tensor
    """d/dt log γ_t of its draws: the target's mass beyond the largest was not seen."""
    rests_on: str
    doubts: list[str]
    num_undefined: int = 0


def concluded(problem: Problem, found: Evidence) -> LogPartition:
    """The result in the target's own dtype, with every doubt in words."""
    remarks = (*found.doubts, *_weight_doubts(found), *_doubts_from_elsewhere(problem, found))
    like = problem.scouts.position
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    rounding = problem.rounding()
    error = torch.hypot(SHARED * found.std_error, rounding)
    slack = 3 * rounding
    numbers = (found.value, found.sides.lower - slack, found.sides.upper + slack)
    value, lower, upper = ((number + problem.log_constant).to(dtype) for number in numbers)
    return LogPartition(
        value,
        error.to(dtype),
        lower,
        upper,
        f"{found.name}, from {problem.where}",
        ess=found.ess,
        num_evaluations=found.num_evaluations + problem.num_evaluations,
        confidence=CONFIDENCE,
        rests_on=found.rests_on,
        remarks=remarks,
    )


def warn(result: LogPartition) -> None:
    """One warning for all doubts, where there are any."""
    if result.remarks:
        text = "; ".join(result.remarks)
        warnings.warn(f"log Z is not to be trusted: {text}", TrustWarning, stacklevel=3)


def _weight_doubts(found: Evidence) -> list[str]:
    words = []
    if not found.ess >= FEW:
        words.append(
            f"its weights are worth {found.ess:.1f} draws: use more, or a start nearer to the "
            "target"
        )
    if not bool(found.value.isfinite() & found.std_error.isfinite()):
        words.append("it is not finite: start and target hardly overlap")
    if found.num_undefined:
        words.append(
            f"{found.num_undefined} positions had a NaN or +inf log-density, and were given no "
            "weight: the target is not defined there"
        )
    return words


def _doubts_from_elsewhere(problem: Problem, found: Evidence) -> list[str]:
    return [
        *scout_doubts(problem, found.value, found.std_error),
        *unseen_doubts(problem, found.seen),
        *summit_doubts(problem, found.levels, found.value, found.std_error),
    ]
