"""Delayed acceptance: what it evaluates, its formula, and the kernels it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import (
    HMC,
    MALA,
    ULA,
    AnnealedLangevin,
    DelayedAcceptance,
    GeneralizedHMC,
    MetropolisHastings,
)
from poe.samplers.kernel import Noise
from poe.samplers.surrogate import DelayedNoise
from poe.testing import LawError
from tests.laws.kernels import check_kernel

TARGET = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
SURROGATE = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(2))
CHAINS = 40_000


class Counting(poe.Expert):
    """A normal that counts its evaluations, and those with a gradient."""

    space = poe.Real(2)
    calls = gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.gradients += x.requires_grad
        return -0.5 * x.square().sum(-1)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_target_is_evaluated_once_in_several_steps(g: torch.Generator) -> None:
    target, surrogate = Counting(), Counting()
    kernel = DelayedAcceptance(MALA(0.3), surrogate, num_steps=4)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert (target.calls, target.gradients) == (11, 0)
    assert (surrogate.calls, surrogate.gradients) == (41, 41)


def test_with_the_target_as_surrogate_every_proposal_is_accepted(g: torch.Generator) -> None:
    kernel, x = DelayedAcceptance(HMC(0.5, num_steps=2), TARGET, num_steps=2), torch.ones(50, 2)
    state, noise = kernel.init(TARGET, x), kernel.draw_noise(x, g)
    moved, info = kernel.transition(TARGET, state, noise)
    inner, expected = kernel.kernel, state.inner
    for drawn in noise.inner:
        expected, _ = inner.transition(TARGET, expected, drawn)  # type: ignore[attr-defined]
    assert torch.equal(moved.inner.position, expected.position)
    assert torch.equal(info.acceptance_probability, torch.ones(50))


def test_it_is_what_its_formula_says(g: torch.Generator) -> None:
    x = torch.randn(200, 2, generator=g)
    kernel = DelayedAcceptance(MetropolisHastings(0.7), SURROGATE, num_steps=3)
    state, noise = kernel.init(TARGET, x), kernel.draw_noise(x, g)
    y = state.inner
    for drawn in noise.inner:
        y, _ = MetropolisHastings(0.7).transition(SURROGATE, y, drawn)
    moved, info = kernel.transition(TARGET, state, noise)
    ratio = TARGET(y.position) - TARGET(x) + SURROGATE(x) - SURROGATE(y.position)
    torch.testing.assert_close(info.acceptance_probability, ratio.exp().clamp(max=1))
    is_accepted = noise.uniform < info.acceptance_probability
    assert torch.equal(moved.position, torch.where(is_accepted[:, None], y.position, x))
    assert torch.equal(info.is_accepted, is_accepted & (y.position != x).any(1))
    assert 0.3 < info.is_accepted.float().mean() < 0.9


def test_the_state_stays_consistent(g: torch.Generator) -> None:
    kernel = DelayedAcceptance(MALA(0.5), SURROGATE, num_steps=2)
    state = kernel.init(TARGET, torch.randn(200, 2, generator=g))
    for _ in range(5):
        state, _ = kernel.step(TARGET, state, generator=g)
    log_density, score = SURROGATE.log_density_and_score(state.position)
    assert torch.equal(state.log_density, TARGET(state.position))
    assert torch.equal(state.inner.log_density, log_density)
    assert torch.equal(state.inner.score, score)


@dataclass(frozen=True)
class ForgottenSurrogate(DelayedAcceptance):
    """Accepts by the target's ratio alone, as if the proposal were symmetric."""

    def _log_ratio(self, state, inner, log_density):  # type: ignore[no-untyped-def]
        return log_density - state.log_density


@dataclass(frozen=True)
class WrongSign(DelayedAcceptance):
    """The surrogate's ratio upside down."""

    def _log_ratio(self, state, inner, log_density):  # type: ignore[no-untyped-def]
        return log_density - state.log_density + inner.log_density - state.inner.log_density


@dataclass(frozen=True)
class OneUniform(DelayedAcceptance):
    """One uniform decides for all chains."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        shared = noise._replace(uniform=noise.uniform[:1].expand_as(noise.uniform))
        return super().transition(target, state, shared)


@dataclass(frozen=True)
class SurrogateLeftBehind(DelayedAcceptance):
    """Keeps the surrogate's log-density of the old position where it accepted."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        moved, info = super().transition(target, state, noise)
        stale = moved.inner._replace(log_density=state.inner.log_density)
        return moved._replace(inner=stale), info


@pytest.mark.law
@pytest.mark.parametrize(
    "mistake", [ForgottenSurrogate, WrongSign, OneUniform, SurrogateLeftBehind]
)
def test_the_law_goes_red_on_mistakes(mistake: type[DelayedAcceptance], g: torch.Generator) -> None:
    kernel = mistake(MALA(0.5), SURROGATE, num_steps=2)
    exact = torch.randn(CHAINS, 2, generator=g) * 0.5**0.5
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel, TARGET, exact, num_steps=10, generator=g)


def test_transition_runs_on_the_meta_device() -> None:
    x = torch.zeros(4, 2, device="meta")
    kernel = DelayedAcceptance(MALA(0.3), SURROGATE, num_steps=2)
    uniform = torch.zeros(4, device="meta")
    noise = DelayedNoise((Noise(x, uniform), Noise(x, uniform)), uniform)
    state, info = kernel.transition(TARGET, kernel.init(TARGET, x), noise)
    assert all(part.device.type == "meta" for part in (*state.inner, state.log_density, *info))


def test_what_the_target_excludes_is_rejected_and_counted(g: torch.Generator) -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] >= 0, -x.sum(-1), -torch.inf), space=poe.Real(2)
    )
    kernel = DelayedAcceptance(MetropolisHastings(2.0), SURROGATE)
    state = kernel.init(half, torch.ones(500, 2))
    state, info = kernel.step(half, state, generator=g)
    assert info.is_outside.any()
    assert not info.is_undefined.any()
    assert (state.position[:, 0] >= 0).all()


def test_a_kernel_that_is_not_reversible_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="corrected kernel"):
        DelayedAcceptance(ULA(0.1), SURROGATE)
    with pytest.raises(poe.PoeError, match=r"reversible.*AnnealedLangevin"):
        DelayedAcceptance(AnnealedLangevin((), MALA(0.1)), SURROGATE)
    with pytest.raises(poe.PoeError, match=r"reversible.*GeneralizedHMC.*momentum"):
        DelayedAcceptance(GeneralizedHMC(0.1), SURROGATE)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(poe.PoeError, match="num_steps >= 1"):
        DelayedAcceptance(MALA(0.1), SURROGATE, num_steps=0)
    line = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(1))
    with pytest.raises(poe.SpaceMismatchError, match="share one space"):
        DelayedAcceptance(MALA(0.1), line).init(TARGET, torch.zeros(3, 2))


def test_a_start_outside_either_support_is_refused() -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] >= 0, -x.sum(-1), -torch.inf), space=poe.Real(2)
    )
    with pytest.raises(poe.NonFiniteError):
        DelayedAcceptance(MALA(0.1), half).init(TARGET, -torch.ones(3, 2))
    with pytest.raises(poe.NonFiniteError):
        DelayedAcceptance(MALA(0.1), SURROGATE).init(half, -torch.ones(3, 2))
