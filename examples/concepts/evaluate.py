"""Draw from each composition and each alternative, and measure what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

import poe
from examples.concepts import data
from examples.concepts.compositions import (
    Concepts,
    all_of,
    any_picture,
    objects_at,
    one_model,
    plain_product,
    times_prior,
)
from examples.concepts.energy import LOWEST
from examples.concepts.formula import Formula, Is
from examples.concepts.read_out import Reading, hits, ink_mask, read
from examples.concepts.sampling import Schedule, sample, sample_corrected, sample_unadjusted

FORMULAS: tuple[Formula, ...] = (
    Is("triangle") | Is("blue"),
    Is("large") & ~Is("red"),
    Is("large") / Is("red"),
    (Is("large") & Is("red")) | Is("bar"),
    ((Is("large") & Is("blue")) | Is("red")) & Is("left") & ~Is("bar"),
)


@dataclass(frozen=True)
class Plan:
    """How many chains for the six labels (of seen, and of held-out combinations), for each
    alternative to that, and for each other composition; and how long they are.
    """

    chains: int = 240
    alternative_chains: int = 48
    other_chains: int = 48
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Made:
    """What one way made: ink ``(n, 3, 32, 32)``, what it shows, and whether it is as asked for."""

    name: str
    ink: Tensor
    reading: Reading
    is_right: Tensor
    draws: poe.Draws


def make(name: str, draws: poe.Draws, holds: Callable[[Tensor], Tensor]) -> Made:
    """Right is a picture of one whole object of whose labels ``holds`` is true."""
    ink = draws.samples[:, -1]
    reading = read(ink)
    return Made(name, ink, reading, holds(reading.labels) & reading.is_whole, draws)


def asked(plan: Plan, chains: int) -> Tensor:
    """Six labels a chain, the seen combinations first: (2 * chains, 6)."""
    generator = plan.generator()
    groups = [
        data.random_labels(plan.chains, generator, held_out=held_out)[:chains]
        for held_out in (False, True)
    ]
    return torch.cat(groups)


def make_all_six(concepts: Concepts, labels: Tensor, plan: Plan) -> Made:
    """Pictures of six labels each, by composition."""
    target = times_prior(concepts, all_of(concepts, labels))
    return make_asked("AND", sample(target, len(labels), plan.schedule, plan.generator()), labels)


def make_alternatives(concepts: Concepts, labels: Tensor, plan: Plan) -> list[Made]:
    """The same by other ways, with as many gradients of p(x) a chain."""
    composed = times_prior(concepts, all_of(concepts, labels))
    ways = {
        "AND, unadjusted": (sample_unadjusted, composed),
        "AND, corrected at all levels": (sample_corrected, composed),
        "one model of all six": (sample, one_model(concepts, labels)),
        "plain product": (sample, plain_product(concepts, labels)),
    }
    return [
        make_asked(name, way(target, len(labels), plan.schedule, plan.generator()), labels)
        for name, (way, target) in ways.items()
    ]


def make_asked(name: str, draws: poe.Draws, labels: Tensor) -> Made:
    return make(name, draws, lambda shown: (shown == labels).all(1))


@torch.no_grad()
def reject(concepts: Concepts, labels: Tensor, plan: Plan) -> Tensor:
    """Which of n draws of p(x) each of n combinations accepts, say the concepts: (n, n)."""
    draws = sample(any_picture(concepts), len(labels), plan.schedule, plan.generator())
    pool = draws.samples[:, -1]
    level = torch.full((len(pool),), LOWEST)
    said = [one.log_posterior_at(pool, level).argmax(-1) for one in concepts.attributes.values()]
    return (torch.stack(said, -1)[None] == labels[:, None]).all(-1)


def make_formulas(concepts: Concepts, plan: Plan) -> list[tuple[Formula, Made]]:
    """Draws of p(x) times what each formula says.

    Not louder on the way, lest one side of an OR drown the other.
    """
    found = []
    for formula in FORMULAS:
        target = times_prior(concepts, formula.said_by(concepts), loudness=1.0)
        draws = sample(target, plan.other_chains, plan.schedule, plan.generator())
        found.append((formula, make(str(formula), draws, formula.holds)))
    return found


@dataclass(frozen=True)
class Chain:
    """Pictures by one way, and which of the places asked for have an object: (n, 3)."""

    name: str
    ink: Tensor
    hits: Tensor
    draws: poe.Draws


def places(plan: Plan) -> Tensor:
    """Three cells for each chain, those of objects in fresh scenes of three or more: (n, 3)."""
    n = plan.other_chains
    present = data.scenes(4 * n + 60, plan.generator()).present.flatten(1)
    return present[present.sum(1) >= 3][:n].float().topk(3).indices


def make_chains(concepts: Concepts, cells: Tensor, plan: Plan) -> list[Chain]:
    """Objects at three places, by each way."""
    composed = times_prior(concepts, objects_at(concepts, cells), loudness=2.0)
    ways = {
        "product of three places": (sample, composed),
        "the same, unadjusted": (sample_unadjusted, composed),
        "p(x) alone": (sample, any_picture(concepts)),
    }
    found = []
    for name, (way, target) in ways.items():
        draws = way(target, len(cells), plan.schedule, plan.generator())
        ink = draws.samples[:, -1]
        found.append(Chain(name, ink, hits(ink, cells), draws))
    return found


def paper_noise(ink: Tensor) -> float:
    """The spread of the noise on paper, away from ink; data have 0.05."""
    near = F.max_pool2d(ink_mask(ink)[:, None].float(), 7, 1, 3).expand_as(ink)
    return float(ink[near == 0].square().mean().sqrt())


def place_spread(made: Made) -> float:
    """The spread of the right objects' places about the middle of their bands; data have 0.69."""
    reading, right = made.reading, made.is_right
    off = reading.centre - data.PLACES[reading.labels[:, 3:5]]
    return float(off[right].square().mean().sqrt())
