"""Chains that are sent on from particles: where they come to rest, and whether they say they do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.particles.settling import DRIFTING, Settled, settle as settle_reporting

MAX_Z = 4.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settle(target: poe.Expert, x: Tensor, g: torch.Generator) -> Settled | None:
    return settle_reporting(target, x, g, lambda part, acceptance: None)


def chained_powers(x: Tensor) -> Tensor:
    """x_i+1 ~ N(|x_i|^2.5, 1 / 20): long thin tails, and no parabola, that a map would undo."""
    links = (x[:, 1:] - x[:, :-1].abs() ** 2.5).square().sum(1)
    return -(x[:, 0] - 1).square() - 10.0 * links


def neal(x: Tensor) -> Tensor:
    """v ~ N(0, 3²), and three others ~ N(0, exp(v))."""
    v, rest = x[:, 0], x[:, 1:]
    return -v.square() / 18 - 0.5 * rest.square().sum(1) * (-v).exp() - 1.5 * v


@pytest.mark.slow
def test_chains_from_the_mouth_of_a_funnel_come_to_rest_in_its_neck_too() -> None:
    g = seeded()
    v = 3.0 * torch.randn(4000, generator=g)
    v = v[v > -2.0][:1024]
    x = torch.cat([v[:, None], (0.5 * v).exp()[:, None] * torch.randn(1024, 3, generator=g)], 1)
    found = settle(poe.FromLogDensity(neal, space=poe.Real(4)), x, g)
    assert found is not None
    assert not found.doubts()
    share, truth = (found.position[:, 0] < -3.0).double().mean().item(), 0.158655
    # Positions of one chain are alike: as if there were one for each of the 256.
    assert abs(share - truth) < MAX_Z * math.sqrt(truth * (1 - truth) / 256)


@pytest.mark.slow
def test_chains_that_go_on_all_the_time_say_so() -> None:
    g = seeded()
    x = [1 + math.sqrt(0.5) * torch.randn(8000, generator=g)]
    for _ in range(3):
        x.append(x[-1].abs() ** 2.5 + math.sqrt(1 / 20) * torch.randn(8000, generator=g))
    rows = torch.stack(x, 1)
    seen = rows[rows[:, 3] < 10.0][:1024]
    found = settle(poe.FromLogDensity(chained_powers, space=poe.Real(4)), seen, g)
    assert found is not None
    assert found.drift > DRIFTING
    assert "drifted" in found.doubts()[0].text


@pytest.mark.parametrize(
    "log_density",
    [lambda x: -0.5 * x.square().sum(1), lambda x: -2.5 * torch.log1p(x.square()).sum(1)],
)
def test_where_one_scale_fits_all_places_nothing_moves(log_density: poe.Expert) -> None:
    target = poe.FromLogDensity(log_density, space=poe.Real(3))
    assert settle(target, torch.randn(1024, 3, generator=seeded()), seeded()) is None


def test_too_few_to_tell_from_are_left_alone() -> None:
    target = poe.FromLogDensity(neal, space=poe.Real(4))
    assert settle(target, torch.randn(50, 4, generator=seeded()), seeded()) is None


@pytest.mark.slow
def test_it_ends_where_its_evaluations_do() -> None:
    g = seeded()
    v = 3.0 * torch.randn(1024, 1, generator=g)
    x = torch.cat([v, (0.5 * v).exp() * torch.randn(1024, 3, generator=g)], 1)
    told: list[float] = []
    found = settle_reporting(
        poe.FromLogDensity(neal, space=poe.Real(4)), x, g, lambda part, _: told.append(part), 1
    )
    assert found is not None
    assert told == [1.0]
    assert found.num_evaluations < 80_000
