"""Every kernel on finite spaces x every target: exact draws, and the enumerated table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from poe.density.expert import Expert
from poe.samplers.kernel import Kernel
from poe.samplers.path import Level, geometric_path
from poe.structure.uniform import Uniform
from poe.testing import check_kernel
from tests.laws.discrete import (
    CHAINS,
    CHAINS_OF_TABLE,
    KERNELS,
    TARGETS,
    exact_draws,
    excess_total_variation,
    frequencies,
    table_of,
)

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
def test_the_enumerated_table(build: Build, target: Expert) -> None:
    """From one state to the table: state by state, and by total variation, in standard errors."""
    g, kernel = torch.Generator().manual_seed(1), build(target, CHAINS_OF_TABLE)
    x, truth = table_of(target)
    start = x[truth.argmax()]
    state = kernel.init(target, start.expand(CHAINS_OF_TABLE, *start.shape))
    for _ in range(100):
        state, _ = kernel.step(target, state, generator=g)
    found = frequencies(target, state.position)
    assert (found[truth == 0] == 0).all()
    excess, spread = excess_total_variation(found, truth, CHAINS_OF_TABLE)
    assert excess < 4 * spread


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
    exact = [exact_draws(power, g, CHAINS // 2) for power in (target**0.4, target)]
    check_kernel(build(target, CHAINS), level, torch.cat(exact), num_steps=8, generator=g)  # type: ignore[arg-type]
