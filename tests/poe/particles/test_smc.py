"""Sequential Monte Carlo: unbiased Ẑ, calibrated errors, weighted moments, and what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.particles import islands, smc
from poe.particles.mutation import CLOSE
from poe.samplers import HMC, MALA, ULA, AdjustedMCLMC, MetropolisHastings, Preconditioned, SplitHMC
from poe.samplers.path import Level

PRIOR = experts.Gaussian([0.0], scale=[3.0])
LIKELIHOOD = poe.FromLogDensity(lambda x: -8.0 * (x - 1.0).square().sum(-1), space=poe.Real(1))
# The integral of N(x; 0, 9) exp(−8 (x − 1)²), a Gaussian of variance 1/16 but for its constant.
LOG_Z = 0.5 * math.log(math.pi / 8) - 0.5 * math.log(2 * math.pi * 145 / 16) - 8 / 145
MEAN, VARIANCE = 144 / 145, 9 / 145
MAX_Z = 4.0


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def run(target: poe.Expert, num_samples: int, **settings: Any) -> poe.Draws:
    return poe.smc(target, num_samples, progress=False, **settings)


def unbiased_run(kernel: poe.samplers.Kernel, **settings: Any) -> Tensor:
    """Ẑ / Z of 4000 islands of 3 chains: with everything given, each island is a run by itself."""
    fixed = {"temperatures": (0.05, 0.3, 1.0), "num_moves": 2, "max_thinning": 1}
    generator = torch.Generator().manual_seed(0)
    draws = run(
        PRIOR * LIKELIHOOD,
        4000 * 6,
        num_islands=4000,
        kernel=kernel,
        generator=generator,
        **(fixed | settings),
    )
    assert draws.log_weights is not None
    return (draws.log_weights[:, 0] - LOG_Z).exp()


def z_score(values: Tensor, truth: float) -> float:
    standard_error = values.std() / math.sqrt(len(values))
    return ((values.mean() - truth) / standard_error).item()


@pytest.mark.parametrize(
    "kernel",
    [
        MALA(0.05),
        HMC(0.2, num_steps=3),
        MetropolisHastings(0.5),
        AdjustedMCLMC(0.3),
        SplitHMC(0.3),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_z_is_unbiased_over_many_small_runs(kernel: poe.samplers.Kernel) -> None:
    assert abs(z_score(unbiased_run(kernel), 1.0)) < MAX_Z


@pytest.mark.parametrize("start", [None, experts.Gaussian([2.0], scale=[1.5])])
def test_z_is_unbiased_from_any_start_and_along_a_ladder(start: poe.Expert | None) -> None:
    ladder = (PRIOR * LIKELIHOOD**0.1,)
    ratio = unbiased_run(MALA(0.05), start=start, path=ladder)
    assert abs(z_score(ratio, 1.0)) < MAX_Z


def test_weights_after_the_move_go_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake: particles moved by the new level's kernel, then weighted for that level."""

    class WeightsAfterTheMove(islands.Particles):
        def _move(self, path, temperature, parts, log_weights, kernel):  # type: ignore[no-untyped-def]
            moved = super()._move(path, temperature, parts, log_weights, kernel)
            before = torch.logsumexp(log_weights, 1)
            tilt = path.tilt(moved).reshape(log_weights.shape)
            step = temperature - self.last_temperature
            self.log_z += torch.logsumexp(step * tilt, 1) - before
            self.last_temperature = temperature
            return moved

        last_temperature = 0.0

    monkeypatch.setattr(smc, "Particles", WeightsAfterTheMove)
    assert abs(z_score(unbiased_run(MALA(0.05)), 1.0)) > 2 * MAX_Z


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_kernel_of_the_start_at_a_tempered_level_goes_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published mistake: the kernel leaves p₀ invariant, the level is another density."""
    monkeypatch.setattr(islands, "Level", lambda path, t: Level(path, 0.0))
    assert abs(z_score(unbiased_run(MALA(2.0)), 1.0)) > 2 * MAX_Z


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_weights_forgotten_in_resampling_go_red(monkeypatch: pytest.MonkeyPatch) -> None:
    resample = islands.systematic_resample

    def unweighted(log_weights: Tensor, num_chosen: int, **rest: Any) -> Tensor:
        return resample(torch.zeros_like(log_weights), num_chosen, **rest)

    monkeypatch.setattr(islands, "systematic_resample", unweighted)
    assert abs(z_score(unbiased_run(MALA(0.05)), 1.0)) > 2 * MAX_Z


@pytest.mark.law
def test_the_standard_errors_are_calibrated() -> None:
    """(estimate − truth) / standard error is Student's t with 15 degrees of freedom."""
    scores = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        # A small step: positions of one chain are much alike, and must not count as independent.
        draws = run(
            PRIOR * LIKELIHOOD,
            1000,
            kernel=MALA(0.005),
            num_moves=4,
            max_thinning=1,
            temperatures=(0.02, 0.1, 0.4, 1.0),
            generator=generator,
        )
        assert draws.log_partition is not None
        summary = draws.summary()
        log_z = (draws.log_partition.value - LOG_Z) / draws.log_partition.std_error
        scores.append(torch.stack([log_z, ((summary.mean - MEAN) / summary.mcse)[0]]))
    table = torch.stack(scores)
    variance, fourth = 15 / 13, 3 * 15**2 / (13 * 11)
    spread = math.sqrt((fourth - variance**2) / 60)
    assert (table.mean(0).abs() < MAX_Z * math.sqrt(variance / 60)).all()
    assert ((table.square().mean(0) - variance).abs() < MAX_Z * spread).all()


def island_means(draws: poe.Draws, values: Tensor) -> tuple[float, float]:
    """The weighted mean of f(x), and its standard error from the islands."""
    assert draws.log_weights is not None
    weights = torch.softmax(draws.log_weights[:, 0], 0) * len(values)
    means = values.double().mean(1)
    estimate = (weights * means).mean()
    residual = weights * (means - estimate)
    return estimate.item(), (residual.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("start", [None, experts.Gaussian([-2.0], scale=[4.0])])
def test_weighted_moments(start: poe.Expert | None, g: torch.Generator) -> None:
    draws = run(PRIOR * LIKELIHOOD, 40_000, start=start, num_islands=64, generator=g)
    x = draws.samples[..., 0]
    for values, truth in ((x, MEAN), ((x - MEAN).square(), VARIANCE)):
        estimate, error = island_means(draws, values)
        assert abs(estimate - truth) < MAX_Z * error
        assert error < 0.02
    torch.testing.assert_close(draws.log_density, (PRIOR * LIKELIHOOD)(draws.samples))


def test_the_weights_are_of_the_target_as_it_is(g: torch.Generator) -> None:
    shifted = PRIOR * LIKELIHOOD * poe.FromLogDensity(
        lambda x: torch.full_like(x[..., 0], -5000.0), space=poe.Real(1)
    )  # fmt: skip
    draws = run(shifted, 2000, generator=g)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    assert draws.log_weights.dtype == torch.float64
    assert draws.log_weights.shape == draws.log_density.shape == (16, 128)
    mean_weight = torch.logsumexp(draws.log_weights.flatten(), 0) - math.log(16 * 128)
    torch.testing.assert_close(mean_weight, draws.log_partition.value)
    error = abs(draws.log_partition.value + 5000.0 - LOG_Z)
    assert error < MAX_Z * draws.log_partition.std_error


def test_the_ring_from_a_broad_start(g: torch.Generator) -> None:
    angles = 2 * math.pi * torch.arange(8) / 8
    modes = 4.0 * torch.stack([angles.cos(), angles.sin()], 1)
    masses = torch.arange(1, 9) / 36.0
    constant = masses.log() - math.log(2 * math.pi * 0.35**2)
    ring = poe.FromLogDensity(
        lambda x: torch.logsumexp(
            constant - 0.5 * (x[..., None, :] - modes).square().sum(-1) / 0.35**2, -1
        ),
        space=poe.Real(2),
    )
    # From N(0, 10² I) by default.
    draws = run(ring, 16_000, num_moves=16, num_islands=64, generator=g)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    nearest = torch.cdist(draws.samples.flatten(0, 1), modes).argmin(1)
    for mode, mass in enumerate(masses.tolist()):
        found, error = island_means(draws, (nearest == mode).reshape(draws.log_weights.shape))
        assert abs(found - mass) < MAX_Z * error
    assert abs(draws.log_partition.value) < MAX_Z * draws.log_partition.std_error
    assert draws.log_partition.std_error < 0.05


def test_a_start_partly_outside_the_support(g: torch.Generator) -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf), space=poe.Real(1)
    )
    draws = run(PRIOR * half, 40_000, generator=g)
    assert draws.log_partition is not None
    assert draws.num_outside is not None
    assert abs(draws.log_partition.value - math.log(0.5)) < MAX_Z * draws.log_partition.std_error
    assert (draws.num_outside > 0).all()
    assert (draws.samples > 0).all()


def test_an_island_without_a_particle_inside_has_no_weight(g: torch.Generator) -> None:
    tail = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 3.0, 0.0, -torch.inf), space=poe.Real(1)
    )
    draws = run(PRIOR * tail, 4000, num_islands=1000, num_moves=2, generator=g)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    assert (draws.log_weights == -torch.inf).any()
    truth = math.log(0.5 * math.erfc(1 / math.sqrt(2)))
    assert abs(draws.log_partition.value - truth) < MAX_Z * draws.log_partition.std_error


def test_no_particle_inside_is_an_error() -> None:
    nowhere = poe.FromLogDensity(
        lambda x: torch.full_like(x[..., 0], -torch.inf), space=poe.Real(1)
    )
    with pytest.raises(poe.NonFiniteError, match="start="):
        run(PRIOR * nowhere, 1000)


def test_undefined_log_densities_are_counted_and_said(g: torch.Generator) -> None:
    hole = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 4.0, torch.nan, 0.0), space=poe.Real(1)
    )
    with pytest.warns(poe.TrustWarning, match="not defined there"):
        draws = run(PRIOR * hole, 4000, generator=g)
    assert draws.num_undefined is not None
    assert int(draws.num_undefined.sum()) > 0
    assert draws.log_partition is not None
    truth = math.log(1.0 - 0.5 * math.erfc(4.0 / 3.0 / math.sqrt(2.0)))
    assert abs(draws.log_partition.value - truth) < MAX_Z * draws.log_partition.std_error
    assert draws.samples.isfinite().all()
    assert "NaN" in draws.remarks[0]


def test_islands_that_disagree_are_said() -> None:
    far = poe.FromLogDensity(
        lambda x: -0.5 * ((x - 40.0) / 0.01).square().sum(-1), space=poe.Real(1)
    )
    generator = torch.Generator().manual_seed(0)
    with pytest.warns(poe.TrustWarning, match="islands disagree"):
        draws = run(PRIOR * far, 500, temperatures=(1.0,), generator=generator)
    assert draws.log_partition is not None
    assert draws.log_partition.remarks == draws.remarks
    assert not draws.log_partition.is_trusted


def test_log_z_of_a_run_says_what_it_is_worth_and_what_it_cost(g: torch.Generator) -> None:
    found = run(PRIOR * LIKELIHOOD, 4000, generator=g).log_partition
    assert found is not None
    assert found.is_trusted
    assert not found.is_exact
    assert 1 < found.ess <= 16
    assert found.num_evaluations > 4000
    assert found.confidence == 0.95
    assert found.lower < LOG_Z < found.upper


def test_a_constrained_space_from_the_default_start(g: torch.Generator) -> None:
    """∫ x³ e^(−2x) dx = 3! / 2⁴, from log-normal draws."""
    target = poe.FromLogDensity(lambda x: (3.0 * x.log() - 2.0 * x).sum(-1), space=poe.Positive(1))
    draws = run(target, 20_000, generator=g)
    assert draws.log_partition is not None
    truth = math.log(6 / 16)
    assert abs(draws.log_partition.value - truth) < MAX_Z * draws.log_partition.std_error
    estimate, error = island_means(draws, draws.samples[..., 0])
    assert abs(estimate - 2.0) < MAX_Z * error
    torch.testing.assert_close(draws.log_density, target(draws.samples))


def test_what_can_be_sampled_exactly_costs_no_variance(g: torch.Generator) -> None:
    draws = run(PRIOR * experts.Gaussian([1.0], scale=[0.5]), 1000, generator=g)
    closed = poe.log_partition(PRIOR * experts.Gaussian([1.0], scale=[0.5]))
    assert draws.log_partition is not None
    torch.testing.assert_close(draws.log_partition.value.float(), closed.value)
    assert draws.log_partition.std_error < 1e-6


def test_experts_of_one_family_make_one_start_together(g: torch.Generator) -> None:
    near = experts.Gaussian([1.0], scale=[0.3])
    draws = run(PRIOR * near * LIKELIHOOD, 4000, generator=g)
    assert draws.log_partition is not None
    truth = poe.log_partition(PRIOR * near * LIKELIHOOD).value  # by quadrature
    assert abs(draws.log_partition.value - truth) < MAX_Z * draws.log_partition.std_error + 1e-4
    from_one = run(PRIOR * near * LIKELIHOOD, 4000, start=PRIOR, generator=g)
    assert draws.num_warmup < from_one.num_warmup
    torch.testing.assert_close(
        draws.log_density, (PRIOR * near * LIKELIHOOD)(draws.samples), rtol=1e-4, atol=1e-4
    )


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    one, two, three = (
        run(PRIOR * LIKELIHOOD, 1000, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.samples, two.samples)
    assert torch.equal(one.log_weights, two.log_weights)  # type: ignore[arg-type]
    assert not torch.equal(one.samples, three.samples)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_given_settings_are_kept_and_others_adapted(g: torch.Generator) -> None:
    kept = run(PRIOR * LIKELIHOOD, 1000, kernel=MALA(0.03), generator=g)
    assert kept.kernel == MALA(0.03)
    tuned = run(PRIOR * LIKELIHOOD, 4000, kernel=MALA(), generator=g)
    assert isinstance(tuned.kernel, MALA)
    # A normal of variance v has the step size 1.2 v, and 3 v is accepted nearly as often.
    assert 0.5 < tuned.kernel.step_size / VARIANCE < 3.5  # type: ignore[operator]
    assert tuned.acceptance_rate is not None
    assert abs(tuned.acceptance_rate.mean() - tuned.kernel.target_acceptance) < CLOSE


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_first_step_size_far_too_large_is_found_before_it_counts(g: torch.Generator) -> None:
    sharp = poe.FromLogDensity(lambda x: -1e8 * x.square().sum(-1), space=poe.Real(1))
    schedule = {"temperatures": (1.0,), "num_moves": 2, "max_thinning": 1}
    draws = run(PRIOR * sharp, 4000, kernel=HMC(), generator=g, **schedule)
    assert isinstance(draws.kernel, HMC)
    assert draws.kernel.step_size < 1e-3  # type: ignore[operator]
    assert draws.num_warmup > 5  # so many trials, whose moves are thrown away
    assert draws.acceptance_rate.mean() > 0.3  # type: ignore[union-attr]


def test_what_was_done_is_shown(g: torch.Generator) -> None:
    draws = run(PRIOR * LIKELIHOOD, 2000, num_moves=5, max_thinning=1, generator=g)
    assert isinstance(draws.kernel, Preconditioned)
    assert isinstance(draws.kernel.kernel, SplitHMC)
    assert draws.kernel.affine is not None
    assert draws.guarantee == "asymptotically exact"
    assert draws.samples.shape == (16, 125, 1)
    assert draws.seed == 0
    assert draws.num_warmup > 0
    # The start's particles and the moves of all levels but the last; then its own.
    assert draws.warmup_gradients >= 5 + draws.num_warmup
    assert draws.num_gradients >= 5
    assert "a score" in draws.choice
    uncorrected = run(PRIOR * LIKELIHOOD, 500, kernel=ULA(0.01), generator=g)
    assert uncorrected.guarantee == "biased"


def test_a_target_without_a_score_is_moved_by_a_random_walk(g: torch.Generator) -> None:
    """Steps of 1/4, which no gradient sees; the integral is that of the nearest multiples."""
    steps = poe.FromLogDensity(
        lambda x: -8.0 * ((4.0 * x).round() / 4.0 - 1.0).square().sum(-1), space=poe.Real(1)
    )
    start = experts.Gaussian([1.0], scale=[2.0])
    draws = run(steps, 8000, start=start, generator=g)
    centres = torch.arange(-400, 400, dtype=torch.float64) / 4.0
    truth = torch.logsumexp(-8.0 * (centres - 1.0).square() + math.log(0.25), 0)
    assert isinstance(draws.kernel, Preconditioned)
    assert isinstance(draws.kernel.kernel, MetropolisHastings)
    assert draws.log_partition is not None
    assert abs(draws.log_partition.value - truth) < MAX_Z * draws.log_partition.std_error


def test_what_will_be_done_is_said(g: torch.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    poe.smc(poe.Product(broad=PRIOR, sharp=LIKELIHOOD), 1000, generator=g)
    said = capsys.readouterr().err
    assert "16 islands x 8 chains x 8 moves a level" in said
    assert "from expert 'broad'" in said
    assert "t = 1" in said


def test_chains_that_mix_slowly_go_on_longer(g: torch.Generator) -> None:
    slow = {"kernel": MALA(1e-4), "num_moves": 4, "temperatures": (1.0,)}
    short = run(PRIOR * LIKELIHOOD, 4000, max_thinning=1, generator=g, **slow)
    long = run(PRIOR * LIKELIHOOD, 4000, max_thinning=8, generator=g, **slow)
    assert short.num_gradients == 4
    assert long.num_gradients == 32
    assert short.samples.shape == long.samples.shape


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_islands": 1}, "num_islands >= 2"),
        ({"num_moves": 0}, "num_moves >= 1"),
        ({"conditional_ess": 1.0}, "conditional_ess < 1"),
        ({"temperatures": (0.5, 0.4, 1.0)}, "t1 < ... < 1"),
        ({"temperatures": (0.5, 0.9)}, "the last one 1"),
        ({"start": LIKELIHOOD}, "exact draws"),
        ({"start": experts.Gaussian([0.0, 0.0], scale=[1.0, 1.0])}, "experts of a path"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        run(PRIOR * LIKELIHOOD, 1000, **settings)


def test_counts_start_from_all_sizes() -> None:
    target = poe.FromEnergy(lambda x: (x - 300).square().sum(-1) / 200, space=poe.Count(3))
    draws = run(target, 1000)
    assert draws.log_partition is not None
    truth = 3 * 0.5 * math.log(200 * math.pi)  # a Gaussian of sd 10
    found = draws.log_partition
    assert (found.value - truth).abs() < 4.5 * found.std_error
    mean = draws.samples.flatten(0, 1).mean(0)
    assert (mean - 300).abs().max() < 4.0


@pytest.mark.slow
def test_modes_of_counts_that_particles_may_lose_are_said() -> None:
    def far_apart(x: Tensor) -> Tensor:
        rates = torch.tensor([[2.0], [50.0]])
        each = torch.distributions.Poisson(rates).log_prob(x[:, None])
        return each.sum(-1).logsumexp(1)

    target = poe.FromLogDensity(far_apart, space=poe.Count(10))
    draws = run(target, 400)
    assert any("settle apart" in doubt.text for doubt in draws.doubts)


@pytest.mark.slow
def test_particles_reach_the_neck_of_a_funnel() -> None:
    """Neal's, v ~ N(0, 3²): by moves that fit the place, chosen where the scores vary in scale."""

    def log_density(x: Tensor) -> Tensor:
        v, rest = x[..., 0], x[..., 1:]
        necks = rest.square().sum(-1) * (-v).exp() + rest.shape[-1] * v
        return -0.5 * (v / 3).square() - 0.5 * necks

    target = poe.FromLogDensity(log_density, space=poe.Real(5))
    g = torch.Generator().manual_seed(0)
    draws = poe.smc(target, 8000, generator=g, progress=False)
    is_low = (draws.samples[..., 0] < -3).double()
    share = poe.diagnostics.weighted_moments(is_low, draws.log_weights)
    assert share.mcse < 0.02
    assert abs(share.mean - 0.1587) < 4 * share.mcse


def test_positions_without_a_score_have_no_weight() -> None:
    """A tail with a number and none to follow there, of .6 % of the mass."""

    def log_density(x: Tensor) -> Tensor:
        square = x.square().sum(-1)
        lost = torch.where(x[..., 0] < 2.5, 1.0, 0.0 * square)
        return -0.5 * square + 0.0 * lost.sqrt()  # whose gradient at 0 is 0 times infinity

    target = poe.FromLogDensity(log_density, space=poe.Real(2))
    assert target.score(torch.tensor([[3.0, 0.0]])).isnan().any()
    with pytest.warns(poe.TrustWarning, match="a NaN score, and were given no weight"):
        draws = poe.smc(target, 4000, generator=torch.Generator().manual_seed(0), progress=False)
    assert (draws.samples[..., 0] < 2.5).all()
    found = draws.log_partition
    assert found is not None
    inside = math.log(2 * math.pi) + math.log(0.99379)
    assert abs(found.value - inside) < 4 * found.std_error
