"""How often log Z is right, and whether what is wrong says so.

    python benchmarks/trust_log_z.py                  # 60 targets x 5 seeds
    python benchmarks/trust_log_z.py --fast           # 40 estimates
    python benchmarks/trust_log_z.py --peers          # dynesty beside, on a few targets
    python benchmarks/trust_log_z.py --seeds 2 funnel schools

Right is within five stated errors of the truth (and an absolute 1e-3, or 1e-5 of its size, for
rounding); silent is beyond, without a remark.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import NamedTuple

import torch
from log_z_problems import Problem, problems

import poe

FAR = 5.0
KINDS = ("right", "right, remark", "wrong, remark", "silent", "refused")
PEER_TARGETS = ("Gaussian 4-d", "funnel 5-d", "5 modes 4-d", "4 double wells", "Rosenbrock 4-d")


class Estimate(NamedTuple):
    """One run: what kind, error over stated error, and its cost."""

    kind: str
    z: float
    error: float
    std_error: float
    is_inside: bool
    num_evaluations: int
    seconds: float


def rounding(truth: float) -> float:
    """What single precision may do to log Z."""
    return 1e-3 + 1e-5 * abs(truth)


def estimated(problem: Problem, seed: int) -> Estimate:
    """log Z by the method that is chosen; particles where that would be quadrature."""
    began, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    try:
        found = poe.log_partition(problem.target, generator=generator, progress=False)
    except poe.PoeError:
        return Estimate("refused", math.nan, math.nan, math.nan, False, 0, 0.0)
    error, std_error = found.value.item() - problem.truth, found.std_error.item()
    size = math.hypot(std_error, rounding(problem.truth))
    is_right, is_said = abs(error) <= FAR * size, bool(found.doubts)
    kind = KINDS[(0 if is_right else 2) + (is_said if is_right else not is_said)]
    slack = rounding(problem.truth)
    is_inside = found.lower.item() - slack <= problem.truth <= found.upper.item() + slack
    cost = int(found.num_evaluations or 0)
    seconds = time.perf_counter() - began
    return Estimate(kind, error / size, error, std_error, is_inside, cost, seconds)


def line(name: str, found: Sequence[Estimate]) -> str:
    """One line of the table."""
    given = [one for one in found if one.kind != "refused"]
    counts = "".join(f"{sum(one.kind == kind for one in found):>15}" for kind in KINDS)
    if not given:
        return f"{name:<44}{counts}"
    z = [one.z for one in given]
    told = torch.tensor([one.z for one in given if "remark" not in one.kind])
    figures = (
        f"{mean(abs(one) <= 3 for one in z):>8.2f}{mean(one.is_inside for one in given):>8.2f}"
        f"{mean(z):>8.2f}{math.sqrt(mean(one * one for one in z)):>8.2f}"
        f"{told.square().mean().sqrt().item():>8.2f}"
        f"{mean(one.std_error for one in given):>10.2g}"
        f"{mean(one.num_evaluations for one in given):>9.0f}{mean(o.seconds for o in given):>7.2f}"
    )
    return f"{name:<44}{counts}{figures}"


def header() -> str:
    """Its first line."""
    names = ("in 3", "bounds", "mean z", "rms z", "unsaid")
    counts = "".join(f"{kind:>15}" for kind in KINDS)
    figures = "".join(f"{name:>8}" for name in names) + f"{'error':>10}{'evals':>9}{'s':>7}"
    return f"{'':<44}{counts}{figures}"


def dynesty(problem: Problem, seed: int) -> tuple[float, float, int] | None:
    """log Z, its error and the evaluations of nested sampling in a normal prior of sd 10."""
    import dynesty as peer
    import numpy as np

    d, normal = problem.target.space.event_shape.numel(), torch.distributions.Normal(0.0, 10.0)

    def log_likelihood(x: np.ndarray) -> float:
        at = torch.as_tensor(x, dtype=torch.get_default_dtype())
        with torch.no_grad():
            return (problem.target(at[None])[0] - normal.log_prob(at).sum()).item()

    def transform(u: np.ndarray) -> np.ndarray:
        return normal.icdf(torch.as_tensor(u)).numpy()

    state = np.random.default_rng(seed)
    run = peer.NestedSampler(log_likelihood, transform, d, nlive=250, rstate=state)
    run.run_nested(print_progress=False, dlogz=0.1, maxcall=200_000)
    found = run.results
    return float(found.logz[-1]), float(found.logzerr[-1]), int(found.ncall.sum())


def peers(seeds: int) -> Iterator[str]:
    """dynesty on a few targets, in the same columns."""
    chosen = [one for one in problems() if one.name.startswith(PEER_TARGETS)]
    for problem in chosen:
        rows = []
        for seed in range(seeds):
            began = time.perf_counter()
            value, std_error, cost = dynesty(problem, seed)
            error = value - problem.truth
            is_right = abs(error) <= FAR * std_error
            kind = "right" if is_right else "silent"
            seconds = time.perf_counter() - began
            is_inside = abs(error) <= 1.96 * std_error
            z = error / std_error
            rows.append(Estimate(kind, z, error, std_error, is_inside, cost, seconds))
        yield line(f"dynesty: {problem.name}", rows)


def table(chosen: Sequence[Problem], seeds: Sequence[int]) -> Iterator[str]:
    """The lines for all of them, and that of the whole."""
    yield header()
    everything: list[Estimate] = []
    for problem in chosen:
        found = [estimated(problem, seed) for seed in seeds]
        everything += found
        yield line(problem.name, found)
    yield line(f"all {len(everything)}", everything)


def show(seeds: int, is_fast: bool, names: Sequence[str], with_peers: bool, first: int) -> None:
    """Print the table."""
    warnings.simplefilter("ignore", poe.TrustWarning)
    chosen = [one for one in problems() if not names or any(n in one.name for n in names)]
    chosen = chosen[:40] if is_fast else chosen
    for said in table(chosen, range(first, first + (1 if is_fast else seeds))):
        print(said, flush=True)
    for said in peers(2) if with_peers else ():
        print(said, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of names of targets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--fast", action="store_true", help="40 estimates")
    parser.add_argument("--peers", action="store_true", help="dynesty beside")
    parser.add_argument("--double", action="store_true", help="in double precision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.double:
        torch.set_default_dtype(torch.float64)
    show(arguments.seeds, arguments.fast, arguments.names, arguments.peers, arguments.first)


if __name__ == "__main__":
    main()
