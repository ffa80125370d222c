"""Parallel tempering with a level between start and target: invariant; red on known mistakes.

Gaussians all the way: every level can be drawn exactly, so the replicas start in equilibrium.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.expert import Expert
from poe.samplers import HMC, MALA, GeneralizedHMC, MetropolisHastings, ParallelTempering
from poe.samplers.kernel import Density, Info, Kernel, accept
from poe.samplers.path import RecordedPath
from poe.samplers.replicas import TemperingState
from poe.testing import LawError, check_kernel

CHAINS = 40_000
EXPONENTS = (0.0, 0.4, 1.0)
START = experts.Gaussian([1.0, 0.0], scale=[1.5, 2.0])
TARGET = experts.Gaussian([-0.5, 0.3], covariance=[[1.0, 0.6], [0.6, 0.8]])
LEVELS = poe.samplers.geometric_ladder(TARGET, START, EXPONENTS)
KERNELS: dict[str, Kernel] = {
    "MetropolisHastings": MetropolisHastings(1.0),
    "MALA": MALA(0.3),
    "HMC": HMC(0.5, num_steps=3),
    "GeneralizedHMC": GeneralizedHMC(0.5, friction=0.3),
}


def bare(expert: Expert) -> Expert:
    """The same density, which nobody can sample exactly."""
    return poe.FromLogDensity(lambda x: expert(x), space=expert.space)


def check(kernel: ParallelTempering, g: torch.Generator) -> None:
    draws = [poe.properties.exact_sample(level, CHAINS, g) for level in LEVELS]
    replicas = torch.stack(draws[-len(kernel.exponents) :])

    def init(target: Expert, x: Tensor) -> TemperingState:
        return kernel.init_replicas(target, replicas)

    check_kernel(kernel, bare(TARGET), replicas[-1], num_steps=10, generator=g, init=init)


@pytest.mark.parametrize("start", [START, bare(START)], ids=["exact start", "moved start"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_invariance(kernel: Kernel, start: Expert) -> None:
    tempering = ParallelTempering(start, kernel, EXPONENTS)
    assert tempering.has_exact_start == (start is START)
    check(tempering, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", [MALA(), HMC(num_steps=2)])
def test_invariance_with_a_step_size_for_each_level(kernel: Kernel) -> None:
    tempering = ParallelTempering(bare(START), kernel, EXPONENTS, step_size=(1.0, 0.6, 0.3))
    check(tempering, torch.Generator().manual_seed(0))


def test_invariance_where_the_first_level_is_no_start() -> None:
    tempering = ParallelTempering(START, MALA(0.4), EXPONENTS[1:])
    assert not tempering.has_exact_start
    check(tempering, torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class WrongSign(ParallelTempering):
    """Swaps by the inverse of the ratio."""

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        values = state.components.log_density.flip(0)
        flipped = state._replace(components=state.components._replace(log_density=values))
        return super()._decide(flipped, uniform)


@dataclass(frozen=True)
class ForgottenExponents(ParallelTempering):
    """Swaps as if every pair were start and target."""

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        start, of_target = state.components.log_density.reshape(2, -1, state.num_chains)
        advantage = of_target - start
        return accept(advantage[:-1] - advantage[1:], of_target[:-1], uniform)


@dataclass(frozen=True)
class OneUniform(ParallelTempering):
    """One uniform decides the swaps of all chains."""

    def _swap(self, state: TemperingState, uniform: Tensor) -> TemperingState:
        return super()._swap(state, uniform[:, :1].expand_as(uniform))


@dataclass(frozen=True)
class TargetAtEveryLevel(ParallelTempering):
    """The published mistake: inside a tempered level the kernel moves by the target itself."""

    def _path(self, target: Density, chains: int, rows: Tensor) -> RecordedPath:
        path = super()._path(target, chains, rows)
        return RecordedPath(path.start, path.target, torch.ones_like(path.exponents))


@dataclass(frozen=True)
class StaleAfterSwap(ParallelTempering):
    """Positions are swapped, and their log-density and score stay behind."""

    def _swap(self, state: TemperingState, uniform: Tensor) -> TemperingState:
        moved, before = super()._swap(state, uniform), state.replicas
        stale = before._replace(position=moved.replicas.position)
        return moved._replace(replicas=stale)


@dataclass(frozen=True)
class BlindToItsSwaps(ParallelTempering):
    """Takes each position's density from the wrong level: components are not exchanged."""

    def _swap(self, state: TemperingState, uniform: Tensor) -> TemperingState:
        return super()._swap(state, uniform)._replace(components=state.components)


MISTAKES: dict[str, type[ParallelTempering]] = {
    "wrong sign": WrongSign,
    "exponents forgotten": ForgottenExponents,
    "one uniform for all": OneUniform,
    "the target's kernel at every level": TargetAtEveryLevel,
    "stale state after a swap": StaleAfterSwap,
    "components not exchanged": BlindToItsSwaps,
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_the_law_goes_red_on_mistakes(mistake: type[ParallelTempering]) -> None:
    kernel = mistake(bare(START), MALA(0.3), EXPONENTS)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check(kernel, torch.Generator().manual_seed(0))
