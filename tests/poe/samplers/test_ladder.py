"""Annealed Langevin: the schedule of its levels, its step sizes, and tuning level by level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import MALA, ULA, AnnealedLangevin, MetropolisHastings

TARGET = poe.FromLogDensity(lambda x: -50.0 * x.square().sum(-1), space=poe.Real(2))  # sd 0.1
LADDER = (TARGET**0.01, TARGET**0.1)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_levels_follow_the_ladder_and_end_at_the_target(g: torch.Generator) -> None:
    kernel = AnnealedLangevin(LADDER, MALA(0.001), steps_per_level=3)
    state = kernel.init(TARGET, torch.ones(4, 2))
    levels = []
    for _ in range(10):
        levels.append(kernel.level(state))
        state, _ = kernel.step(TARGET, state, generator=g)
        density = (*LADDER, TARGET)[levels[-1]]
        torch.testing.assert_close(state.log_density, density(state.position))
    assert levels == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_each_level_has_its_own_step_size(g: torch.Generator) -> None:
    sizes = (1.0, 0.1, torch.tensor([0.01, 0.02]))
    kernel = AnnealedLangevin(LADDER, MALA(), steps_per_level=2, step_size=sizes)
    inner = [kernel.kernel_at(level) for level in range(3)]
    assert [k.step_size for k in inner] == list(sizes)  # type: ignore[attr-defined]
    assert kernel.guarantee == "asymptotically exact"


def test_a_kernel_for_each_level() -> None:
    kernel = AnnealedLangevin(LADDER, (ULA(0.1), MetropolisHastings(0.3), MALA(0.01)))
    assert kernel.kernel_at(1) == MetropolisHastings(0.3)
    assert kernel.guarantee == "asymptotically exact"  # that of the kernel at the target
    assert AnnealedLangevin(LADDER, ULA(0.1)).guarantee == "biased"
    stepped = AnnealedLangevin(LADDER, ULA(0.1), step_size=(0.3, 0.2, 0.1))
    assert stepped.kernel_at(1) == ULA(0.2)


@pytest.mark.parametrize("wrong", [{"step_size": (0.1, 0.2)}, {"kernel": (MALA(0.1),)}])
def test_one_entry_too_few_is_refused(wrong: dict[str, tuple[float | MALA, ...]]) -> None:
    with pytest.raises(poe.PoeError, match="expected 3 entries"):
        AnnealedLangevin(LADDER, **wrong)  # type: ignore[arg-type]


def test_tuned_by_hand_it_matches_its_kernels_run_by_hand() -> None:
    kernel = AnnealedLangevin(LADDER, MALA(), steps_per_level=2, step_size=(0.5, 0.05, 0.005))
    x = torch.ones(3, 2)
    g = torch.Generator().manual_seed(1)
    state = kernel.init(TARGET, x)
    for _ in range(6):
        state, _ = kernel.step(TARGET, state, generator=g)
    g = torch.Generator().manual_seed(1)
    for density, size in zip((*LADDER, TARGET), (0.5, 0.05, 0.005), strict=True):
        inner = MALA(size).init(density, x)
        for _ in range(2):
            inner, _ = MALA(size).step(density, inner, generator=g)
        x = inner.position
    assert torch.equal(state.position, x)


def test_tune_ladder_tunes_every_level(g: torch.Generator) -> None:
    kernel = AnnealedLangevin(LADDER, steps_per_level=7)
    x = torch.randn(200, 2, generator=g)
    tuned = poe.tune_ladder(TARGET, kernel, x, num_steps=300, generator=g)
    assert tuned.steps_per_level == 7
    assert tuned.step_size is not None
    # A normal of variance v has the step size 1.2 v: the same kernel in other units.
    variances = [1.0, 0.1, 0.01]
    ratios = [float(size) / v for size, v in zip(tuned.step_size, variances, strict=True)]
    assert max(ratios) / min(ratios) < 1.3
    assert kernel.step_size is None  # the kernel given was left alone


def test_tune_ladder_per_chain(g: torch.Generator) -> None:
    tuned = poe.tune_ladder(
        TARGET,
        AnnealedLangevin(LADDER),
        torch.randn(5, 2, generator=g),
        num_steps=50,
        per_chain=True,
        generator=g,
    )
    assert tuned.step_size is not None
    assert all(isinstance(s, Tensor) and s.shape == (5,) for s in tuned.step_size)


def test_a_ladder_with_mixed_kernels_keeps_those_given(g: torch.Generator) -> None:
    kernel = AnnealedLangevin(LADDER, (ULA(0.1), MALA(), MALA(0.004)))
    x = torch.randn(20, 2, generator=g)
    tuned = poe.tune_ladder(TARGET, kernel, x, num_steps=50, generator=g)
    assert tuned.kernel_at(0) == ULA(0.1)
    assert tuned.kernel_at(2) == MALA(0.004)
    assert isinstance(tuned.kernel_at(1), MALA)
    assert tuned.kernel_at(1).step_size is not None  # type: ignore[attr-defined]


def test_sample_with_a_ladder_finds_both_modes(g: torch.Generator) -> None:
    def log_density(x: Tensor) -> Tensor:  # N(±5, 0.5²), equal weights: one never sees the other
        halves = torch.stack([-2.0 * (x + 5).square(), -2.0 * (x - 5).square()])
        return halves.logsumexp(0).sum(-1)

    target = poe.FromLogDensity(log_density, space=poe.Real(1))
    kernel = AnnealedLangevin((target**0.01, target**0.1), steps_per_level=300)
    draws = poe.sample(
        target, 4000, kernel=kernel, num_chains=400, initial=torch.full((400, 1), 5.0),
        generator=g, progress=False,
    )  # fmt: skip
    assert draws.guarantee == "asymptotically exact"
    assert draws.num_warmup == 900
    on_the_right = (draws.samples > 0).float().mean((1, 2))  # chains are independent
    z = (on_the_right.mean() - 0.5) / (0.5 / 20)
    assert abs(z.item()) < 4
    assert isinstance(draws.kernel, AnnealedLangevin)
    assert draws.kernel.step_size is not None


def test_sample_with_a_ladder_takes_the_steps_of_its_kernel() -> None:
    kernel = AnnealedLangevin(LADDER, MALA(), steps_per_level=4, step_size=(0.5, 0.05, 0.005))
    x = torch.ones(3, 2)
    g = torch.Generator().manual_seed(1)
    draws = poe.sample(TARGET, 15, kernel=kernel, warmup=2, initial=x, generator=g, progress=False)
    g = torch.Generator().manual_seed(1)
    state = kernel.init(TARGET, x)
    for _ in range(2 * 4 + 2 + 5):
        state, _ = kernel.step(TARGET, state, generator=g)
    assert torch.equal(draws.samples[:, -1], state.position)


def noisy(level: float) -> poe.Expert:
    """Normal data of standard deviation 1, with noise."""
    variance = 1 + level**2
    return poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1) / variance, space=poe.Real(2))


def test_noise_levels_take_out_the_noise_that_is_too_much(g: torch.Generator) -> None:
    levels = (3.0, 1.0)
    kernel = AnnealedLangevin((noisy(3.0),), MALA(1e-12), 1, noise_levels=levels)
    x = torch.randn(100, 2, generator=g)
    state = kernel.init(noisy(1.0), x)
    for _ in range(2):
        state, _ = kernel.step(noisy(1.0), state, generator=g)
    # u = x - 9 x / 10, and a third of the rest stays
    torch.testing.assert_close(state.position, 0.1 * x + 0.9 * x / 3, atol=1e-4, rtol=1e-4)


def test_noise_is_taken_out_in_warm_up_too(g: torch.Generator) -> None:
    kernel = AnnealedLangevin((noisy(3.0),), MALA(1e-12), 1, noise_levels=(3.0, 1.0))
    x = torch.randn(100, 2, generator=g)
    draws = poe.sample(
        noisy(1.0), 100, kernel=kernel, warmup=1, initial=x, generator=g, progress=False
    )
    torch.testing.assert_close(draws.samples[:, 0], 0.4 * x, atol=1e-4, rtol=1e-4)


def test_noise_levels_need_a_kernel_that_keeps_a_score(g: torch.Generator) -> None:
    kernel = AnnealedLangevin((noisy(3.0),), MetropolisHastings(0.1), 1, noise_levels=(3.0, 1.0))
    state = kernel.init(noisy(1.0), torch.zeros(2, 2))
    state, _ = kernel.step(noisy(1.0), state, generator=g)
    with pytest.raises(poe.PoeError, match="keeps a score"):
        kernel.step(noisy(1.0), state, generator=g)
