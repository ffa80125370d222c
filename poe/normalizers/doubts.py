"""From what an estimator found to a `LogPartition`, held against what the scouts saw."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from poe.errors import TrustWarning
from poe.groups import CONFIDENCE, SHARED
from poe.normalizers.along import all_levels
from poe.normalizers.bounds import FAR, Sides, group_doubts, share_doubts
from poe.normalizers.problem import SCOUTS, Problem
from poe.partition import LogPartition
from poe.samplers.path import geometric_path

UNSEEN = 0.01
"""The share of the target's mass that may lie where an estimator has never been."""
UNSEEN_DRAWS = 8.0
"""Or where that many of its draws should have been."""
SCOUTED_NUMBERS = 2**19
"""Enough of what the scouts say to know log Z roughly."""
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
    seen: Tensor
    """d/dt log γ_t of its draws: the target's mass beyond the largest was not seen."""
    rests_on: str
    doubts: list[str]
    num_undefined: int = 0


def concluded(problem: Problem, found: Evidence) -> LogPartition:
    """The result in the target's own dtype, with every doubt in words."""
    remarks = (*found.doubts, *_weight_doubts(found), *_scout_doubts(problem, found))
    like = problem.scouts.position
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    rounding = _rounding(problem)
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
        num_evaluations=found.num_evaluations + problem.scouts.num_evaluations,
        confidence=CONFIDENCE,
        rests_on=found.rests_on,
        remarks=remarks,
    )


def warn(result: LogPartition) -> None:
    """One warning for all doubts, where there are any."""
    if result.remarks:
        text = "; ".join(result.remarks)
        warnings.warn(f"log Z is not to be trusted: {text}", TrustWarning, stacklevel=3)


def _rounding(problem: Problem) -> Tensor:
    """How far the rounding of log-densities may move log Z: that of a typical one."""
    x = problem.scouts.position.flatten(0, 1)[:64]
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    with torch.no_grad():
        size = problem.target(x).double().abs().mean()
    return size * torch.finfo(dtype).eps


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


def _scout_doubts(problem: Problem, found: Evidence) -> list[str]:
    """What particles from a broad start know that contradicts it."""
    scouts = problem.scouts
    doubts = [
        *group_doubts(scouts.log_z),
        *share_doubts(scouts.tilts[-1], SCOUTS.num_chains),
    ]
    words = [f"particles from a broad start: {doubt}" for doubt in doubts]
    beyond = _share_beyond(problem, found.seen.max().item())
    if beyond > max(UNSEEN, UNSEEN_DRAWS / found.seen.numel()):
        words.append(
            f"{beyond:.0%} of the target's mass seems to lie where {problem.where} is too thin for "
            "it to have been seen: use a broader start, or leave it out"
        )
    by_scouts = all_levels(scouts, SCOUTED_NUMBERS)
    seen = by_scouts.log_z[-1] + scouts.log_start
    errors = torch.stack([found.std_error, by_scouts.std_error, _rounding(problem)])
    apart = (found.value - seen).abs() / errors.square().sum().sqrt()
    if not apart < FAR:
        words.append(
            f"particles from a broad start found {seen + problem.log_constant:.4g} "
            f"± {by_scouts.std_error:.2g}, {apart:.1f} standard errors away"
        )
    return words


def _share_beyond(problem: Problem, highest: float) -> float:
    """The share of the scouts, by their weights, with a larger d/dt log γ_t than was seen."""
    scouts = problem.scouts
    path = geometric_path(problem.start, problem.target)
    tilt = path.tilt(path.evaluate(scouts.position.flatten(0, 1), with_score=False))
    is_beyond = (tilt > highest).double().reshape(len(scouts.log_z), -1).mean(1)
    return (torch.softmax(scouts.log_z, 0) @ is_beyond).item()
