"""From noise to a composition: down a ladder of noise levels, corrected at each, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from compositions import Target
from energy import HIGHEST, LOWEST

import experts
import poe

LEAPFROG = 7
LEAPFROG_STEP = 0.45
"""In units of the noise: seven steps turn the noise half around (Lh = pi) and keep its energy."""
UNADJUSTED_STEP = 0.2
"""In units of the variance of the noise."""


@dataclass(frozen=True)
class Schedule:
    """How long to anneal, and to move at the target: trajectories of ``LEAPFROG`` gradients."""

    levels: int = 20
    per_level: int = 1
    at_target: int = 3

    @property
    def gradients(self) -> int:
        """Gradients of the target for each chain."""
        return LEAPFROG * (self.levels * self.per_level + self.at_target)

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """From the highest to the lowest, which is the target's."""
        ratio = (LOWEST / HIGHEST) ** (1 / self.levels)
        return tuple(HIGHEST * ratio**level for level in range(self.levels + 1))


def sample(
    target: Target, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """One draw of each chain, by Hamiltonian Monte Carlo at each level and at the target."""
    levels = [level / target.power**0.5 for level in schedule.noise_levels]
    moves = [poe.samplers.HMC(LEAPFROG_STEP * level, LEAPFROG) for level in levels]
    return walk(target, num_chains, schedule, moves, 1, generator)


def sample_unadjusted(
    target: Target, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """With as many gradients, unadjusted Langevin along the sum of the scores at each level."""
    levels = [level / target.power**0.5 for level in schedule.noise_levels]
    moves = [poe.samplers.ULA(UNADJUSTED_STEP * level**2) for level in levels]
    return walk(target, num_chains, schedule, moves, LEAPFROG, generator)


def walk(
    target: Target,
    num_chains: int,
    schedule: Schedule,
    moves: Sequence[poe.samplers.Kernel],
    repeats: int,
    generator: torch.Generator,
) -> poe.Draws:
    """Chains that start in noise and end at the target; each move is made ``repeats`` times."""
    levels = tuple(level / target.power**0.5 for level in schedule.noise_levels)
    kernel = poe.samplers.AnnealedLangevin(
        experts.noise_ladder(target.guide, schedule.noise_levels[:-1]),
        tuple(moves),
        repeats * schedule.per_level,
        noise_levels=levels,
    )
    shape = target.density.space.event_shape
    return poe.sample(
        target.density,
        num_chains,
        kernel=kernel,
        warmup=repeats * schedule.at_target - 1,
        initial=levels[0] * torch.randn(num_chains, *shape, generator=generator),
        generator=generator,
        progress=False,
    )
