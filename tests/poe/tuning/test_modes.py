"""Climbing to summits, telling modes apart, and the shape and the mass of each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.core.affine import Diagonal
from poe.samplers.guarded import Counted
from poe.tuning.modes import apart, climb, is_in, is_rough, shaped, summit, weighed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


PLAIN = Diagonal(torch.zeros(2), torch.ones(2))


def gaussian(factor: Tensor, loc: Tensor) -> poe.Expert:
    def log_density(x: Tensor) -> Tensor:
        u = torch.linalg.solve_triangular(factor, (x - loc).mT, upper=False)
        return -0.5 * u.square().sum(0) + 3.0

    return poe.FromLogDensity(log_density, space=poe.Real(len(loc)))


FACTOR = torch.tensor([[2.0, 0.0], [1.5, 0.1]])
LOC = torch.tensor([3.0, -7.0])


def test_climbs_from_everywhere_end_at_the_summit_of_a_narrow_valley() -> None:
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.4]])
    climbed = climb(gaussian(factor, LOC), 10 * torch.randn(50, 2, generator=seeded()), PLAIN)
    assert climbed.has_arrived.all()
    inside = torch.linalg.solve_triangular(factor, (climbed.top - LOC).mT, upper=False)
    assert inside.norm(dim=0).max() < 1.5  # in standard deviations


def test_a_climb_that_never_ends_has_not_arrived() -> None:
    slope = poe.FromLogDensity(lambda x: x.square().sum(-1), space=poe.Real(2))
    assert not climb(slope, torch.ones(3, 2), PLAIN).has_arrived.any()


def test_the_shape_of_a_gaussian_is_its_covariance_whatever_width_it_is_looked_for_by() -> None:
    for width in (1e-3, 1.0, 1e3):
        factor = shaped(gaussian(FACTOR, LOC), LOC, torch.full((2,), width))
        assert torch.allclose(factor, FACTOR, rtol=0.02, atol=0.01)


def test_the_mass_of_a_mode_is_that_of_its_gaussian() -> None:
    mode = weighed(gaussian(FACTOR, LOC), LOC, FACTOR, seeded())
    truth = 3.0 + math.log(2 * math.pi) + FACTOR.diagonal().log().sum().item()
    assert abs(mode.log_mass - truth) < 1e-4  # nearly all lies within √2 + 3


def test_what_is_no_summit_is_none() -> None:
    def slope(x: Tensor) -> Tensor:
        return -x[..., 0] - x[..., 1].square()

    target = poe.FromLogDensity(slope, space=poe.Real(2))
    assert summit(target, torch.zeros(2), torch.ones(2)) is None


@pytest.mark.parametrize(("distance", "count"), [(1.0, 1), (8.0, 2)])
def test_modes_are_apart_where_a_valley_lies_between(distance: float, count: int) -> None:
    def log_density(x: Tensor) -> Tensor:
        far = -0.5 * ((x[..., 0] - distance).square() + x[..., 1].square())
        return torch.logaddexp(-0.5 * x.square().sum(-1), far)

    target = poe.FromLogDensity(log_density, space=poe.Real(2))
    top = torch.tensor([[0.0, 0.0], [distance, 0.0], [0.1, 0.0], [distance, 0.2]])
    groups = apart(target, top, target(top))
    assert len(groups) == count
    assert sorted(torch.cat(groups).tolist()) == [0, 1, 2, 3]


def test_tops_of_no_finite_log_density_are_groups_of_their_own() -> None:
    nowhere = poe.FromLogDensity(lambda x: x.sum(-1) - torch.inf, space=poe.Real(1))
    assert len(apart(nowhere, torch.tensor([[0.0], [1.0]]), torch.full((2,), -torch.inf))) == 2


def test_all_positions_are_counted() -> None:
    counted = Counted(gaussian(FACTOR, LOC))
    climb(counted, torch.zeros(5, 2), PLAIN)
    assert counted.num_evaluations > 10
    before = counted.num_evaluations
    weighed(counted, LOC, FACTOR, seeded())
    assert counted.num_evaluations == before + 128


def test_most_draws_of_a_gaussian_are_in_it() -> None:
    for d in (1, 10, 100):
        assert is_in(torch.randn(1000, d, generator=seeded())).double().mean() > 0.99


def test_the_highest_of_all_errors_is_no_mode_and_an_edge_is_one() -> None:
    """log Γ(n + 1) − log Γ(n) − log n is 0; at n = e^34 it is what rounding leaves."""

    def cancelled(x: Tensor) -> Tensor:
        n = (34.0 + x[:, 0]).exp()
        return 20 * ((n + 1).lgamma() - n.lgamma() - n.log()) - 0.5 * x.square().sum(1)

    def corner(x: Tensor) -> Tensor:
        return (-x.sum(-1)).masked_fill((x < 0).any(-1), -torch.inf)

    top, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for log_density, rough in ((cancelled, True), (corner, False)):
        assert is_rough(poe.FromLogDensity(log_density, space=poe.Real(2)), top, one) is rough
    assert not is_rough(gaussian(FACTOR, LOC), LOC, torch.ones(2))
    assert is_rough(gaussian(FACTOR, LOC), LOC, 1e-9 * torch.ones(2))  # narrower than rounding
