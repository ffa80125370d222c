"""The geometric path: its densities, and the memory that spares evaluations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.density.coordinates import Coordinates
from poe.samplers import (
    HMC,
    MALA,
    AdjustedMCLMC,
    Diagonal,
    GeneralizedHMC,
    Kernel,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.path import GeometricPath, Level, Parts, geometric_path, join_parts, stack_parts

PRIOR = experts.Gaussian([0.0, 1.0], scale=[2.0, 1.0])
BUMP = poe.FromLogDensity(lambda x: -(x - 1.0).pow(4).sum(-1), space=poe.Real(2))
WAVE = poe.FromLogDensity(lambda x: x.cos().sum(-1), space=poe.Real(2))


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("target", "exponent"),
    [
        (PRIOR * BUMP, 1.0),
        (PRIOR**2 * BUMP * WAVE, 2.0),
        ((PRIOR * BUMP) ** 0.5, 0.5),
        (BUMP / PRIOR, -1.0),
        (PRIOR * BUMP * PRIOR, 2.0),
        (BUMP * WAVE, 0.0),
        (PRIOR**3, 3.0),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_path_is_geometric(
    target: poe.Expert, exponent: float, temperature: float, g: torch.Generator
) -> None:
    path = geometric_path(PRIOR, target)
    assert path.exponent == exponent
    x = torch.randn(7, 2, generator=g)
    expected = PRIOR ** (1.0 - temperature) * target**temperature
    parts = path.evaluate(x)
    torch.testing.assert_close(path.log_density(parts, temperature), expected(x))
    torch.testing.assert_close(path.score(parts, temperature), expected.score(x))
    torch.testing.assert_close(path.tilt(parts).float(), target(x) - PRIOR(x))


def test_a_factor_is_evaluated_once_and_known_by_identity() -> None:
    calls = []

    def log_density(x: Tensor) -> Tensor:
        calls.append(len(x))
        return -x.square().sum(-1)

    start = poe.FromLogDensity(log_density, space=poe.Real(2))
    geometric_path(start, start * BUMP).evaluate(torch.zeros(3, 2))
    assert calls == [3]
    twin = poe.FromLogDensity(log_density, space=poe.Real(2))
    assert geometric_path(twin, start * BUMP).exponent == 0.0


def test_in_other_coordinates_the_jacobian_is_in_both_ends(g: torch.Generator) -> None:
    space = poe.Positive(1)
    start = poe.as_expert(torch.distributions.Independent(torch.distributions.Gamma(
        torch.tensor([2.0]), torch.tensor([1.0])), 1))  # fmt: skip
    bump = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=start.space)
    coordinates = Coordinates(start.space)
    path = geometric_path(coordinates.pull(start), coordinates.pull(start * bump))
    u = torch.randn(5, 1, generator=g)
    expected = coordinates.pull(start * bump**0.4)
    assert start.space == space
    torch.testing.assert_close(path.log_density(path.evaluate(u), 0.4), expected(u))


def test_a_density_has_no_say_where_its_exponent_is_zero() -> None:
    wall = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf), space=poe.Real(2)
    )
    outside = torch.tensor([[-1.0, 0.0]])
    path = geometric_path(PRIOR, PRIOR * wall)
    values = [path.log_density(path.evaluate(outside), t).item() for t in (0.0, 1e-9, 1.0)]
    assert values == [PRIOR(outside).item(), -torch.inf, -torch.inf]
    away = geometric_path(wall, BUMP)
    values = [away.log_density(away.evaluate(outside), t).item() for t in (0.0, 0.5, 1.0)]
    assert values == [-torch.inf, -torch.inf, BUMP(outside).item()]
    nothing_by_nothing = GeometricPath(wall, wall**-1)
    parts = nothing_by_nothing.evaluate(outside, with_score=False)
    assert nothing_by_nothing.log_density(parts, 0.5).item() == -torch.inf


def test_what_is_undefined_stays_undefined() -> None:
    broken = poe.FromLogDensity(lambda x: x[..., 0].log(), space=poe.Real(2))
    path = geometric_path(PRIOR, PRIOR * broken)
    parts = path.evaluate(torch.tensor([[-1.0, 0.0]]))
    assert path.tilt(parts).isnan().all()
    assert path.log_density(parts, 0.5).isnan().all()


KERNELS: list[Kernel] = [
    MALA(0.3),
    HMC(0.6, num_steps=3),
    MetropolisHastings(0.8),
    SplitHMC(0.7),
    AdjustedMCLMC(0.6),
    GeneralizedHMC(0.6),
    Preconditioned(SplitHMC(1.2), Diagonal(torch.tensor([0.3, 0.8]), torch.tensor([0.7, 0.4]))),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_the_parts_follow_the_chains_of_every_kernel(kernel: Kernel, g: torch.Generator) -> None:
    path = geometric_path(PRIOR, PRIOR * BUMP)
    x = torch.randn(50, 2, generator=g)
    parts = path.evaluate(x)
    level = Level(path, 0.4)
    state = kernel.init(level.known(parts), x)
    assert level.num_evaluations == 0
    for _ in range(6):
        state, info = kernel.step(level, state, generator=g)
        parts = level.follow(parts, info.is_accepted, state.position)
        fresh = path.evaluate(state.position)
        torch.testing.assert_close(parts.position, state.position)
        torch.testing.assert_close(parts.log_density[1], fresh.log_density[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            path.log_density(parts, 0.4), state.log_density, rtol=1e-4, atol=1e-4
        )
        if parts.has_score:
            torch.testing.assert_close(
                path.score(parts, 0.4), path.score(fresh, 0.4), rtol=1e-3, atol=1e-3
            )


def test_following_costs_no_evaluation(g: torch.Generator) -> None:
    path = geometric_path(PRIOR, PRIOR * BUMP)
    parts = path.evaluate(torch.randn(50, 2, generator=g))
    level, kernel = Level(path, 0.4), MALA(0.3)
    state = kernel.init(level.known(parts), parts.position)
    for _ in range(5):
        state, info = kernel.step(level, state, generator=g)
        parts = level.follow(parts, info.is_accepted, state.position)
    assert level.num_evaluations == 5 * 50


def test_a_kernel_that_ends_elsewhere_is_followed_by_a_new_evaluation(g: torch.Generator) -> None:
    path = geometric_path(PRIOR, PRIOR * BUMP)
    parts = path.evaluate(torch.randn(50, 2, generator=g))
    level = Level(path, 0.4)
    elsewhere = torch.randn(50, 2, generator=g)
    followed = level.follow_or_evaluate(parts, torch.ones(50, dtype=torch.bool), elsewhere)
    assert torch.equal(followed.log_density[1], BUMP(elsewhere))
    assert level.num_evaluations == 50


def test_where_nothing_may_be_evaluated_such_a_chain_is_not_hidden() -> None:
    level = Level(GeometricPath(PRIOR, BUMP), torch.tensor([0.5, 0.5, 0.5]))
    parts = level.evaluate(torch.zeros(3, 2))
    level.log_density_and_score(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    ends = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    followed = level.follow(parts, torch.tensor([True, False, True]), ends)
    assert torch.equal(followed.position, ends)
    assert followed.log_density.isnan().tolist() == [[False, False, True]] * 2
    expected = level.path.evaluate(ends)
    assert torch.equal(followed.log_density[:, :2], expected.log_density[:, :2])
    assert torch.equal(followed.score[:, :2], expected.score[:, :2])


def test_known_parts_answer_without_an_evaluation(g: torch.Generator) -> None:
    path = geometric_path(PRIOR, PRIOR * BUMP)
    parts = path.evaluate(torch.randn(50, 2, generator=g))
    level = Level(path, 0.4)
    log_density, score = level.known(parts).log_density_and_score(parts.position)
    assert level.num_evaluations == 0
    expected = (PRIOR * BUMP**0.4).log_density_and_score(parts.position)
    torch.testing.assert_close((log_density, score), expected)


def test_each_row_has_its_own_temperature(g: torch.Generator) -> None:
    path = GeometricPath(WAVE, BUMP, 0.5)
    parts = path.evaluate(torch.randn(4, 2, generator=g))
    temperatures = torch.tensor([0.0, 0.2, 0.7, 1.0])
    one_by_one = [parts.at(torch.tensor([row])) for row in range(4)]
    for ask in (path.log_density, path.score):
        alone = [ask(*pair) for pair in zip(one_by_one, temperatures.tolist(), strict=True)]
        torch.testing.assert_close(ask(parts, temperatures), torch.cat(alone))


def test_weight_zero_has_no_say_and_zero_density_excludes() -> None:
    inf, nan = torch.inf, torch.nan
    values = torch.tensor([[1.0, 1.0, -inf, -inf, nan], [-inf, nan, inf, 3.0, 3.0]])
    exponents = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0])
    parts = Parts(torch.zeros(5, 2), values, values.new_empty(2, 5, 0))
    log_density = GeometricPath(WAVE, BUMP).log_density(parts, exponents)
    assert log_density.tolist() == [1.0, 1.0, -inf, -inf, 3.0]


@pytest.mark.parametrize("with_score", [True, False])
def test_joined_parts_are_one_under_the_other(with_score: bool) -> None:
    path, x = GeometricPath(WAVE, BUMP), torch.arange(10.0).reshape(5, 2)
    whole = path.evaluate(x, with_score)
    joined = join_parts([whole.at(slice(2)), whole.at(torch.tensor([2, 3, 4]))])
    assert all(torch.equal(*pair) for pair in zip(joined, whole, strict=True))
    assert joined.has_score == with_score


def test_stacked_parts_run_chain_by_chain() -> None:
    path = GeometricPath(WAVE, BUMP)
    first, second = (path.evaluate(torch.full((2, 2), value)) for value in (1.0, 2.0))
    stacked = stack_parts([first, second])
    assert stacked.position[:, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
    torch.testing.assert_close(stacked.log_density[1], BUMP(stacked.position))


def test_a_score_that_was_not_asked_for_is_an_error() -> None:
    path = GeometricPath(WAVE, BUMP)
    parts = path.evaluate(torch.zeros(2, 2), with_score=False)
    with pytest.raises(poe.PoeError, match="with_score=True"):
        path.score(parts, 0.5)
