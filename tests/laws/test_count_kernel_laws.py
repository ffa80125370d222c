"""Every kernel on counts x every target: exact draws stay exact, and all states are reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import experts
from poe.density.expert import Expert
from poe.samplers import Kernel, LatticeGibbs
from poe.samplers.discrete import counts
from poe.samplers.path import Level, geometric_path
from poe.testing import LawError
from tests.laws.counts import KERNELS, TARGETS, exact_draws, table_of
from tests.laws.discrete import CHAINS
from tests.laws.kernels import check_kernel

pytestmark = pytest.mark.law

Build = Callable[[Expert, int], Kernel]
matrix = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
PLAIN = ("LatticeGibbs", "LatticeMALA")
kernels = pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, id=name, marks=[] if name in PLAIN else pytest.mark.slow)
        for name, build in KERNELS.items()
    ],
)


@matrix
@kernels
def test_invariance(build: Build, target: Expert) -> None:
    g = torch.Generator().manual_seed(0)
    check_kernel(build(target, CHAINS), target, exact_draws(target, g), num_steps=6, generator=g)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("build", list(KERNELS.values())[:2], ids=list(KERNELS)[:2])
def test_invariance_in_float64_and_in_integers(build: Build, dtype: torch.dtype) -> None:
    target, g = TARGETS["coupled"], torch.Generator().manual_seed(1)
    x = exact_draws(target, g).to(dtype)
    check_kernel(build(target, CHAINS), target, x, num_steps=2, generator=g)


@pytest.mark.parametrize("build", list(KERNELS.values())[:4], ids=list(KERNELS)[:4])
def test_a_level_of_its_own_for_each_row_is_left_invariant(build: Build) -> None:
    target, g = TARGETS["coupled"], torch.Generator().manual_seed(3)
    start = experts.Poisson([2.0, 2.0])
    temperature = torch.tensor([0.4, 1.0]).repeat_interleave(CHAINS // 2)
    level = Level(geometric_path(start, target), temperature)
    level.space = target.space  # type: ignore[attr-defined]
    between = start**0.6 * target**0.4
    exact = torch.cat([exact_draws(each, g, CHAINS // 2) for each in (between, target)])
    check_kernel(build(target, CHAINS), level, exact, num_steps=3, generator=g)  # type: ignore[arg-type]


@matrix
@pytest.mark.parametrize("name", PLAIN)
def test_every_state_comes_to_the_likeliest(name: str, target: Expert) -> None:
    """Of states of some mass: none outside is reached, some state stays, all lead to one."""
    x, truth = table_of(target)
    likely = (truth > 1e-4).nonzero().flatten()
    start = likely.repeat_interleave(200)
    kernel, g = KERNELS[name](target, len(start)), torch.Generator().manual_seed(1)
    state, _ = kernel.step(target, kernel.init(target, x[start]), generator=g)
    assert bool(target(state.position).isfinite().all())
    side = round(len(x) ** (1 / x.shape[1]))
    powers = side ** torch.arange(x.shape[1] - 1, -1, -1)
    is_inside = (state.position < side).all(1)
    end = (state.position.long() * powers).sum(1)[is_inside]
    moves = torch.zeros(len(x), len(x), dtype=torch.bool)
    moves[start[is_inside], end] = True
    assert moves.diagonal().any()
    leads = torch.arange(len(x)) == truth.argmax()
    while (wider := leads | moves[:, leads].any(1)).sum() > leads.sum():
        leads = wider
    assert leads[likely].all()


@dataclass(frozen=True)
class AroundThePresentValue(LatticeGibbs):
    """The mistake: the present value is always in the middle of its window."""

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        noise = super().draw_noise(position, generator)
        return noise._replace(offset=torch.full_like(noise.offset, 3))


def test_a_window_around_the_present_value_is_found_out() -> None:
    target, g = TARGETS["Poisson"], torch.Generator().manual_seed(0)
    with pytest.raises(LawError):
        check_kernel(
            AroundThePresentValue(target.space),
            target, exact_draws(target, g), num_steps=6, generator=g,
        )  # fmt: skip


def test_a_stride_that_nobody_accounts_for_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: the stride goes by the count, and values are weighed as if it did not."""

    def level(now: Tensor, uniform: Tensor) -> Tensor:
        return torch.frexp(now + 1).exponent.long()

    monkeypatch.setattr(counts, "_level", level)
    target, g = TARGETS["Poisson"], torch.Generator().manual_seed(0)
    with pytest.raises(LawError):
        check_kernel(
            LatticeGibbs(target.space), target, exact_draws(target, g), num_steps=6, generator=g
        )


def test_steps_on_the_meta_device_need_no_host() -> None:
    for build in (KERNELS["LatticeGibbs"], KERNELS["LatticeMALA"]):
        target = experts.Poisson(torch.tensor([2.0, 3.0])).to("meta")
        kernel, x = build(target, 5), torch.zeros(5, 2, device="meta")
        state = kernel.state_at(target, x)  # type: ignore[attr-defined]
        noise = kernel.draw_noise(torch.zeros(5, 2), torch.Generator())  # type: ignore[attr-defined]
        noise = torch.utils._pytree.tree_map(lambda part: part.to("meta"), noise)
        state, info = kernel.transition(target, state, noise)  # type: ignore[attr-defined]
        assert state.position.shape == (5, 2)
        assert info.is_accepted.shape == (5,)
