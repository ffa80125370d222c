"""Tables of counts: log Z by hand, exact draws, and bounds that hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.density.expert import Expert
from poe.samplers.guarded import Raised
from poe.tuning.truncation import Table, table_of, tabulated

COUNT = poe.Count(1)


def over(name: str, *parameters: float) -> Expert:
    return poe.as_expert(
        D.Independent(getattr(D, name)(*(torch.tensor([p]) for p in parameters)), 1)
    )


def poisson(*rate: float) -> Expert:
    return experts.Poisson(torch.tensor(rate, dtype=torch.float64))


def plain(log_density: Callable[[Tensor], Tensor], size: int = 1) -> Expert:
    return poe.FromLogDensity(lambda x: log_density(x.double()), space=poe.Count(size))


def found(target: Expert) -> Table:
    table = table_of(target, Raised())
    assert table is not None
    return table


def log_z(target: Expert) -> float:
    return float(found(target).mass().value)


def log_bessel(z: float) -> float:
    return math.log(torch.special.i0e(torch.tensor(z, dtype=torch.float64)).item()) + z


def quarter_bessel() -> float:
    """log Σ λ^(n/2) / √(n!) is no function with a name: by its own sum."""
    n = torch.arange(200.0, dtype=torch.float64)
    return float((0.5 * n * math.log(7.0) - 0.5 * (n + 1).lgamma()).logsumexp(0) - 3.5)


@pytest.mark.parametrize(
    ("target", "truth"),
    [
        (poisson(3.0) * poisson(5.0), -8 + log_bessel(2 * 15**0.5)),
        (poisson(1e4) * poisson(1.1e4), -2.1e4 + log_bessel(2 * 1.1e8**0.5)),
        (poisson(7.0) ** 0.5, quarter_bessel()),
        (over("Geometric", 0.25) ** 2, 2 * math.log(0.25) - math.log(1 - 0.75**2)),
        (over("Geometric", 1e-3) ** 0.5, 0.5 * math.log(1e-3) - math.log(1 - 0.999**0.5)),
        (poisson(3.0) / over("Geometric", 0.5), -3 + 6 + math.log(2.0)),
        (over("NegativeBinomial", 1.0, 0.8) * over("Geometric", 0.5),
         math.log(0.2 * 0.5) - math.log(1 - 0.4)),
        (plain(lambda x: poisson(3.0)(x) + poisson(5.0)(x)), -8 + log_bessel(2 * 15**0.5)),
        (plain(lambda x: -x[..., 0] * math.log(2)), math.log(2)),
        (plain(lambda x: -2 * (x[..., 0] + 1).log()), math.log(math.pi**2 / 6)),
        (poe.Mixture([poisson(3.0), poisson(1e5)], [0.5, 0.5]), 0.0),
        (plain(lambda x: -2 * (x[..., 0] - 54321).square()), math.log(1.2713415)),
    ],
)  # fmt: skip
def test_log_z_of_one_count(target: Expert, truth: float) -> None:
    mass = found(target).mass()
    assert mass.value.item() == pytest.approx(truth, abs=1e-6)
    assert mass.lower - 1e-6 <= truth <= mass.upper + 1e-6


def test_elements_that_are_independent_are_summed_one_by_one() -> None:
    one, many = (poisson(*[3.0] * n) * poisson(*[5.0] * n) for n in (1, 50))
    assert log_z(many) == pytest.approx(50 * log_z(one), rel=1e-12)
    assert found(many).num_states < 50 * 40
    unlike = poisson(0.1, 1e4, 30.0) * poisson(0.2, 1.1e4, 20.0)
    apart = [poisson(a) * poisson(b) for a, b in ((0.1, 0.2), (1e4, 1.1e4), (30.0, 20.0))]
    assert log_z(unlike) == pytest.approx(sum(map(log_z, apart)), abs=1e-9)


def coupled(x: Tensor) -> Tensor:
    return -0.05 * (x[..., 1:] - x[..., :-1]).square().sum(-1)


@pytest.mark.parametrize(
    "target",
    [
        poisson(3.0, 5.0) * plain(coupled, 2),
        poisson(3.0, 5.0, 4.0) * plain(coupled, 3),
        plain(lambda x: -0.3 * x.sum(-1) + coupled(x), 2),
        poisson(3.0, 5.0) * plain(lambda x: torch.where(x.sum(-1) == 9, 0.0, -torch.inf), 2),
        poe.Mixture([poisson(1.0, 1.0), poisson(40.0, 30.0)], [0.3, 0.7]),
    ],
)
def test_elements_that_go_together_are_summed_in_a_box(target: Expert) -> None:
    n = target.space.event_shape.numel()
    x = torch.cartesian_prod(*[torch.arange(100.0 if n == 2 else 40.0)] * n)
    truth = target(x).double().logsumexp(0)
    mass = found(target).mass()
    assert float(mass.value) == pytest.approx(float(truth), abs=1e-9)
    assert mass.std_error < 1e-9


def test_a_box_is_laid_around_a_mass_far_from_0() -> None:
    def around(x: Tensor) -> Tensor:
        z = (x - 5e4) / 20
        return -0.5 * z.square().sum(-1) - 0.25 * z.diff().square().sum(-1)

    # A precision of eigenvalues 1 and 2, in units of 1 / 400; its lattice sum is its integral.
    assert log_z(plain(around, 2)) == pytest.approx(math.log(2 * math.pi * 400 / 2**0.5), abs=1e-9)


@pytest.mark.parametrize(
    ("power", "zeta"), [(3.0, 1.2020569032), (2.0, 1.6449340668), (1.5, 2.6123753487)]
)
def test_bounds_hold_where_a_tail_is_heavy(power: float, zeta: float) -> None:
    mass = found(plain(lambda x: -power * (x[..., 0] + 1).log())).mass()
    assert mass.lower <= math.log(zeta) + 1e-10
    assert mass.upper >= math.log(zeta) - 1e-10
    assert (mass.value - math.log(zeta)).abs() <= mass.std_error + 1e-10


@pytest.mark.parametrize("power", [1.0, 1.01, 0.0])
def test_no_table_is_made_of_what_hardly_falls_off(power: float) -> None:
    assert table_of(plain(lambda x: -power * (x[..., 0] + 1).log()), Raised()) is None


def test_a_list_of_values_ends_where_it_raises_an_error() -> None:
    values, raised = torch.tensor([0.0, 1.0, 2.0, 0.5]), Raised()
    target = poe.FromLogDensity(lambda x: values[x[..., 0].long()], space=COUNT)
    table = table_of(target, raised)
    assert table is not None
    assert float(table.mass().value) == pytest.approx(float(values.double().logsumexp(0)))
    assert raised.count < 100


def test_what_is_not_a_number_where_the_mass_is_is_refused_and_elsewhere_not() -> None:
    far = plain(lambda x: torch.where(x[..., 0] > 1000, torch.nan, -x[..., 0]))
    assert log_z(far) == pytest.approx(-math.log1p(-math.exp(-1)))
    near = plain(lambda x: torch.where(x[..., 0] == 2, torch.nan, -x[..., 0]))
    with pytest.raises(poe.NonFiniteError, match="where its mass is"):
        table_of(near, Raised())


def test_a_random_log_density_is_refused() -> None:
    g = torch.Generator().manual_seed(0)
    noisy = plain(lambda x: -x[..., 0] + torch.rand(x.shape[:-1], generator=g))
    with pytest.raises(poe.PoeError, match="two calls at the same positions"):
        tabulated(noisy)


@pytest.mark.parametrize(
    "target",
    [
        poisson(3.0, 0.5) * poisson(5.0, 0.7),
        poisson(3.0, 5.0) * plain(coupled, 2),
        over("Geometric", 0.3) ** 0.7 * poisson(4.0) ** 0.1,
    ],
)
def test_draws_are_independent_and_exact(target: Expert) -> None:
    g, count = torch.Generator().manual_seed(0), 40_000
    draws = poe.sample(target, count, generator=g, progress=False)
    assert draws.guarantee == "exact"
    x = draws.samples.flatten(0, 1)
    n = target.space.event_shape.numel()
    states = torch.cartesian_prod(*[torch.arange(200.0 if n == 1 else 60.0)] * n).reshape(-1, n)
    truth = target(states).double().softmax(0)
    for moment in (lambda x: x, lambda x: x.square(), lambda x: (x == 2).double()):
        values = moment(states.double())
        mean = truth @ values
        error = ((truth @ values.square() - mean.square()) / count).sqrt()
        assert ((moment(x.double()).mean(0) - mean).abs() < 4.5 * error).all()


def test_in_many_dimensions_and_elsewhere_there_is_no_table() -> None:
    for target in (
        poisson(*[3.0] * 4) * plain(coupled, 4),
        experts.Gaussian([0.0], 1.0),
        experts.Bernoulli([0.0]),
        experts.Poisson(torch.ones(2)).to("meta"),
    ):
        assert table_of(target, Raised()) is None
