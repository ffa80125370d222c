"""Looking for modes that no chain is in, by particles from a broad start."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.density.expert import Expert
from poe.density.wrappers import in_chunks
from poe.diagnostics.settled import MANY_MODES, r_hat_of_settled
from poe.particles.islands import Particles, Schedule
from poe.particles.resampling import systematic_resample
from poe.samplers.kernel import Kernel
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import gradients_per_step, needs_score
from poe.samplers.split import SplitHMC
from poe.tuning.start import broad_start

FEW, SOME = 16, 32
"""How many particles, and at most how many chains, are moved on: where chains are few, or not."""
STEPS, STEPS_OF_A_WALK = 30, 120


class Look(NamedTuple):
    """What was found."""

    said: str
    """In words."""
    num_evaluations: int
    """Of positions, over all particles and chains."""
    position: Tensor | None = None
    """Particles, some of them where no chain is, ``(particles, *event)``; None if all are near."""


class OutOfBudgetError(Exception):
    """More positions were evaluated than looking around is worth."""


def look_elsewhere(
    target: Expert,
    density: Expert,
    kernel: Kernel,
    u: Tensor,
    *,
    budget: int,
    chains_at_once: int | None = None,
    generator: torch.Generator,
) -> Look:
    """Whether some of the target's mass is where no chain is, and does not come to the chains.

    A small run of sequential Monte Carlo goes from a broad start to the target. Then its particles
    and some chains are moved on together by the chains' kernel: where these do not mix, but settle
    apart, there are modes that the chains have not seen.

    - ``density``, ``u`` ``(chains, *event)``: the target and the chains in unconstrained
      coordinates, in which ``kernel`` moves them.
    - ``budget``: how many positions may be evaluated; beyond, nothing is concluded.

    What it misses: modes beyond the broad start, and those that the few particles lost on the way.
    """
    num_compared = FEW if len(u) < 2 * SOME else SOME
    is_walk = not needs_score(kernel)
    num_steps = STEPS_OF_A_WALK if is_walk else STEPS
    comparing = num_steps * gradients_per_step(kernel) * (num_compared + min(num_compared, len(u)))
    name, start = broad_start(target, u)
    particles = Particles(
        in_chunks(target, chains_at_once), start, _schedule(num_compared), generator
    )

    def within_budget(temperature: float, acceptance: float) -> None:
        if particles.tally.num_evaluations + comparing > budget:
            raise OutOfBudgetError

    try:
        within_budget(0.0, 0.0)
        moves = Preconditioned(MetropolisHastings() if is_walk else SplitHMC())
        particles.follow(start, particles.target, moves, within_budget)
    except OutOfBudgetError:
        said = "looking for other modes to the end would have taken too long"
        return Look(said, particles.tally.num_evaluations)
    except Exception as error:  # the target need not be defined so far out: the chains never go
        said = f"could not look for other modes: {type(error).__name__} out there: {error}"
        return Look(said, particles.tally.num_evaluations)
    num_evaluations = particles.tally.num_evaluations + comparing
    position = _equally_weighted(particles, generator).to(u.dtype)
    beside = u[torch.randperm(len(u), generator=generator, device=u.device)[:num_compared]]
    side_by_side = torch.cat([position[:num_compared], beside])
    r_hat = r_hat_moved_on(density, kernel, side_by_side, num_steps, generator)
    if not r_hat > MANY_MODES:
        return Look(f"particles from {name} found no other modes", num_evaluations)
    said = f"particles from {name} settled where no chain was, R-hat {r_hat:.1f}"
    return Look(said, num_evaluations, position)


def _schedule(num_compared: int) -> Schedule:
    """Eight times as many particles as are compared, in as many islands, by bold steps."""
    return Schedule(
        num_islands=8,
        num_chains=num_compared // 2,
        num_moves=2,
        max_thinning=2,
        conditional_ess=0.3,
        temperatures=None,
    )


def _equally_weighted(particles: Particles, generator: torch.Generator) -> Tensor:
    """All islands' particles by the islands' weights, in any order."""
    position, log_z = particles.position, particles.log_z
    log_weight = log_z.repeat_interleave(len(position) // len(log_z))[None]
    rows = systematic_resample(log_weight, len(position), generator=generator)[0]
    return position[rows[torch.randperm(len(rows), generator=generator, device=rows.device)]]


def r_hat_moved_on(
    density: Expert, kernel: Kernel, u: Tensor, num_steps: int, generator: torch.Generator
) -> float:
    """The R-hat of chains from there, where they settled, but for the one that is farthest out.

    A single one may hold still in a tail: it is a mode where there are two.
    """
    state, visited = kernel.init(density, u), []
    for _ in range(num_steps):
        state, _ = kernel.step(density, state, generator=generator)
        visited.append(state.position)
    position = torch.stack(visited)
    means = position.mean(0).flatten(1)
    distance = ((means - means.median(0).values) / means.std(0)).abs().amax(1)
    return r_hat_of_settled(position[:, distance < distance.max()])
