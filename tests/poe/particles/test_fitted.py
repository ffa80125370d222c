"""Densities fitted to draws: normalised, sampled exactly, and of the tails that draws have."""

from __future__ import annotations

import torch

import poe
from poe.particles.fitted import FittedStudents, fit_students

MAX_Z = 4.0
SPACE = poe.Real(3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def independent() -> FittedStudents:
    loc, scale = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 3.0, 1.0])
    return FittedStudents(loc, scale, torch.tensor([1.0, 3.0, 30.0]), SPACE)


def test_independent_students_are_those_of_torch() -> None:
    q, x = independent(), torch.randn(20, 3, generator=seeded())
    truth = torch.distributions.StudentT(q.df, q.loc, q.scale).log_prob(x).sum(1)
    torch.testing.assert_close(q.log_prob(x), truth)


def test_draws_have_the_quartiles_of_the_density() -> None:
    q, n = independent(), 20_000
    u = (q.sample(n, generator=seeded()) - q.loc) / q.scale
    quartile = torch.tensor([1.0, 0.764892, 0.682756])  # of t with 1, 3 and 30 degrees of freedom
    share = (u > quartile).double().mean(0)
    assert ((share - 0.25).abs() < MAX_Z * (0.25 * 0.75 / n) ** 0.5).all()


def test_the_tails_that_draws_have_are_found() -> None:
    q, n = independent(), 20_000
    found = fit_students(q.sample(n, generator=seeded()), SPACE)
    assert found.df.tolist()[:2] == [1.0, 3.0]
    assert found.df[2] >= 10.0
    assert ((found.loc - q.loc).abs() < MAX_Z * 1.5 * q.scale / n**0.5).all()
