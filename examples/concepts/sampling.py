"""From noise to a composition: down a ladder of noise levels, corrected at each, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from energy import HIGHEST, LOWEST

import experts
import poe

LEAPFROG = 5
LEAPFROG_STEP = 0.63
"""In units of the noise: five steps turn the noise half around (Lh = pi) and keep its energy."""
UNADJUSTED_STEP = 0.2
"""In units of the variance of the noise."""


@dataclass(frozen=True)
class Schedule:
    """How long to anneal, and to move at the target: trajectories of ``LEAPFROG`` gradients."""

    levels: int = 16
    per_level: int = 2
    at_target: int = 6

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
    target: poe.Expert,
    num_chains: int,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    power: float = 1.0,
) -> poe.Draws:
    """One draw of each chain, by Hamiltonian Monte Carlo at each level and at the target.

    ``power``: the exponent of p(x) in the target, by which the variance of the noise is divided.
    """
    levels = tuple(level / power**0.5 for level in schedule.noise_levels)
    moves = [poe.samplers.HMC(LEAPFROG_STEP * level, LEAPFROG) for level in levels]
    steps = schedule.per_level, schedule.at_target
    return walk(target, num_chains, schedule, moves, steps, levels, generator)


def sample_unadjusted(
    target: poe.Expert, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """With as many gradients, unadjusted Langevin along the sum of the scores at each level."""
    levels = schedule.noise_levels
    moves = [poe.samplers.ULA(UNADJUSTED_STEP * level**2) for level in levels]
    steps = LEAPFROG * schedule.per_level, LEAPFROG * schedule.at_target
    return walk(target, num_chains, schedule, moves, steps, levels, generator)


def walk(
    target: poe.Expert,
    num_chains: int,
    schedule: Schedule,
    moves: Sequence[poe.samplers.Kernel],
    steps: tuple[int, int],
    levels: tuple[float, ...],
    generator: torch.Generator,
) -> poe.Draws:
    """Chains that start in noise and end at the target; ``steps`` at each level, and there."""
    per_level, at_target = steps
    ladder = experts.noise_ladder(target, schedule.noise_levels[:-1])
    kernel = poe.samplers.AnnealedLangevin(ladder, tuple(moves), per_level, noise_levels=levels)
    start = levels[0] * torch.randn(num_chains, *target.space.event_shape, generator=generator)
    return poe.sample(
        target,
        num_chains,
        kernel=kernel,
        warmup=at_target - 1,
        initial=start,
        generator=generator,
        progress=False,
    )
