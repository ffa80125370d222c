"""Microcanonical Langevin: the isokinetic integrator, and the kernels plain and adjusted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import MCLMC, AdjustedMCLMC
from poe.samplers.microcanonical import (
    LEAPFROG,
    MINIMAL_NORM,
    IsokineticNoise,
    PhasePoint,
    integrate,
    normalize,
    on_flat,
    repeated,
    turn,
)
from tests.seeds import seeded
from tests.tuned import check_tuned_rate

SPLITTINGS = [LEAPFROG, MINIMAL_NORM]
KERNELS: list[Any] = [
    MCLMC(0.3),
    MCLMC(0.3, splitting=LEAPFROG),
    AdjustedMCLMC(0.5),
    AdjustedMCLMC(0.5, num_steps=3, jitter=0.0, splitting=MINIMAL_NORM),
]


def normal_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(1).sum(-1)


def quartic_density(x: Tensor) -> Tensor:
    return -x.square().square().sum(-1)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Counting(poe.Expert):
    """A standard normal that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return normal_density(x)


class HalfPlane(poe.Expert):
    """x₁ ≥ 0 with log-density −x₁ − x₂²/2; below it −inf, and NaN below −2."""

    space = poe.Real(2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.unbind(-1)
        inside = torch.where(first >= 0, -first - 0.5 * second.square(), -torch.inf)
        return torch.where(first < -2, torch.nan, inside)


# The integrator


def tangent(velocity: Tensor) -> Tensor:
    """The tangent of the circle at a unit velocity in the plane."""
    return torch.stack([-velocity[:, 1], velocity[:, 0]], dim=1)


def points(g: torch.Generator, n: int = 3) -> tuple[Tensor, Tensor]:
    velocity, score = torch.randn(2, 100, n, generator=g, dtype=torch.float64)
    return normalize(velocity), 3.0 * score


def test_a_turn_solves_its_equation(g: torch.Generator) -> None:
    """du/dt = (1 − u uᵀ) ∇log p̃ / (n − 1), and dK/dt = u·∇log p̃, by small midpoint steps."""
    velocity, score = points(g)
    turned, kinetic = turn(velocity, score, 0.7)

    def slope(u: Tensor) -> Tensor:
        return (score - u * (u * score).sum(1, keepdim=True)) / 2

    dt, work = 0.7 / 500, torch.zeros(100, dtype=torch.float64)
    for _ in range(500):
        middle = velocity + 0.5 * dt * slope(velocity)
        velocity, work = velocity + dt * slope(middle), work + dt * (middle * score).sum(1)
    torch.testing.assert_close(turned, velocity, atol=1e-4, rtol=0)
    torch.testing.assert_close(kinetic, work, atol=1e-4, rtol=0)


def test_turns_add_up_and_turn_back(g: torch.Generator) -> None:
    velocity, score = points(g)
    once, kinetic = turn(velocity, score, 1.0)
    half, first = turn(velocity, score, 0.4)
    twice, second = turn(half, score, 0.6)
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(kinetic, first + second)
    back, loss = turn(-once, score, 1.0)
    torch.testing.assert_close(-back, velocity)
    torch.testing.assert_close(loss, -kinetic)


def test_the_kinetic_energy_is_the_jacobian_on_the_sphere(g: torch.Generator) -> None:
    """In the plane the sphere is a circle: its Jacobian is the derivative of an angle."""
    velocity, score = points(g, n=2)
    turned, kinetic = turn(velocity, score, 0.5)
    nudged, _ = turn(normalize(velocity + 1e-6 * tangent(velocity)), score, 0.5)
    derivative = ((nudged - turned) * tangent(turned)).sum(1) / 1e-6
    torch.testing.assert_close(derivative, torch.exp(-kinetic), rtol=1e-4, atol=0)


@pytest.mark.parametrize("alignment", [1.0, 0.3, -0.9])
def test_a_turn_is_stable_at_any_score(alignment: float) -> None:
    """No score, and one so large that e^δ overflows: log r = δ + log((1 + c)/2)."""
    velocity = torch.tensor([[alignment, (1 - alignment**2) ** 0.5]])
    still, none = turn(velocity, torch.zeros(1, 2), 1.0)
    torch.testing.assert_close(still, velocity)
    assert none.item() == 0.0
    turned, kinetic = turn(velocity, torch.tensor([[1e3, 0.0]]), 1.0)
    torch.testing.assert_close(turned, torch.tensor([[1.0, 0.0]]))
    expected = 1e3 + torch.tensor(0.5 + 0.5 * alignment).log()
    torch.testing.assert_close(kinetic, expected[None], rtol=1e-6, atol=0)


def test_a_velocity_against_the_score_stays_so() -> None:
    turned, kinetic = turn(torch.tensor([[-1.0, 0.0]]), torch.tensor([[3.0, 0.0]]), 1.0)
    torch.testing.assert_close(turned, torch.tensor([[-1.0, 0.0]]))
    torch.testing.assert_close(kinetic, torch.tensor([-3.0]))


def test_a_turn_almost_right_round_loses_no_digits() -> None:
    """At an angle of 0.001 to the way back: log r = δ + log((1 + c)/2), where 1 + c = 5e-7."""
    velocity = torch.tensor([[-1.0, 1e-3]])
    _, kinetic = turn(velocity, torch.tensor([[20.0, 0.0]]), 1.0)
    torch.testing.assert_close(kinetic, 20.0 + torch.tensor([2.5e-7]).log(), rtol=1e-4, atol=0)


def test_a_small_turn_loses_no_digits() -> None:
    """In float32 against float64: log r of a δ of 1e-4, many of which make up a trajectory."""
    g = torch.Generator().manual_seed(0)
    velocity, score = points(g, n=50)
    _, exact = turn(velocity, score, 1e-4)
    _, single = turn(velocity.float(), score.float(), 1e-4)
    assert ((single.double() - exact).abs() < 1e-4 * exact.abs().mean()).all()


def start_of(target: poe.Expert, x: Tensor, velocity: Tensor) -> PhasePoint:
    return PhasePoint(x, *target.log_density_and_score(x), velocity)


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_the_integrator_is_reversible(splitting: tuple[float, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(3))
    x, velocity = 0.5 * torch.randn(2, 50, 3, generator=g, dtype=torch.float64)
    start, stages = start_of(target, x, normalize(velocity)), repeated(splitting, 50)
    end, kinetic = integrate(on_flat(target, x), start, 0.01, stages)
    turned = end._replace(velocity=-end.velocity)
    back, loss = integrate(on_flat(target, x), turned, 0.01, stages)
    torch.testing.assert_close(back.position, x)
    torch.testing.assert_close(-back.velocity, start.velocity)
    torch.testing.assert_close(loss, -kinetic)
    assert (end.position - x).norm(dim=-1).median() > 0.3


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_the_integrator_errs_in_the_energy_by_the_square_of_the_step(
    splitting: tuple[float, ...], g: torch.Generator
) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(3))
    x, velocity = torch.randn(2, 50, 3, generator=g, dtype=torch.float64)
    start = start_of(target, x, normalize(velocity))

    def error(step_size: float, num_steps: int) -> Tensor:
        stages = repeated(splitting, num_steps)
        end, kinetic = integrate(on_flat(target, x), start, step_size, stages)
        return (end.log_density - start.log_density - kinetic).norm()

    ratio = error(0.004, 50) / error(0.002, 100)
    assert 3.8 < ratio < 4.2


@pytest.mark.parametrize("splitting", SPLITTINGS)
def test_joined_turns_are_the_turns_apart(splitting: tuple[float, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(3))
    x, velocity = torch.randn(2, 50, 3, generator=g, dtype=torch.float64)
    point = start_of(target, x, normalize(velocity))
    together, kinetic = integrate(on_flat(target, x), point, 0.1, repeated(splitting, 3))
    total = torch.zeros_like(kinetic)
    for _ in range(3):
        point, change = integrate(on_flat(target, x), point, 0.1, splitting)
        total += change
    torch.testing.assert_close(together, point)
    torch.testing.assert_close(kinetic, total)


# Both kernels


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_evaluations_a_step(kernel: Any, g: torch.Generator) -> None:
    target = Counting()
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 1 + 10 * kernel.gradients_per_step
    assert kernel.gradients_per_step == [2, 1, 2, 6][KERNELS.index(kernel)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 4)])
def test_shapes(kernel: Any, event: tuple[int, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: -x.square().reshape(len(x), -1).sum(-1), space=poe.Real(event)
    )
    kernel = type(kernel)(torch.linspace(0.1, 0.5, 7), splitting=kernel.splitting)
    state = kernel.init(target, torch.ones(7, *event))
    for _ in range(2):
        state, info = kernel.step(target, state, generator=g)
    assert state.position.shape == state.score.shape == (7, *event)
    assert state.log_density.shape == (7,)
    assert all(field.shape == (7,) for field in info)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 3])
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(kernel: Any, d: int) -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(d))

    def run() -> Tensor:
        g = torch.Generator().manual_seed(3)
        state = kernel.init(target, torch.zeros(4, d))
        for _ in range(5):
            state, _ = kernel.step(target, state, generator=g)
        return state.position

    before = torch.get_rng_state()
    assert torch.equal(run(), run())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 3])
@seeded()
def test_transition_runs_on_the_meta_device(kernel: Any, d: int) -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    net = torch.nn.Sequential(torch.nn.Linear(d, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    target = poe.FromLogDensity(lambda x: net(x).squeeze(-1), space=poe.Real(d)).to("meta")
    net.to("meta")
    x, n = torch.zeros(4, d, device="meta"), max(d, 2)
    noise = IsokineticNoise(*(torch.zeros(4, *k, device="meta") for k in ((n,), (n - d,), (), ())))
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_state_stays_consistent(kernel: Any, g: torch.Generator) -> None:
    for d in (1, 2):
        target = poe.FromLogDensity(quartic_density, space=poe.Real(d))
        state = kernel.init(target, torch.randn(200, d, generator=g))
        for _ in range(5):
            state, _ = kernel.step(target, state, generator=g)
        log_density, score = target.log_density_and_score(state.position)
        assert torch.equal(state.log_density, log_density)
        assert torch.equal(state.score, score)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_of_the_state_or_the_noise_is_written_to(kernel: Any, g: torch.Generator) -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(2))
    state, _ = kernel.step(target, kernel.init(target, torch.ones(4, 2)), generator=g)
    noise = kernel.draw_noise(state.position, g)
    before = [part.clone() for part in (*state, *noise)]
    kernel.transition(target, state, noise)
    assert all(map(torch.equal, (*state, *noise), before))


@pytest.mark.parametrize("kind", [MCLMC, AdjustedMCLMC])
def test_settings_are_checked(kind: type) -> None:
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(poe.PoeError, match="positive finite step_size"):
            kind(value)
    for bad in ((1.0,), (0.5, 1.0), (0.4, 1.0, 0.6), (0.5, 0.9, 0.5), (0.4, 1.0, 0.4)):
        with pytest.raises(poe.PoeError, match="the same backwards"):
            kind(0.1, splitting=bad)
    with pytest.raises(poe.PoeError, match="positive finite decoherence_length"):
        MCLMC(0.1, decoherence_length=0.0)
    with pytest.raises(poe.PoeError, match="num_steps >= 1"):
        AdjustedMCLMC(0.1, num_steps=0)
    with pytest.raises(poe.PoeError, match="0 <= jitter < 1"):
        AdjustedMCLMC(0.1, jitter=1.0)


# Unadjusted


def mean_squares(kernel: MCLMC, scale: Tensor, num_steps: int, chains: int) -> Tensor:
    """Each chain's mean of (x/s)² over the second half of its steps, begun at exact draws."""
    g = torch.Generator().manual_seed(0)
    target = poe.FromLogDensity(
        lambda x: -0.5 * (x / scale).square().sum(-1), space=poe.Real(len(scale))
    )
    draws = torch.randn(chains, len(scale), generator=g) * scale
    state, total = kernel.init(target, draws), torch.zeros(chains, len(scale))
    for step in range(num_steps):
        state, _ = kernel.step(target, state, generator=g)
        if step >= num_steps // 2:
            total += (state.position / scale).square() / (num_steps - num_steps // 2)
    return total


@pytest.mark.parametrize(("splitting", "step_size"), [(LEAPFROG, 2.4), (MINIMAL_NORM, 4.8)])
def test_the_bias_falls_by_the_square_of_the_step(
    splitting: tuple[float, ...], step_size: float
) -> None:
    """Of the mean of ten equal variances: a quarter at half the step, in standard errors."""

    def bias(kernel: MCLMC, num_steps: int) -> tuple[float, float]:
        means = mean_squares(kernel, torch.ones(10), num_steps, chains=4000).mean(1)
        return means.mean().item() - 1, means.std().item() / 4000**0.5

    coarse, coarse_error = bias(MCLMC(step_size, splitting=splitting), 60)
    fine, fine_error = bias(MCLMC(step_size / 2, splitting=splitting), 120)
    assert abs(coarse - 4 * fine) < 4 * (coarse_error**2 + (4 * fine_error) ** 2) ** 0.5
    assert abs(coarse - 2 * fine) > 4 * (coarse_error**2 + (2 * fine_error) ** 2) ** 0.5


def test_an_ill_conditioned_gaussian_within_a_stated_bias() -> None:
    """Variances from 0.01 to 1 in 20 dimensions, h = 0.1 √d: none is wrong by more than 2 %."""
    squares = mean_squares(MCLMC(0.1 * 20**0.5), torch.logspace(-1, 0, 20), 600, chains=1000)
    error, standard_error = squares.mean(0) - 1, squares.std(0) / 1000**0.5
    assert (error.abs() < 0.02 + 4 * standard_error).all()
    assert (standard_error < 0.012).all()


def test_the_velocity_has_unit_length_and_is_forgotten_over_the_decoherence_length() -> None:
    """Where nothing turns it, E[u·u'] after a way t is e^(−t/ℓ) in many dimensions."""
    g, d, length = torch.Generator().manual_seed(0), 400, 5.0
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(d))
    kernel = MCLMC(0.1, decoherence_length=length)
    state, _ = kernel.step(flat, kernel.init(flat, torch.zeros(500, d)), generator=g)
    first = state.momentum
    for _ in range(50):
        state, _ = kernel.step(flat, state, generator=g)
    torch.testing.assert_close(state.momentum.norm(dim=1), torch.ones(500))
    cosine = (first * state.momentum).sum(1)
    expected = torch.exp(torch.tensor(-50 * 0.1 / length))
    assert (cosine.mean() - expected).abs() < 4 * cosine.std() / 500**0.5 + 1 / d


def test_lost_chains_are_counted(g: torch.Generator) -> None:
    target, kernel = HalfPlane(), MCLMC(2.0)
    state, outside, undefined = kernel.init(target, torch.full((200, 2), 0.5)), 0, 0
    for _ in range(5):
        state, info = kernel.step(target, state, generator=g)
        outside += int(info.is_outside.sum())
        undefined += int(info.is_undefined.sum())
        assert not (info.is_outside & info.is_undefined).any()
    assert kernel.guarantee == "biased"
    assert outside > 10
    assert undefined > 10


# Adjusted


def test_the_acceptance_is_what_its_formula_says(g: torch.Generator) -> None:
    """Of one leapfrog step written out with cosh and sinh, in float64."""
    target = poe.FromLogDensity(quartic_density, space=poe.Real(3))
    x = torch.randn(50, 3, generator=g, dtype=torch.float64)
    kernel = AdjustedMCLMC(0.8, num_steps=1, jitter=0.0)
    noise = kernel.draw_noise(x, g)
    _, info = kernel.transition(target, kernel.init(target, x), noise)

    def written_out(u: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        norm = score.norm(dim=1, keepdim=True)
        e, delta = score / norm, 0.4 * norm / 2
        c = (e * u).sum(1, keepdim=True)
        r = delta.cosh() + c * delta.sinh()
        return (u + e * (delta.sinh() + c * (delta.cosh() - 1))) / r, 2 * r.log().squeeze(1)

    u, first = written_out(
        noise.direction / noise.direction.norm(dim=1, keepdim=True), target.score(x)
    )
    y = x + 0.8 * u
    _, second = written_out(u, target.score(y))
    ratio = (target(y) - target(x) - first - second).exp().clamp(max=1)
    torch.testing.assert_close(info.acceptance_probability, ratio)
    assert torch.equal(info.is_accepted, noise.uniform < ratio)
    assert 0.2 < ratio.mean() < 0.95


def test_jitter_varies_each_chains_own_step(g: torch.Generator) -> None:
    """On a flat target a step is a straight way of length h (1 + jitter v) L."""
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(3))
    kernel = AdjustedMCLMC(torch.linspace(0.5, 2.0, 100), num_steps=3, jitter=0.4)
    x = torch.zeros(100, 3)
    noise = kernel.draw_noise(x, g)
    moved, _ = kernel.transition(flat, kernel.init(flat, x), noise)
    expected = 3 * torch.linspace(0.5, 2.0, 100) * (1 + 0.4 * noise.variation)
    torch.testing.assert_close(moved.position.norm(dim=1), expected)
    assert noise.variation.min() < -0.9
    assert noise.variation.max() > 0.9


@pytest.mark.parametrize(("splitting", "step_size"), [(LEAPFROG, 2.0), (MINIMAL_NORM, 5.0)])
def test_infinite_and_nan_proposals_are_rejected_and_counted(
    splitting: tuple[float, ...], step_size: float, g: torch.Generator
) -> None:
    target, kernel = HalfPlane(), AdjustedMCLMC(step_size, num_steps=1, splitting=splitting)
    state = kernel.init(target, torch.full((2000, 2), 0.5))
    outside = undefined = 0
    for _ in range(10):
        state, info = kernel.step(target, state, generator=g)
        assert not (info.is_accepted & (info.is_outside | info.is_undefined)).any()
        assert (info.acceptance_probability[info.is_outside | info.is_undefined] == 0).all()
        outside += int(info.is_outside.sum())
        undefined += int(info.is_undefined.sum())
        assert (state.position[:, 0] >= 0).all()
        assert state.position.isfinite().all()
    assert outside > 100
    assert undefined > 10


def test_a_trajectory_that_leaves_the_support_on_its_way_is_rejected() -> None:
    """Out over a gap in the support and back onto it: no other point tells."""
    target = poe.FromLogDensity(
        lambda x: torch.where((x[:, 0] > 1) & (x[:, 0] < 2), -torch.inf, 0.0 * x.sum(-1)),
        space=poe.Real(2),
    )
    kernel, x = AdjustedMCLMC(1.0, num_steps=3, jitter=0.0), torch.tensor([[0.5, 0.0]])
    zero = torch.zeros(1)
    noise = IsokineticNoise(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 0), zero, zero)
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert info.is_outside.all()
    assert not info.is_accepted.any()
    assert torch.equal(state.position, x)


def test_on_a_line_the_companion_takes_part_in_the_acceptance(g: torch.Generator) -> None:
    """One dimension with its companion is the plane with a second, standard normal coordinate."""
    line = poe.FromLogDensity(quartic_density, space=poe.Real(1))
    plane = poe.FromLogDensity(
        lambda x: quartic_density(x[:, :1]) - 0.5 * x[:, 1].square(), space=poe.Real(2)
    )
    x, kernel = (
        torch.randn(50, 1, generator=g, dtype=torch.float64),
        AdjustedMCLMC(0.8, num_steps=2),
    )
    noise = kernel.draw_noise(x, g)
    moved, info = kernel.transition(line, kernel.init(line, x), noise)
    both = torch.cat([x, noise.companion], dim=1)
    expected, expected_info = kernel.transition(
        plane, kernel.init(plane, both), noise._replace(companion=torch.zeros(50, 0))
    )
    torch.testing.assert_close(moved.position, expected.position[:, :1])
    torch.testing.assert_close(info, expected_info)
    assert 0 < info.is_accepted.double().mean() < 1


def test_warm_up_tunes_it(g: torch.Generator) -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(20))
    kernel, x = poe.warm_up(
        target, AdjustedMCLMC(), torch.randn(200, 20, generator=g), poe.Warmup(500), generator=g
    )
    assert isinstance(kernel, AdjustedMCLMC)
    assert kernel == AdjustedMCLMC(kernel.step_size)
    assert kernel.guarantee == "asymptotically exact"
    state, rates = kernel.init(target, x), torch.zeros(200)
    for _ in range(200):
        state, info = kernel.step(target, state, generator=g)
        rates += info.acceptance_probability / 200
    check_tuned_rate(rates, 0.8, num_steps=200, num_updates=250)
