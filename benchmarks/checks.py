"""What it costs that a run looks for faults: of a whole run, and of each step.

    python benchmarks/checks.py

Of a run of 4,000 draws by default: the time before its first step (is the density a function of x,
row by row; is its score its slope), of the rays far out at the end of warm-up, and of the verdict.
Of a MALA step: its time through all checks over that of the same step without any, where modules
are called as torch calls them and nothing asks whether positions are finite. Processor time on one
thread, medians over rounds in which the calls take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from product_step import median_times, products
from torch import nn

import poe
from poe.samplers.guarded import Guarded, Raised

MAX_OF_RUN, MAX_OF_STEP = 0.05, 0.02
PARTS = {
    "before": "poe.sampling.sample.prepared",
    "far out": "poe.sampling.sample._look_far",
    "verdict": "poe.sampling.sample._told",
}


@contextmanager
def timed(path: str, seconds: dict[str, float], name: str) -> Iterator[None]:
    """Inside, the time of a function is added up."""
    package, _, function = path.rpartition(".")
    called: Callable[..., object] = getattr(__import__(package, fromlist=[function]), function)

    def timing(*given: object, **named: object) -> object:
        began = time.process_time()
        try:
            return called(*given, **named)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - began

    with patch(path, timing):
        yield


def of_run(target: poe.Expert, num_samples: int) -> tuple[float, dict[str, float]]:
    """Seconds of a run, and of each of its checks."""
    seconds: dict[str, float] = {}
    before, far_out, verdict = (timed(path, seconds, name) for name, path in PARTS.items())
    with before, far_out, verdict:
        began = time.process_time()
        poe.sample(target, num_samples, generator=seeded(), progress=False)
        return time.process_time() - began, seconds


def of_step(target: poe.Expert, chains: int, rounds: int) -> tuple[float, float]:
    """Seconds of a MALA step with all checks, and with none."""
    kernel, generator = poe.samplers.MALA(step_size=0.01), seeded()
    guarded = Guarded(target, Raised())
    state = kernel.init(guarded, torch.randn(chains, 32, generator=generator))

    def bare() -> None:
        with patch.object(poe.Expert, "__call__", nn.Module.__call__):
            for _ in range(20):
                kernel.step(target, state, generator=generator)

    def checked() -> None:
        for _ in range(20):
            kernel.step(guarded, state, generator=generator)

    with_checks, without = median_times([checked, bare], rounds, 1)
    return with_checks / 20, without / 20


def seeded() -> torch.Generator:
    """The same random numbers for all."""
    return torch.Generator().manual_seed(0)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args()
    torch.set_num_threads(1)
    targets = {name: poe.Product(*parts) for name, parts in products(seeded()).items()}
    print(f"a run of {options.draws} draws; goal: checks <= {MAX_OF_RUN:.0%} of it")
    print(
        f"{'product':<32}{'run s':>8}" + "".join(f"{f'{name} ms':>13}" for name in PARTS), "share"
    )
    for name in ("Gaussian x mixture x MLP", "MLP x MLP x MLP"):  # the third is drawn exactly
        seconds, checks = min(of_run(targets[name], options.draws) for _ in range(3))
        each = "".join(f"{1e3 * checks[part]:>13.1f}" for part in PARTS)
        print(f"{name:<32}{seconds:>8.2f}{each}{sum(checks.values()) / seconds:>7.1%}")
    print(f"\na MALA step; goal: {MAX_OF_STEP:.0%} more than without any check")
    print(f"{'product':<32}{'chains':>8}{'with us':>10}{'without us':>12}{'more':>8}")
    for chains in (4, 100, 1000):
        for name, target in targets.items():
            checked, bare = of_step(target, chains, options.rounds)
            numbers = f"{checked * 1e6:>10.0f}{bare * 1e6:>12.0f}{checked / bare - 1:>8.1%}"
            print(f"{name:<32}{chains:>8}{numbers}")


if __name__ == "__main__":
    main()
