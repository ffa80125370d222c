"""A run of particles from start to target, and all the levels that it went through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe.density.expert import Expert
from poe.particles.islands import Particles, Passed, Schedule
from poe.tuning.choice import choose_for_particles

NUM_ISLANDS = 16
"""So many give a standard error of 15 degrees of freedom."""
NUM_MOVES = 8
Report = Callable[[float, float], None]


class Levels(NamedTuple):
    """What the particles of every level say: enough for all estimators along a path.

    - ``passed``: the levels from t = 0 to 1;
    - ``position`` ``(islands, n, *event)``: the particles at the target;
    - ``log_z`` ``(islands,)``: log of each island's Ẑ.
    """

    passed: list[Passed]
    position: Tensor
    log_z: Tensor
    log_start: float
    """log Z of the density at t = 0."""
    num_evaluations: int
    num_undefined: int

    @property
    def temperatures(self) -> Tensor:
        """``(levels,)``, in float64."""
        return torch.tensor([p.temperature for p in self.passed], dtype=torch.float64)

    @property
    def tilts(self) -> Tensor:
        """d/dt log γ_t of the particles of each level: ``(levels, islands, n)``."""
        return torch.stack([p.tilt for p in self.passed])


def schedule(num_samples: int, conditional_ess: float = 0.8) -> Schedule:
    """At least so many particles a level, in 16 islands."""
    chains = -(-num_samples // (NUM_ISLANDS * NUM_MOVES))
    return Schedule(NUM_ISLANDS, chains, NUM_MOVES, 2, conditional_ess, None)


def walk(
    target: Expert, start: Expert, schedule: Schedule, generator: torch.Generator, report: Report
) -> Levels:
    """Particles from ``start`` to ``target`` by the default kernel for what the target offers."""
    particles = Particles(target, start, schedule, generator)
    log_start = particles.log_z[0].item()
    choice = choose_for_particles(target, target, particles.position)
    particles.follow(start, target, choice.kernel, report)
    islands = schedule.num_islands
    position = particles.position
    return Levels(
        particles.passed,
        position.reshape(islands, -1, *position.shape[1:]),
        particles.log_z,
        log_start,
        particles.tally.num_evaluations,
        int(torch.as_tensor(particles.tally.undefined).sum()),
    )
