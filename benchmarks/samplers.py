"""Our samplers beside blackjax and ebmkit in one run, as ratios to blackjax ChEES.

    python benchmarks/samplers.py                    # everything
    python benchmarks/samplers.py a c --fast         # some sections, fewer draws
    python benchmarks/samplers.py a c --quick        # blackjax ChEES and ours alone

Needs the extra ``benchmarks``. Targets: targets.py; float32; every engine in a process of its own,
on the same number of cores, one after the other. ESS is ArviZ's, the worse of x and (x − mean)².
Compile time is apart; warm-up is counted both ways. The engines take turns in some rounds, since
the speed of a machine varies, and of each the fastest round counts. ``poe.sample`` chooses its
kernel and its warm-up by itself; blackjax has the settings that were its best on these targets;
ebmkit's HMC has a step size from blackjax.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from child import isolated

Figures = dict[str, float]


class Engine(NamedTuple):
    """A module with ``run``, and the name of one of its samplers."""

    label: str
    module: str
    sampler: str
    warmup: int | None = 500


OURS = (
    Engine("poe.sample", "ours", "eager", None),
    Engine("poe.sample, compiled", "ours", "compiled", None),
)
CHEES = Engine("blackjax ChEES", "peers_blackjax", "chees")
NUTS = Engine("blackjax NUTS", "peers_blackjax", "nuts")
PEERS = (
    CHEES,
    Engine("blackjax MEADS", "peers_blackjax", "meads"),
    Engine("ebmkit MALA", "peers_ebmkit", "adaptive_mala", 1000),
    Engine("ebmkit HMC", "peers_ebmkit", "hmc", 500),
)


class Goal(NamedTuple):
    """A figure to reach: ours, or the ratio of ours to the baseline's."""

    figure: str
    bound: float
    is_ratio: bool = False
    is_ceiling: bool = False

    def verdict(self, where: str, ours: Figures, baseline: Figures) -> str:
        """In one line, a miss as plainly as a hit."""
        value = ours[self.figure] / (baseline[self.figure] if self.is_ratio else 1.0)
        name = self.figure.replace("_", " ") + " over the baseline's" * self.is_ratio
        return verdict(f"{where} {name}", value, self.bound, self.is_ceiling)


def verdict(what: str, value: float, bound: float, is_ceiling: bool) -> str:
    """``what: value (goal): reached`` or ``MISSED``.

    >>> verdict("ratio", 1.2, 1.1, True)
    'ratio: 1.2 (goal <= 1.1): MISSED'
    """
    is_reached = value <= bound if is_ceiling else value >= bound
    sign = "<=" if is_ceiling else ">="
    return f"{what}: {value:.4g} (goal {sign} {bound:g}): {'reached' if is_reached else 'MISSED'}"


@dataclass(frozen=True)
class Race:
    """All engines on one target; the first peer is the baseline of the ratios."""

    target: str
    chains: int
    draws: int
    peers: tuple[Engine, ...] = PEERS
    goals: tuple[Goal, ...] = ()


RACES: dict[str, tuple[Race, ...]] = {
    "a": (
        Race("a", 128, 500, goals=(
            Goal("ess_per_second", 30.0, is_ratio=True),
            Goal("ess_per_gradient", 0.20),
            Goal("warmup_gradients", 1500, is_ceiling=True),
        )),
    ),
    "b": (Race("b", 128, 500),),
    "c": (
        Race("c", 1000, 300, goals=(
            Goal("ess_per_second", 4.0, is_ratio=True),
            Goal("ess_per_gradient", 0.25),
            Goal("warmup_gradients", 500, is_ceiling=True),
        )),
    ),
    "few": (
        Race("a", 4, 1000, peers=(CHEES, NUTS)),
        Race("c", 4, 1000, peers=(CHEES, NUTS)),
    ),
}  # fmt: skip


def measure(
    module: str, sampler: str, target: str, chains: int, draws: int, warmup: int | None, seed: int
) -> Figures:
    """The figures of one engine on one target; called in the child."""
    from effective import figures, mode_masses, total_variation
    from targets import RING_MEANS, RING_WEIGHTS, TARGETS

    run = importlib.import_module(module).run(sampler, target, chains, draws, warmup, seed)
    found = figures(run, TARGETS[target].variance)
    if target == "b":
        found["mode_error"] = total_variation(mode_masses(run.samples, RING_MEANS), RING_WEIGHTS)
    return found


COLUMNS: tuple[tuple[str, str, str, bool], ...] = (
    ("ess_per_second", "ESS/s", ",.0f", True),
    ("ess_per_second_with_warmup", "with warm-up", ",.0f", True),
    ("ess_per_gradient", "ESS/gradient", ".4f", True),
    ("warmup_gradients", "warm-up grads", ",.0f", True),
    ("compile_seconds", "compile s", ".1f", False),
    ("warmup_seconds", "warm-up s", ".2f", False),
    ("sampling_seconds", "draw s", ".2f", False),
    ("r_hat", "R-hat", ".3f", False),
    ("variance_error", "var. error", ".3f", False),
    ("mode_error", "mode TV", ".3f", False),
)
"""Figure, heading, format, and whether its ratio to the baseline is printed beside it."""


def table(rows: dict[str, Figures], baseline: str) -> str:
    """One engine a row; in brackets the ratio to the baseline."""
    columns = [column for column in COLUMNS if any(column[0] in row for row in rows.values())]
    lines = [["", *(heading for _, heading, _, _ in columns)]]
    for label, row in rows.items():
        cells = []
        for figure, _, cell_format, has_ratio in columns:
            ratio = f" ({row[figure] / rows[baseline][figure]:.2f}x)" if has_ratio else ""
            cells.append(f"{row[figure]:{cell_format}}{ratio}")
        lines.append([label, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def run_apart(engine: Engine, race: Race, options: argparse.Namespace) -> Figures:
    """One engine in a process of its own."""
    found: Figures = isolated(
        "samplers",
        "measure",
        options.cores,
        module=engine.module,
        sampler=engine.sampler,
        target=race.target,
        chains=race.chains,
        draws=race.draws,
        warmup=engine.warmup,
        seed=options.seed,
    )
    return found


def fastest(found: list[Figures]) -> Figures:
    """The round that drew the fastest, with what compiling cost where nothing was cached yet."""
    best = min(found, key=lambda figures: figures["sampling_seconds"])
    return {**best, "compile_seconds": max(figures["compile_seconds"] for figures in found)}


def race(race: Race, options: argparse.Namespace) -> list[str]:
    """Run the engines, print their table, and return what became of the goals."""
    print(f"\ntarget {race.target}: {race.chains} chains, {race.draws} draws each", flush=True)
    baseline, *others = race.peers
    engines = (baseline, *(peer for peer in others if not options.quick), *OURS)
    rounds: dict[str, list[Figures]] = {engine.label: [] for engine in engines}
    for index in range(options.rounds):
        for engine in engines:
            print(f"\r  round {index + 1}: {engine.label:<30}", end="", flush=True)
            rounds[engine.label].append(run_apart(engine, race, options))
    rows = {label: fastest(found) for label, found in rounds.items()}
    print()
    print(table(rows, baseline.label))
    best = max((rows[engine.label] for engine in OURS), key=lambda row: row["ess_per_second"])
    where = f"({race.target}) {race.chains} chains,"
    return [goal.verdict(where, best, rows[baseline.label]) for goal in race.goals]


def step_cost(options: argparse.Namespace) -> list[str]:
    """A MALA step over the bare gradient, eager and compiled, on one core."""
    rounds = 5 if options.fast else 15
    lines = []
    for name, is_compiled, goal in (("eager", False, 1.25), ("compiled", True, 1.1)):
        found = isolated(
            "step_cost",
            "measure",
            1,
            chains=1000,
            rounds=rounds,
            repeats=10,
            is_compiled=is_compiled,
        )
        print(
            f"\n{name} on (c), 1000 chains, one core: bare gradient {found['gradient']:.0f} us, "
            f"MALA step {found['step']:.0f} us"
        )
        lines.append(verdict(f"{name} MALA step over gradient", found["ratio"], goal, True))
    return lines


def time_ess(shape: tuple[int, int, int]) -> Figures:
    """Seconds of the bulk ESS of every component, ours and ArviZ's, and how far they differ."""
    import torch
    from effective import _arviz

    import poe

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    arviz = _arviz()
    began = time.perf_counter()
    theirs = arviz.ess(arviz.convert_to_dataset({"x": x.double().numpy()}), method="bulk")
    middle = time.perf_counter()
    ours = poe.diagnostics.ess_bulk(x)
    ended = time.perf_counter()
    difference = (ours / torch.tensor(theirs["x"].values) - 1).abs().max().item()
    return {"arviz": middle - began, "ours": ended - middle, "difference": difference}


def ess_cost(options: argparse.Namespace) -> list[str]:
    """The ESS of 1000 chains × 300 draws × 32 components."""
    found = isolated("samplers", "time_ess", options.cores, shape=(1000, 300, 32))
    print(
        f"\nESS of 1000 x 300 x 32: ours {found['ours']:.2f} s, ArviZ {found['arviz']:.2f} s; "
        f"largest relative difference {found['difference']:.1e}"
    )
    return [verdict("seconds of the ESS", found["ours"], 0.5, True)]


def many_modes(options: argparse.Namespace) -> list[str]:
    """Mode masses of (b) from chains that all start in one mode; log Z of (b) and (c)."""
    runs = 5 if options.fast else 20
    cores = options.cores
    masses = isolated("many_modes", "masses", cores, chains=1000, runs=runs)
    print(
        f"\n(b) 1000 chains of parallel tempering from one mode: total variation "
        f"{masses['total_variation']:.3f} (exact draws: {masses['exact']:.3f}), "
        f"{masses['seconds']:.2f} s"
    )
    lines = [verdict("(b) total variation of mode masses", masses["total_variation"], 0.04, True)]
    for name, goal in (("b", 0.02), ("c", 0.04)):
        found = isolated("many_modes", "log_partition", cores, target=name, chains=1000, runs=runs)
        print(
            f"({name}) log Z by sequential Monte Carlo, 1000 chains: bias {found['bias']:+.4f}, "
            f"sd {found['sd']:.4f}, {found['seconds']:.2f} s"
        )
        lines.append(verdict(f"({name}) sd of log Z", found["sd"], goal, True))
    return [*lines, verdict("(c) seconds of log Z", found["seconds"], 0.3, True)]


def races(section: str) -> Callable[[argparse.Namespace], list[str]]:
    """The races of a section as one function of the options."""

    def run(options: argparse.Namespace) -> list[str]:
        found = []
        for entry in RACES[section]:
            shorter = replace(entry, draws=entry.draws // 2) if options.fast else entry
            found += race(shorter, options)
        return found

    return run


SECTIONS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    **{section: races(section) for section in RACES},
    "modes": many_modes,
    "step": step_cost,
    "ess": ess_cost,
}


def main() -> None:
    """Run the sections asked for, and say of every goal whether it was reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", default=[], help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="for every engine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="of the races")
    parser.add_argument("--quick", action="store_true", help="no peers but the baseline")
    parser.add_argument("--fast", action="store_true", help="half the draws, fewer rounds")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"expected sections of {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"every engine on {options.cores} cores{load}")
    verdicts = []
    for section in options.sections or SECTIONS:
        verdicts += SECTIONS[section](options)
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
