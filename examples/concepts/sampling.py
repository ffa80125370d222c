"""From noise to a composition: down a ladder of noise levels, and on at the lowest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import experts
import poe
from examples.concepts.compositions import Target
from examples.concepts.energy import HIGHEST, LOWEST

LEAPFROG = 7
LEAPFROG_STEP = 0.45
"""In units of the noise: seven steps turn the noise half around (Lh = pi) and keep its energy."""
QUARTER = 5
QUARTER_STEP = 0.3
"""At the target five steps turn it a quarter around (Lh = pi / 2), so that it is drawn afresh."""
UNADJUSTED_STEP = 0.2
"""In units of the variance of the noise."""


@dataclass(frozen=True)
class Schedule:
    """How long to anneal, in steps of one gradient, and to move at the target, in trajectories of
    ``QUARTER`` gradients.
    """

    levels: int = 60
    per_level: int = 2
    at_target: int = 4

    @property
    def gradients(self) -> int:
        """Gradients of the target for each chain."""
        return self.levels * self.per_level + QUARTER * self.at_target

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """From the highest to the lowest, which is the target's."""
        ratio = (LOWEST / HIGHEST) ** (1 / self.levels)
        return tuple(HIGHEST * ratio**level for level in range(self.levels + 1))


def sample(
    target: Target, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """One draw of each chain: down the ladder by unadjusted Langevin, which only finds a start, and
    at the target by Hamiltonian Monte Carlo.
    """
    levels = levels_of(target, schedule)
    moves = (*map(langevin, levels[:-1]), at_the_target(levels[-1]))
    return walk(target, num_chains, schedule, moves, schedule.at_target, generator)


def sample_unadjusted(
    target: Target, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """With as many gradients, unadjusted at the target too."""
    moves = tuple(map(langevin, levels_of(target, schedule)))
    return walk(target, num_chains, schedule, moves, QUARTER * schedule.at_target, generator)


def sample_corrected(
    target: Target, num_chains: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """With about as many gradients, a trajectory of Hamiltonian Monte Carlo at each level."""
    levels = max(schedule.levels * schedule.per_level // LEAPFROG, 1)
    fewer = Schedule(levels, 1, schedule.at_target)
    *above, last = levels_of(target, fewer)
    moves = (*map(hamiltonian, above), at_the_target(last))
    return walk(target, num_chains, fewer, moves, fewer.at_target, generator)


def levels_of(target: Target, schedule: Schedule) -> tuple[float, ...]:
    """The noise that is in the chains: of p(x) to a power it is smaller than the level's."""
    return tuple(level / target.power**0.5 for level in schedule.noise_levels)


def langevin(level: float) -> poe.samplers.ULA:
    return poe.samplers.ULA(UNADJUSTED_STEP * level**2)


def hamiltonian(level: float) -> poe.samplers.HMC:
    return poe.samplers.HMC(LEAPFROG_STEP * level, LEAPFROG)


def at_the_target(level: float) -> poe.samplers.HMC:
    return poe.samplers.HMC(QUARTER_STEP * level, QUARTER)


def walk(
    target: Target,
    num_chains: int,
    schedule: Schedule,
    moves: tuple[poe.samplers.Kernel, ...],
    at_target: int,
    generator: torch.Generator,
) -> poe.Draws:
    """Chains that start in noise and end at the target, after so many moves there."""
    levels = levels_of(target, schedule)
    kernel = poe.samplers.AnnealedLangevin(
        experts.noised.noise_ladder(target.guide, schedule.noise_levels[:-1]),
        moves,
        schedule.per_level,
        noise_levels=levels,
    )
    shape = target.density.space.event_shape
    return poe.sample(
        target.density,
        num_chains,
        kernel=kernel,
        warmup=at_target - 1,
        initial=levels[0] * torch.randn(num_chains, *shape, generator=generator),
        generator=generator,
        progress=False,
    )
