"""log Z beside ebmkit's AIS and blackjax's adaptive tempered SMC, at equal density evaluations.

    python benchmarks/partition.py              # b and c of targets.py, 10 seeds each
    python benchmarks/partition.py --runs 4 b

Every engine is told the log-density and nothing else, and begins at N(0, 10² I). The peers are
given as many evaluations as `poe.log_partition` took on average (a gradient counts as one), or
more. Of each peer several settings are run over all seeds, and the one of the smallest root-mean-
square error is shown: a choice that no user could make, since it needs the truth.
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from statistics import mean

import torch
from child import isolated
from targets import TARGETS, as_expert

import poe

TEMPERATURES, STEP_SIZES, ESS = (100, 400), (0.05, 0.15, 0.4), (0.5, 0.9)


def ours(name: str, runs: int) -> list[tuple[float, float, float]]:
    """Error, standard error and evaluations of every run."""
    rows, target = [], as_expert(TARGETS[name])
    # Quadrature is what would be chosen for b: here its estimate is measured.
    method = poe.normalizers.MBAR()
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        found = poe.log_partition(target, method=method, generator=generator, progress=False)
        error = found.value.item() - TARGETS[name].log_partition
        rows.append((error, found.std_error.item(), float(found.num_evaluations)))
    return rows


def peer(function: str, name: str, budget: int, runs: int) -> tuple[str, float, float]:
    """Settings, root-mean-square error and evaluations of the best of the grid."""
    first = TEMPERATURES if function == "ebmkit" else ESS
    label = "num_temps" if function == "ebmkit" else "ess"
    found = []
    for value, step_size in itertools.product(first, STEP_SIZES):
        settings = {label: value, "step_size": step_size}
        rows = isolated(
            "peers_partition", function, 1, target=name, budget=budget, runs=runs, **settings
        )
        errors = [row[0] - TARGETS[name].log_partition for row in rows]
        size = root_mean_square(errors)
        found.append((f"{label}={value}, step {step_size}", size, mean(r[1] for r in rows)))
    return min(found, key=lambda row: row[1] if math.isfinite(row[1]) else math.inf)


def root_mean_square(errors: list[float]) -> float:
    """Of errors; infinite where one is not finite."""
    size = math.sqrt(mean(error * error for error in errors))
    return size if math.isfinite(size) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=["b", "c"])
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", poe.TrustWarning)
    print(f"{'':<44}{'rms error':>12}{'evaluations':>13}{'ours / theirs':>15}")
    for name in arguments.targets:
        rows = ours(name, arguments.runs)
        error, budget = root_mean_square([r[0] for r in rows]), mean(r[2] for r in rows)
        scores = root_mean_square([r[0] / r[1] for r in rows])
        print(f"{name}: poe.log_partition, rms z {scores:<18.2f}{error:>12.4f}{budget:>13.0f}")
        for function in ("ebmkit", "blackjax"):
            settings, theirs, cost = peer(function, name, round(budget), arguments.runs)
            said = f"{name}: {function}, {settings}"
            print(f"{said:<44}{theirs:>12.4f}{cost:>13.0f}{error / theirs:>15.3f}", flush=True)


if __name__ == "__main__":
    main()
