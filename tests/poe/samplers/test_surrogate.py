"""Surrogate-gradient MALA: what it evaluates, its formula, and a target without a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import MALA, LangevinState, SurrogateMALA, SurrogateState
from poe.samplers.kernel import Noise, draw_noise
from poe.samplers.surrogate import AlongSurrogate
from poe.testing import LawError
from tests.laws.kernels import check_kernel
from tests.tuned import check_tuned_rate

SMOOTH = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
CHAINS = 40_000


class Counting(poe.Expert):
    """A normal that counts its evaluations, and those with a gradient."""

    space = poe.Real(2)
    calls = gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.gradients += x.requires_grad
        return -0.5 * x.square().sum(-1)


@torch.no_grad()
def staircase(x: Tensor) -> Tensor:
    """A Laplace density in steps of width 1: its gradient is zero wherever there is one."""
    return -x.abs().floor().sum(-1)


STEPS = poe.FromLogDensity(staircase, space=poe.Real(1))


def draw_steps(g: torch.Generator) -> Tensor:
    """|x| = n + u, n geometric with P(n) ∝ e^(−n), u uniform."""
    exponential = torch.empty(CHAINS, 1).exponential_(generator=g)
    uniform = torch.rand(CHAINS, 1, generator=g)
    sign = 1 - 2 * torch.randint(2, (CHAINS, 1), generator=g)
    return sign * (exponential.floor() + uniform)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_one_evaluation_of_the_target_and_one_gradient_of_the_surrogate(g: torch.Generator) -> None:
    target, surrogate = Counting(), Counting()
    kernel = SurrogateMALA(surrogate, 0.3)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert (target.calls, target.gradients) == (11, 0)
    assert (surrogate.calls, surrogate.gradients) == (11, 11)


def test_with_the_target_as_surrogate_it_is_mala(g: torch.Generator) -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    step, noise = torch.linspace(0.05, 0.8, 50, dtype=torch.float64), draw_noise(x, g)
    mala, kernel = MALA(step), SurrogateMALA(target, step)
    expected, expected_info = mala.transition(target, mala.init(target, x), noise)
    moved, info = kernel.transition(target, kernel.init(target, x), noise)
    torch.testing.assert_close(tuple(moved), tuple(expected))
    torch.testing.assert_close(info, expected_info)
    assert 0.1 < info.acceptance_probability.mean() < 0.9


def test_it_is_what_its_formula_says(g: torch.Generator) -> None:
    """Against the proposal densities written out, in float64."""
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    target = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(2))
    kernel, noise = SurrogateMALA(SMOOTH, 0.6), draw_noise(x, g)
    _, info = kernel.transition(target, kernel.init(target, x), noise)

    def log_q(to: Tensor, at: Tensor) -> Tensor:
        return torch.distributions.Normal(at - 0.6 * at, 1.2**0.5).log_prob(to).sum(-1)

    y = x - 0.6 * x + 1.2**0.5 * noise.normal
    log_ratio = target(y) + log_q(x, y) - target(x) - log_q(y, x)
    torch.testing.assert_close(info.acceptance_probability, log_ratio.exp().clamp(max=1))


@pytest.mark.law
def test_a_target_without_a_gradient_stays_invariant(g: torch.Generator) -> None:
    surrogate = poe.FromLogDensity(lambda x: -(1 + x.square()).sqrt().sum(-1), space=poe.Real(1))
    kernel = SurrogateMALA(surrogate, 0.8)
    check_kernel(kernel, STEPS, draw_steps(g), num_steps=10, generator=g)


@dataclass(frozen=True)
class Symmetric(MALA):
    """MALA that accepts as if its proposal were symmetric."""

    def _log_ratio(self, state, proposed, normal, step_size):  # type: ignore[no-untyped-def]
        return proposed.log_density - state.log_density


@dataclass(frozen=True)
class ForgottenProposalDensity(SurrogateMALA):
    """Accepts as if the proposal were symmetric."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        along = AlongSurrogate(target, self.surrogate)
        moved, info = Symmetric(self.step_size).transition(along, LangevinState(*state), noise)
        return SurrogateState(*moved), info


@dataclass(frozen=True)
class StaleDrift(SurrogateMALA):
    """Keeps the old drift where it accepted."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        moved, info = super().transition(target, state, noise)
        return moved._replace(surrogate_score=state.surrogate_score), info


@dataclass(frozen=True)
class SurrogateDecides(SurrogateMALA):
    """Accepts by the surrogate's density in place of the target's."""

    def state_at(self, target, x):  # type: ignore[no-untyped-def]
        return super().state_at(self.surrogate, x)

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        return super().transition(self.surrogate, state, noise)


@pytest.mark.law
@pytest.mark.parametrize("mistake", [ForgottenProposalDensity, StaleDrift, SurrogateDecides])
def test_the_law_goes_red_on_mistakes(mistake: type[SurrogateMALA], g: torch.Generator) -> None:
    surrogate = poe.FromLogDensity(lambda x: -(1 + x.square()).sqrt().sum(-1), space=poe.Real(1))
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(mistake(surrogate, 0.8), STEPS, draw_steps(g), num_steps=10, generator=g)


def test_transition_runs_on_the_meta_device() -> None:
    x = torch.zeros(4, 2, device="meta")
    kernel = SurrogateMALA(SMOOTH, torch.ones(4, device="meta"))
    noise = Noise(torch.zeros_like(x), torch.zeros(4, device="meta"))
    state, info = kernel.transition(STEPS_2D, kernel.init(STEPS_2D, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))


STEPS_2D = poe.FromLogDensity(staircase, space=poe.Real(2))


def test_an_undefined_drift_is_rejected_and_counted(g: torch.Generator) -> None:
    """A score of NaN right of 1, where the target itself is fine."""
    surrogate = poe.FromLogDensity(lambda x: (1 - x).sqrt().sum(-1), space=poe.Real(1))
    kernel = SurrogateMALA(surrogate, 1.0)
    state = kernel.init(STEPS, torch.zeros(500, 1))
    state, info = kernel.step(STEPS, state, generator=g)
    assert info.is_undefined.any()
    assert not info.is_accepted[info.is_undefined].any()
    assert (state.position <= 1).all()


def test_a_start_without_a_drift_is_refused() -> None:
    surrogate = poe.FromLogDensity(lambda x: x.sqrt().sum(-1), space=poe.Real(1))
    with pytest.raises(poe.NonFiniteError, match="score"):
        SurrogateMALA(surrogate, 0.1).init(STEPS, torch.full((1, 1), -1.0))


def test_a_surrogate_on_another_space_is_refused() -> None:
    with pytest.raises(poe.SpaceMismatchError, match="share one space"):
        SurrogateMALA(SMOOTH, 0.1).init(STEPS, torch.zeros(1, 1))


def test_warm_up_tunes_it(g: torch.Generator) -> None:
    kernel, x = poe.warm_up(
        STEPS_2D, SurrogateMALA(SMOOTH), torch.zeros(200, 2), poe.Warmup(500), generator=g
    )
    state, rates = kernel.init(STEPS_2D, x), torch.zeros(200)
    for _ in range(200):
        state, info = kernel.step(STEPS_2D, state, generator=g)
        rates += info.acceptance_probability / 200
    check_tuned_rate(rates, 0.4, num_steps=200, num_updates=250)
    assert isinstance(state, SurrogateState)


def test_the_state_stays_consistent(g: torch.Generator) -> None:
    kernel = SurrogateMALA(SMOOTH, 0.5)
    state = kernel.init(STEPS_2D, torch.randn(200, 2, generator=g))
    for _ in range(5):
        state, _ = kernel.step(STEPS_2D, state, generator=g)
    assert torch.equal(state.log_density, STEPS_2D(state.position))
    assert torch.equal(state.surrogate_score, SMOOTH.score(state.position))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_size_must_be_positive(value: float) -> None:
    with pytest.raises(poe.PoeError, match="positive finite"):
        SurrogateMALA(SMOOTH, value)
