"""Rays out of a density: infinite mass is seen, and no proper density is accused of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, distributions as D, nn

import experts
import poe
from poe.core.doubt import Kind
from poe.structure.far_mass import failing_where_improper, look_far
from tests.seeds import seeded

DIMENSIONS = (1, 2, 5, 30)
DTYPES = (torch.float64, torch.float32)


class Case(NamedTuple):
    """A log-density of d elements, and draws of it, or nearly, from standard normals in u."""

    log_density: Callable[[Tensor], Tensor]
    space: Callable[[int], poe.Space] = poe.Real
    draw: Callable[[Tensor], Tensor] = lambda z: z


def squares(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def network(last: nn.Module) -> Callable[[Tensor], Tensor]:
    """Of any number of inputs: it sees their sums over fixed waves."""
    with seeded():
        net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1), last)

    def log_density(x: Tensor) -> Tensor:
        waves = torch.linspace(0.3, 2, 8 * x.shape[-1], dtype=x.dtype).sin().reshape(-1, 8)
        return net.to(x.dtype)(x @ waves)[..., 0]

    return log_density


def cauchy(x: Tensor) -> Tensor:
    return -torch.log1p(x.square()).sum(-1)


def student(x: Tensor) -> Tensor:
    """Of one degree of freedom, in as many dimensions as there are."""
    return -0.5 * (1 + x.shape[-1]) * torch.log1p(squares(x))


def funnel(x: Tensor) -> Tensor:
    v, rest = x[..., 0], x[..., 1:]
    return -v.square() / 18 - 0.5 * (squares(rest) * (-v).exp() + rest.shape[-1] * v)


def high_funnel(x: Tensor) -> Tensor:
    """Its log-density rises without end into the neck; the prior of v is a Laplace density."""
    v = x[..., 0]
    return funnel(x) + v.square() / 18 - v.abs()


def into_funnel(z: Tensor) -> Tensor:
    v = 3 * z[:, :1]
    return torch.cat([v, z[:, 1:] * (v / 2).exp()], 1)


def inside_box(outside: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where((x.abs() < 3).all(-1), 0.0, outside).to(x.dtype)


def powers(at_zero: float, at_infinity: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (at_zero * x.log() - (at_zero + at_infinity) * torch.log1p(x)).sum(-1)


def floored(x: Tensor) -> Tensor:
    return torch.logaddexp(-squares(x), torch.tensor(-50.0, dtype=x.dtype))


def falls_to_one_side(x: Tensor) -> Tensor:
    return -3 * (-x).relu().sum(-1) + 0.1 * x[..., 0]


IMPROPER = {
    "constant": Case(lambda x: 0 * x.sum(-1)),
    "network that ends in tanh": Case(network(nn.Tanh())),
    "network that ends in a sigmoid": Case(network(nn.Sigmoid())),
    "bumps": Case(lambda x: 3 * (-squares(x)).exp()),
    "waves": Case(lambda x: 3 * x.cos().sum(-1)),
    "floor at exp(-50)": Case(floored),
    "clamped energy": Case(lambda x: -(0.5 * squares(x)).clamp(max=40)),
    "clamped far out": Case(lambda x: -(0.5 * squares(x)).clamp(max=300)),
    "falls to one side": Case(falls_to_one_side),
    "grows far out": Case(lambda x: 0.01 * squares(x) - 2 * squares(x).clamp(max=9)),
    "r^(-d)": Case(lambda x: -0.5 * x.shape[-1] * torch.log1p(squares(x))),
    "bounded above 0": Case(lambda x: x.tanh().sum(-1), poe.Positive),
    "x^-1.5 at 0": Case(powers(-1.5, 3.0), poe.Positive),
    "x^-0.5 at infinity": Case(powers(1.0, 0.5), poe.Positive),
    "x^-1.5 at the end of an interval": Case(lambda x: -1.5 * x.log().sum(-1), poe.Interval),
    "bounded on counts": Case(lambda x: (x / 9).tanh().sum(-1), poe.Count, lambda z: z.abs()),
}
PROPER = {
    "normal": Case(lambda x: -0.5 * squares(x)),
    "normal, far broader than its draws": Case(lambda x: -1e-8 * squares(x)),
    "Cauchy": Case(cauchy, draw=torch.tan),
    "Student": Case(student, draw=lambda z: z / z[:, :1].abs().roll(1, 0)),
    "Laplace": Case(lambda x: -x.abs().sum(-1)),
    "exp(-sqrt(r))": Case(lambda x: -squares(x).sqrt().sqrt(), draw=lambda z: 30 * z),
    "quartic": Case(lambda x: -x.pow(4).sum(-1)),
    "x^8, which overflows": Case(lambda x: -x.pow(8).sum(-1)),
    "cosh": Case(lambda x: -x.cosh().sum(-1)),
    "confined network": Case(lambda x: 20 * BOUNDED(x) - 1e-3 * squares(x)),
    "box": Case(inside_box(-math.inf), draw=torch.tanh),
    "box with a number for -inf": Case(inside_box(-1e10), draw=torch.tanh),
    "NaN outside": Case(lambda x: (1 - x.square()).log().sum(-1), draw=torch.tanh),
    "two places": Case(lambda x: torch.logaddexp(-squares(x), -squares(x - 100))),
    "funnel": Case(funnel, draw=into_funnel),
    "funnel that rises for ever": Case(high_funnel, draw=into_funnel),
    "gamma": Case(lambda x: (-0.5 * x.log() - x).sum(-1), poe.Positive),
    "half-Cauchy": Case(cauchy, poe.Positive),
    "Lévy": Case(lambda x: (-0.5 / x - 1.5 * x.log()).sum(-1), poe.Positive),
    "bounded on an interval": Case(lambda x: x.tanh().sum(-1), poe.Interval, lambda z: 1.8 * z),
    "beta": Case(lambda x: -0.8 * (x.log() + torch.log1p(-x)).sum(-1), poe.Interval),
    "counts like x^-2": Case(lambda x: -2 * torch.log1p(x).sum(-1), poe.Count, torch.abs),
}
BOUNDED = network(nn.Tanh())


def is_accused(case: Case, d: int, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    u = case.draw(torch.randn(12, d, generator=generator, dtype=dtype))
    target = poe.FromLogDensity(case.log_density, space=case.space(d))
    return bool(look_far(target, u.round() if target.space.is_discrete else u).doubts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("case", IMPROPER.values(), ids=IMPROPER)
def test_infinite_mass_is_seen(case: Case, d: int, dtype: torch.dtype) -> None:
    assert is_accused(case, d, dtype)


@pytest.mark.law
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("case", PROPER.values(), ids=PROPER)
def test_no_proper_density_is_accused(case: Case, d: int, dtype: torch.dtype) -> None:
    assert not is_accused(case, d, dtype)


def ridge_along(direction: Tensor, growth: float) -> Callable[[Tensor], Tensor]:
    unit = direction / direction.norm()

    def log_density(x: Tensor) -> Tensor:
        along = x @ unit
        return growth * along.abs() - (squares(x) - along.square())

    return log_density


@pytest.mark.parametrize("growth", [0.0, 1e-3], ids=["flat", "growing"])
@pytest.mark.parametrize("d", [2, 5, 30])
@pytest.mark.parametrize("direction", ["axis", "diagonal", "aslant"])
def test_a_single_direction_is_found(direction: str, d: int, growth: float) -> None:
    vector = {
        "axis": torch.eye(d, dtype=torch.float64)[0],
        "diagonal": torch.ones(d, dtype=torch.float64),
        "aslant": torch.linspace(1, 2, d, dtype=torch.float64),
    }[direction]
    target = poe.FromLogDensity(ridge_along(vector, growth), space=poe.Real(d))
    u = torch.randn(12, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert look_far(target, u).doubts
    assert not look_far(poe.FromLogDensity(ridge_along(vector, -0.1), space=target.space), u).doubts


def test_what_raises_or_is_nan_far_out_is_no_evidence() -> None:
    def raising(x: Tensor) -> Tensor:
        if bool((x.abs() > 50).any()):
            raise KeyError("far")
        return 0 * x.sum(-1)

    for log_density in (raising, lambda x: torch.where(squares(x) < 50, 0.0, torch.nan)):
        target = poe.FromLogDensity(log_density, space=poe.Real(2))
        assert not look_far(target, torch.randn(4, 2, generator=torch.Generator())).doubts


def test_a_ray_that_meets_an_error_ends_no_other() -> None:
    """Flat in x0, and an error where |x1| is large: as of a matrix that cannot be factorised."""

    def raising(x: Tensor) -> Tensor:
        if bool((x[..., 1].abs() > 50).any()):
            raise ArithmeticError("not positive definite")
        return -x[..., 1].square()

    target = poe.FromLogDensity(raising, space=poe.Real(2))
    [doubt] = look_far(target, torch.randn(4, 2, generator=torch.Generator())).doubts
    assert doubt.kind is Kind.IMPROPER


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),  # what a CPU's tensors raise
    ],
)
def test_memory_that_runs_out_is_no_matter_of_tails(error: Exception) -> None:
    def greedy(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error), match=str(error)):
        look_far(poe.FromLogDensity(greedy, space=poe.Real(1)), torch.zeros(4, 1))


def test_cancelling_factors_are_not_read_in_their_rounding() -> None:
    # Of squares of 1e24 nothing is left but rounding, in which a Cauchy density is lost.
    up = poe.FromLogDensity(lambda x: 0.5 * squares(x), space=poe.Real(1))
    down = poe.FromLogDensity(lambda x: -0.5 * squares(x), space=poe.Real(1))
    tails = poe.FromLogDensity(cauchy, space=poe.Real(1))
    u = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
    assert not look_far(up * down * tails, u).doubts


def test_the_words_name_the_place_and_what_grows() -> None:
    flat = poe.FromLogDensity(lambda x: 0 * x.sum(-1), space=poe.Real(2))
    bad = poe.FromLogDensity(lambda x: -squares(x), space=poe.Real(2))
    narrow = poe.FromLogDensity(lambda x: -9 * x[..., 0].square(), space=poe.Real(2))
    u = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    [doubt] = look_far(poe.Product(flat=flat, narrow=narrow, bad=bad**-1), u).doubts
    assert doubt.kind is Kind.IMPROPER
    assert "what grows there is 'bad'" in doubt.text
    assert "in the direction [" in doubt.text


class Scaled(poe.Conditional):
    """exp(-rate x₀² - x₁² - ...), which is improper at rate 0."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.space = poe.Real(dimension)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return -condition[..., 0] * x[..., 0].square() - squares(x[..., 1:])


@pytest.mark.parametrize("d", [1, 2, 10, 16])
def test_of_a_batch_the_chains_are_named(d: int) -> None:
    rates = torch.tensor([[1.0], [0.0], [2.0], [0.0]])
    u = torch.randn(4, d, generator=torch.Generator().manual_seed(0))
    [doubt] = look_far(Scaled(d).given(rates), u).doubts
    assert doubt.chains == (1, 3)
    assert not look_far(Scaled(d).given(rates + 1), u).doubts


def test_what_fails_towards_an_improper_target_says_why() -> None:
    bounded = poe.FromLogDensity(BOUNDED, space=poe.Real(2))
    with (
        pytest.raises(poe.ImproperError, match=r"may be improper.*ended in: no further"),
        failing_where_improper(bounded, torch.zeros(4, 2)),
    ):
        raise poe.PoeError("no further")
    proper = bounded * poe.FromLogDensity(lambda x: -squares(x), space=poe.Real(2))
    with (
        pytest.raises(poe.PoeError, match=r"^no further"),
        failing_where_improper(proper, torch.zeros(4, 2)),
    ):
        raise poe.PoeError("no further")


@pytest.mark.parametrize(
    "target",
    [
        experts.Gaussian([0.0], scale=[1.0]),
        poe.as_expert(D.Independent(D.Cauchy(torch.zeros(2), 1.0), 1)),
        poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(3)),
    ],
)
def test_what_is_decided_is_not_asked(target: poe.Expert) -> None:
    u = torch.zeros(4, *target.space.event_shape)
    assert look_far(target, u).num_evaluations == 0
