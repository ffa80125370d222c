"""Generalised HMC: the flip, the gradients a step, the law of its momentum, rejected proposals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import HMC, GeneralizedHMC, MomentumState
from poe.samplers.hmc import TrajectoryNoise
from poe.samplers.kernel import Noise, draw_noise
from poe.samplers.underdamped import set_momentum
from tests.seeds import seeded
from tests.tuned import check_tuned_rate


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


class HalfLine(poe.Expert):
    """x ≥ 0 with log-density −x; below it −inf, and NaN below −5."""

    space = poe.Real(1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1)
        inside = torch.where(x >= 0, -x, -torch.inf)
        return torch.where(x < -5, torch.nan, inside)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_one_evaluation_a_leapfrog_step(num_steps: int, g: torch.Generator) -> None:
    target, kernel = Counting(), GeneralizedHMC(0.3, num_steps=num_steps)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 1 + 10 * num_steps == 1 + 10 * kernel.gradients_per_step


@pytest.mark.parametrize("event", [(), (3,), (2, 4)])
def test_shapes(event: tuple[int, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: -x.square().reshape(len(x), -1).sum(-1), space=poe.Real(event)
    )
    kernel = GeneralizedHMC(torch.linspace(0.1, 0.5, 7))
    state = kernel.init(target, torch.ones(7, *event))
    for _ in range(2):
        state, info = kernel.step(target, state, generator=g)
    assert state.position.shape == state.momentum.shape == (7, *event)
    assert state.log_density.shape == state.has_momentum.shape == (7,)
    assert all(field.shape == (7,) for field in info)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    target, kernel = (
        poe.FromLogDensity(normal_density, space=poe.Real(2)),
        GeneralizedHMC(0.7, num_steps=2),
    )

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
    x, kernel = torch.zeros(4, 3, device="meta"), GeneralizedHMC(0.1, num_steps=2)
    noise = Noise(torch.zeros_like(x), torch.zeros(4, device="meta"))
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))


def moving(
    kernel: GeneralizedHMC, target: poe.Expert, x: Tensor, momentum: Tensor
) -> MomentumState:
    return set_momentum(kernel.init(target, x), momentum)


def test_the_first_step_is_one_of_hmc(g: torch.Generator) -> None:
    """There is no momentum to keep: the same noise gives the same proposal and acceptance."""
    target = poe.FromLogDensity(quartic_density, space=poe.Real(2))
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    noise, kernel = draw_noise(x, g), GeneralizedHMC(0.5, num_steps=3)
    hmc = HMC(0.5, num_steps=3, jitter=0.0)
    moved, info = kernel.transition(target, kernel.init(target, x), noise)
    expected, expected_info = hmc.transition(
        target, hmc.init(target, x), TrajectoryNoise(*noise, None)
    )
    assert torch.equal(moved.position, expected.position)
    torch.testing.assert_close(info, expected_info)
    assert 0 < info.is_accepted.double().mean() < 1


def test_a_strong_friction_makes_every_step_one_of_hmc(g: torch.Generator) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(2))
    x, momentum = torch.randn(2, 50, 2, generator=g, dtype=torch.float64)
    noise, kernel = draw_noise(x, g), GeneralizedHMC(0.5, friction=1e6)
    moved, _ = kernel.transition(target, moving(kernel, target, x, momentum), noise)
    fresh, _ = kernel.transition(target, kernel.init(target, x), noise)
    torch.testing.assert_close(moved, fresh)


def test_a_rejected_chain_turns_back_and_an_accepted_one_goes_on(g: torch.Generator) -> None:
    """Rejected: the *refreshed* momentum, flipped, at the old place. Accepted: the one it has."""
    target = poe.FromLogDensity(quartic_density, space=poe.Real(2))
    x, momentum = torch.randn(2, 200, 2, generator=g, dtype=torch.float64)
    kernel = GeneralizedHMC(0.8, friction=0.5)
    state, noise = moving(kernel, target, x, momentum), draw_noise(x, g)
    moved, info = kernel.transition(target, state, noise)
    alpha = torch.exp(torch.tensor(-0.5 * 0.8, dtype=torch.float64))
    refreshed = alpha * momentum + (1 - alpha**2).sqrt() * noise.normal
    halfway = refreshed + 0.4 * state.score
    there = x + 0.8 * halfway
    arrived = halfway + 0.4 * target.score(there)
    taken = info.is_accepted
    assert 20 < taken.sum() < 180
    torch.testing.assert_close(moved.position[taken], there[taken])
    torch.testing.assert_close(moved.momentum[taken], arrived[taken])
    assert torch.equal(moved.position[~taken], x[~taken])
    torch.testing.assert_close(moved.momentum[~taken], -refreshed[~taken])


def test_friction_slows_the_momentum() -> None:
    """Where nothing pushes and no noise is drawn: by e^(−γhL) a step of L, accepted or not."""
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(1))
    h, ones = torch.tensor([0.2, 0.5]), torch.ones(2, 1)
    kernel = GeneralizedHMC(h, num_steps=3, friction=2.0)
    noise = Noise(0.0 * ones, torch.zeros(2))
    moved, _ = kernel.transition(flat, moving(kernel, flat, 0.0 * ones, ones), noise)
    torch.testing.assert_close(moved.momentum, torch.exp(-6.0 * h)[:, None])


def test_leapfrog_and_flip_twice_is_where_it_began(g: torch.Generator) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(2))
    x, momentum = torch.randn(2, 50, 2, generator=g, dtype=torch.float64)
    kernel = GeneralizedHMC(0.05, num_steps=20)
    end = kernel._leapfrog(target, moving(kernel, target, x, momentum))
    back = kernel._leapfrog(target, end._replace(momentum=-end.momentum))
    torch.testing.assert_close(back.position, x)
    torch.testing.assert_close(-back.momentum, momentum)
    assert (end.position - x).norm(dim=-1).median() > 0.3


def test_the_momentum_stays_standard_normal_and_independent_of_the_position() -> None:
    """From exact draws, in standard errors. Without the flip both go wrong."""
    g, chains = torch.Generator().manual_seed(0), 40_000
    target = poe.FromLogDensity(normal_density, space=poe.Real(1))
    kernel = GeneralizedHMC(1.5, friction=0.2)
    state = kernel.init(target, torch.randn(chains, 1, generator=g))
    for step in range(10):
        state, info = kernel.step(target, state, generator=g)
        x, p = state.position.double(), state.momentum.double()
        for moment in (p, p.square() - 1, x * p, x.square() * (p.square() - 1)):
            assert moment.mean().abs() < 4 * moment.std() / chains**0.5, step
    assert 0.05 < 1 - info.acceptance_probability.mean() < 0.5


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_state_stays_consistent(num_steps: int, g: torch.Generator) -> None:
    target = poe.FromLogDensity(quartic_density, space=poe.Real(2))
    kernel = GeneralizedHMC(0.6, num_steps=num_steps)
    state = kernel.init(target, torch.randn(200, 2, generator=g))
    for _ in range(5):
        state, _ = kernel.step(target, state, generator=g)
    log_density, score = target.log_density_and_score(state.position)
    assert torch.equal(state.log_density, log_density)
    assert torch.equal(state.score, score)


def test_infinite_and_nan_proposals_are_rejected_and_counted(g: torch.Generator) -> None:
    target, kernel = HalfLine(), GeneralizedHMC(3.0)
    state = kernel.init(target, torch.full((2000, 1), 0.5))
    outside = undefined = 0
    for _ in range(10):
        state, info = kernel.step(target, state, generator=g)
        assert not (info.is_accepted & (info.is_outside | info.is_undefined)).any()
        assert (info.acceptance_probability[info.is_outside | info.is_undefined] == 0).all()
        outside += int(info.is_outside.sum())
        undefined += int(info.is_undefined.sum())
        assert (state.position >= 0).all()
        assert state.momentum.isfinite().all()
    assert outside > 100
    assert undefined > 10


def test_a_trajectory_that_leaves_the_support_on_its_way_is_rejected() -> None:
    """Out over a gap in the support and back onto it: no other point tells."""
    target = poe.FromLogDensity(
        lambda x: torch.where((x > 1) & (x < 2), -torch.inf, 0.0 * x).sum(-1), space=poe.Real(1)
    )
    kernel = GeneralizedHMC(1.0, num_steps=3)
    noise = Noise(torch.ones(1, 1), torch.zeros(1))
    state, info = kernel.transition(target, kernel.init(target, torch.full((1, 1), 0.5)), noise)
    assert info.is_outside.all()
    assert not info.is_accepted.any()
    assert state.position.item() == 0.5
    assert state.momentum.item() == -1.0


def test_nothing_of_the_state_or_the_noise_is_written_to(g: torch.Generator) -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(2))
    kernel = GeneralizedHMC(0.9, num_steps=2)
    state, _ = kernel.step(target, kernel.init(target, torch.ones(4, 2)), generator=g)
    noise = kernel.draw_noise(state.position, g)
    before = MomentumState(*(part.clone() for part in state)), noise.normal.clone()
    kernel.transition(target, state, noise)
    assert all(map(torch.equal, state, before[0]))
    assert torch.equal(noise.normal, before[1])


def test_warm_up_tunes_it(g: torch.Generator) -> None:
    target = poe.FromLogDensity(normal_density, space=poe.Real(20))
    kernel, x = poe.warm_up(
        target, GeneralizedHMC(), torch.zeros(200, 20), poe.Warmup(500), generator=g
    )
    assert isinstance(kernel, GeneralizedHMC)
    assert kernel == GeneralizedHMC(kernel.step_size)
    state, rates = kernel.init(target, x), torch.zeros(200)
    for _ in range(200):
        state, info = kernel.step(target, state, generator=g)
        rates += info.acceptance_probability / 200
    check_tuned_rate(rates, 0.8, num_steps=200, num_updates=250)


def test_settings_are_checked() -> None:
    assert GeneralizedHMC().guarantee == "asymptotically exact"
    with pytest.raises(poe.PoeError, match="num_steps >= 1"):
        GeneralizedHMC(0.1, num_steps=0)
    with pytest.raises(poe.PoeError, match="positive finite step_size"):
        GeneralizedHMC(0.0)
    with pytest.raises(poe.PoeError, match="positive finite friction"):
        GeneralizedHMC(0.1, friction=0.0)
    target = poe.FromLogDensity(normal_density, space=poe.Real(2))
    kernel = GeneralizedHMC()
    with pytest.raises(poe.PoeError, match="left out"):
        kernel.step(target, kernel.init(target, torch.zeros(4, 2)), generator=torch.Generator())
