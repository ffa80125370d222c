"""Paths from the starts to where the mass is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.density.coordinates import Coordinates
from poe.tuning.pathfinder import Curvature, Paths, find_mass
from poe.tuning.prior_parts import draw_as_read, priors_of_parts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def density(function, d: int) -> poe.Expert:  # type: ignore[no-untyped-def]
    return poe.FromLogDensity(function, space=poe.Real(d))


def test_the_curvature_is_that_of_the_inverse_hessian_of_bfgs() -> None:
    """By hand: H₊ = (1 − s yᵀ/sᵀy) H (1 − y sᵀ/sᵀy) + s sᵀ/sᵀy from γ, pair by pair."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    steps = torch.tensor([[[1.0, 0.0]], [[0.5, 2.0]]], dtype=torch.float64)
    known = Curvature.none(torch.zeros(1, 2, dtype=torch.float64))
    for step in steps:
        known = known.with_step(step, step @ matrix, torch.tensor([True]))
    step, change = steps[-1][0], matrix @ steps[-1][0]
    inverse = torch.eye(2, dtype=torch.float64) * (step @ change) / (change @ change)
    for (step,) in steps:
        change = matrix @ step
        left = torch.eye(2, dtype=torch.float64) - torch.outer(step, change) / (step @ change)
        inverse = left @ inverse @ left.mT + torch.outer(step, step) / (step @ change)
    vector = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(known.applied(vector)[0], inverse @ vector[0])
    normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), inverse)
    torch.testing.assert_close(known.log_normal(vector[None])[0], normal.log_prob(vector))
    draws = known.draw(100_000, seeded())[0]
    error = (inverse.diagonal()[:, None] * inverse.diagonal() + inverse.square()) / len(draws)
    assert ((draws.mT @ draws / len(draws) - inverse).abs() < 5 * error.sqrt()).all()


def test_a_path_takes_no_step_that_loses() -> None:
    paths = Paths(density(lambda x: -(x.square().sum(-1) + 1).log(), 3), 50 * torch.ones(4, 3))
    for _ in range(30):
        before = paths.log_density
        paths.advance()
        assert (paths.log_density >= before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_where_the_mass_is_in_raw_units(dtype: torch.dtype) -> None:
    """A Gaussian far off, of scales from 1e-3 to 1e3: its mean and sds, by the draws."""
    loc = torch.tensor([1e4, -3.0, 0.5], dtype=dtype)
    scale = torch.tensor([1e3, 1.0, 1e-3], dtype=dtype)
    target = density(lambda x: -0.5 * ((x - loc) / scale).square().sum(-1), 3)
    u = torch.randn(32, 3, generator=seeded()).to(dtype)
    found = find_mass(target, u, 2000, seeded())
    assert found.position.dtype == dtype
    z = (found.position - loc) / scale
    assert z.mean(0).abs().max() < 5 / math.sqrt(32)  # draws of one path are alike
    assert ((z.std(0) - 1).abs() < 0.5).all()


def test_paths_that_find_next_to_no_mass_begin_at_others_draws() -> None:
    """Two modes, one of them e^-30 as heavy."""

    def two(x: Tensor) -> Tensor:
        x = x[..., 0]
        return torch.logaddexp(-0.5 * (x - 10).square(), -30 - 0.5 * (x + 10).square())

    u = torch.tensor([[-9.0], [9.0]]).repeat(8, 1)
    found = find_mass(density(two, 1), u, 100, seeded())
    assert found.num_restarted == 50
    assert (found.position > 0).all()


def test_modes_of_like_mass_keep_their_chains() -> None:
    u = torch.tensor([[-9.0], [9.0]]).repeat(8, 1)
    both = density(lambda x: -0.5 * (x.abs() - 10).square().sum(-1), 1)
    found = find_mass(both, u, 100, seeded())
    assert found.num_restarted == 0
    assert (found.position > 0).sum() == 50


def test_where_nothing_is_known_chains_stay() -> None:
    u = torch.randn(16, 2, generator=seeded())
    found = find_mass(density(lambda x: 0 * x.sum(-1), 2), u, 16, seeded())
    torch.testing.assert_close(found.position, u)


class First(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., :1].exp()


def test_chains_start_where_priors_are_read_through_a_map() -> None:
    """exp(x₀) ~ N(100, 1): x₀ is about log 100, and what is not read stays."""
    prior = poe.as_expert(torch.distributions.Independent(
        torch.distributions.Normal(torch.tensor([100.0]), 1.0), 1
    )).at(First(), poe.Real(2))  # fmt: skip
    target = poe.Product(prior=prior, other=density(lambda x: -x.abs().sum(-1), 2))
    assert list(priors_of_parts(target)) == ["prior"]
    assert not priors_of_parts(poe.Product(prior=prior**-1.0, other=target.experts[1]))
    u = torch.randn(200, 2, generator=seeded())
    found = draw_as_read([prior], Coordinates(target.space), u, seeded())
    read = found[:, 0].exp()
    assert abs(read.mean() - 100) < 5 / math.sqrt(200)
    assert abs(read.std() - 1) < 5 / math.sqrt(400)
    torch.testing.assert_close(found[:, 1], u[:, 1])
