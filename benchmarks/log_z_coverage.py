"""How often log Z lies within its stated errors and bounds, over many seeds.

    python benchmarks/log_z_coverage.py                 # 200 runs of each target: 20 minutes
    python benchmarks/log_z_coverage.py --runs 20 ring

Every target is entered as a plain energy, so that no closed form is in sight. Columns: the share of
runs within 3 standard errors of the truth, and within the bounds; the root-mean-square of error /
standard error (1.07 for a Student's t of 15 degrees of freedom); the median standard error; runs
with a remark; evaluations and seconds a run.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from targets import TARGETS, as_expert
from torch import Tensor

import poe


class Problem(NamedTuple):
    """A target with its log Z."""

    target: poe.Expert
    truth: float


def product_of_gaussians(d: int) -> Problem:
    """Two of them, entered as one energy."""
    scales = torch.logspace(-1, 1, d)
    energy = poe.FromEnergy(
        lambda x: 0.5 * (x / scales).square().sum(-1) + 0.5 * (x - 1.0).square().sum(-1),
        space=poe.Real(d),
    )
    variance = scales.double().square()
    log_z = 0.5 * (2 * math.pi * variance / (1 + variance)).log() - 0.5 / (1 + variance)
    return Problem(energy, log_z.sum().item())


def gammas() -> Problem:
    """Six Gammas on the positive half line."""
    shape, rate = torch.linspace(0.5, 4, 6), torch.linspace(0.5, 3, 6)
    target = poe.FromLogDensity(
        lambda x: ((shape - 1) * x.log() - rate * x).sum(-1), space=poe.Positive(6)
    )
    log_z = torch.lgamma(shape.double()) - shape.double() * rate.double().log()
    return Problem(target, log_z.sum().item())


def betas() -> Problem:
    """Five Betas on the unit interval."""
    a, b = torch.linspace(0.7, 4, 5), torch.linspace(3, 1, 5)
    target = poe.FromLogDensity(
        lambda x: ((a - 1) * x.log() + (b - 1) * torch.log1p(-x)).sum(-1),
        space=poe.Interval(5, 0, 1),
    )
    a, b = a.double(), b.double()
    return Problem(target, (torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)).sum().item())


def modes_apart() -> Problem:
    """Two unit Gaussians 16 standard deviations apart, of masses 0.3 and 0.7, in 4 dimensions."""
    loc = torch.tensor([8.0, 0.0, 0.0, 0.0])

    def log_density(x: Tensor) -> Tensor:
        one, other = ((x - sign * loc).square().sum(-1) for sign in (1.0, -1.0))
        return torch.logaddexp(math.log(0.3) - 0.5 * one, math.log(0.7) - 0.5 * other)

    return Problem(poe.FromLogDensity(log_density, space=poe.Real(4)), 2 * math.log(2 * math.pi))


def ising(coupling: float, n: int = 8) -> Problem:
    """An n x n torus; its log Z by the transfer matrix over the states of a row."""

    def log_density(x: Tensor) -> Tensor:
        s = 2 * x - 1
        return coupling * (s * s.roll(1, -1) + s * s.roll(1, -2)).sum((-2, -1))

    rows = 2.0 * ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double() - 1.0
    within = coupling * (rows * rows.roll(1, 1)).sum(1)
    log_transfer = coupling * rows @ rows.mT + 0.5 * (within[:, None] + within)
    values = torch.linalg.eigvalsh(log_transfer.exp())
    target = poe.FromLogDensity(log_density, space=poe.Binary((n, n)))
    return Problem(target, values.pow(n).sum().log().item())


def rbm() -> Problem:
    """64 visible and 20 hidden units; its log Z by the sum over all states of the hidden ones."""
    g = torch.Generator().manual_seed(1)
    weight = 0.3 * torch.randn(64, 20, generator=g)
    b, c = 0.1 * torch.randn(64, generator=g), 0.1 * torch.randn(20, generator=g)
    softplus = torch.nn.functional.softplus
    parts = []
    for first in range(0, 2**20, 2**16):
        places = torch.arange(first, first + 2**16)[:, None]
        hidden = ((places >> torch.arange(20)) & 1).double()
        visible = softplus(hidden @ weight.double().mT + b.double()).sum(-1)
        parts.append(torch.logsumexp(hidden @ c.double() + visible, 0))
    target = poe.FromLogDensity(
        lambda x: x @ b + softplus(x @ weight + c).sum(-1), space=poe.Binary(64)
    )
    return Problem(target, torch.stack(parts).logsumexp(0).item())


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "three experts": lambda: Problem(as_expert(TARGETS["c"]), TARGETS["c"].log_partition),
    "ring": lambda: Problem(as_expert(TARGETS["b"]), 0.0),
    "Gaussians, 20-d": lambda: product_of_gaussians(20),
    "Gaussians, 200-d": lambda: product_of_gaussians(200),
    "Gammas": gammas,
    "Betas": betas,
    "modes 16 sd apart": modes_apart,
    "RBM": rbm,
    "Ising .2": lambda: ising(0.2),
    "Ising .4407": lambda: ising(0.4406868),
}


def measure(name: str, runs: int) -> str:
    """The line of the table."""
    problem, method = PROBLEMS[name](), poe.normalizers.MBAR()
    began, rows = time.perf_counter(), []
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        found = poe.log_partition(
            problem.target, method=method, generator=generator, progress=False
        )
        z = (found.value.item() - problem.truth) / found.std_error.item()
        is_inside = bool(found.lower <= problem.truth <= found.upper)
        is_doubted = not found.is_trusted
        numbers = (found.std_error.item(), found.num_evaluations)
        rows.append([z, abs(z) < 3, is_inside, is_doubted, *numbers])
    table = torch.tensor(rows, dtype=torch.float64)
    z, within, inside, doubted, error, cost = table.unbind(1)
    seconds = (time.perf_counter() - began) / runs
    return (
        f"{name:<20}{within.mean():>10.3f}{inside.mean():>10.3f}{z.square().mean().sqrt():>8.2f}"
        f"{error.median():>11.2g}{int(doubted.sum()):>9}{cost.mean():>13.0f}{seconds:>9.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", poe.TrustWarning)
    header = ("within 3", "in bounds", "rms z", "std error", "doubted", "evaluations", "seconds")
    widths = (10, 10, 8, 11, 9, 13, 9)
    print(" " * 20 + "".join(f"{h:>{w}}" for h, w in zip(header, widths, strict=True)))
    for name in arguments.targets:
        print(measure(name, arguments.runs), flush=True)


if __name__ == "__main__":
    main()
