"""Neal's funnel at many seeds: how far log Z and the spread of its neck are off, in stated errors.

    python benchmarks/funnel.py                     # 20 seeds of each
    python benchmarks/funnel.py sample --seeds 100

v ~ N(0, 3²) and nine x ~ N(0, exp(v)): log Z is 0 and the standard deviation of v is 3. All by
default settings; one row of a batch is one evaluation, of value and score; one core.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

import poe

DIMENSION, SD = 10, 3.0
NUM_SAMPLES, NUM_PARTICLES = 20_000, 8000


class Outcome(NamedTuple):
    """A number, its stated error, whether it came with a remark, and its cost."""

    value: float
    std_error: float
    is_remarked: bool
    num_evaluations: int
    seconds: float
    is_inside: bool = True
    """Whether 95 % bounds hold the truth, where there are bounds."""


def log_density(x: Tensor) -> Tensor:
    """Of the funnel, normalised."""
    v, rest = x[..., 0], x[..., 1:]
    squares = rest.square().sum(-1) * (-v).exp() + rest.shape[-1] * v
    normal = -0.5 * (v / SD).square() - math.log(SD)
    return normal - 0.5 * squares - 0.5 * x.shape[-1] * math.log(2 * math.pi)


TARGET = poe.FromLogDensity(log_density, space=poe.Real(DIMENSION))


def log_z(seed: int) -> Outcome:
    """By ``poe.log_partition``."""
    began, g = time.perf_counter(), torch.Generator().manual_seed(seed)
    found = poe.log_partition(TARGET, generator=g, progress=False)
    seconds = time.perf_counter() - began
    is_inside = bool(found.lower <= 0 <= found.upper)
    error, doubts = found.std_error.item(), bool(found.doubts)
    return Outcome(found.value.item(), error, doubts, found.num_evaluations, seconds, is_inside)


def sample(seed: int) -> Outcome:
    """The standard deviation of v of 20,000 draws of ``poe.sample``."""
    g = torch.Generator().manual_seed(seed)
    draws = poe.sample(TARGET, NUM_SAMPLES, generator=g, progress=False)
    v, chains = draws.samples[..., :1].double(), len(draws.samples)
    evaluations = chains * (draws.warmup_gradients + draws.num_gradients)
    error = poe.diagnostics.mcse_sd(v).item()
    return Outcome(v.std().item(), error, bool(draws.remarks), evaluations, draws.seconds)


def smc(seed: int) -> Outcome:
    """The same of 8000 particles of ``poe.smc``, its error by the spread of the islands."""
    g = torch.Generator().manual_seed(seed)
    draws = poe.smc(TARGET, NUM_PARTICLES, generator=g, progress=False)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    weights, v = (draws.log_weights - draws.log_weights.max()).exp(), draws.samples[..., 0].double()
    weights = weights / weights.mean()
    centred = (v - (weights * v).mean()).square()
    sd = (weights * centred).mean().sqrt()
    of_islands = (weights * (centred - sd.square())).mean(1)
    error = of_islands.std() / len(of_islands) ** 0.5 / (2 * sd)
    evaluations = draws.log_partition.num_evaluations
    return Outcome(sd.item(), error.item(), bool(draws.remarks), evaluations, draws.seconds)


RUNS: dict[str, tuple[Callable[[int], Outcome], float]] = {
    "log_partition": (log_z, 0.0),
    "sample": (sample, SD),
    "smc": (smc, SD),
}


def line(name: str, found: Sequence[Outcome], truth: float) -> str:
    """The figures of all seeds."""
    scores = [(one.value - truth) / one.std_error for one in found]
    rms = math.sqrt(mean(score * score for score in scores))
    costs = [one.num_evaluations for one in found]
    return (
        f"{name}: {len(found)} seeds, mean {mean(one.value for one in found):.3f} (true {truth:g});"
        f" stated errors up to {max(one.std_error for one in found):.3f}; error over stated error: "
        f"worst {max(map(abs, scores)):.1f}, root mean square {rms:.2f}; truth in the bounds "
        f"{sum(one.is_inside for one in found)}, with a remark "
        f"{sum(one.is_remarked for one in found)}; evaluations {mean(costs):,.0f} in the mean and "
        f"at most {max(costs):,}; {mean(one.seconds for one in found):.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RUNS), help=f"of {', '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(RUNS):
        parser.error(f"expected some of {', '.join(RUNS)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", poe.TrustWarning)
    for name in arguments.names:
        run, truth = RUNS[name]
        print(line(name, [run(seed) for seed in range(arguments.seeds)], truth), flush=True)


if __name__ == "__main__":
    main()
