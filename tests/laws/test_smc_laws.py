"""Every corrected kernel at a tempered level: it keeps that level's law, and no other's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.samplers import (
    HMC,
    MALA,
    AdaptiveStepHMC,
    AdjustedMCLMC,
    DelayedAcceptance,
    Diagonal,
    GeneralizedHMC,
    Kernel,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
    SurrogateMALA,
)
from poe.samplers.path import Level, geometric_path
from poe.testing import LawError
from tests.laws.kernels import check_kernel

pytestmark = pytest.mark.law

CHAINS = 40_000
TEMPERATURE = 0.3
PRIOR = experts.Gaussian([0.5], scale=[1.5])


def _sharp(x: Tensor) -> Tensor:
    return -4.0 * (x - 1.0).square().sum(-1)


def _two_modes(x: Tensor) -> Tensor:
    return torch.logaddexp(-8.0 * (x + 1.0).square(), -4.0 * (x - 1.5).square()).sum(-1)


def _skewed(x: Tensor) -> Tensor:
    return (-x - (-x).exp()).sum(-1)


def _heavy_tailed(x: Tensor) -> Tensor:
    return -4.5 * (1.0 + 2.0 * (x + 0.5).square()).log().sum(-1)


@dataclass(frozen=True)
class Case:
    """The rest of a target, and the largest value that it takes."""

    rest: Callable[[Tensor], Tensor]
    largest: float

    @property
    def level(self) -> Level:
        """prior · rest^t."""
        rest = poe.FromLogDensity(self.rest, space=poe.Real(1))
        level = Level(geometric_path(PRIOR, PRIOR * rest), TEMPERATURE)
        level.space = PRIOR.space  # type: ignore[attr-defined]
        return level

    def draw(self, generator: torch.Generator) -> Tensor:
        """Exact draws of the level, from the prior by rejection."""
        x = PRIOR.sample(12 * CHAINS, generator=generator)
        uniform = torch.rand(len(x), generator=generator)
        kept = x[uniform.log() < TEMPERATURE * (self.rest(x) - self.largest)][:CHAINS]
        assert len(kept) == CHAINS
        return kept


CASES = {
    "gaussian": Case(_sharp, 0.0),
    "two modes": Case(_two_modes, 0.01),
    "skewed": Case(_skewed, -1.0),
    "heavy-tailed": Case(_heavy_tailed, 0.0),
}
KERNELS: dict[str, Kernel] = {
    "MetropolisHastings": MetropolisHastings(0.8),
    "MALA": MALA(0.25),
    "HMC": HMC(0.5, num_steps=3),
    "SplitHMC": SplitHMC(0.6),
    "AdaptiveStepHMC": AdaptiveStepHMC(0.6),
    "GeneralizedHMC": GeneralizedHMC(0.5),
    "AdjustedMCLMC": AdjustedMCLMC(0.5),
}
AFFINE = Diagonal(torch.tensor([0.8]), torch.tensor([0.6]))
KERNELS |= {
    f"Preconditioned {name}": Preconditioned(each, AFFINE) for name, each in KERNELS.items()
}
SURROGATE = experts.Gaussian([0.4], scale=[1.0])
KERNELS["SurrogateMALA"] = SurrogateMALA(SURROGATE, 0.3)
KERNELS["DelayedAcceptance"] = DelayedAcceptance(MALA(0.3), SURROGATE)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_a_tempered_level_is_left_invariant(kernel: Kernel, case: Case) -> None:
    g = torch.Generator().manual_seed(0)
    check_kernel(kernel, case.level, case.draw(g), num_steps=8, generator=g)  # type: ignore[arg-type]


@dataclass(frozen=True)
class AtAnotherTemperature(MALA):
    """The published mistake: a tempered level is moved by the kernel of another."""

    temperature: float = 0.0

    def step(self, target, state, *, generator):  # type: ignore[no-untyped-def]
        other = Level(target.path, self.temperature)
        return super().step(other, self.init(other, state.position), generator=generator)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_law_goes_red_on_another_temperature(case: Case, temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    kernel = AtAnotherTemperature(0.25, temperature)
    with pytest.raises(LawError):
        check_kernel(kernel, case.level, case.draw(g), num_steps=8, generator=g)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_what_follows_the_chains_has_the_law_of_the_level_too(kernel: Kernel) -> None:
    """The particles are the parts that follow the kernel, not the kernel's own state."""
    g = torch.Generator().manual_seed(0)
    case = CASES["two modes"]
    exact, level = case.draw(g), case.level
    parts = before = level.path.evaluate(exact)
    state = kernel.init(level.known(parts), exact)
    for _ in range(4):
        state, info = kernel.step(level, state, generator=g)
        parts = level.follow_or_evaluate(parts, info.is_accepted, state.position)
    moments = (
        lambda p: p.position,
        lambda p: p.position.square(),
        lambda p: p.log_density[1][:, None],
    )
    for moment in moments:
        change = (moment(parts) - moment(before)).double()
        assert (change.mean(0).abs() < 4.0 * change.std(0) / CHAINS**0.5).all()
