"""Underdamped Langevin: one gradient a step, its stationary law on a Gaussian, lost chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import MomentumState, UnderdampedLangevin
from poe.samplers.kernel import Noise
from poe.samplers.underdamped import refresh, set_momentum
from tests.seeds import seeded


def normal_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(1).sum(-1)


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


def test_one_evaluation_a_step(g: torch.Generator) -> None:
    target, kernel = Counting(), UnderdampedLangevin(0.3)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 11


@pytest.mark.parametrize("event", [(), (3,), (2, 4)])
def test_shapes(event: tuple[int, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: -x.square().reshape(len(x), -1).sum(-1), space=poe.Real(event)
    )
    kernel = UnderdampedLangevin(torch.linspace(0.1, 0.5, 7))
    state = kernel.init(target, torch.ones(7, *event))
    for _ in range(2):
        state, info = kernel.step(target, state, generator=g)
    assert state.position.shape == state.momentum.shape == (7, *event)
    assert state.log_density.shape == state.has_momentum.shape == (7,)
    assert all(field.shape == (7,) for field in info)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(2))
    kernel = UnderdampedLangevin(0.4)

    def run() -> Tensor:
        g = torch.Generator().manual_seed(3)
        state = kernel.init(target, torch.zeros(4, 2))
        for _ in range(5):
            state, _ = kernel.step(target, state, generator=g)
        return state.position

    before = torch.get_rng_state()
    assert torch.equal(run(), run())
    assert torch.equal(before, torch.get_rng_state())


@seeded()
def test_transition_runs_on_the_meta_device() -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    target = poe.FromLogDensity(lambda x: net(x).squeeze(-1), space=poe.Real(3)).to("meta")
    net.to("meta")
    x, kernel = torch.zeros(4, 3, device="meta"), UnderdampedLangevin(0.1)
    noise = Noise(torch.zeros_like(x), torch.zeros(4, device="meta"))
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))


def test_a_chain_draws_its_momentum_in_its_first_step() -> None:
    """The step is then one of leapfrog without friction; a chain with a momentum keeps its own."""
    target = poe.FromLogDensity(normal_density, space=poe.Real(1))
    kernel, x = UnderdampedLangevin(0.5), torch.ones(2, 1, dtype=torch.float64)
    noise = Noise(torch.full((2, 1), 0.3, dtype=torch.float64), torch.zeros(2))
    state = kernel.init(target, x)
    assert not state.has_momentum.any()
    half = state._replace(has_momentum=torch.tensor([False, True]))
    moved, _ = kernel.transition(target, half, noise)
    kicked = 0.3 - 0.5 * 0.5
    torch.testing.assert_close(moved.position[0], x[0] + 0.5 * kicked)
    assert moved.has_momentum.all()
    assert not torch.isclose(moved.position[0], moved.position[1])


@pytest.mark.parametrize("per_chain", [False, True])
def test_refresh_keeps_the_normal_distribution(per_chain: bool) -> None:
    """α² + (1 − α²) = 1, also for a friction so small that α rounds to 1."""
    one, zero = torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    for time in (1e-12, 0.3, 50.0):
        t = torch.full((3, 1), time, dtype=torch.float64) if per_chain else time
        kept, drawn = refresh(one, zero, t), refresh(zero, one, t)
        torch.testing.assert_close(kept.square() + drawn.square(), one)
        expected = -torch.expm1(torch.full_like(one, -2.0 * time))
        torch.testing.assert_close(drawn.square(), expected)


def test_friction_slows_the_momentum() -> None:
    """Where nothing pushes and no noise is drawn: by e^(−γh) a step, each chain by its own h."""
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(1))
    h, ones = torch.tensor([0.2, 0.5]), torch.ones(2, 1)
    kernel = UnderdampedLangevin(h, friction=3.0)
    state = set_momentum(kernel.init(flat, torch.zeros(2, 1)), ones)
    moved, _ = kernel.transition(flat, state, Noise(0.0 * ones, torch.zeros(2)))
    torch.testing.assert_close(moved.momentum, torch.exp(-3.0 * h)[:, None])


def stationary_covariance(kernel: UnderdampedLangevin, precision: float) -> Tensor:
    """Of (x, p) under the kernel as it is coded, without sampling: Σ = M Σ Mᵀ + N Nᵀ.

    On a Gaussian the step is linear: its matrices are what it does to unit vectors.
    """
    target = poe.FromLogDensity(lambda x: -0.5 * precision * x.square().sum(-1), space=poe.Real(1))
    unit = torch.eye(3, dtype=torch.float64)[:, :, None]  # of position, momentum, noise
    state = kernel.init(target, unit[0])
    state = state._replace(momentum=unit[1], has_momentum=torch.ones(3, dtype=torch.bool))
    moved, _ = kernel.transition(target, state, Noise(unit[2], torch.zeros(3)))
    columns = torch.cat([moved.position, moved.momentum], dim=1).T
    matrix, noise = columns[:, :2], columns[:, 2:]
    covariance = noise @ noise.T
    for _ in range(40):  # doubling: the sum of 2^40 steps
        covariance, matrix = covariance + matrix @ covariance @ matrix.T, matrix @ matrix
    return covariance


@pytest.mark.parametrize("friction", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("step_size", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("precision", [0.3, 1.0, 4.0])
def test_the_stationary_law_on_a_gaussian_is_the_known_one(
    step_size: float, friction: float, precision: float
) -> None:
    """Var(x) exact at any step, Var(p) = 1 − h²ω²/4: wrong by the square of the step."""
    kernel = UnderdampedLangevin(step_size, friction)
    found = stationary_covariance(kernel, precision)
    expected = torch.diag(torch.tensor([1 / precision, 1 - step_size**2 * precision / 4]).double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_chains_have_that_law(g: torch.Generator) -> None:
    """By sampling, in standard errors: from exact draws, and long after."""
    scale, h, chains = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), 0.8, 20_000
    target = poe.FromLogDensity(lambda x: -0.5 * (x / scale).square().sum(-1), space=poe.Real(3))
    kernel = UnderdampedLangevin(h)
    draws = torch.randn(chains, 3, generator=g, dtype=torch.float64) * scale
    state = kernel.init(target, draws)
    for _ in range(60):
        state, _ = kernel.step(target, state, generator=g)
    relative_error = (2 / chains) ** 0.5
    position, momentum = state.position.var(0) / scale**2, state.momentum.var(0)
    assert ((position - 1).abs() < 4 * relative_error).all()
    known = 1 - (h / scale) ** 2 / 4
    assert ((momentum / known - 1).abs() < 4 * relative_error).all()
    assert (known - 1).abs()[0] > 4 * relative_error  # the bias is one that this can see


def test_an_explosion_is_counted(g: torch.Generator) -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(1))
    kernel = UnderdampedLangevin(1.0)
    state = kernel.init(target, torch.full((10, 1), 3.0))
    for _ in range(10):
        state, info = kernel.step(target, state, generator=g)
    assert info.is_undefined.all()
    assert info.is_divergent.all()
    assert not state.position.isfinite().any()  # nothing is swept under the carpet


def test_a_chain_outside_the_support_is_counted(g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x > 0, -x, -torch.inf).sum(-1), space=poe.Real(1)
    )
    kernel = UnderdampedLangevin(1.0)
    _, info = kernel.step(target, kernel.init(target, torch.full((500, 1), 0.1)), generator=g)
    assert info.is_outside.any()
    assert not (info.is_outside & info.is_undefined).any()


def test_it_is_biased_and_its_settings_are_positive() -> None:
    assert UnderdampedLangevin(0.1).guarantee == "biased"
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(poe.PoeError, match="positive finite step_size"):
            UnderdampedLangevin(value)
        with pytest.raises(poe.PoeError, match="positive finite friction"):
            UnderdampedLangevin(0.1, friction=value)


def test_nothing_of_the_state_or_the_noise_is_written_to() -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(2))
    g = torch.Generator().manual_seed(0)
    kernel = UnderdampedLangevin(0.5)
    state, _ = kernel.step(target, kernel.init(target, torch.ones(4, 2)), generator=g)
    noise = kernel.draw_noise(state.position, g)
    before = MomentumState(*(part.clone() for part in state)), noise.normal.clone()
    kernel.transition(target, state, noise)
    assert all(map(torch.equal, state, before[0]))
    assert torch.equal(noise.normal, before[1])
