"""Warm-up: step size, preconditioner and trajectory length, learned from all chains together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import poe
import poe.sampling.run
from poe.samplers import (
    HMC,
    MALA,
    ULA,
    AnnealedLangevin,
    Dense,
    Diagonal,
    LowRank,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.adaptive_step import FittedHMC
from poe.samplers.hmc import MAX_STEPS, TURN
from poe.samplers.questions import Learned
from poe.structure.far_mass import Looked
from poe.tuning.dual_averaging import start_averaging, update_averaging
from poe.tuning.warmup import (
    WindowState,
    brought_home,
    fill,
    first_learned,
    rejoin,
    shaped,
    spaced,
    windows,
)
from tests.tuned import check_tuned_rate, tuned_rate_error

F64 = torch.float64
SPLIT = Preconditioned(SplitHMC(num_steps=None))
DIMENSION = 20


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(poe.Expert):
    """A density that counts its evaluations."""

    def __init__(self, log_density: Any, dimension: int) -> None:
        super().__init__()
        self.log_density_of = log_density
        self.space = poe.Real(dimension)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.log_density_of(x)


def standard(dimension: int = 2) -> Counting:
    return Counting(lambda x: -0.5 * x.square().sum(-1), dimension)


def ill_conditioned() -> tuple[Counting, Tensor, Tensor]:
    """A rotated Gaussian of condition number 10⁴, with its mean and covariance."""
    rotation = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=seeded(), dtype=F64)).Q
    variances = torch.logspace(-2, 2, DIMENSION, dtype=F64)
    precision, covariance = (
        (rotation / variances) @ rotation.mT,
        (rotation * variances) @ rotation.mT,
    )
    mean = torch.full((DIMENSION,), 5.0, dtype=F64)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * ((x - mean) @ precision * (x - mean)).sum(-1)

    return Counting(log_density, DIMENSION), mean, covariance


def warm_up(
    target: poe.Expert, kernel: Any, x: Tensor, num_steps: int = 300, per_chain: bool = False
) -> tuple[Any, Tensor]:
    warmup = poe.Warmup(num_steps, per_chain)
    return poe.warm_up(target, kernel, x, warmup, generator=seeded(1))


def whitened_spectrum(affine: Dense, covariance: Tensor) -> Tensor:
    """The variances of a Gaussian seen through the map: all 1 where it is its own."""
    inverse = torch.linalg.inv(affine.factor)
    return torch.linalg.eigvalsh(inverse @ covariance @ inverse.mT)


# The preconditioner

STARTS = {
    "far, all on one side": torch.full((64, DIMENSION), -50.0, dtype=F64),
    "all at one point": torch.zeros(64, DIMENSION, dtype=F64),
    "spread": torch.randn(64, DIMENSION, generator=seeded(), dtype=F64),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_covariance_of_a_gaussian_is_found_from_a_bad_start(name: str) -> None:
    """In 100 steps, where 6 times the condition number's root were 600 for plain MALA to cross it.

    The scores of a Gaussian tell its covariance, so all that is left is the ridge of 10⁻³ d / n.
    """
    target, mean, covariance = ill_conditioned()
    kernel, x = warm_up(target, SPLIT, STARTS[name], 100)
    assert isinstance(kernel.affine, Dense)
    spectrum = whitened_spectrum(kernel.affine, covariance)
    assert spectrum[-1] / spectrum[0] < 1.01
    assert kernel.affine.to_u(mean[None]).norm() < 0.01
    assert (kernel.kernel.num_steps, kernel.kernel.jitter) == (1, 0.24)
    assert abs(kernel.kernel.step_size - TURN) < 1e-6
    assert target.calls < 700
    # The chains are draws of it by then: |u|² is chi-squared, in standard errors of 64 chains.
    squares = torch.linalg.solve(covariance, (x - mean).mT).mT.mul(x - mean).sum(-1)
    assert abs(squares.mean() - DIMENSION) < 4 * (2 * DIMENSION / 64) ** 0.5


def test_as_many_gradients_are_counted_as_were_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    # The look far out is counted by its positions, not by its calls.
    monkeypatch.setattr("poe.sampling.sample.look_far", lambda *_, **__: Looked(None, 0))
    target, *_ = ill_conditioned()
    draws = poe.sample(
        target, 640, kernel=Preconditioned(SplitHMC()), num_chains=64, warmup=100,
        initial=STARTS["spread"], progress=False, generator=seeded(),
    )  # fmt: skip
    # Beside: the start is looked at, seen to be no noise (2), each row by itself (3) and the same
    # where gradients are recorded (2), and its score compared with differences (1 + 16).
    starts = 25
    assert draws.warmup_gradients + draws.num_gradients == target.calls - starts
    assert draws.num_gradients == 10


def test_a_random_walk_gets_the_covariance_of_all_chains() -> None:
    """Of 64 chains and many draws: each whitened variance is 1 up to a factor."""
    covariance = torch.tensor([[100.0, 9.0], [9.0, 1.0]], dtype=F64)
    precision = torch.linalg.inv(covariance)
    target = poe.FromLogDensity(lambda x: -0.5 * (x @ precision * x).sum(-1), space=poe.Real(2))
    x = torch.randn(64, 2, generator=seeded(), dtype=F64)
    kernel, _ = warm_up(target, Preconditioned(MetropolisHastings()), x, 1000)
    assert isinstance(kernel.affine, Dense)
    spectrum = whitened_spectrum(kernel.affine, covariance)
    # 133 kept steps of 64 chains, whose autocorrelation time is some 10 steps in two dimensions.
    error = (2 / (64 * 133 / 10)) ** 0.5
    assert ((spectrum - 1).abs() < 4 * error).all()
    assert 0.5 < kernel.kernel.scale / (2.38 / 2**0.5) < 2  # of the optimum in d dimensions


def test_in_many_dimensions_the_map_is_of_low_rank() -> None:
    d = 600
    scale = torch.logspace(-1, 1, d)
    target = poe.FromLogDensity(lambda x: -0.5 * (x / scale).square().sum(-1), space=poe.Real(d))
    kernel, _ = warm_up(target, SPLIT, torch.randn(16, d, generator=seeded()), 60)
    assert isinstance(kernel.affine, LowRank)
    torch.testing.assert_close(kernel.affine.scale, scale, rtol=0.01, atol=0.0)
    assert kernel.affine.directions.shape[1] == 0


@pytest.mark.parametrize("kernel", [SPLIT, Preconditioned(MALA()), Preconditioned(MALA(0.3))])
@pytest.mark.parametrize("num_chains", [1, 2, 4])
def test_few_chains_are_enough(num_chains: int, kernel: Preconditioned) -> None:
    target, _, covariance = ill_conditioned()
    fitted, _ = warm_up(target, kernel, torch.zeros(num_chains, DIMENSION, dtype=F64), 1000)
    assert isinstance(fitted.affine, Dense)
    spectrum = whitened_spectrum(fitted.affine, covariance)
    assert spectrum[-1] / spectrum[0] < 1.1
    if kernel.scale_setting is not None:
        assert fitted.kernel == kernel.kernel


@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 7, 10, 19])
@pytest.mark.parametrize("num_chains", [1, 2, 3])
@pytest.mark.parametrize(
    "kernel",
    [SPLIT, Preconditioned(MALA()), Preconditioned(MetropolisHastings()), HMC(num_steps=None)],
    ids=["split", "mala", "walk", "hmc"],
)
def test_a_warm_up_of_few_steps_has_no_others(kernel: Any, num_chains: int, num_steps: int) -> None:
    plan = windows(standard(), kernel, poe.Warmup(num_steps), 4)
    assert sum(stage.num_steps for stage in plan) == num_steps
    assert all(stage.num_steps >= 0 for stage in plan)
    x = torch.randn(num_chains, 2, generator=seeded())
    warm, x = warm_up(standard(), kernel, x, num_steps)
    assert x.isfinite().all()
    warm.step(standard(), warm.init(standard(), x), generator=seeded())


@pytest.mark.parametrize("distance", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("kernel", [SPLIT, Preconditioned(MALA())])
def test_chains_far_out_in_steep_tails_come_back(kernel: Preconditioned, distance: float) -> None:
    """20 to 2000 standard deviations out, where the force is up to 10¹⁰ times that inside."""
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(5))
    x = distance * torch.randn(64, 5, generator=seeded())
    warm, x = warm_up(target, kernel, x)
    variance = math.gamma(3 / 4) / math.gamma(1 / 4)
    fourth = 1 / 4  # E x⁴, which the squares' own variance comes from
    error = ((fourth - variance**2) / (64 * 5)) ** 0.5
    assert abs(x.square().mean() - variance) < 4 * error
    assert warm.kernel.step_size > 0.3


def test_exploding_chains_are_told_as_such() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(5))
    x = 3.0 * torch.randn(8, 5, generator=seeded())
    with pytest.raises(poe.NonFiniteError, match="finite log-density and score"):
        warm_up(target, Preconditioned(ULA(2.0)), x, 60)


def test_a_map_that_was_given_is_kept() -> None:
    affine = Diagonal(torch.zeros(2), torch.ones(2))
    kernel, _ = warm_up(standard(), Preconditioned(MALA(), affine), torch.zeros(8, 2))
    assert kernel.affine is affine
    assert kernel.kernel.step_size is not None


def test_the_map_is_settled_before_the_last_steps_are_tuned_on_it() -> None:
    """In two steps there is no window to fit to: what the start told is kept."""
    target, x = standard(), torch.randn(8, 2, generator=seeded())
    [first, *_] = windows(target, Preconditioned(MALA()), poe.Warmup(2), 4)
    kernel, _ = warm_up(target, Preconditioned(MALA()), x, 2)
    expected = first_learned(first, x).affine
    assert all(map(torch.equal, vars(kernel.affine).values(), vars(expected).values()))


def test_what_was_learned_is_filled_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not in every step, where it would wait for the device."""
    calls = []

    def counted(stage: Any, learned: Learned) -> Any:
        calls.append(stage)
        return fill(stage, learned)

    monkeypatch.setattr(poe.sampling.run, "fill", counted)
    poe.sample(standard(), 40, kernel=MALA(), num_chains=2, warmup=20, progress=False)
    assert len(calls) == 1


# The trajectory's length


def test_a_turn_takes_one_step_on_a_gaussian_and_more_on_a_hard_density() -> None:
    def curved(x: Tensor) -> Tensor:
        across = (x[:, 1] - x[:, 0].square()) / 0.3
        return -0.125 * x[:, 0].square() - 0.5 * across.square()

    easy, _ = warm_up(standard(), SPLIT, torch.randn(64, 2, generator=seeded()))
    hard, _ = warm_up(
        poe.FromLogDensity(curved, space=poe.Real(2)), SPLIT, torch.randn(64, 2, generator=seeded())
    )
    assert easy.kernel.num_steps == 1
    assert 2 <= hard.kernel.num_steps <= MAX_STEPS
    # Rounded to whole steps: half a step more or less.
    total = hard.kernel.num_steps * hard.kernel.step_size
    assert abs(total - TURN) <= 0.5 * hard.kernel.step_size + 1e-6


def test_a_trajectory_is_never_longer_than_the_cap() -> None:
    kernel, _ = warm_up(standard(), HMC(num_steps=None), torch.randn(8, 2, generator=seeded()), 50)
    assert 1 <= kernel.num_steps <= MAX_STEPS
    given, _ = warm_up(standard(), HMC(1e-3, num_steps=None), torch.zeros(8, 2), 5)
    assert (given.step_size, given.num_steps) == (1e-3, MAX_STEPS)


@pytest.mark.parametrize("step_size", [0.3, torch.tensor(0.3), torch.full((4,), 0.3)])
def test_a_step_size_that_was_given_sets_the_length(step_size: float | Tensor) -> None:
    x = torch.zeros(4, 2)
    plain, _ = warm_up(standard(), HMC(step_size, num_steps=None), x, 10)
    inner, _ = warm_up(standard(), Preconditioned(SplitHMC(step_size, num_steps=None)), x, 50)
    assert plain.num_steps == inner.kernel.num_steps == round(TURN / 0.3)
    assert plain.step_size is inner.kernel.step_size is step_size


def test_a_length_that_was_given_is_kept() -> None:
    x = torch.randn(64, 2, generator=seeded())
    kernel, _ = warm_up(standard(), Preconditioned(SplitHMC(num_steps=3)), x)
    assert kernel.kernel.num_steps == 3
    assert kernel.kernel.step_size <= TURN / 3 + 1e-6  # of all three together


# The step size


def test_hmc_is_tuned_to_its_acceptance_rate() -> None:
    """In bounded forces: beyond a Gaussian's limit of stability a few chains decide the rate."""
    target = Counting(lambda x: -torch.logaddexp(x, -x).sum(-1), 20)
    kernel, x = warm_up(target, HMC(num_steps=3), torch.zeros(100, 20), 500)
    state, rates = kernel.init(target, x), torch.zeros(100)
    for _ in range(200):
        state, info = kernel.step(target, state, generator=seeded())
        rates += info.acceptance_probability / 200
    assert kernel == HMC(kernel.step_size, num_steps=3)
    check_tuned_rate(rates, 0.65, num_steps=200, num_updates=250)


@pytest.mark.parametrize("per_chain", [False, True])
def test_warm_up_reaches_the_target_acceptance(per_chain: bool) -> None:
    """Each chain has a normal of its own scale; tuned apart, each finds its own step size."""
    scales = torch.logspace(-1, 1, 20)
    target = poe.FromLogDensity(
        lambda x: -0.5 * (x / scales[:, None]).square().sum(-1), space=poe.Real(4)
    )
    g = seeded()
    x = torch.randn(20, 4, generator=g) * scales[:, None]
    warmup = poe.Warmup(2000, per_chain=per_chain)
    kernel, x = poe.warm_up(target, MALA(), x, warmup, generator=g)
    assert isinstance(kernel, MALA)
    state, rates = kernel.init(target, x), []
    for _ in range(1000):
        state, info = kernel.step(target, state, generator=g)
        rates.append(info.acceptance_probability)
    blocks = torch.stack(rates).unflatten(0, (20, 50)).mean(1)
    total = blocks.mean(0)
    if per_chain:  # twenty runs, each tuned by itself
        assert abs(total.mean() - 0.574) < 4 * total.std() / 20**0.5
        assert isinstance(kernel.step_size, Tensor)
        errors = [tuned_rate_error(chain, 1000, 2000) for chain in blocks.T]
        assert (total - 0.574).abs().max() < 4 * sum(errors) / 20  # the chains are alike
        assert 3000 < kernel.step_size[-1] / kernel.step_size[0] < 30000  # (10 / 0.1)^2 = 10^4
    else:
        check_tuned_rate(blocks.mean(1), 0.574, num_steps=1000, num_updates=1000)
        assert isinstance(kernel.step_size, float)
        assert (total - 0.574).abs().max() > 0.3


def test_a_preconditioned_kernel_may_have_a_step_size_for_each_chain() -> None:
    x = torch.randn(6, 2, generator=seeded())
    kernel, _ = warm_up(standard(), Preconditioned(MALA()), x, per_chain=True)
    assert isinstance(kernel.kernel.step_size, Tensor)
    assert kernel.kernel.step_size.shape == (6,)


def test_a_setting_that_was_given_is_kept() -> None:
    x = torch.zeros(4, 2)
    kernel, moved = warm_up(standard(), MALA(0.123), x, 10)
    assert kernel == MALA(0.123)
    assert not torch.equal(x, moved)


@pytest.mark.parametrize("kernel", [MALA(), SPLIT, Preconditioned(MALA(0.1))])
def test_learning_in_no_steps_is_refused(kernel: Any) -> None:
    with pytest.raises(poe.PoeError, match="warm-up steps to tune"):
        warm_up(standard(), kernel, torch.zeros(4, 2), 0)


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="num_steps >= 0, got -1"):
        poe.Warmup(-1)


def tuned(scale: float, acceptance: float, max_scale: float = math.inf) -> float:
    state = start_averaging(torch.tensor(scale))
    for _ in range(1000):
        accepted = torch.exp(-state.log_scale.exp() * 3.0)
        state = update_averaging(state, accepted, acceptance, max_scale)
    return state.log_scale_average.exp().item()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_dual_averaging_finds_the_scale_from_anywhere(scale: float) -> None:
    assert abs(math.exp(-3.0 * tuned(scale, 0.574)) - 0.574) < 0.01


def test_dual_averaging_stays_below_the_largest_scale() -> None:
    assert tuned(0.01, 0.574, 0.1) == pytest.approx(0.1, rel=1e-6)


# Ladders


def test_a_ladder_of_preconditioned_kernels_is_tuned_level_by_level() -> None:
    """A map for each level: the covariance at exponent β is 1/β times that of the target."""
    target, _, covariance = ill_conditioned()
    ladder = AnnealedLangevin(
        (target**0.01, target**0.1), Preconditioned(MALA()), steps_per_level=100
    )
    kernel, _ = warm_up(target, ladder, STARTS["spread"], 100)
    assert isinstance(kernel.kernel, tuple)
    assert kernel.step_size is None
    for inner, exponent in zip(kernel.kernel, (0.01, 0.1, 1.0), strict=True):
        spectrum = whitened_spectrum(inner.affine, covariance / exponent)
        assert spectrum[-1] / spectrum[0] < 1.01
        assert (spectrum - 1).abs().max() < 0.01
        assert 0.1 < inner.kernel.step_size < 2


def test_a_ladder_whose_trajectories_have_no_length_gets_one_for_each_level() -> None:
    target = standard()
    ladder = AnnealedLangevin((target**0.01,), HMC(num_steps=None), steps_per_level=50)
    kernel, x = warm_up(target, ladder, 10 * torch.randn(64, 2, generator=seeded()), 50)
    broad, sharp = kernel.kernel
    assert broad.num_steps <= sharp.num_steps
    kernel.step(target, kernel.init(target, x), generator=seeded())  # nothing is left out


def test_a_ladder_of_plain_kernels_keeps_them_and_gets_step_sizes() -> None:
    target = standard()
    ladder = AnnealedLangevin((target**0.01,), MALA(), steps_per_level=50)
    kernel, _ = warm_up(target, ladder, torch.zeros(64, 2), 50)
    assert kernel.kernel == MALA()
    assert len(kernel.step_size) == 2


def test_what_was_learned_is_put_in_its_places() -> None:
    affine = Diagonal(torch.zeros(2), torch.ones(2))
    learned = Learned(torch.tensor([0.1, 0.4]), affine, 3)
    assert shaped(SPLIT, learned) == Preconditioned(SplitHMC(num_steps=3), affine)
    assert shaped(MALA(), learned) == MALA()
    [*_, last] = plan = windows(standard(), SPLIT, poe.Warmup(100), 4)
    filled = fill(last, learned)
    assert filled == Preconditioned(SplitHMC(filled.kernel.step_size, num_steps=3), affine)
    assert filled.kernel.step_size == pytest.approx(0.2)  # the geometric mean
    assert rejoin(SPLIT, plan, (learned,) * len(plan)) == filled


@pytest.mark.parametrize("num_steps", [0.07 * 100, -1, 2.5])
def test_a_warmup_of_steps_that_are_not_whole_is_refused(num_steps: float) -> None:
    with pytest.raises(poe.PoeError, match=r"num_steps|warmup"):
        poe.sample(
            poe.FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(1)),
            4,
            warmup=num_steps,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(0),
            progress=False,
        )


# How far apart draws are, and who goes through warm-up again


def gaussian() -> poe.Expert:
    return poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))


def open_window(num_chains: int) -> tuple[Any, ...]:
    return windows(gaussian(), Preconditioned(FittedHMC()), None, num_chains)


@pytest.mark.parametrize(
    ("time", "num_steps", "times"), [(1.0, 1, 1), (8.0, 3, 2), (100.0, 3, 16), (math.inf, 3, 1)]
)
def test_draws_are_apart_by_a_quarter_of_what_chains_remember(
    time: float, num_steps: int, times: int
) -> None:
    learned = Learned(num_steps=num_steps, autocorrelation_time=time)
    assert spaced(open_window(64)[-1], learned).num_repeats == times
    given = windows(gaussian(), Preconditioned(SplitHMC()), None, 64)[-1]
    assert spaced(given, learned).num_repeats == 1  # of a kernel that is the caller's


def test_a_second_warm_up_is_for_chains_that_mix_slowly_or_whose_scales_vary() -> None:
    plan = open_window(64)
    again = [window for window in plan if window.needed_beyond > 0]
    first = [window for window in plan if window.needed_beyond == 0]
    assert sum(w.num_steps for w in again) == 2 * sum(w.num_steps for w in first)
    quick, slow = Learned(autocorrelation_time=2.0), Learned(autocorrelation_time=20.0)
    assert not any(window.is_needed(quick) for window in again)
    assert all(window.is_needed(slow) for window in plan)
    assert all(window.is_needed(quick._replace(has_varying_scale=True)) for window in plan)
    asked = windows(gaussian(), Preconditioned(FittedHMC()), poe.Warmup(300), 64)
    assert sum(window.num_steps for window in asked) == 300


def test_only_chains_that_stand_still_far_down_begin_anew() -> None:
    """Chain 0 stands still 60 nats down, chain 1 at the top; the others move."""
    window = open_window(8)[1]._replace(num_steps=10)
    x = torch.randn(8, 2, generator=seeded())
    x[0], x[1] = 8.0, 0.0
    steps = [x + k * torch.arange(8)[:, None].clamp(max=2).sub(1).clamp(min=0) for k in range(6)]
    kernel = Preconditioned(SplitHMC(0.1), Diagonal(torch.zeros(2), torch.ones(2)))
    state = WindowState(kernel.init(window.density, steps[-1]), None, tuple((u,) for u in steps))
    found, learned = brought_home(window, state, Learned(), seeded())
    assert learned.num_restarted == 1
    assert (found[0] == steps[-1][2:]).all(1).any()
    assert torch.equal(found[1:], steps[-1][1:])
    assert learned.has_varying_scale  # chain 1 needs other steps than the others
    own = window._replace(per_chain=True)
    assert not brought_home(own, state, Learned(), seeded())[1].has_varying_scale
