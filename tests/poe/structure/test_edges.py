"""Mass that is nearer to an edge than numbers tell apart: it is sampled, and it is said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import experts
import poe
from poe.core.doubt import Kind, kinds
from poe.density.coordinates import Coordinates
from poe.structure.edges import reaching_edges

MAX_Z = 4.0


def beta(a: float, space: poe.Interval) -> poe.Expert:
    """Beta(a, a) moved to an interval, known as a function of x only."""

    def log_density(x: Tensor) -> Tensor:
        return ((a - 1) * ((x - space.low).log() + (space.high - x).log())).sum(-1)

    return poe.FromLogDensity(log_density, space=space)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("space", [poe.Interval(2), poe.Interval(2, -1, 1), poe.Interval(2, 2, 5)])
def test_the_density_goes_on_as_a_power_of_the_distance(space: poe.Interval) -> None:
    a = 0.05
    density = Coordinates(space).pull(reaching_edges(beta(a, space)))
    u = torch.tensor([[0.5, 0.3], [30.0, 0.3], [-60.0, 40.0], [3.0, -95.0], [200.0, 200.0]])
    exact = a * (F.logsigmoid(u) + F.logsigmoid(-u)).sum(1)
    exact += 2 * (2 * a - 1) * math.log(space.high - space.low)
    value, score = density.log_density_and_score(u)
    torch.testing.assert_close(value, exact, rtol=5e-3, atol=0.02)
    torch.testing.assert_close(score, -a * torch.tanh(u / 2), rtol=0.02, atol=1e-4)
    moving = u.clone().requires_grad_()
    [slope] = torch.autograd.grad(density(moving).sum(), moving)
    torch.testing.assert_close(slope, score)


UNCHANGED = {
    "bounded": beta(1.0, poe.Interval(3)),
    "falling": beta(2.0, poe.Interval(3)),
    "growing, but all of it seen": beta(0.8, poe.Interval(3)),
    "steep": poe.FromLogDensity(lambda x: 40 * x.sum(-1), space=poe.Interval(2, -1, 1)),
    "steep to the end": poe.FromLogDensity(lambda x: 3e4 * x.sum(-1), space=poe.Interval(2)),
    "a power that ends": poe.FromLogDensity(
        lambda x: -1.5 * (1 - x + 1e-6).log().sum(-1), space=poe.Interval(2)
    ),
    "no score": poe.FromLogDensity(lambda x: x.detach().sum(-1).round(), space=poe.Interval(2)),
    "raises": poe.FromLogDensity(lambda x: 1 / 0, space=poe.Interval(2)),
    "on all of R": experts.Gaussian([0.0], scale=[1.0]),
    "a Gamma": poe.FromLogDensity(lambda x: (-0.5 * x.log() - x).sum(-1), space=poe.Positive(2)),
    "bits": experts.Bernoulli([0.0]),
    "clamped far out": poe.FromLogDensity(
        lambda x: -0.5 * x.log().clamp(-60, 60).square().sum(-1), space=poe.Positive(3)
    ),
    "cut far out": poe.FromLogDensity(
        lambda x: torch.where((x < 1e6).all(-1), -x.log().square().sum(-1), -torch.inf),
        space=poe.Positive(2),
    ),
    "cut next to an edge": poe.FromLogDensity(
        lambda x: torch.where((x < 0.99).all(-1), x.sum(-1), -torch.inf),
        space=poe.Interval(2, -1, 1),
    ),
    "nothing but rounding far out": poe.FromLogDensity(
        lambda x: (-x).exp().log().clamp(min=-103).sum(-1), space=poe.Positive(2)
    ),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_where_nothing_is_lost_the_target_is_itself(name: str) -> None:
    assert reaching_edges(UNCHANGED[name]) is UNCHANGED[name]


@pytest.mark.parametrize("space", [poe.Interval(1), poe.Interval(2, 2, 5)], ids=str)
@pytest.mark.parametrize(("a", "is_said"), [(0.2, False), (0.05, True)])
def test_draws_next_to_edges_have_the_right_moments(
    a: float, is_said: bool, space: poe.Interval
) -> None:
    target = beta(a, space)
    draws = poe.sample(target, 8000, generator=generator(1), progress=False)
    x = (draws.samples.double() - space.low) / (space.high - space.low)
    spread = (x - 0.5).square()
    for found, truth in ((x, 0.5), (spread, 0.25 / (2 * a + 1))):
        error = poe.diagnostics.mcse_mean(found)
        assert ((found.mean((0, 1)) - truth).abs() < MAX_Z * error).all()
    assert (Kind.ROUNDED in kinds(draws.doubts)) == is_said
    assert draws.samples.dtype == torch.float32


def test_particles_next_to_edges_have_the_right_log_z() -> None:
    truth = 2 * math.lgamma(0.2) - math.lgamma(0.4)
    draws = poe.smc(beta(0.2, poe.Interval(3)), 20000, generator=generator(), progress=False)
    found = draws.log_partition
    assert abs(found.value.item() - 3 * truth) < MAX_Z * found.std_error.item()
    assert Kind.ROUNDED not in kinds(draws.doubts)


@pytest.mark.parametrize(
    ("k", "a"), [(2, 0.1), (5, 0.1), pytest.param(10, 0.3, marks=pytest.mark.slow)]
)
def test_corners_of_a_simplex_are_reached(k: int, a: float) -> None:
    target = poe.FromLogDensity(lambda x: ((a - 1) * x.log()).sum(-1), space=poe.Simplex(k))
    found = poe.log_partition(target, generator=generator(1), progress=False)
    truth = k * math.lgamma(a) - math.lgamma(k * a)
    assert abs(found.value.item() - truth) < MAX_Z * found.std_error.item()
    assert found.is_trusted


@pytest.mark.parametrize("space", [poe.Interval(4), poe.Interval(4, -1, 2)], ids=str)
def test_mass_that_grows_towards_an_edge_is_improper(space: poe.Interval) -> None:
    power = poe.FromLogDensity(lambda x: -1.5 * (space.high - x).log().sum(-1), space=space)
    for run in (poe.sample, poe.smc):
        with pytest.raises(poe.ImproperError, match="towards the edges"):
            run(power, 100, generator=generator(), progress=False)


def test_growth_beside_elements_that_fall_is_improper() -> None:
    def log_density(x: Tensor) -> Tensor:
        return -x[:, 0].clamp(max=1e4) - 1.5 * x[:, 1].log() - x[:, 1]

    with pytest.raises(poe.ImproperError, match="grows like"):
        reaching_edges(poe.FromLogDensity(log_density, space=poe.Positive(2)))


@pytest.mark.slow
def test_mass_that_does_not_die_out_before_rounding_is_said() -> None:
    """1 / (1 - x) is improper, where clipped numbers have a mass that is finite."""
    function = poe.FromLogDensity(lambda x: -torch.log1p(-x).sum(-1), space=poe.Interval(2))
    draws = poe.sample(function, 400, warmup=200, generator=generator(), progress=False)
    assert Kind.IMPROPER in kinds(draws.doubts)
