"""Hamiltonian Monte Carlo whose steps fit the place: reversible, of constant volume."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.core.errors import PoeError
from poe.density.expert import Expert
from poe.samplers import HMC, AdaptiveStepHMC, LangevinState, Preconditioned
from poe.samplers.adaptive_step import SPREAD, AdaptiveNoise, log_local_frequency
from poe.samplers.questions import (
    Learned,
    Setting,
    ends_where_it_asked,
    filled,
    is_reversible,
    missing,
)
from tests.laws.kernels import check_kernel

F64 = torch.float64


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def funnel_density(x: Tensor) -> Tensor:
    """Neal's funnel, v ~ N(0, 3²) first."""
    v, rest = x[..., 0], x[..., 1:]
    necks = rest.square().sum(-1) * (-v).exp() + rest.shape[-1] * v
    return -0.5 * (v / 3).square() - 0.5 * necks


def funnel(d: int = 3) -> Expert:
    return poe.FromLogDensity(funnel_density, space=poe.Real(d))


def funnel_draws(count: int, d: int, g: torch.Generator, dtype: torch.dtype = F64) -> Tensor:
    v, rest = (torch.randn(count, n, generator=g, dtype=dtype) for n in (1, d - 1))
    return torch.cat([3 * v, (1.5 * v).exp() * rest], 1)


def wander(
    kernel: AdaptiveStepHMC, x: Tensor, momentum: Tensor, log_frequency: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The trajectory as a map of (x, p, s)."""
    target = funnel(x.shape[1])
    state = kernel.init(target, x)
    end = kernel._trajectory(target, state, momentum, log_frequency, kernel.step_size)
    return end.state.position, end.momentum, end.log_frequency


def some_start(count: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    g = seeded()
    x, momentum = funnel_draws(count, 3, g), torch.randn(count, 3, generator=g, dtype=F64)
    score = funnel(3).log_density_and_score(x)[1]
    deviation = SPREAD * torch.randn(count, generator=g, dtype=F64)
    return x, momentum, log_local_frequency(score) + deviation


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_the_trajectory_is_reversible(num_steps: int) -> None:
    kernel = AdaptiveStepHMC(0.1, num_steps)
    x, momentum, s = some_start()
    target = funnel(3)
    whole = kernel._trajectory(target, kernel.init(target, x), momentum, s, kernel.step_size)
    kept = ~whole.is_misfit
    assert kept.double().mean() > 0.9
    x, momentum, s = x[kept], momentum[kept], s[kept]
    end, p, last = wander(kernel, x, momentum, s)
    back, q, first = wander(kernel, end, -p, last)
    torch.testing.assert_close((back, -q, first), (x, momentum, s))
    assert ((end - x).norm(dim=-1) > 1e-3).all()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_trajectory_conserves_the_volume_of_position_momentum_and_frequency(
    num_steps: int,
) -> None:
    kernel = AdaptiveStepHMC(0.4, num_steps)
    start = torch.tensor([-1.3, 0.4, -0.2, 0.3, 0.5, -0.8, 0.2], dtype=F64)

    def flow(rows: Tensor) -> Tensor:
        x, momentum, s = wander(kernel, rows[:, :3], rows[:, 3:6], rows[:, 6])
        return torch.cat([x, momentum, s[:, None]], 1)

    tiny = 1e-5 * torch.eye(7, dtype=F64)
    jacobian = (flow(start + tiny) - flow(start - tiny)) / 2e-5
    # Central differences of rounding 10⁻¹⁶ / 10⁻⁵ and curvature 10⁻¹⁰ times large derivatives.
    assert abs(abs(torch.linalg.det(jacobian).item()) - 1.0) < 1e-6


def test_it_errs_in_the_energy_by_the_square_of_the_step() -> None:
    x, momentum, _ = some_start()
    target = funnel(3)
    state = AdaptiveStepHMC(0.1).init(target, x)
    fitting = log_local_frequency(state.score)

    def error(step_size: float, num_steps: int) -> Tensor:
        kernel = AdaptiveStepHMC(step_size, num_steps)
        end = kernel._trajectory(target, state, momentum, fitting, step_size)
        kinetic = 0.5 * (end.momentum.square() - momentum.square()).sum(-1)
        return (end.state.log_density - state.log_density - kinetic).norm()

    assert 3.8 < error(0.004, 50) / error(0.002, 100) < 4.2


def test_steps_are_short_in_the_neck_and_long_in_the_mouth() -> None:
    x = torch.tensor([[-8.0, 0.02, -0.02], [8.0, 30.0, 40.0]], dtype=F64)
    target, kernel = funnel(3), AdaptiveStepHMC(0.1, num_steps=1, jitter=0.0)
    normal, zeros = torch.ones(2, 3, dtype=F64), torch.zeros(2, dtype=F64)
    noise = AdaptiveNoise(normal, zeros, None, zeros)
    moved, _ = kernel.transition(target, kernel.init(target, x), noise)
    neck, mouth = (moved.position - x)[:, 1:].norm(dim=-1).tolist()
    assert 0 < neck < 0.02
    assert mouth > 0.1


@pytest.mark.law
@pytest.mark.parametrize("d", [2, 10])
def test_it_leaves_a_funnel_invariant(d: int) -> None:
    """Its x have no finite fourth moment to speak of: the law is asked of v and log-densities."""
    g = seeded()
    exact = funnel_draws(40_000, d, g, torch.float32)
    # In y = asinh(x) all moments are those of a light tail: log p(y) = log p(x) + log cosh(y).

    def log_density(y: Tensor) -> Tensor:
        x = torch.cat([y[..., :1], y[..., 1:].sinh()], -1)
        return funnel_density(x) + y[..., 1:].cosh().log().sum(-1)

    target = poe.FromLogDensity(log_density, space=poe.Real(d))
    start = torch.cat([exact[:, :1], exact[:, 1:].asinh()], 1)
    check_kernel(AdaptiveStepHMC(0.2, 4), target, start, num_steps=5, generator=g)


def test_a_trajectory_over_a_cliff_stops_there_and_is_rejected() -> None:
    """The score falls from 10⁶ to 0 in a step, so the reflected frequency would be 10⁻⁶."""

    class Cliff:
        def log_density(self, x: Tensor) -> Tensor:
            return -1e6 * x.clamp(min=0.0).sum(-1)

        def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.log_density(x), torch.where(x > 0, -1e6, 0.0)

    x = torch.full((10, 1), 1e-7)
    kernel = AdaptiveStepHMC(1.0, num_steps=6)
    moved, info = kernel.step(Cliff(), kernel.init(Cliff(), x), generator=seeded())
    assert not (info.is_accepted | info.is_divergent).any()
    assert torch.equal(moved.position, x)
    # From a wider start none would be nearer than 10⁵, had it gone on.
    state = kernel.init(Cliff(), x)
    noise = kernel.draw_noise(x, seeded())
    frequency = log_local_frequency(state.score) + SPREAD * noise.deviation
    end = kernel._trajectory(Cliff(), state, noise.normal, frequency, 1.0)
    assert end.state.position.abs().max() < 10


def test_where_the_score_is_small_the_frequency_is_no_less_than_that_of_the_floor() -> None:
    small = torch.tensor([[0.0, 0.0], [1e-30, 0.0]])
    expected = torch.full((2,), 0.5 * math.log(0.8))
    torch.testing.assert_close(log_local_frequency(small), expected)


def test_where_the_score_is_unit_the_frequency_is_1() -> None:
    torch.testing.assert_close(log_local_frequency(torch.ones(3, 2, 2)), torch.zeros(3))


def test_squares_that_no_number_holds_are_not_asked_for() -> None:
    huge = torch.full((1, 4), 1e30)
    expected = torch.full((1,), math.log(1e30 / math.sqrt(5)))
    torch.testing.assert_close(log_local_frequency(huge), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_on_the_way_is_rejected(bad: float) -> None:
    class Broken:
        def log_density(self, x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1)

        def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
            score = torch.where(x.abs() > 0.5, bad, -x)
            return self.log_density(x), score

    kernel, x = AdaptiveStepHMC(1.0, num_steps=3), torch.zeros(200, 2)
    state = kernel.init(Broken(), x)
    moved, info = kernel.step(Broken(), state, generator=seeded())
    assert info.is_undefined.any()
    assert moved.position.abs().max() <= 0.5
    assert not (info.is_undefined & info.is_accepted).any()


def test_a_trajectory_through_the_outside_is_rejected() -> None:
    def log_density(x: Tensor) -> Tensor:
        return (-0.5 * x.square().sum(-1)).masked_fill((x.abs() > 1.0).any(-1), -torch.inf)

    target = poe.FromLogDensity(log_density, space=poe.Real(2))
    kernel = AdaptiveStepHMC(1.0, num_steps=4)
    state = kernel.init(target, torch.zeros(200, 2))
    moved, info = kernel.step(target, state, generator=seeded())
    assert info.is_outside.any()
    assert info.is_accepted.any()
    assert moved.position.abs().max() <= 1.0


def test_a_step_costs_as_many_gradients_as_it_says_and_ends_at_the_last() -> None:
    asked: list[Tensor] = []

    class Counted:
        def log_density(self, x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1)

        def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(x)
            return self.log_density(x), -x

    kernel = AdaptiveStepHMC(0.1, num_steps=5)
    state = kernel.init(Counted(), torch.zeros(20, 2))
    asked.clear()
    moved, info = kernel.step(Counted(), state, generator=seeded())
    assert len(asked) == kernel.gradients_per_step == 5
    assert ends_where_it_asked(kernel)
    assert is_reversible(kernel)
    assert torch.equal(moved.position[info.is_accepted], asked[-1][info.is_accepted])


def test_it_runs_where_there_are_no_numbers_to_wait_for() -> None:
    target, x = funnel(3), torch.zeros(4, 3, device="meta")
    kernel = AdaptiveStepHMC(torch.full((4,), 0.1, device="meta"), num_steps=3)
    flat = torch.zeros(4, device="meta")
    state = LangevinState(x, flat, x)
    noise = AdaptiveNoise(x, flat, flat, flat)
    moved, info = kernel.transition(target, state, noise)
    assert moved.position.device.type == info.is_accepted.device.type == "meta"


def test_the_number_of_steps_is_learned_with_the_step_size() -> None:
    kernel = AdaptiveStepHMC(num_steps=None)
    assert missing(kernel) == {Setting.SCALE, Setting.NUM_STEPS}
    assert filled(kernel, Learned(scale=0.2, num_steps=8)) == AdaptiveStepHMC(0.2, 8)
    assert filled(AdaptiveStepHMC(0.2, None), Learned(num_steps=3)) == AdaptiveStepHMC(0.2, 8)


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"jitter": 1.0}, {"step_size": -1.0}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(PoeError, match="expected"):
        AdaptiveStepHMC(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_funnel_is_reached_to_its_neck_where_hmc_is_stuck() -> None:
    target, g = funnel(10), seeded()
    below = []
    for kernel in (AdaptiveStepHMC(0.2, 8), HMC(0.2, 8)):
        state = kernel.init(target, torch.zeros(512, 10))
        for _ in range(300):
            state, _ = kernel.step(target, state, generator=g)
        below.append((state.position[:, 0] < -5).double().mean().item())
    # Of independent chains .048 ± .0094.
    assert abs(below[0] - 0.048) < 4 * 0.0094
    assert below[1] < 0.048 - 4 * 0.0094


def test_in_whitened_coordinates_its_scale_is_that_of_the_inner_kernel() -> None:
    kernel = Preconditioned(AdaptiveStepHMC(num_steps=None))
    assert missing(kernel) == {Setting.SCALE, Setting.NUM_STEPS, Setting.AFFINE}
    assert kernel.target_acceptance == 0.8
