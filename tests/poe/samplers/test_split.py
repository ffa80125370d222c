"""Split Hamiltonian Monte Carlo: exact on N(0, I), reversible, of second order elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import HMC, SplitHMC
from poe.samplers.hmc import TURN, TrajectoryNoise
from tests.seeds import seeded

F64 = torch.float64


def normal_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(1).sum(-1)


def quartic_density(x: Tensor) -> Tensor:
    return -x.square().square().sum(-1)


def expert(density: object, d: int = 2) -> poe.Expert:
    return poe.FromLogDensity(density, space=poe.Real(d))  # type: ignore[arg-type]


def draws(chains: int = 50, d: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, momentum = torch.randn(2, chains, d, generator=g, dtype=F64)
    return x, momentum


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("step_size", [0.3, TURN, 2.5])
def test_on_a_standard_normal_every_step_is_accepted(
    step_size: float, num_steps: int, jitter: float, g: torch.Generator
) -> None:
    target, kernel = expert(normal_density, 20), SplitHMC(step_size, num_steps, jitter)
    state = kernel.init(target, torch.randn(200, 20, generator=g, dtype=F64))
    for _ in range(5):
        state, info = kernel.step(target, state, generator=g)
        ones = torch.ones_like(info.acceptance_probability)
        torch.testing.assert_close(info.acceptance_probability, ones)
        assert info.is_accepted.all()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_quarter_turn_on_a_standard_normal_forgets_where_it_started(num_steps: int) -> None:
    """It ends at its momentum, wherever it began."""
    x, momentum = draws()
    target = expert(normal_density)
    kernel = SplitHMC(0.5 * math.pi / num_steps, num_steps)
    noise = TrajectoryNoise(momentum, torch.full((50,), 0.5, dtype=F64), None)
    moved, _ = kernel.transition(target, kernel.init(target, 5.0 + x), noise)
    torch.testing.assert_close(moved.position, momentum)


def test_the_flow_on_a_standard_normal_is_a_rotation() -> None:
    x, momentum = draws()
    target = expert(normal_density)
    kernel = SplitHMC(0.2, num_steps=3)
    end, p = kernel._trajectory(target, kernel.init(target, x), momentum, 0.2)
    cos, sin = math.cos(0.6), math.sin(0.6)
    torch.testing.assert_close(end.position, cos * x + sin * momentum)
    torch.testing.assert_close(p, cos * momentum - sin * x)


def test_the_trajectory_is_reversible() -> None:
    x, momentum = draws()
    target = expert(quartic_density)
    kernel = SplitHMC(0.05, num_steps=20)
    end, p = kernel._trajectory(target, kernel.init(target, x), momentum, 0.05)
    back, q = kernel._trajectory(target, end, -p, 0.05)
    torch.testing.assert_close(back.position, x)
    torch.testing.assert_close(-q, momentum)
    assert (end.position - x).norm(dim=-1).median() > 0.3


def test_the_trajectory_conserves_volume() -> None:
    target = expert(quartic_density)
    kernel = SplitHMC(0.4, num_steps=3)

    def flow(start: Tensor) -> Tensor:
        end, p = kernel._trajectory(
            target, kernel.init(target, start[None, :2]), start[None, 2:], 0.4
        )
        return torch.cat([end.position, p], 1)[0]

    start, tiny = torch.tensor([0.4, -0.7, 0.3, 0.5], dtype=F64), 1e-5
    nudges = tiny * torch.eye(4, dtype=F64)
    columns = [(flow(start + nudge) - flow(start - nudge)) / (2 * tiny) for nudge in nudges]
    # Central differences of rounding 10⁻¹⁶ / 10⁻⁵ and curvature 10⁻¹⁰: nine digits hold.
    assert abs(torch.linalg.det(torch.stack(columns)).item() - 1.0) < 1e-8


def test_it_errs_in_the_energy_by_the_square_of_the_step() -> None:
    x, momentum = draws()
    target = expert(quartic_density)

    def error(step_size: float, num_steps: int) -> Tensor:
        kernel = SplitHMC(step_size, num_steps)
        state = kernel.init(target, x)
        end, p = kernel._trajectory(target, state, momentum, step_size)
        kinetic = 0.5 * (p.square() - momentum.square()).sum(-1)
        return (end.log_density - state.log_density - kinetic).norm()

    assert 3.8 < error(0.004, 50) / error(0.002, 100) < 4.2


def test_one_step_differs_from_one_of_hmc_by_the_cube_of_its_size() -> None:
    """Two splittings of the same flow, both of second order."""
    x, momentum = draws()
    target = expert(quartic_density)

    def difference(step_size: float) -> Tensor:
        split, hmc = SplitHMC(step_size), HMC(step_size, num_steps=1)
        state = split.init(target, x)
        ours, p = split._trajectory(target, state, momentum, step_size)
        theirs, q = hmc._trajectory(target, state, momentum, step_size)
        return torch.cat([ours.position - theirs.position, p - q], 1).norm()

    assert 7.6 < difference(0.002) / difference(0.001) < 8.4


def test_the_acceptance_is_by_the_energy() -> None:
    x, momentum = draws()
    target, kernel = expert(quartic_density), SplitHMC(0.6, num_steps=2)
    noise = TrajectoryNoise(momentum, torch.full((50,), 0.9, dtype=F64), None)
    state = kernel.init(target, x)
    end, p = kernel._trajectory(target, state, momentum, 0.6)
    moved, info = kernel.transition(target, state, noise)
    log_ratio = target(end.position) - target(x) - 0.5 * (p.square() - momentum.square()).sum(-1)
    torch.testing.assert_close(info.acceptance_probability, log_ratio.exp().clamp(max=1))
    assert 0 < info.is_accepted.sum() < 50
    expected = torch.where(info.is_accepted[:, None], end.position, x)
    torch.testing.assert_close(moved.position, expected)


class Counting(poe.Expert):
    """A standard normal that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return normal_density(x)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_one_evaluation_a_kick(num_steps: int, g: torch.Generator) -> None:
    target, kernel = Counting(), SplitHMC(0.3, num_steps)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 1 + 10 * num_steps == 1 + 10 * kernel.gradients_per_step


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("step_size", [0.1, torch.tensor(0.1), torch.full((4,), 0.1)])
@seeded()
def test_transition_runs_on_the_meta_device(step_size: float | Tensor, jitter: float) -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    target = expert(lambda x: net(x).squeeze(-1), 3)
    net.to("meta")
    x = torch.zeros(4, 3, device="meta")
    if isinstance(step_size, Tensor):
        step_size = step_size.to("meta")
    kernel = SplitHMC(step_size, num_steps=2, jitter=jitter)
    uniform = torch.zeros(4, device="meta")
    noise = TrajectoryNoise(torch.zeros_like(x), uniform, uniform if jitter else None)
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))


@pytest.mark.parametrize("kernel", [HMC(0.5, 3, jitter=0.4), SplitHMC(0.5, 3, jitter=0.4)])
def test_jitter_varies_each_chains_step_size(kernel: HMC | SplitHMC, g: torch.Generator) -> None:
    target = expert(quartic_density)
    x, _ = draws()
    noise = kernel.draw_noise(x, g)
    assert noise.variation is not None
    assert noise.variation.shape == (50,)
    assert noise.variation.min() < -0.8
    assert noise.variation.max() > 0.8
    together, _ = kernel.transition(target, kernel.init(target, x), noise)
    alone = type(kernel)(0.5 * (1 + 0.4 * noise.variation), 3, jitter=0.0)
    expected, _ = alone.transition(target, alone.init(target, x), noise._replace(variation=None))
    torch.testing.assert_close(together.position, expected.position)


def test_a_trajectory_that_leaves_the_support_on_its_way_is_rejected() -> None:
    """Out over a gap in the support and back onto it: no other point tells."""
    target = expert(lambda x: torch.where((x > 1) & (x < 2), -torch.inf, 0.0 * x).sum(-1), 1)
    kernel = SplitHMC(0.5, num_steps=3)
    momentum = torch.full((1, 1), 2.0)
    noise = TrajectoryNoise(momentum, torch.zeros(1), None)
    state = kernel.init(target, torch.full((1, 1), 0.5))
    on_the_way = SplitHMC(0.5)._trajectory(target, state, momentum, 0.5)[0].position
    assert 1 < on_the_way < 2
    moved, info = kernel.transition(target, state, noise)
    assert info.is_outside.all()
    assert not info.is_accepted.any()
    assert not info.is_undefined.any()
    assert moved.position.item() == 0.5


def test_a_number_of_steps_that_was_left_out_is_asked_for(g: torch.Generator) -> None:
    target = expert(normal_density)
    for kernel in (SplitHMC(0.1, num_steps=None), HMC(0.1, num_steps=None)):
        with pytest.raises(poe.PoeError, match="num_steps was left out"):
            kernel.step(target, kernel.init(target, torch.zeros(4, 2)), generator=g)
        with pytest.raises(poe.PoeError, match="num_steps was left out"):
            kernel.gradients_per_step  # noqa: B018


def test_settings_are_checked() -> None:
    assert SplitHMC(0.1).guarantee == "asymptotically exact"
    for kind in (SplitHMC, HMC):
        with pytest.raises(poe.PoeError, match="num_steps >= 1"):
            kind(0.1, num_steps=0)
        with pytest.raises(poe.PoeError, match="positive finite step_size"):
            kind(0.0)
        for jitter in (-0.1, 1.0):
            with pytest.raises(poe.PoeError, match="0 <= jitter < 1"):
                kind(0.1, jitter=jitter)


def test_a_direction_that_the_metric_misses_by_a_factor_of_2_does_not_stand_still() -> None:
    """N(0, diag(1, 1/4)) in a unit metric: at 16 steps of 0.1 it turns by half a circle."""
    target = expert(lambda x: -0.5 * x[..., 0].square() - 2.0 * x[..., 1].square())
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=g) / torch.tensor([1, 2])
    kernel = SplitHMC(0.1, num_steps=16)
    moved, _ = kernel.step(target, kernel.init(target, x), generator=g)
    squares = torch.stack([x[:, 1], moved.position[:, 1]]).square()
    # Of angles pi (1 + .24 v) E sin² is .17; without a jitter the correlation is .99.
    assert abs(torch.corrcoef(squares)[0, 1].item() - 0.83) < 0.03
