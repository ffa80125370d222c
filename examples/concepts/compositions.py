"""Compositions of concepts as densities, and the ladder of noise that they are sampled by.

Each concept comes in as p(x | y) / p(x), what a picture says of its label, and p(x) once:

    p(x) * prod_i p(x | y_i) / p(x)

which is p(x | y_1, ..., y_k) where the labels are independent given x. The plain product
prod_i p(x | y_i) is another density: it has p(x) to the power k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from data import FACTORS, labels_of
from energy import HIGHEST, LOWEST, Concept, JointEnergy, PictureEnergy, Presence, combination
from torch import Tensor
from weights import WEIGHTS, read

import experts
import poe
from experts.noise import ANY


@dataclass(frozen=True)
class Concepts:
    """The energy of pictures, the six attributes by name, presence, and one model of everything."""

    picture: PictureEnergy
    attributes: dict[str, Concept]
    presence: Presence
    joint: JointEnergy

    @property
    def prior(self) -> poe.Expert:
        """p(x)."""
        return self.picture.given(ANY)

    def says(self, attribute: str, label: str | Tensor) -> poe.Expert:
        """p(x | label) / p(x); a tensor has one label for each chain."""
        return experts.DensityRatio(self.attributes[attribute]).given(label)

    def here(self, cell: Tensor) -> poe.Expert:
        """p(x | an object is in that cell) / p(x)."""
        return experts.DensityRatio(self.presence).given(cell)


def load(folder: Path = WEIGHTS) -> Concepts:
    """The shipped weights."""
    picture = PictureEnergy()
    picture.load_state_dict(read("picture", folder))
    attributes = {
        name: Concept(picture, labels_of(name)).with_own_state(read(name, folder))
        for name in FACTORS
    }
    joint = JointEnergy()
    joint.load_state_dict(read("joint", folder))
    presence = Presence(picture).with_own_state(read("presence", folder))
    for module in (picture, joint, presence, *attributes.values()):
        module.eval().requires_grad_(False)
    return Concepts(picture, attributes, presence, joint)


def all_of(
    concepts: Concepts, labels: Tensor, names: Sequence[str] = tuple(FACTORS)
) -> poe.Product:
    """AND: p(x) * prod_i p(x | y_i) / p(x), six labels a chain (n, 6), of which ``names`` count."""
    columns = dict(zip(FACTORS, labels.unbind(-1), strict=True))
    told = {name: concepts.says(name, columns[name]) for name in names}
    return poe.Product(pictures=concepts.prior, **told)


def plain_product(concepts: Concepts, labels: Tensor) -> poe.Product:
    """prod_i p(x | y_i): the same with p(x) to the power six, evaluated once."""
    return all_of(concepts, labels) * concepts.prior ** (len(FACTORS) - 1)


def joint(concepts: Concepts, labels: Tensor) -> poe.Expert:
    """The one model that was told all six labels in training."""
    return concepts.joint.given(combination(labels))


def any_of(*said: poe.Expert) -> poe.Mixture:
    """OR of ratios p(x | A) / p(x): times p(x), the mixture of the p(x | A) with equal weights.

    Each p(x) * ratio has the normaliser of p(x), so nothing is to be estimated: relative to p(x)
    the ratios are normalised, which ``log_partitions`` says. For a product of ratios that holds
    where its labels are independent.
    """
    return poe.Mixture(said, log_partitions=[0.0] * len(said))


def objects_at(concepts: Concepts, cells: Tensor) -> poe.Product:
    """A chain of k places (n, k): p(x) * prod_j p(x | an object is in cell j) / p(x)."""
    told = {f"place {j + 1}": concepts.here(column) for j, column in enumerate(cells.T)}
    return poe.Product(pictures=concepts.prior, **told)


@dataclass(frozen=True)
class Schedule:
    """The length of the ladder and of the walk: gradients for each chain."""

    levels: int = 16
    steps_per_level: int = 2
    steps_at_target: int = 6

    @property
    def gradients(self) -> int:
        return LEAPFROG * (self.levels * self.steps_per_level + self.steps_at_target)


LEAPFROG = 5
LEAPFROG_STEP = 0.63
"""In units of the noise: five steps turn the noise half around (Lh = pi) and keep its energy."""
UNADJUSTED_STEP = 0.2
"""In units of the variance of the noise."""


def sample(
    target: poe.Expert,
    n: int,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    power: float = 1.0,
) -> poe.Draws:
    """One draw from each of n chains, which came down the ladder to the target at the lowest noise.

    ``power``: the exponent of p(x) in the target, which divides the variance of the noise.
    """
    levels = noise_levels(schedule, power)
    moves = [poe.samplers.HMC(LEAPFROG_STEP * level, LEAPFROG, jitter=0.1) for level in levels]
    return annealed(target, n, schedule, moves, schedule.steps_per_level, levels, generator)


def sample_unadjusted(
    target: poe.Expert, n: int, schedule: Schedule, generator: torch.Generator
) -> poe.Draws:
    """The same without correction: at each level the sum of the scores is followed, with noise."""
    levels = noise_levels(schedule, 1.0)
    moves = [poe.samplers.ULA(UNADJUSTED_STEP * level**2) for level in levels]
    steps = LEAPFROG * schedule.steps_per_level
    return annealed(target, n, schedule, moves, steps, levels, generator)


def noise_levels(schedule: Schedule, power: float) -> tuple[float, ...]:
    """From the highest to the lowest, the target's; of p(x) to a power the noise is smaller."""
    levels = torch.logspace(0, 1, schedule.levels + 1, HIGHEST / LOWEST) * LOWEST
    return tuple((levels.flip(0) / power**0.5).tolist())


def annealed(
    target: poe.Expert,
    n: int,
    schedule: Schedule,
    moves: Sequence[poe.samplers.Kernel],
    steps_per_level: int,
    levels: tuple[float, ...],
    generator: torch.Generator,
) -> poe.Draws:
    reads = noise_levels(schedule, 1.0)[:-1]
    kernel = poe.samplers.AnnealedLangevin(
        experts.noise_ladder(target, reads), tuple(moves), steps_per_level, noise_levels=levels
    )
    at_target = schedule.gradients - LEAPFROG * schedule.levels * schedule.steps_per_level
    steps = at_target * steps_per_level // (LEAPFROG * schedule.steps_per_level)
    start = levels[0] * torch.randn(n, *target.space.event_shape, generator=generator)
    return poe.sample(
        target, n, kernel=kernel, warmup=steps - 1, initial=start, generator=generator,
        progress=False,
    )  # fmt: skip
