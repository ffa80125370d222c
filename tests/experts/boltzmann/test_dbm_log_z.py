"""log Z of deep Boltzmann machines by annealing from base rates, against enumeration."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import poe
from experts import DBM, Bernoulli, VisibleDBM
from experts.boltzmann import BaseRateAIS


def dbm(*sizes: int) -> DBM:
    g = torch.Generator().manual_seed(1)
    weights = [1.5 * torch.randn(pair, generator=g) for pair in pairwise(sizes)]
    return DBM(weights, [torch.randn(size, generator=g) for size in sizes])


@pytest.mark.parametrize("sizes", [(8, 6, 5), (6, 5, 4, 3)])
def test_annealing_finds_log_z_within_its_error(sizes: tuple[int, ...]) -> None:
    """Over eight runs: the errors are of the size that is stated, and the bounds hold."""
    expert = dbm(*sizes)
    truth = poe.log_partition(expert).value
    start = Bernoulli(torch.zeros(expert.space.event_shape))
    g = torch.Generator().manual_seed(0)
    found = [
        poe.log_partition(expert, method=BaseRateAIS(128, 100), start=start, generator=g)
        for _ in range(8)
    ]
    z = torch.stack([(one.value - truth) / one.std_error for one in found])
    assert z.abs().max() < 4.0
    assert z.square().mean() < 3.3  # of a chi-squared of 8 degrees of freedom: once in a thousand
    assert sum(bool(one.lower <= truth <= one.upper) for one in found) >= 6  # of 95 %
    assert all(one.upper - one.lower < 1.0 for one in found)


def test_annealing_bounds_the_log_density_of_x_from_its_mean_field() -> None:
    """The lower bound is better than mean field, and the upper one above the truth."""
    expert = VisibleDBM(dbm(6, 5, 4))
    x = poe.normalizers.enumeration.states(poe.Binary(6))[[3, 40]]
    truth = poe.log_density_bounds(expert, x).lower
    g = torch.Generator().manual_seed(0)
    found = poe.log_density_bounds(expert, x, method=BaseRateAIS(128, 50), generator=g)
    assert (found.lower >= expert(x)).all()
    assert (found.lower <= truth + 1e-4).all()
    assert (found.upper >= truth - 1e-4).all()
    assert found.confidence == 0.95
