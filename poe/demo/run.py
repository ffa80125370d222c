"""The main job: compose the shipped experts, sample the conjunction, and measure what came out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import poe
from poe import diagnostics
from poe.demo import picture
from poe.demo.attributes import Combination
from poe.demo.conjunction import ATTRIBUTES, Schedule, load_experts, sample
from poe.demo.evaluate import diversity, held, rates
from poe.demo.judge import load_facts, load_judge
from poe.demo.plan import Plan
from poe.demo.rejection import best_of, draw_pool, resample
from poe.demo.report import FORMAT, Report, Row
from poe.files.own import require_own_picture, require_own_report

Combinations = Sequence[Combination]
PAIRS = (("digit", "slant"), ("digit", "thickness"), ("slant", "thickness"))
GOALS = {"training": 0.85, "held out": 0.75, "diversity": 0.7, "seconds": 180.0, "memory": 4.0}


class Demo:
    """One run of a plan: the experts, the judge, the random numbers and the pool they share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.parts = load_experts()
        self.judge = load_judge()
        self.generator = torch.Generator().manual_seed(plan.seed)
        say(f"{plan.pool} ancestral samples of the class expert for each class")
        self.pool = draw_pool(self.parts, plan.pool, self.generator)

    def row(self, name: str, images: Tensor, combinations: Combinations) -> Row:
        """A line of the table."""
        return Row(name, len(images), rates(held(images, combinations, self.judge)))

    def conjunction(self, combinations: Combinations) -> tuple[poe.Product, poe.Draws]:
        """The product of all three attributes, one combination a chain, and its draws."""
        start = resample(self.parts, self.pool, combinations, self.generator)
        return self.chains(combinations, ATTRIBUTES, start, self.plan.schedule)

    def anneal(self, combinations: Combinations, attributes: Sequence[str], x: Tensor) -> Tensor:
        """The last draws of some of the attributes, from chains that start at x."""
        _, draws = self.chains(combinations, attributes, x, self.plan.side_schedule)
        return draws.samples[:, -1]

    def chains(
        self, combinations: Combinations, attributes: Sequence[str], start: Tensor, length: Schedule
    ) -> tuple[poe.Product, poe.Draws]:
        """A composition, and chains that anneal to it."""
        exponent = self.plan.prior_exponent
        return sample(self.parts, combinations, attributes, start, length, self.generator, exponent)

    def sides(self) -> dict[str, Tensor]:
        """What each expert alone and each pair makes of the combinations on the side."""
        combinations = self.plan.chains_on_the_side()
        label = torch.tensor([one.slant for one in combinations])
        digit = self.pool.some(combinations)
        slant = self.parts.slant.given(label).sample(len(label), generator=self.generator)
        say("thickness expert alone")
        thickness = self.anneal(combinations, ["thickness"], slant)
        found = {"class": digit, "slant": slant, "thickness": thickness}
        for pair in PAIRS:
            name = " AND ".join("class" if one == "digit" else one for one in pair)
            say(name)
            found[name] = self.anneal(combinations, pair, digit if "digit" in pair else slant)
        return found


def require_place(folder: Path) -> None:
    """Make the folder, and see that nobody else's files are where report and picture will be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise poe.StorageError(
            f"expected a folder to write to at {folder}, got {error}: give another --output"
        ) from error
    require_own_picture(folder / "demo.png")
    require_own_report(folder / "demo.json", FORMAT)


def run(plan: Plan, folder: Path, began: float) -> Report:
    """Make everything the plan asks for; print the report and write report and picture.

    ``began`` is when the process started, on the clock of ``time.perf_counter``.
    """
    require_place(folder)
    demo = Demo(plan)
    seen, new, side = plan.chains_seen(), plan.chains_held_out(), plan.chains_on_the_side()
    sides = demo.sides()
    say("class AND slant AND thickness")
    target, draws = demo.conjunction([*seen, *new])
    x = draws.samples[:, -1]
    groups = {"training combinations": (seen, x[: len(seen)]), "held out": (new, x[len(seen) :])}
    groups = {name: group for name, group in groups.items() if len(group[0])}

    rows = [demo.row(f"{name} alone", sides[name], side) for name in list(sides)[:3]]
    rows += [demo.row(name, sides[name], side) for name in list(sides)[3:]]
    for name, (combinations, _) in groups.items():
        one_each = sorted(set(combinations))
        pools = demo.pool.split(plan.schedule.evaluations)
        best = torch.cat([best_of(demo.parts, pool, one_each) for pool in pools])
        rows.append(demo.row(f"rejection, {name}", best, one_each * len(pools)))
    for name, (combinations, images) in groups.items():
        rows.append(demo.row(f"conjunction, {name}", images, combinations))

    draw_picture(demo, sides, groups, folder / "demo.png")
    report = summarize(demo, rows, groups, target, draws, began)
    report.write(folder / "demo.json")
    print(report.text())
    say(f"wrote {folder / 'demo.png'} and {folder / 'demo.json'}")
    return report


Groups = dict[str, tuple[list[Combination], Tensor]]


def summarize(
    demo: Demo,
    rows: list[Row],
    groups: Groups,
    target: poe.Product,
    draws: poe.Draws,
    began: float,
) -> Report:
    """Rates, figures and goals of a finished run."""
    judge = load_facts()
    combinations = [one for group, _ in groups.values() for one in group]
    images = torch.cat([images for _, images in groups.values()])
    spread = diversity(images, combinations, judge.distances)
    with torch.no_grad():
        said = target.contributions(images).mean(0).tolist()
    assert draws.acceptance_rate is not None
    ess = diagnostics.ess_bulk(draws.log_density.T[None]).nanmedian()
    seconds = time.perf_counter() - began
    memory = peak_memory()
    figures: dict[str, float | str] = {
        "guarantee": draws.guarantee,
        "gradients of the product for each chain": demo.plan.schedule.gradients,
        "density evaluations of the class expert for each chain": demo.plan.schedule.evaluations,
        "acceptance rate at the target": float(draws.acceptance_rate.mean()),
        f"median ESS of the log-density in {draws.samples.shape[1]} draws of a chain": float(ess),
        "seconds for the conjunction": draws.seconds,
        "judge's accuracy on test digits, clean": judge.accuracy_clean,
        "judge's accuracy on test digits, noise 0.1": judge.accuracy_noisy,
    }
    goals = {
        f"all three, {name}": (rows[-len(groups) + index].rates["all three"], ">=", goal)
        for index, name in enumerate(groups)
        for goal in [GOALS["held out" if name == "held out" else "training"]]
    }
    goals |= {
        "diversity within a combination over real digits of the class": (
            (spread, ">=", GOALS["diversity"])
        ),
        "seconds in all": (seconds, "<=", GOALS["seconds"]),
        "peak memory, GB": (memory, "<=", GOALS["memory"]),
    }
    return Report(rows, figures, dict(zip(target.names, said, strict=True)), goals)


def draw_picture(demo: Demo, sides: dict[str, Tensor], groups: Groups, path: Path) -> None:
    """Rows for the experts, the pairs and the conjunction, and a panel of what was held out."""
    columns = demo.plan.columns
    names = {"class": "class alone\n(autoregressive)", "slant": "slant alone\n(flow)"}
    names["thickness"] = "thickness alone\n(neural energy)"
    rows = [
        picture.Strip(names.get(name, name.replace(" AND ", "\nAND ")), images[: len(columns)])
        for name, images in sides.items()
    ]
    seen, images = groups.get("training combinations", ([], torch.empty(0)))
    if seen:
        index = first_of_each(seen, columns)
        right = held(images[index], columns, demo.judge)
        rows.append(picture.strip("class AND slant\nAND thickness", images[index], right))
    panel = []
    new, images = groups.get("held out", ([], torch.empty(0)))
    for one in sorted(set(new)):
        chosen = [row for row, other in enumerate(new) if other == one][: len(columns)]
        right = held(images[chosen], [one] * len(chosen), demo.judge)
        panel.append(picture.strip(str(one), images[chosen], right))
    picture.draw(path, columns, rows, panel)


def first_of_each(combinations: Combinations, columns: Combinations) -> list[int]:
    """Where each column's combination stands; its next chain where a column comes again."""
    chosen: list[int] = []
    for wanted in columns:
        rows = (row for row, one in enumerate(combinations) if one == wanted and row not in chosen)
        chosen.append(next(rows))
    return chosen


def peak_memory() -> float:
    """Peak resident memory of this process in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def say(text: str) -> None:
    """A line of progress on stderr."""
    print(f"demo: {text}", file=sys.stderr, flush=True)
