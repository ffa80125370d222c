"""What scouts, and climbs from where they are, know that contradicts an estimate of log Z."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.diagnostics.weights import tail_index
from poe.normalizers.along import all_levels
from poe.normalizers.bounds import FAR, UNSEEN, UNSEEN_DRAWS, group_doubts, share_doubts
from poe.normalizers.levels import Levels
from poe.normalizers.problem import SCOUTS, Problem
from poe.particles.islands import next_temperature

SCOUTED_NUMBERS = 2**19
"""Enough of what the scouts say to know log Z roughly."""
STEP_ESS = 0.8
HEAVY, LITTLE = 0.8, 0.25
"""Weights whose tail is that heavy, and which are worth so few of the scouts, have none to trust:
0.75 and 0.4 are the limits of light tails in ``benchmarks/log_z_trust.py``, 0.03 with 0.61 in
``log_z_coverage.py``."""


def scout_doubts(problem: Problem, value: Tensor, std_error: Tensor) -> list[Doubt]:
    """Whether the scouts agree among each other, and with log Z as it was found."""
    scouts = problem.scouts
    doubts = [
        *group_doubts(scouts.log_z),
        *share_doubts(scouts.tilts[-1], scouts.tilts.shape[2] // SCOUTS.num_moves),
    ]
    told = [doubt.about("particles from a broad start") for doubt in doubts]
    by_scouts = all_levels(scouts, SCOUTED_NUMBERS)
    seen = by_scouts.log_z[-1] + scouts.log_start
    errors = torch.stack([std_error, by_scouts.std_error, problem.rounding()])
    apart = (value - seen).abs() / errors.square().sum().sqrt()
    if not apart < FAR:
        text = (
            f"particles from a broad start found {seen + problem.log_constant:.4g} "
            f"± {by_scouts.std_error:.2g}, {apart:.1f} standard errors away"
        )
        told.append(Doubt(Kind.INCONSISTENT, text))
    return told


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
    missed = [summit.missed(levels, value, std_error) for summit in problem.summits.summits]
    told = (
        f"climbing from particles reaches a summit that has {shares[0]:.0%} of the mass that was "
        f"found, and {shares[1]:.0%} of the particles: modes were missed; give a start that covers "
        "them, by `start=`, or leave it out"
        for shares in missed
        if shares is not None
    )
    return [Doubt(Kind.UNSEEN, text) for text in told]
