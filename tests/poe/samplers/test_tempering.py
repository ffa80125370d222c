"""Parallel tempering: which pairs swap, what a step evaluates, its state, and its tuning."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.samplers import (
    HMC,
    MALA,
    ULA,
    AdjustedMCLMC,
    AnnealedLangevin,
    DelayedAcceptance,
    Dense,
    GeneralizedHMC,
    MetropolisHastings,
    MomentumState,
    ParallelTempering,
    Preconditioned,
    SplitHMC,
    SurrogateMALA,
    TemperingState,
    geometric_ladder,
    swap_rates,
)
from poe.samplers.kernel import Kernel, Noise, leaves
from poe.samplers.tempering import TemperingNoise, equal_barriers
from tests.seeds import seeded
from tests.tuned import check_tuned_rate

EXPONENTS = (0.0, 0.1, 0.4, 1.0)
START = experts.Gaussian([0.0, 0.0], scale=[3.0, 3.0])
KERNELS: list[Kernel] = [
    MetropolisHastings(0.5),
    MALA(0.1),
    HMC(0.3, num_steps=3),
    GeneralizedHMC(0.3, num_steps=2),
    AdjustedMCLMC(0.4),
    SplitHMC(0.3),
]
MAP = Dense(torch.tensor([0.5, -1.0]), torch.tensor([[2.0, 0.0], [0.3, 0.5]]))


def modes(x: Tensor) -> Tensor:
    """0.2 N((−3, 0), 0.3²) + 0.8 N((3, 0), 0.3²)"""
    centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).to(x)
    weights = torch.tensor([0.2, 0.8]).to(x)
    squares = (x[..., None, :] - centres).square().sum(-1)
    return torch.logsumexp(weights.log() - 0.5 * squares / 0.09, -1)


TARGET = poe.FromLogDensity(modes, space=poe.Real(2))
BARE_START = poe.FromLogDensity(lambda x: -x.square().sum(-1) / 18, space=poe.Real(2))
KERNELS += [Preconditioned(kernel, MAP) for kernel in KERNELS]
KERNELS += [SurrogateMALA(BARE_START, 0.2), DelayedAcceptance(MALA(0.2), BARE_START)]


class Counting(poe.Expert):
    """The target, counting its evaluations and rows."""

    space = poe.Real(2)
    calls = rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(x)
        return modes(x)


def name(kernel: Any) -> str:
    """Its class, and that of the kernel inside."""
    inner = f" {type(kernel.kernel).__name__}" if hasattr(kernel, "kernel") else ""
    return type(kernel).__name__ + inner


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def run(
    kernel: ParallelTempering,
    num_steps: int,
    g: torch.Generator,
    target: poe.Expert = TARGET,
    chains: int = 50,
) -> TemperingState:
    """All chains from the smaller mode."""
    state = kernel.init(target, torch.tensor([-3.0, 0.0]).repeat(chains, 1))
    for _ in range(num_steps):
        state, _ = kernel.step(target, state, generator=g)
    return state


def densities(state: TemperingState, exponents: tuple[float, ...] = EXPONENTS) -> Tensor:
    """The log-density of each row, evaluated afresh by its own level's expert."""
    levels = geometric_ladder(TARGET, START, exponents)
    rows = state.replicas.position.reshape(len(levels), -1, 2)
    return torch.cat([level(x) for level, x in zip(levels, rows, strict=True)])


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_every_adjacent_pair_is_tried_in_every_second_step(levels: int, g: torch.Generator) -> None:
    exponents = tuple(torch.linspace(0, 1, levels).tolist())
    kernel = ParallelTempering(START, MALA(0.1), exponents)
    state, tried = run(kernel, 0, g), []
    for _ in range(6):
        before = state.tally.tried
        state, _ = kernel.step(TARGET, state, generator=g)
        tried.append((state.tally.tried - before).div(50).tolist())
    even = [float(pair % 2 == 0) for pair in range(levels - 1)]
    assert tried == [even, [1.0 - now for now in even]] * 3
    assert state.tally.tried.tolist() == [150] * (levels - 1)


def test_positions_swap_as_the_formula_says(g: torch.Generator) -> None:
    """A kernel that hardly moves leaves the swaps alone to be seen, pair by pair."""
    kernel = ParallelTempering(BARE_START, MetropolisHastings(1e-12), EXPONENTS)
    x = 3 * torch.randn(4, 200, 2, generator=g, dtype=torch.float64)
    state = kernel.init_replicas(TARGET, x)
    ratio = TARGET(x) - BARE_START(x)  # (levels, chains)
    for step in range(2):
        before = state.replicas.position.reshape(4, 200, 2)
        noise = kernel.draw_noise(state.position, g)
        state, _ = kernel.transition(TARGET, state, noise)
        ratio, expected = TARGET(before) - BARE_START(before), before.clone()
        for low in range(step, 3, 2):
            gap = EXPONENTS[low + 1] - EXPONENTS[low]
            log_ratio = gap * (ratio[low] - ratio[low + 1])
            is_swapped = (noise.uniform[low] < log_ratio.exp())[:, None]
            expected[low] = torch.where(is_swapped, before[low + 1], before[low])
            expected[low + 1] = torch.where(is_swapped, before[low], before[low + 1])
            assert state.tally.accepted[low] == is_swapped.sum()
            assert 20 < is_swapped.sum() < 180
        torch.testing.assert_close(state.replicas.position.reshape(4, 200, 2), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=name)
@pytest.mark.parametrize("start", [START, BARE_START], ids=["exact start", "moved start"])
def test_the_state_stays_consistent(kernel: Kernel, start: poe.Expert, g: torch.Generator) -> None:
    state = run(ParallelTempering(start, kernel, EXPONENTS), 12, g)
    assert (state.tally.accepted > 0).all()
    offset = START(torch.zeros(2)) - start(torch.zeros(2))  # two ways to write one density
    weights = 1 - torch.tensor(EXPONENTS).repeat_interleave(50)
    torch.testing.assert_close(state.replicas.log_density + weights * offset, densities(state))
    parts = state.parts
    log_density, score = TARGET.log_density_and_score(state.replicas.position)
    torch.testing.assert_close(parts.log_density[1], log_density)
    assert torch.equal(state.position, state.replicas.position[-50:])
    torch.testing.assert_close(state.log_density, TARGET(state.position))
    if "score" in state.replicas._fields:
        torch.testing.assert_close(parts.score[1], score)
        torch.testing.assert_close(state.replicas.score[-50:], score[-50:])


@pytest.mark.parametrize("kernel", KERNELS, ids=name)
@pytest.mark.parametrize("start", [START, BARE_START], ids=["exact start", "moved start"])
def test_after_swaps_the_kernel_stands_as_if_it_had_started_there(
    kernel: Any, start: poe.Expert, g: torch.Generator
) -> None:
    tempering = ParallelTempering(start, kernel, EXPONENTS)
    state = run(tempering, 12, g)
    assert (state.tally.accepted > 0).all()
    rows = state.replicas.position
    torch.testing.assert_close(state.parts.position, rows)
    anew = kernel.state_at(tempering._level(TARGET, 50, rows), rows)
    for held, fresh in zip(positional(state.replicas), positional(anew), strict=True):
        torch.testing.assert_close(held, fresh, rtol=1e-3, atol=1e-3)


def positional(state: Any) -> list[Tensor]:
    """What of a state depends on its position, all but the momentum."""
    if isinstance(state, MomentumState):
        return list(state[:3])
    return [state] if isinstance(state, Tensor) else [*chain(*map(positional, state))]


def test_a_momentum_stays_until_its_level_gets_another_position(g: torch.Generator) -> None:
    kernel = ParallelTempering(BARE_START, GeneralizedHMC(0.3), EXPONENTS)
    state = run(kernel, 1, g)
    moved, _ = kernel._move(TARGET, state, kernel.draw_noise(state.position, g))
    noise = torch.rand(3, 50, generator=g)
    swapped = kernel._swap(TARGET, moved, noise)
    has_moved = (swapped.replicas.position != moved.replicas.position).any(1)
    assert 0 < has_moved.sum() < 200
    assert torch.equal(swapped.replicas.has_momentum, ~has_moved)
    kept = swapped.replicas.momentum[~has_moved]
    assert torch.equal(kept, moved.replicas.momentum[~has_moved])


def test_a_swap_costs_no_evaluation(g: torch.Generator) -> None:
    target = Counting()
    run(ParallelTempering(BARE_START, MALA(0.1), EXPONENTS), 10, g, target)
    assert (target.calls, target.rows) == (11, 11 * 200)
    target = Counting()  # exact draws replace the first level's rows
    run(ParallelTempering(START, MALA(0.1), EXPONENTS), 10, g, target)
    assert (target.calls, target.rows) == (21, 11 * 200)


@pytest.mark.parametrize("kernel", KERNELS, ids=name)
def test_transition_runs_on_the_meta_device(kernel: Kernel) -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    if isinstance(kernel, Preconditioned):
        kernel = replace(kernel, affine=Dense(MAP.loc.to("meta"), MAP.factor.to("meta")))
    x, uniform = torch.zeros(5, 2, device="meta"), torch.zeros(3, 5, device="meta")
    start = BARE_START.to("meta")
    tempering = ParallelTempering(start, kernel, EXPONENTS)
    tempered = ParallelTempering(start, MALA(), EXPONENTS, step_size=(1.0, 0.5, 0.2, 0.1))
    for one in (tempering, tempered):
        state = one.init(TARGET, x)
        rows = torch.zeros(20, 2, device="meta")
        noise = TemperingNoise(one.kernel.draw_noise(rows, None), uniform, None)  # type: ignore[attr-defined]
        state, info = one.transition(TARGET, state, noise)
        assert all(leaf.device.type == "meta" for leaf in [*leaves(state), *info])
        assert state.position.shape == (5, 2)


def test_exact_draws_refresh_the_first_level(g: torch.Generator) -> None:
    kernel = ParallelTempering(START, MALA(0.1), EXPONENTS)
    x = torch.tensor([-3.0, 0.0]).repeat(2000, 1)
    state, noise = kernel.init(TARGET, x), kernel.draw_noise(x, g)
    assert noise.fresh is not None
    assert noise.kernel.normal.shape == (6000, 2)
    moved, _ = kernel.transition(TARGET, state, noise)
    rows = moved.replicas.position.reshape(4, 2000, 2)
    is_fresh = (rows[0] == noise.fresh).all(1)
    is_exchanged = (rows[1] == noise.fresh).all(1)
    assert (is_fresh ^ is_exchanged).all()
    assert is_exchanged.sum() == moved.tally.accepted[0]


def test_round_trips_are_counted(g: torch.Generator) -> None:
    """With two levels each accepted swap brings a fresh draw; with four it takes a while."""
    state = run(ParallelTempering(START, MALA(0.1), (0.0, 1.0)), 200, g)
    assert state.num_round_trips.sum() == state.tally.accepted[0]
    assert state.num_round_trips.sum() > 0
    state = run(ParallelTempering(START, MALA(0.1), EXPONENTS), 2, g)
    assert state.num_round_trips.sum() == 0  # three swaps are needed
    state = run(ParallelTempering(START, MALA(0.1), EXPONENTS), 200, g)
    assert 50 < state.num_round_trips.sum() < state.tally.accepted[-1]


@pytest.mark.law
def test_both_modes_get_their_mass_from_a_start_in_the_smaller_one(g: torch.Generator) -> None:
    kernel = ParallelTempering(START, MALA(), EXPONENTS, step_size=(1.0, 0.9, 0.25, 0.1))
    state = run(kernel, 150, g, chains=4000)
    share = (state.position[:, 0] > 0).float().mean().item()
    assert abs(share - 0.8) < 4 * (0.16 / 4000) ** 0.5
    alone = MALA(0.1).init(TARGET, torch.tensor([[-3.0, 0.0]]).repeat(100, 1))
    for _ in range(150):
        alone, _ = MALA(0.1).step(TARGET, alone, generator=g)
    assert (alone.position[:, 0] < 0).all()


def test_info_and_step_sizes_are_those_of_the_target_level(g: torch.Generator) -> None:
    """With one step size a level, tiny everywhere but at the target: only there it rejects."""
    x = torch.tensor([-3.0, 0.0]).repeat(50, 1)
    tiny = (1e-6, 1e-6, 1e-6)
    kernel = ParallelTempering(BARE_START, MALA(), EXPONENTS, step_size=(*tiny, 5.0))
    noise = kernel.draw_noise(x, g)
    _, info = kernel.transition(TARGET, kernel.init(TARGET, x), noise)
    _, all_info = kernel.transition_of_all(TARGET, kernel.init(TARGET, x), noise)
    assert all(field.shape == (50,) for field in info)
    assert info.acceptance_probability.mean() < 0.01
    assert all_info.acceptance_probability[:-50].mean() > 0.99
    assert torch.equal(all_info.acceptance_probability[-50:], info.acceptance_probability)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    kernel = ParallelTempering(START, MALA(0.1), EXPONENTS)
    before = torch.get_rng_state()
    first = run(kernel, 5, torch.Generator().manual_seed(3)).position
    with seeded(99):
        assert torch.equal(first, run(kernel, 5, torch.Generator().manual_seed(3)).position)
    torch.set_rng_state(before)
    run(kernel, 5, torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_leaves_state_and_noise_as_they_were(g: torch.Generator) -> None:
    kernel = ParallelTempering(START, HMC(0.3, num_steps=2), EXPONENTS)
    state = run(kernel, 3, g)
    noise = kernel.draw_noise(state.position, g)
    held = [*state.replicas, *state.parts, *state.tally, *noise.kernel]
    copies = [None if leaf is None else leaf.clone() for leaf in held]
    kernel.transition(TARGET, state, noise)
    for leaf, copy in zip(held, copies, strict=True):
        assert leaf is None or torch.equal(leaf, copy)


class Stop(Exception):
    """An interrupt, at a moment of our choice."""


@pytest.mark.parametrize("kernel", [MALA(0.1), MetropolisHastings(0.4)])
def test_poe_sample_runs_and_resumes_it(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tempering = ParallelTempering(START, kernel, EXPONENTS)

    def draws(checkpoint: Path | None) -> poe.Draws:
        return poe.sample(
            TARGET,
            400,
            kernel=tempering,
            num_chains=20,
            warmup=10,
            generator=torch.Generator().manual_seed(0),
            progress=False,
            checkpoint=checkpoint,
        )

    whole = draws(None)
    assert whole.guarantee == "asymptotically exact"
    steps, advance = [0], poe.sampling.run.Run.advance

    def stopping(self: poe.sampling.run.Run) -> None:
        steps[0] += 1
        if steps[0] == 18:
            raise Stop
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(poe.sampling.run.Run, "advance", stopping)
        with pytest.raises(Stop):
            draws(tmp_path / "run")
    assert torch.equal(draws(tmp_path / "run").samples, whole.samples)


def test_the_guarantee_is_the_kernels() -> None:
    assert ParallelTempering(START, MALA(0.1), EXPONENTS).guarantee == "asymptotically exact"
    assert ParallelTempering(START, ULA(0.1), EXPONENTS).guarantee == "biased"


@pytest.mark.parametrize(
    "exponents", [(1.0,), (0.0, 0.5), (0.5, 0.2, 1.0), (0.0, 0.0, 1.0), (-0.1, 1.0), ()]
)
def test_exponents_must_increase_to_one(exponents: tuple[float, ...]) -> None:
    with pytest.raises(poe.PoeError, match="increasing exponents"):
        ParallelTempering(START, MALA(0.1), exponents)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="expected 4 step sizes"):
        ParallelTempering(START, MALA(), EXPONENTS, step_size=(0.1, 0.2))
    with pytest.raises(poe.PoeError, match="has no step size"):
        ParallelTempering(START, ULA(0.1), EXPONENTS, step_size=(0.1,) * 4)
    with pytest.raises(poe.PoeError, match="begin anew where positions are swapped, got Anne"):
        ParallelTempering(START, AnnealedLangevin((), MALA(0.1)), EXPONENTS)
    kernel = ParallelTempering(START, MALA(0.1), EXPONENTS)
    with pytest.raises(poe.ShapeError, match="with 4 levels"):
        kernel.init_replicas(TARGET, torch.zeros(3, 10, 2))
    line = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(1))
    with pytest.raises(poe.SpaceMismatchError, match="share one space"):
        kernel.init(line, torch.zeros(10, 1))


def test_a_kernel_that_cannot_be_restarted_is_refused() -> None:
    inner = ParallelTempering(START, MALA(0.1), EXPONENTS)
    with pytest.raises(poe.PoeError, match="begin anew where positions are swapped, got Para"):
        ParallelTempering(START, inner, EXPONENTS)


def test_a_replica_where_the_target_is_zero_does_not_reach_it(g: torch.Generator) -> None:
    """At exponent 0 the target has no say, not even where it is −inf or NaN."""
    half = poe.FromLogDensity(
        lambda x: torch.where(x > 0, -x, torch.where(x > -1, -torch.inf, torch.nan)).sum(-1),
        space=poe.Real(1),
    )
    start = experts.Gaussian([0.0], scale=[2.0])
    for one in (start, poe.FromLogDensity(lambda x: start(x), space=poe.Real(1))):
        kernel = ParallelTempering(one, MALA(0.5), (0.0, 0.5, 1.0))
        state = kernel.init(half, torch.full((500, 1), 0.5))
        for _ in range(20):
            state, _ = kernel.step(half, state, generator=g)
        rows = state.replicas.position.reshape(3, 500)
        assert (rows[0] < -1).any()
        assert (rows[1:] > 0).all()
        assert state.replicas.log_density.isfinite().all()


def test_swap_rates(g: torch.Generator) -> None:
    state = run(ParallelTempering(START, MALA(0.1), EXPONENTS), 100, g, chains=200)
    counted = state.tally.accepted / state.tally.tried
    error = (counted * (1 - counted) / state.tally.tried).sqrt()
    assert ((swap_rates(state) - counted).abs() < 4 * error).all()


@pytest.mark.law
@pytest.mark.parametrize(
    ("kernel", "num_steps"), [(MALA(), 310), (HMC(num_steps=5), 1240), (MetropolisHastings(), 310)]
)
def test_tuning_makes_swaps_and_acceptance_alike(
    kernel: Kernel, num_steps: int, g: torch.Generator
) -> None:
    """HMC's rate falls by s = 2 with the log of its step size, which dual averaging moves by
    20 / √T for a rate of 1: it swings to and fro until 20 s / √T < 2, that is for 400 updates.
    """
    x = torch.tensor([-3.0, 0.0]).repeat(200, 1)
    tuned, replicas, _ = poe.tune_tempering(
        TARGET, START, kernel, x, num_steps=num_steps, num_levels=5, generator=g
    )
    assert replicas.shape == (5, 200, 2)
    state, acceptance = tuned.init_replicas(TARGET, replicas), torch.zeros(4, 200)
    for _ in range(100):
        noise = tuned.draw_noise(state.position, g)
        state, info = tuned.transition_of_all(TARGET, state, noise)
        acceptance += info.acceptance_probability.reshape(4, 200) / 100
    last = 16 * num_steps // 31  # steps of the last round, whose rates the ladder is made of
    # A pair is tried in every other step, by 200 chains; a probability's variance is at most 1/4.
    error = (0.25 / (50 * 200) + 0.25 / (last // 2 * 200)) ** 0.5
    swaps = swap_rates(state)
    assert swaps.max() - swaps.min() < 4 * 2**0.5 * error  # a ladder by hand differs by 0.3
    aim = kernel.target_acceptance  # type: ignore[attr-defined]
    for rates in acceptance:  # of each level
        check_tuned_rate(rates, aim, num_steps=100, num_updates=last, lean=0.0)


@pytest.mark.law
def test_tuning_finds_the_number_of_levels(g: torch.Generator) -> None:
    """A target like its start needs two levels; one far away needs more."""
    x = torch.zeros(200, 2)
    near = experts.Gaussian([0.0, 0.0], scale=[2.9, 3.0])
    tuned, *_ = poe.tune_tempering(near, START, MALA(), x, num_steps=100, generator=g)
    assert tuned.exponents == (0.0, 1.0)
    far = experts.Gaussian([0.0, 0.0], scale=[0.01, 0.01])
    tuned, *_ = poe.tune_tempering(far, START, MALA(), x, num_steps=310, generator=g)
    assert 6 < len(tuned.exponents) < 20


def test_tuning_keeps_a_step_size_that_was_given(g: torch.Generator) -> None:
    x = torch.tensor([-3.0, 0.0]).repeat(50, 1)
    tuned, *_ = poe.tune_tempering(TARGET, BARE_START, MALA(0.1), x, num_steps=100, generator=g)
    assert tuned.kernel == MALA(0.1)
    assert tuned.step_size is None


def test_tuning_in_too_few_steps_is_refused(g: torch.Generator) -> None:
    with pytest.raises(poe.PoeError, match="num_steps >= 100"):
        poe.tune_tempering(TARGET, START, MALA(), torch.zeros(4, 2), num_steps=50, generator=g)


def test_equal_barriers_cut_the_rejections_into_equal_parts() -> None:
    assert equal_barriers((0.0, 0.2, 1.0), [0.5, 0.5], 3) == pytest.approx((0.0, 0.2, 1.0))
    assert equal_barriers((0.0, 0.2, 1.0), [0.25, 0.75], 5) == pytest.approx(
        (0.0, 0.0667, 0.1333, 0.2, 1.0), abs=1e-4
    )
    assert equal_barriers((0.0, 0.2, 1.0), [1.0, 1.0], 3) == pytest.approx((0.0, 0.2, 1.0))


def test_levels_start_at_different_chains(g: torch.Generator) -> None:
    x = torch.arange(6.0).reshape(3, 2)
    state = ParallelTempering(START, MALA(0.1), (0.0, 0.5, 1.0)).init(TARGET, x)
    assert torch.equal(state.position, x)
    rows = state.replicas.position.reshape(3, 3, 2)
    assert torch.equal(rows[1], x.roll(1, 0))
    assert torch.equal(rows[0], x.roll(2, 0))


def test_the_noise_is_drawn_for_every_row(g: torch.Generator) -> None:
    kernel = ParallelTempering(BARE_START, MALA(0.1), EXPONENTS)
    noise = kernel.draw_noise(torch.zeros(7, 2), g)
    assert isinstance(noise.kernel, Noise)
    assert noise.kernel.normal.shape == (28, 2)
    assert noise.uniform.shape == (3, 7)
    assert len(set(noise.uniform.flatten().tolist())) == 21
