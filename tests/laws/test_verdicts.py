"""Right runs are not accused, and runs that are wrong are: a table of targets of known moments.

A target enters by one line: a density, and a statistic with its mean.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import experts
import poe

Statistic = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    """A target, and what is known of it."""

    target: poe.Expert
    statistic: Statistic
    mean: float


def real(log_density: Statistic, dimension: int) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=poe.Real(dimension))


def first(x: Tensor) -> Tensor:
    return x[..., 0]


def first_square(x: Tensor) -> Tensor:
    return x[..., 0].square()


def normal(mean: float, sd: float, dimension: int) -> poe.Expert:
    return real(lambda x: -0.5 * ((x - mean) / sd).square().sum(-1), dimension)


def two_near(x: Tensor) -> Tensor:
    return torch.logaddexp(-0.5 * x.square().sum(-1), -0.5 * (x - 2).square().sum(-1))


def correlated(x: Tensor) -> Tensor:
    return -(x.square().sum(-1) - 1.8 * x[..., 0] * x[..., 1]) / (2 * 0.19)


COUPLED = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.0]])
RIGHT = {
    "normals, 1-d": Case(normal(0, 1, 1) * normal(1, 1, 1), first, 0.5),
    "normals, 2-d": Case(normal(0, 1, 2) * normal(1, 1, 2), first, 0.5),
    "normals, 5-d": Case(normal(0, 2, 5) * normal(1, 1, 5), first, 0.8),
    "normals, 10-d": Case(normal(0, 1, 10) * normal(1, 0.5, 10), first, 0.8),
    "normals, 20-d": Case(normal(0, 1, 20) * normal(1, 1, 20), first_square, 0.75),
    "normals, 50-d": Case(normal(0, 1, 50) * normal(1, 1, 50), first_square, 0.75),
    "a narrow one": Case(normal(0, 1e-3, 2), first_square, 1e-6),
    "correlated": Case(real(correlated, 2), first_square, 1.0),
    "Laplace": Case(real(lambda x: -x.abs().sum(-1), 3), first_square, 2.0),
    "Student, 8": Case(
        real(lambda x: -4.5 * torch.log1p(x.square() / 8).sum(-1), 2), first_square, 8 / 6
    ),
    "quartic": Case(
        real(lambda x: -x.square().square().sum(-1), 2), first_square,
        math.gamma(0.75) / math.gamma(0.25),
    ),
    "two near modes": Case(real(two_near, 2), first, 1.0),
    "half normal": Case(
        poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Positive(3)),
        first_square, 1.0,
    ),
    "gamma": Case(
        poe.FromLogDensity(lambda x: (2 * x.log() - x).sum(-1), space=poe.Positive(2)), first, 3.0
    ),
    "uniform": Case(
        poe.FromLogDensity(lambda x: 0 * x.sum(-1), space=poe.Interval(3, 0.0, 1.0)), first, 0.5
    ),
    "Dirichlet": Case(
        poe.FromLogDensity(lambda x: x.log().sum(-1), space=poe.Simplex(4)), first, 0.25
    ),
    "bits": Case(
        poe.FromLogDensity(lambda x: ((x @ COUPLED) * x).sum(-1) - x.sum(-1), space=poe.Binary(3)),
        first, -1.0,
    ),
    "Ising": Case(experts.Ising.grid((4, 4), coupling=0.2), lambda x: x[..., 0, 0], 0.5),
    "RBM": Case(experts.RBM(torch.zeros(6, 2), [1.0] * 6, [0.0, 0.0]), first, 1 / (1 + math.e**-1)),
    "categories": Case(
        poe.FromLogDensity(lambda x: -x.double().sum(-1), space=poe.Categorical((4,), 3)),
        first, (math.exp(-1) + 2 * math.exp(-2)) / (1 + math.exp(-1) + math.exp(-2)),
    ),
    "exact": Case(experts.Gaussian([1.0] * 8, scale=[2.0] * 8), first, 1.0),
    "closed form": Case(experts.Gamma([2.0], [1.0]) ** 2.0, first, 1.5),
}  # fmt: skip


def by_enumeration(case: Case) -> float:
    """The mean over all states of three bits."""
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    return float((case.target(x).softmax(0) * case.statistic(x)).sum())


def z_of(draws: poe.Draws, case: Case, mean: float) -> float:
    values = case.statistic(draws.samples).double()
    error = poe.diagnostics.mcse_mean(values)
    return float((values.mean() - mean).abs() / error)


def drawn(target: poe.Expert, count: int, seed: int, **options: object) -> tuple[poe.Draws, bool]:
    """The draws, and whether it warned."""
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", poe.TrustWarning)
        draws = poe.sample(target, count, generator=generator, progress=False, **options)  # type: ignore[arg-type]
    trust = [w for w in caught if issubclass(w.category, poe.TrustWarning)]
    assert bool(trust) == (not draws.is_trusted)
    assert len(trust) <= 1
    return draws, bool(trust)


@pytest.mark.law
@pytest.mark.parametrize("count", [200, 2000])
def test_at_most_a_tenth_of_right_runs_are_doubted(count: int) -> None:
    right, doubted = [], []
    for name, case in RIGHT.items():
        draws, has_warned = drawn(case.target, count, seed=0)
        mean = by_enumeration(case) if name == "bits" else case.mean
        if z_of(draws, case, mean) < 4:
            right.append(name)
            doubted += [f"{name}: {draws.verdict}"] * has_warned
    assert len(right) >= len(RIGHT) - 1
    assert len(doubted) <= 0.1 * len(right), doubted


def funnel(x: Tensor) -> Tensor:
    v, rest = x[..., 0], x[..., 1:]
    return -0.5 * (v / 3).square() - 0.5 * rest.square().sum(-1) * (-v).exp() - 4.5 * v


def far_apart(x: Tensor) -> Tensor:
    return torch.logaddexp(-0.5 * x.square().sum(-1), -0.5 * (x - 20).square().sum(-1))


STARTS = {
    "two": torch.tensor([[0.0], [0.0], [20.0], [20.0]]),
    "far": torch.tensor([[30.0], [31.0], [32.0], [33.0]]),
    "apart": torch.tensor([[-30.0], [-10.0], [10.0], [30.0]]),
}
WRONG: dict[str, tuple[poe.Expert, dict[str, object]]] = {
    "the funnel, by one step size for all places": (
        real(funnel, 10),
        {"kernel": poe.samplers.Preconditioned(poe.samplers.SplitHMC())},
    ),
    "chains in two modes": (
        real(far_apart, 1),
        {"kernel": poe.samplers.MALA(), "initial": STARTS["two"], "warmup": 200},
    ),
    "on the way": (
        normal(0, 1, 1),
        {"kernel": poe.samplers.MetropolisHastings(0.1), "initial": STARTS["far"], "warmup": 1},
    ),
    "steps too small": (
        normal(0, 1, 1),
        {"kernel": poe.samplers.MALA(1e-4), "initial": STARTS["apart"], "warmup": 1},
    ),
    "steps too large": (
        normal(0, 1, 1),
        {"kernel": poe.samplers.MetropolisHastings(1e4), "initial": STARTS["apart"], "warmup": 1},
    ),
}


@pytest.mark.law
@pytest.mark.parametrize("name", WRONG)
def test_wrong_runs_are_doubted(name: str) -> None:
    target, options = WRONG[name]
    _, has_warned = drawn(target, 2000, seed=0, **options)
    assert has_warned
