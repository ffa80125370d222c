"""Parallel tempering with a level between start and target: invariant; red on known mistakes.

Every level can be drawn exactly, so the replicas start in equilibrium.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.density.expert import Expert
from poe.samplers import (
    HMC,
    MALA,
    AdaptiveStepHMC,
    AdjustedMCLMC,
    DelayedAcceptance,
    Dense,
    GeneralizedHMC,
    MetropolisHastings,
    ParallelTempering,
    Preconditioned,
    SplitHMC,
    SurrogateMALA,
)
from poe.samplers.kernel import Density, Info, Kernel, accept
from poe.samplers.path import Level
from poe.samplers.tempering import TemperingState
from poe.testing import LawError
from tests.laws.kernels import check_kernel

pytestmark = pytest.mark.law

CHAINS = 40_000
EXPONENTS = (0.0, 0.4, 1.0)
START = experts.Gaussian([1.0, 0.0], scale=[1.5, 2.0])
TARGET = experts.Gaussian([-0.5, 0.3], covariance=[[1.0, 0.6], [0.6, 0.8]])
KERNELS: dict[str, Kernel] = {
    "MetropolisHastings": MetropolisHastings(1.0),
    "MALA": MALA(0.3),
    "HMC": HMC(0.5, num_steps=3),
    "SplitHMC": SplitHMC(0.8),
    "AdaptiveStepHMC": AdaptiveStepHMC(0.6, num_steps=4),
    "GeneralizedHMC": GeneralizedHMC(0.5, friction=0.3),
    "AdjustedMCLMC": AdjustedMCLMC(0.5),
}


class Case(NamedTuple):
    """A start and a target; the same map and surrogate serve all kernels."""

    start: Expert
    target: Expert

    @property
    def kernels(self) -> dict[str, Kernel]:
        """Every corrected local kernel, plain and preconditioned."""
        d = self.start.space.event_shape.numel()
        ones = torch.ones(d)
        affine = Dense(0.3 * ones, 0.6 * torch.eye(d) + 0.3 * torch.ones(d, d).tril())
        pairs = KERNELS.items()
        whitened: dict[str, Kernel] = {f"{name}, u": Preconditioned(k, affine) for name, k in pairs}
        surrogate = experts.Gaussian(0.2 * ones, scale=1.2 * ones)
        cheap: dict[str, Kernel] = {
            "SurrogateMALA": SurrogateMALA(surrogate, 0.3),
            "DelayedAcceptance": DelayedAcceptance(MALA(0.3), surrogate),
        }
        return KERNELS | whitened | cheap

    def draw(self, exponent: float, g: torch.Generator, count: int) -> Tensor:
        """Exact draws of a level: in closed form, or on a line by inverting its distribution."""
        level = self.start ** (1.0 - exponent) * self.target**exponent
        if poe.density.capabilities.can_sample_exactly(level):
            return poe.density.closed_forms.exact_sample(level, count, g)
        grid = torch.linspace(-30.0, 30.0, 200_001, dtype=torch.float64)
        mass = level(grid[:, None]).double().softmax(0).cumsum(0)
        uniform = torch.rand(count, dtype=torch.float64, generator=g)
        return torch.from_numpy(np.interp(uniform, mass, grid)).float()[:, None]


def _skewed(x: Tensor) -> Tensor:
    return (-x - (-x).exp()).sum(-1)


def _heavy_tailed(x: Tensor) -> Tensor:
    return (-4.5 * (1 + x.square() / 8).log()).sum(-1)


def _two_modes(x: Tensor) -> Tensor:
    return torch.logaddexp(-2.0 * (x + 2.0).square(), -0.5 * (x - 1.5).square()).sum(-1)


BROAD = experts.Gaussian([0.3], scale=[1.8])
CASES = {
    "gaussian": Case(START, TARGET),
    "skewed": Case(BROAD, poe.FromLogDensity(_skewed, space=poe.Real(1))),
    "heavy-tailed": Case(BROAD, poe.FromLogDensity(_heavy_tailed, space=poe.Real(1))),
    "two modes": Case(BROAD, poe.FromLogDensity(_two_modes, space=poe.Real(1))),
}


def bare(expert: Expert) -> Expert:
    """The same density, which nobody can sample exactly."""
    return poe.FromLogDensity(lambda x: expert(x), space=expert.space)


@cache
def replicas_of(name: str, exponents: tuple[float, ...], count: int) -> Tensor:
    """Exact draws of each level, shared by all kernels: ``(levels, count, *event)``."""
    g = torch.Generator().manual_seed(1)
    return torch.stack([CASES[name].draw(exponent, g, count) for exponent in exponents])


def check(kernel: ParallelTempering, name: str = "gaussian", count: int = CHAINS) -> None:
    g, target = torch.Generator().manual_seed(0), bare(CASES[name].target)
    replicas = replicas_of(name, tuple(kernel.exponents), count)

    def init(target: Expert, x: Tensor) -> TemperingState:
        return kernel.init_replicas(target, replicas)

    check_kernel(kernel, target, replicas[-1], num_steps=10, generator=g, init=init)


@pytest.mark.parametrize("is_exact", [True, False], ids=["exact start", "moved start"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel", CASES["gaussian"].kernels)
def test_invariance(kernel: str, name: str, is_exact: bool) -> None:
    case = CASES[name]
    start = case.start if is_exact else bare(case.start)
    tempering = ParallelTempering(start, case.kernels[kernel], EXPONENTS)
    assert tempering.has_exact_start == is_exact
    check(tempering, name)


@pytest.mark.parametrize("kernel", [MALA(), HMC(num_steps=2)])
def test_invariance_with_a_step_size_for_each_level(kernel: Kernel) -> None:
    tempering = ParallelTempering(bare(START), kernel, EXPONENTS, step_size=(1.0, 0.6, 0.3))
    check(tempering)


def test_invariance_where_the_first_level_is_no_start() -> None:
    tempering = ParallelTempering(START, MALA(0.4), EXPONENTS[1:])
    assert not tempering.has_exact_start
    check(tempering)


@dataclass(frozen=True)
class WrongSign(ParallelTempering):
    """Swaps by the inverse of the ratio."""

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        values = state.parts.log_density.flip(0)
        flipped = state._replace(parts=state.parts._replace(log_density=values))
        return super()._decide(flipped, uniform)


@dataclass(frozen=True)
class ForgottenExponents(ParallelTempering):
    """Swaps as if every pair were start and target."""

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        start, of_target = state.parts.log_density.reshape(2, -1, state.num_chains)
        advantage = of_target - start
        return accept(advantage[:-1] - advantage[1:], of_target[:-1], uniform)


@dataclass(frozen=True)
class OneUniform(ParallelTempering):
    """One uniform decides the swaps of all chains."""

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        return super()._decide(state, uniform[:, :1].expand_as(uniform))


@dataclass(frozen=True)
class TargetAtEveryLevel(ParallelTempering):
    """The published mistake: inside a tempered level the kernel moves by the target itself."""

    def _level(self, target: Density, chains: int, rows: Tensor) -> Level:
        return Level(super()._level(target, chains, rows).path, 1.0)


@dataclass(frozen=True)
class StaleAfterSwap(ParallelTempering):
    """Positions are swapped, and their log-density and score stay behind."""

    def _restarted(self, target: Density, state: TemperingState, source: Tensor) -> Any:
        moved = super()._restarted(target, state, source)
        return state.replicas._replace(position=moved.position)


@dataclass(frozen=True)
class BlindToItsSwaps(ParallelTempering):
    """Takes each position's density from the wrong level: what the parts say is not exchanged."""

    def _swap(self, target: Density, state: TemperingState, uniform: Tensor) -> TemperingState:
        moved = super()._swap(target, state, uniform)
        stale = state.parts._replace(position=moved.parts.position)
        return moved._replace(parts=stale)


MISTAKES: dict[str, type[ParallelTempering]] = {
    "wrong sign": WrongSign,
    "exponents forgotten": ForgottenExponents,
    "one uniform for all": OneUniform,
    "the target's kernel at every level": TargetAtEveryLevel,
    "stale state after a swap": StaleAfterSwap,
    "parts not exchanged": BlindToItsSwaps,
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_the_law_goes_red_on_mistakes(mistake: type[ParallelTempering]) -> None:
    kernel = mistake(bare(START), MALA(0.3), EXPONENTS)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check(kernel, count=8 * CHAINS if mistake is BlindToItsSwaps else CHAINS)
