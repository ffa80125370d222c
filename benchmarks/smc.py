"""Sequential Monte Carlo on targets whose log Z, and whose modes, are known.

    python benchmarks/smc.py                # the table, in a few minutes
    python benchmarks/smc.py --runs 10

Targets: targets.py; float32; each row over many seeds: standard deviation and bias of log Z (the
bias also in units of its own standard error), the root-mean-square of (log Z − truth) / (standard
error that the run itself reports), which is 1.07 for a Student's t of 15 degrees of freedom, the
mean total variation of the mode masses, processor seconds a run, and gradients a chain. Every row
has N = 1000 chains; each keeps the last M positions as draws, so a run has N M of them.

That all chains start in one mode has no meaning here: particles begin at draws of a broad density.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from effective import total_variation
from targets import RING_MEANS, RING_WEIGHTS, TARGETS, as_expert, torch_operations

import experts
import poe


class Problem(NamedTuple):
    """A target, where its particles start (None is smc's own choice), and the true log Z."""

    target: poe.Expert
    start: poe.Expert | None
    log_partition: float


def ring(scale: float | None) -> Problem:
    """(b) from N(0, scale² I), or from the default start."""
    start = None if scale is None else experts.Gaussian([0.0, 0.0], scale=[scale, scale])
    return Problem(as_expert(TARGETS["b"]), start, TARGETS["b"].log_partition)


def three_experts() -> Problem:
    """(c) with its Gaussian factor as the expert it is: normalised, and the start of the path."""
    index = np.arange(32)
    covariance = torch.tensor(0.9 ** np.abs(index[:, None] - index), dtype=torch.float32)
    gaussian = experts.Gaussian(torch.zeros(32), covariance=covariance)
    energies = TARGETS["c"].energies(torch_operations())
    rest = [poe.FromEnergy(energies[name], space=poe.Real(32)) for name in ("network", "student")]
    normaliser = 0.5 * torch.logdet(2 * math.pi * covariance.double()).item()
    target = poe.Product(gaussian, *rest)
    return Problem(target, None, TARGETS["c"].log_partition - normaliser)


def three_black_boxes() -> Problem:
    """(c) as three energies, of which none can be sampled: from the default broad start."""
    return Problem(as_expert(TARGETS["c"]), None, TARGETS["c"].log_partition)


class Row(NamedTuple):
    """A line of the table."""

    name: str
    problem: Callable[[], Problem]
    num_moves: int
    max_thinning: int = 1
    num_chains: int = 1000


ROWS = (
    Row("b, from N(0, 4² I)", lambda: ring(4.0), num_moves=16),
    Row("b, from N(0, 4² I), thinned", lambda: ring(4.0), num_moves=16, max_thinning=8),
    Row("b, default start", lambda: ring(None), num_moves=16),
    Row("c, from its Gaussian", three_experts, num_moves=4),
    Row("c, black boxes, default start", three_black_boxes, num_moves=6),
)


class Figures(NamedTuple):
    """Of one run."""

    log_partition: float
    std_error: float
    seconds: float
    gradients: int
    total_variation: float


def one_run(row: Row, problem: Problem, seed: int) -> Figures:
    """One seed of a row."""
    began = time.process_time()
    draws = poe.smc(
        problem.target,
        row.num_chains * row.num_moves,
        start=problem.start,
        num_moves=row.num_moves,
        max_thinning=row.max_thinning,
        generator=torch.Generator().manual_seed(seed),
        progress=False,
    )
    seconds = time.process_time() - began
    assert draws.log_partition is not None
    return Figures(
        draws.log_partition.value.item(),
        draws.log_partition.std_error.item(),
        seconds,
        draws.warmup_gradients + draws.num_gradients,
        masses_off(draws),
    )


def masses_off(draws: poe.Draws) -> float:
    """Total variation of the weighted masses of the ring's modes; NaN for other targets."""
    assert draws.log_weights is not None
    if draws.samples.shape[2:] != (2,):
        return math.nan
    flat = draws.samples.flatten(0, 1).numpy()
    nearest = ((flat[:, None] - RING_MEANS) ** 2).sum(-1).argmin(1)
    weights = torch.softmax(draws.log_weights.flatten(), 0).numpy()
    return total_variation(np.bincount(nearest, weights, minlength=8), RING_WEIGHTS)


def measure(row: Row, num_runs: int) -> str:
    """The line of the table."""
    problem = row.problem()
    one_run(row, problem, num_runs)  # the first call pays for loading kernels
    table = np.array([one_run(row, problem, seed) for seed in range(num_runs)])
    error = table[:, 0] - problem.log_partition
    sd = error.std(ddof=1)
    bias, z = error.mean() * math.sqrt(num_runs) / sd, np.sqrt(((error / table[:, 1]) ** 2).mean())
    seconds, gradients, variation = np.median(table[:, 2]), table[:, 3].mean(), table[:, 4].mean()
    return (
        f"{row.name:<34}{sd:>8.4f}{error.mean():>9.4f}{bias:>7.1f}{z:>7.2f}"
        f"{variation:>8.3f}{seconds:>9.3f}{gradients:>11.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.runs} seeds, 1000 chains in 16 islands, one thread")
    columns = (
        f"{'sd':>8}{'bias':>9}{'in se':>7}{'rms z':>7}{'TV':>8}{'seconds':>9}{'gradients':>11}"
    )
    print(" " * 34 + columns)
    for row in ROWS:
        print(measure(row, arguments.runs), flush=True)


if __name__ == "__main__":
    main()
