"""What makes an estimate of log Z doubtful."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, together, warn
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import CONFIDENCE, SHARED
from poe.diagnostics.weights import tail_index
from poe.normalizers.levels import Levels
from poe.normalizers.problem import Problem
from poe.normalizers.routes import Route
from poe.normalizers.sides import ROUNDED, Sides
from poe.particles.islands import next_temperature
from poe.particles.summits import FAR, UNSEEN, UNSEEN_DRAWS, missed_doubts
from poe.structure.far_mass import look_far

FEW_DRAWS = 100.0
"""An effective sample size below this says too little."""
STEP_ESS = 0.8
HEAVY, LITTLE = 0.8, 0.25
"""Weights whose tail is that heavy, and which are worth so few of the scouts, have none to trust:
0.75 and 0.4 are the limits of light tails in ``benchmarks/log_z_trust.py``, 0.03 with 0.61 in
``log_z_coverage.py``."""


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
    doubts = (
        *found.doubts,
        *_weight_doubts(found),
        *_doubts_from_elsewhere(problem, found),
        *problem.raised.doubts(),
    )
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
        num_evaluations=found.num_evaluations + problem.scouted.num_evaluations,
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
        *problem.scouted.doubts,
        *scout_doubts(problem, found.value, found.std_error),
        *unseen_doubts(problem, found.seen),
        *summit_doubts(problem, found.levels, found.value, found.std_error),
        *look_far(problem.original, found.levels.position.flatten(0, 1)).doubts,
    ]


def scout_doubts(problem: Problem, value: Tensor, std_error: Tensor) -> list[Doubt]:
    """Whether log Z as it was found agrees with the small run that is to be believed.

    And whether the one from a broad start says more: one that says less may never have arrived.
    """
    scouted = problem.scouted
    rounding = problem.rounding() + ROUNDED * (1 + value.abs())
    apart = _apart(value, scouted.best, torch.hypot(std_error, rounding))
    over = -_apart(value, scouted.broad, torch.hypot(std_error, rounding))
    if not abs(apart) > FAR and not over > FAR:
        return []
    route = scouted.best if abs(apart) > FAR else scouted.broad
    where = "from nearer" if route is not scouted.broad else "from a broad start"
    text = (
        f"particles {where} found {route.log_z + problem.log_constant:.4g} "
        f"± {route.std_error:.2g}, {max(abs(apart), over):.1f} standard errors away"
    )
    return [Doubt(Kind.INCONSISTENT, text)]


def _apart(value: Tensor, route: Route, error: Tensor) -> float:
    """By how many standard errors a value is above a route's; 0 where both are the same number."""
    difference = value - route.log_z
    return (difference / torch.hypot(error, route.std_error)).nan_to_num(0.0).item()


def unseen_doubts(problem: Problem, seen: Tensor) -> list[Doubt]:
    """Whether scouts are where d/dt log γ_t exceeds all that an estimator saw of it."""
    is_beyond = (problem.tilts > seen.max()).double().mean(1)
    beyond = (torch.softmax(problem.scouts.log_z, 0) @ is_beyond).item()
    if not beyond > max(UNSEEN, UNSEEN_DRAWS / seen.numel()):
        return []
    text = (
        f"{beyond:.0%} of the target's mass seems to lie where {problem.where} is too thin for it "
        "to have been seen: use a broader start, or leave it out"
    )
    return [Doubt(Kind.UNSEEN, text)]


def tail_doubts(problem: Problem, tilts: Tensor) -> list[Doubt]:
    """Whether the last steps of a path have weights that its particles know nothing of.

    Where the start has lighter tails than the target, exp(Δt U) is unbounded, and at the last steps
    has no variance; particles that have come that way seldom are where it is large. The scouts came
    another way. Asked of them: a step that keeps 0.8 of the particles' effective sample size. A
    start fitted to the scouts themselves is near enough, whatever its tails are.

    Shapes: tilts ``(islands, n)``, U of particles at the target.
    """
    if problem.start is problem.nearer:
        return []
    step = next_temperature(tilts, 0.0, STEP_ESS)
    log_weights = step * problem.tilts.flatten()
    inside = log_weights[log_weights > -torch.inf].double()
    weights = (inside - inside.max()).exp()
    kept = (weights.mean().square() / weights.square().mean()).item()
    index = tail_index(log_weights)
    if not (index > HEAVY and kept < LITTLE):
        return []
    text = (
        f"a step of the path that seems to keep {STEP_ESS:.0%} of the particles keeps {kept:.0%} "
        f"of those from a broad start, by weights with a tail of index {index:.2f}: the tails of "
        f"{problem.where} are lighter than the target's; use a start with heavier ones, or leave "
        "it out"
    )
    return [Doubt(Kind.LIGHT_TAILS, text)]


def summit_doubts(
    problem: Problem, levels: Levels, value: Tensor, std_error: Tensor
) -> list[Doubt]:
    """Whether particles are at summits that climbing reaches as often as the mass there says."""
    found = problem.scouted.summits
    if missed := missed_doubts(found, levels.cloud, value, std_error):
        return missed
    if found.is_all:
        return []
    text = (
        f"climbing from all over reached {len(found.summits)} summits, and still new ones with "
        "the last climbs: there may be more; give a start that covers them, by `start=`"
    )
    return [Doubt(Kind.UNSEEN, text)]
