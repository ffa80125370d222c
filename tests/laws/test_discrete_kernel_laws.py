"""Every kernel on finite spaces x every target: exact draws stay exact, all states are reached."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe.density.adapt import Uniform
from poe.density.expert import Expert
from poe.samplers import LangevinState
from poe.samplers.kernel import Kernel
from poe.samplers.path import Level, geometric_path
from poe.testing import LawError
from tests.laws.discrete import CHAINS, KERNELS, TARGETS, exact_draws, table_of
from tests.laws.kernels import COPIES, check_kernel, check_reaches_all

pytestmark = pytest.mark.law

Build = Callable[[Expert, int], Kernel]
matrix = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
kernels = pytest.mark.parametrize("build", KERNELS.values(), ids=KERNELS.keys())


@matrix
@kernels
def test_invariance(build: Build, target: Expert) -> None:
    g = torch.Generator().manual_seed(0)
    check_kernel(build(target, CHAINS), target, exact_draws(target, g), num_steps=10, generator=g)


@matrix
@kernels
def test_every_state_is_reached(build: Build, target: Expert) -> None:
    _, truth = table_of(target)
    kernel = build(target, COPIES * int((truth > 0).sum()))
    check_reaches_all(kernel, target, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["RBM x Ising x constraint", "Categorical"])
@pytest.mark.parametrize(
    "build", [build for name, build in KERNELS.items() if "Tempering" not in name],
    ids=[name for name in KERNELS if "Tempering" not in name],
)  # fmt: skip
def test_a_level_of_its_own_for_each_row_is_left_invariant(build: Build, name: str) -> None:
    """Half of the chains at a temperature of 0.4, half at the target: as in parallel tempering."""
    target, g = TARGETS[name], torch.Generator().manual_seed(3)
    temperature = torch.tensor([0.4, 1.0]).repeat_interleave(CHAINS // 2)
    level = Level(geometric_path(Uniform(target.space), target), temperature)
    level.space = target.space  # type: ignore[attr-defined]
    exact = [exact_draws(power, g, CHAINS // 2) for power in (target**0.4, target)]
    check_kernel(build(target, CHAINS), level, torch.cat(exact), num_steps=8, generator=g)  # type: ignore[arg-type]


class CopiesTheFirst:
    """The mistake: the second bit becomes the first. Of fair bits every moment stays as it was."""

    def init(self, target: Expert, x: Tensor) -> LangevinState:
        return LangevinState(x, target(x), None)

    def step(
        self, target: Expert, state: LangevinState, *, generator: torch.Generator
    ) -> tuple[LangevinState, None]:
        return self.init(target, state.position[:, :1].expand(-1, 2)), None


class NeverTheFirst(CopiesTheFirst):
    """Draws the second bit anew, and leaves the first: invariant, and not irreducible."""

    def step(
        self, target: Expert, state: LangevinState, *, generator: torch.Generator
    ) -> tuple[LangevinState, None]:
        first = state.position[:, :1]
        new = torch.randint(2, first.shape, generator=generator).to(first.dtype)
        return self.init(target, torch.cat([first, new], 1)), None


class AlwaysTheNext(CopiesTheFirst):
    """Goes round all four states: invariant, irreducible, and periodic."""

    def step(
        self, target: Expert, state: LangevinState, *, generator: torch.Generator
    ) -> tuple[LangevinState, None]:
        first, second = state.position.unbind(1)
        return self.init(target, torch.stack([1 - second, first], 1)), None


def test_indicators_of_states_find_what_moments_do_not() -> None:
    target, g = Uniform(poe.Binary(2)), torch.Generator().manual_seed(0)
    with pytest.raises(LawError, match=r"got states \|z\| = \d\d+\.\d$"):
        check_kernel(CopiesTheFirst(), target, exact_draws(target, g), num_steps=1, generator=g)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [(NeverTheFirst(), "never come to the likeliest"), (AlwaysTheNext(), "may be periodic")],
)
def test_what_does_not_reach_every_state_is_found(kernel: CopiesTheFirst, words: str) -> None:
    target, g = Uniform(poe.Binary(2)), torch.Generator().manual_seed(0)
    check_kernel(kernel, target, exact_draws(target, g), num_steps=4, generator=g)
    with pytest.raises(AssertionError, match=words):
        check_reaches_all(kernel, target, g)
