"""Compose concepts that were learned apart: AND, OR, NOT, nested, and chains of three objects.

Prints three tables and draws a picture. What a sample shows is measured (`read_out.py`).

    python examples/concepts/compose.py [--fast] [--output concepts.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import compositions as c
import data
import torch
from picture import Row, draw_rows
from read_out import Reading, hits, ink_mask, read
from torch import Tensor
from torch.nn import functional as F
from weights import WEIGHTS

import poe

NAMES = tuple(data.FACTORS)
GROUPS = ("seen", "held out")


@dataclass(frozen=True)
class Plan:
    """How many chains, and how long."""

    chains: int = 128
    formula_chains: int = 96
    schedule: c.Schedule = field(default_factory=c.Schedule)


FAST = Plan(
    chains=4, formula_chains=4, schedule=c.Schedule(levels=6, steps_per_level=1, steps_at_target=1)
)


@dataclass(frozen=True)
class Made:
    """What a method made of what was asked for: ink ``(n, 3, 32, 32)``, and which are right."""

    name: str
    ink: Tensor
    is_right: Tensor
    reading: Reading
    labels: Tensor
    guarantee: str
    seconds: float

    def rows(self, which: slice) -> tuple[Tensor, Tensor]:
        """What of each label holds (n, 6), and whether all do in a whole object (n,)."""
        return (self.reading.labels == self.labels)[which], self.is_right[which]


def make(name: str, labels: Tensor, draw: Callable[[], poe.Draws]) -> Made:
    """Draw, and read the last draw of each chain."""
    began = time.perf_counter()
    draws = draw()
    ink = draws.samples[:, -1]
    reading = read(ink)
    is_right = (reading.labels == labels).all(1) & reading.is_whole
    seconds = time.perf_counter() - began
    return Made(name, ink, is_right, reading, labels, draws.guarantee, seconds)


def paper_noise(ink: Tensor) -> float:
    """The spread of the noise on paper, far from ink: data have 0.05."""
    near = F.max_pool2d(ink_mask(ink)[:, None].float(), 7, 1, 3).expand_as(ink)
    return float(ink[near == 0].square().mean().sqrt())


def place_spread(made: Made) -> float:
    """The spread of an object's place about its band's, in pixels: data have 0.69."""
    off = made.reading.centre - data.PLACES[made.labels[:, 3:5]]
    return float(off[made.is_right].std(0).mean()) if made.is_right.sum() > 1 else float("nan")


def all_six(concepts: c.Concepts, labels: Tensor, plan: Plan, seed: int) -> list[Made]:
    """All ways to make pictures of six labels each, with as many gradients of p(x)."""
    n, schedule = len(labels), plan.schedule
    target, plain = c.all_of(concepts, labels), c.plain_product(concepts, labels)
    joint = c.joint(concepts, labels)
    ways = {
        "AND": partial(c.sample, target),
        "AND, unadjusted": partial(c.sample_unadjusted, target),
        "one model of all six": partial(c.sample, joint),
        "plain product": partial(c.sample, plain, power=float(len(NAMES))),
    }
    return [
        make(name, labels, partial(way, n, schedule, torch.Generator().manual_seed(seed)))
        for name, way in ways.items()
    ]


@torch.no_grad()
def reject(concepts: c.Concepts, labels: Tensor, plan: Plan, seed: int) -> tuple[Tensor, float]:
    """Which of the combinations asked for (n, 6) turn up among n draws of p(x), say the concepts.

    And how large a share of the draws a combination accepts.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = c.sample(concepts.prior, len(labels), plan.schedule, generator).samples[:, -1]
    level = torch.full((len(pool),), c.LOWEST)
    said = [concepts.attributes[name].log_posterior_at(pool, level).argmax(-1) for name in NAMES]
    accepted = (torch.stack(said, -1)[None] == labels[:, None]).all(-1)
    return accepted.any(1), float(accepted.float().mean())


def percent(rate: Tensor) -> str:
    return f"{100 * rate.float().mean():.1f}"


def print_six(found: Sequence[Made], split: int, rejected: tuple[Tensor, float]) -> None:
    """One row for each way and group."""
    print(
        "\n| made by | combinations | " + " | ".join(NAMES) + " | all six, whole | spread | noise |"
    )
    print("|---" * (len(NAMES) + 5) + "|")
    groups = dict(zip(GROUPS, (slice(0, split), slice(split, None)), strict=True))
    for made in found:
        for group, which in groups.items():
            held, right = made.rows(which)
            cells = [percent(column) for column in held.T]
            error = 100 * (right.float().var() / len(right)).sqrt()
            extra = f"{place_spread(made):.2f} | {paper_noise(made.ink):.3f}"
            print(f"| {made.name} | {group} | {' | '.join(cells)} | "
                  f"{percent(right)} ± {error:.1f} | {extra} |")  # fmt: skip
    is_there, share = rejected
    for group, which in groups.items():
        empty = " | ".join(" " for _ in NAMES)
        print(f"| rejection from p(x) | {group} | {empty} | {percent(is_there[which])} | | |")
    print(f"\na combination accepts {100 * share:.2f} % of the draws of p(x)")
    for made in found:
        seen, new = (made.rows(which)[1].float().mean() for which in groups.values())
        print(
            f"{made.name}: held out / seen = {new / seen:.3f}; {made.guarantee}; {made.seconds:.0f} s"
        )


@dataclass(frozen=True)
class Formula:
    """A composition of what concepts say, with what of it holds for six labels (n, 6)."""

    name: str
    said: poe.Expert
    holds: Callable[[Tensor], Tensor]
    parts: dict[str, Callable[[Tensor], Tensor]]
    weight: Callable[[Tensor], Tensor]
    """The ratio of the composition to p(x) where each label is certain, for the shares due."""


def is_label(attribute: str, label: str) -> Callable[[Tensor], Tensor]:
    column, index = NAMES.index(attribute), data.FACTORS[attribute].index(label)
    return lambda labels: labels[:, column] == index


def formulas(concepts: c.Concepts) -> list[Formula]:
    """OR, NOT and nested compositions."""
    says = concepts.says
    triangle, bar = is_label("shape", "triangle"), is_label("shape", "bar")
    blue, red, large = (
        is_label("colour", "blue"),
        is_label("colour", "red"),
        is_label("size", "large"),
    )
    left = is_label("x", "left")

    def ratio(event: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
        return event(labels) / event(labels).float().mean()

    return [
        Formula(
            "triangle OR blue",
            c.any_of(says("shape", "triangle"), says("colour", "blue")),
            lambda x: triangle(x) | blue(x),
            {"triangle": triangle, "blue": blue},
            lambda x: ratio(triangle, x) + ratio(blue, x),
        ),
        Formula(
            "large AND NOT red",
            says("size", "large") / says("colour", "red"),
            lambda x: large(x) & ~red(x),
            {"large": large, "red": red},
            lambda x: large(x) & ~red(x),
        ),
        Formula(
            "(large AND red) OR bar",
            c.any_of(says("size", "large") * says("colour", "red"), says("shape", "bar")),
            lambda x: (large(x) & red(x)) | bar(x),
            {"large and red": lambda x: large(x) & red(x), "bar": bar},
            lambda x: ratio(large, x) * ratio(red, x) + ratio(bar, x),
        ),
        Formula(
            "((blue AND large) OR red) AND left AND NOT bar",
            c.any_of(says("colour", "blue") * says("size", "large"), says("colour", "red"))
            * says("x", "left")
            / says("shape", "bar"),
            lambda x: ((blue(x) & large(x)) | red(x)) & left(x) & ~bar(x),
            {"blue": blue, "red": red, "left": left, "bar": bar},
            lambda x: (ratio(blue, x) * ratio(large, x) + ratio(red, x)) * left(x) * ~bar(x),
        ),
    ]


def make_formulas(concepts: c.Concepts, plan: Plan, seed: int) -> list[tuple[Formula, Made]]:
    """Draws of each formula, from one density for all chains."""
    found = []
    for formula in formulas(concepts):
        n, generator = plan.formula_chains, torch.Generator().manual_seed(seed)
        target = concepts.prior * formula.said
        nothing = torch.full((n, len(NAMES)), -1)
        made = make(formula.name, nothing, partial(c.sample, target, n, plan.schedule, generator))
        found.append((formula, made))
    return found


def is_true(formula: Formula, made: Made) -> Tensor:
    return formula.holds(made.reading.labels) & made.reading.is_whole


def print_formulas(found: Sequence[tuple[Formula, Made]]) -> None:
    """How often each formula holds, and its parts beside the shares that are due to them."""
    generator = torch.Generator().manual_seed(0)
    training = data.random_labels(20_000, generator, held_out=False)
    print("\n| formula | holds, whole | shares of whole pictures (due) |\n|---|---|---|")
    for formula, made in found:
        right, whole = is_true(formula, made), made.reading.labels[made.reading.is_whole]
        error = 100 * (right.float().var() / len(right)).sqrt()
        weight = formula.weight(training).float()
        shares = [
            f"{name} {percent(part(whole))} ({100 * (weight * part(training)).sum() / weight.sum():.0f})"
            for name, part in formula.parts.items()
        ]
        print(f"| {formula.name} | {percent(right)} ± {error:.1f} | {', '.join(shares)} |")


def chains_of_three(n: int, generator: torch.Generator) -> Tensor:
    """Three places each (n, 3), those of objects in fresh scenes of three or more."""
    scenes = data.scenes(6 * n + 60, generator).present.flatten(1)
    return scenes[scenes.sum(1) >= 3][:n].float().topk(3).indices


def make_chains(
    concepts: c.Concepts, plan: Plan, seed: int
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The places asked for, and by each way the pictures and which of their places are met."""
    generator = torch.Generator().manual_seed(seed)
    cells = chains_of_three(plan.formula_chains, generator)
    target = c.objects_at(concepts, cells)
    ways = {
        "product of three places": c.sample,
        "the same, unadjusted": c.sample_unadjusted,
        "p(x) alone": lambda _, *rest: c.sample(concepts.prior, *rest),
    }
    found = {}
    for name, way in ways.items():
        draws = way(target, len(cells), plan.schedule, torch.Generator().manual_seed(seed))
        ink = draws.samples[:, -1]
        found[name] = ink, hits(ink, cells)
    return cells, found


def print_chains(found: dict[str, tuple[Tensor, Tensor]]) -> None:
    print("\n| three objects at given places | each place | all three | objects in a picture |")
    print("|---|---|---|---|")
    for name, (ink, hit) in found.items():
        count = read(ink).pieces.float()
        right = hit.all(1)
        error = 100 * (right.float().var() / len(right)).sqrt()
        print(f"| {name} | {percent(hit)} | {percent(right)} ± {error:.1f} | {count.mean():.2f} |")


def name_of(labels: Tensor) -> str:
    """What is asked for, in words on four lines."""
    words = [FACTOR[i] for FACTOR, i in zip(data.FACTORS.values(), labels.tolist(), strict=True)]
    shape, colour, size, x, y, rotation = words
    return f"{size} {colour}\n{shape}\n{y} {x}\n{rotation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("concepts.png"))
    parser.add_argument("--fast", action="store_true", help="few and short chains")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = FAST if options.fast else Plan()
    concepts = c.load(options.weights)
    generator = torch.Generator().manual_seed(options.seed)
    labels = torch.cat(
        [data.random_labels(plan.chains, generator, held_out=new) for new in (False, True)]
    )
    six = all_six(concepts, labels, plan, options.seed)
    print_six(six, plan.chains, reject(concepts, labels, plan, options.seed))
    composed = make_formulas(concepts, plan, options.seed)
    print_formulas(composed)
    cells, chains = make_chains(concepts, plan, options.seed)
    print_chains(chains)
    draw(options.output, six, plan.chains, composed, chains, cells)
    print(f"\nwrote {options.output}")


def draw(
    path: Path,
    six: Sequence[Made],
    split: int,
    composed: Sequence[tuple[Formula, Made]],
    chains: dict[str, tuple[Tensor, Tensor]],
    cells: Tensor,
) -> None:
    """A row for each way and group, each formula, and the chains with the places asked for."""
    rows = []
    for group, first in zip(GROUPS, (0, split), strict=True):
        for made in six:
            which = slice(first, first + 12)
            titles = [name_of(one) for one in made.labels[which]] if made is six[0] else None
            rows.append(Row(f"{made.name}\n{group}", made.ink[which], made.is_right[which], titles))
    for formula, made in composed:
        rows.append(Row(formula.name, made.ink[:12], is_true(formula, made)[:12]))
    ink, hit = next(iter(chains.values()))
    rows.append(
        Row("an object at each\nof three crosses", ink[:12], hit.all(1)[:12], cells=cells[:12])
    )
    draw_rows(path, rows)


if __name__ == "__main__":
    main()
