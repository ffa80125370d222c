"""From what an estimator found to a `LogPartition`, held against what the scouts saw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, together, warn
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import CONFIDENCE, SHARED
from poe.normalizers.bounds import Sides
from poe.normalizers.levels import Levels
from poe.normalizers.problem import Problem
from poe.normalizers.scouted import scout_doubts, summit_doubts, unseen_doubts

FEW_DRAWS = 100.0
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
    doubts: list[Doubt]
    num_undefined: int = 0


def concluded(problem: Problem, found: Evidence) -> LogPartition:
    """The result in the target's own dtype, with every doubt about it."""
    doubts = (*found.doubts, *_weight_doubts(found), *_doubts_from_elsewhere(problem, found))
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
        doubts=doubts,
    )


def warn_of(result: LogPartition) -> None:
    """One warning for all doubts, where there are any."""
    warn(together("log Z is not to be trusted", result.doubts))


def _weight_doubts(found: Evidence) -> list[Doubt]:
    doubts = []
    if not found.ess >= FEW_DRAWS:
        text = (
            f"its weights are worth {found.ess:.1f} draws: use more, or a start nearer to the "
            "target"
        )
        doubts.append(Doubt(Kind.FEW, text))
    if not bool(found.value.isfinite() & found.std_error.isfinite()):
        doubts.append(Doubt(Kind.NOT_FINITE, "it is not finite: start and target hardly overlap"))
    if found.num_undefined:
        text = (
            f"{found.num_undefined} positions had a NaN or +inf log-density, and were given no "
            "weight: the target is not defined there"
        )
        doubts.append(Doubt(Kind.UNDEFINED, text))
    return doubts


def _doubts_from_elsewhere(problem: Problem, found: Evidence) -> list[Doubt]:
    return [
        *scout_doubts(problem, found.value, found.std_error),
        *unseen_doubts(problem, found.seen),
        *summit_doubts(problem, found.levels, found.value, found.std_error),
    ]
