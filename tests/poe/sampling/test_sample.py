"""`poe.sample`: what it chooses, where it starts, what it refuses and notices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.samplers import (
    MALA,
    ULA,
    AnnealedLangevin,
    Dense,
    LatticeGibbs,
    MetropolisHastings,
    ModeJumps,
    ParallelTempering,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.kernel import Kernel
from tests.tuned import check_tuned_rate


def gaussian_like(dimension: int = 2) -> poe.Expert:
    """A standard normal that nobody can sample exactly."""
    return poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(dimension))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(target: poe.Expert, num_samples: int, **arguments: object) -> poe.Draws:
    return poe.sample(target, num_samples, progress=False, **arguments)  # type: ignore[arg-type]


# What it chooses


def test_a_product_of_gaussians_is_drawn_exactly() -> None:
    joint = experts.Gaussian([-1.0], scale=[1.0]) * experts.Gaussian([2.0], scale=[0.5])
    draws = quiet(joint, 20_000, generator=seeded())
    assert draws.guarantee == "exact"
    assert draws.kernel is None
    assert draws.log_weights is None
    x = draws.samples.flatten()
    precision = 1 + 4
    mean, sd = (-1 + 4 * 2) / precision, precision**-0.5
    assert abs(x.mean() - mean) < 4 * sd / len(x) ** 0.5
    assert abs(x.var() - sd**2) < 4 * sd**2 * (2 / len(x)) ** 0.5
    torch.testing.assert_close(draws.log_density, joint(draws.samples))


def test_mala_is_tuned_over_all_chains() -> None:
    draws = quiet(
        gaussian_like(5), 4000, kernel=MALA(), num_chains=40, warmup=400, generator=seeded()
    )
    assert isinstance(draws.kernel, MALA)
    assert isinstance(draws.kernel.step_size, float)
    assert draws.acceptance_rate is not None
    check_tuned_rate(draws.acceptance_rate, 0.574, num_steps=100, num_updates=200)


def test_the_default_is_hmc_around_a_fitted_gaussian() -> None:
    draws = quiet(gaussian_like(5), 4000, num_chains=40, warmup=400, generator=seeded())
    assert draws.guarantee == "asymptotically exact"
    assert isinstance(draws.kernel, Preconditioned)
    assert isinstance(draws.kernel.kernel, SplitHMC)
    assert isinstance(draws.kernel.affine, Dense)
    assert draws.kernel.kernel.num_steps == 1  # exact for a Gaussian
    assert "5 dimensions" in draws.choice
    assert draws.remarks == ()
    summary = draws.summary()
    z = (summary.mean / summary.mcse).abs().max()
    assert z < 4


@pytest.mark.parametrize("num_samples", [1, 7, 1000, 4001, 70_000])
def test_there_are_enough_draws(num_samples: int) -> None:
    draws = quiet(experts.Gaussian([0.0], scale=[1.0]), num_samples, generator=seeded())
    chains, length, dimension = draws.samples.shape
    assert num_samples <= chains * length < num_samples + chains
    assert dimension == 1
    assert draws.log_density.shape == (chains, length)


@pytest.mark.parametrize("num_samples", [1, 9])
def test_there_are_enough_draws_from_a_kernel(num_samples: int) -> None:
    draws = quiet(gaussian_like(), num_samples, kernel=MALA(0.5), warmup=0, generator=seeded())
    assert draws.samples.shape == (4, -(-num_samples // 4), 2)


def test_a_kernel_keeps_the_settings_given() -> None:
    draws = quiet(gaussian_like(), 100, kernel=MALA(0.123), warmup=50, generator=seeded())
    assert draws.kernel == MALA(0.123)
    assert draws.num_warmup == 50


def test_a_setting_left_out_is_tuned() -> None:
    kernel = MetropolisHastings()
    draws = quiet(
        gaussian_like(), 4000, kernel=kernel, num_chains=40, warmup=400, generator=seeded()
    )
    assert isinstance(draws.kernel, MetropolisHastings)
    assert draws.kernel.scale is not None
    assert draws.acceptance_rate is not None
    check_tuned_rate(draws.acceptance_rate, 0.234, num_steps=100, num_updates=200)


def test_ula_is_called_biased() -> None:
    draws = quiet(gaussian_like(), 100, kernel=ULA(0.1), warmup=10, generator=seeded())
    assert draws.guarantee == "biased"


def test_counts_are_drawn_from_a_table_or_by_a_kernel() -> None:
    def energy(x: Tensor) -> Tensor:
        return (x - 3).square().sum(-1) + 0.1 * x.prod(-1)

    few, many = (poe.FromEnergy(energy, space=poe.Count(size)) for size in (2, 5))
    draws = quiet(few, 100, generator=seeded())
    assert draws.guarantee == "exact"
    assert "what lies beyond has at most" in draws.choice
    draws = quiet(many, 100, warmup=20, generator=seeded())
    assert draws.guarantee == "asymptotically exact"
    assert isinstance(draws.kernel, LatticeGibbs)
    assert many.space.contains(draws.samples).all()


def test_the_transition_is_that_of_the_kernel_by_hand() -> None:
    target, kernel, x = gaussian_like(), MALA(0.5), torch.ones(3, 2)
    draws = quiet(target, 12, kernel=kernel, warmup=5, initial=x, generator=seeded())
    g, state = seeded(), kernel.init(target, x)
    for step in range(9):
        state, _ = kernel.step(target, state, generator=g)
        if step >= 5:
            assert torch.equal(draws.samples[:, step - 5], state.position)
            assert torch.equal(draws.log_density[:, step - 5], state.log_density)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first = quiet(gaussian_like(), 200, warmup=50, generator=seeded(5))
    second = quiet(gaussian_like(), 200, warmup=50, generator=seeded(5))
    other = quiet(gaussian_like(), 200, warmup=50, generator=seeded(6))
    assert torch.equal(first.samples, second.samples)
    assert not torch.equal(first.samples, other.samples)
    assert first.seed == 5
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_each_run_is_new() -> None:
    runs = [quiet(gaussian_like(), 8, kernel=MALA(0.5), warmup=1).samples for _ in range(2)]
    assert not torch.equal(*runs)


def test_it_says_what_it_does_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    poe.sample(gaussian_like(), 40, warmup=20, generator=seeded())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "preconditioned FittedHMC (a score in 2 dimensions" in captured.err
    assert "4 chains x 10 draws after 20 warm-up steps" in captured.err
    assert "acceptance" in captured.err
    poe.sample(gaussian_like(), 40, warmup=20, generator=seeded(), progress=False)
    assert capsys.readouterr().err == ""


def test_collect_keeps_a_function_of_each_draw() -> None:
    arguments = {"kernel": MALA(0.5), "warmup": 10}
    whole = quiet(gaussian_like(), 40, generator=seeded(), **arguments)
    first = quiet(gaussian_like(), 40, generator=seeded(), collect=lambda x: x[:, 0], **arguments)
    assert torch.equal(first.samples, whole.samples[:, :, 0])
    exact = quiet(experts.Gaussian([0.0, 1.0], scale=[1.0, 1.0]), 40, collect=lambda x: x.sum(-1))
    assert exact.samples.shape == (4, 10)


# Constrained spaces

CONSTRAINED: dict[str, tuple[poe.Expert, Callable[[Tensor], Tensor], float]] = {
    # space, statistic and its mean in closed form
    "Positive": (
        poe.FromLogDensity(lambda x: (x.log() - x).sum(-1), space=poe.Positive(2)),
        lambda x: x.mean(-1),  # Gamma(2, 1)
        2.0,
    ),
    "Interval": (
        poe.FromLogDensity(lambda x: (x + 1).log().sum(-1), space=poe.Interval(2, -1.0, 1.0)),
        lambda x: x.mean(-1),  # density (x + 1) / 2
        1 / 3,
    ),
    "Simplex": (
        poe.FromLogDensity(lambda x: 2 * x[..., 0].log(), space=poe.Simplex(3)),
        lambda x: x[..., 0],  # Dirichlet(3, 1, 1)
        0.6,
    ),
}


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("kernel", [None, MetropolisHastings()], ids=["MALA", "Metropolis"])
def test_constrained_spaces(name: str, kernel: Kernel | None) -> None:
    target, statistic, expected = CONSTRAINED[name]
    draws = quiet(target, 20_000, kernel=kernel, num_chains=400, warmup=300, generator=seeded())
    assert target.space.contains(draws.samples).all()
    torch.testing.assert_close(draws.log_density, target(draws.samples), atol=1e-3, rtol=1e-3)
    by_chain = statistic(draws.samples).mean(1)  # chains are independent
    z = (by_chain.mean() - expected) / (by_chain.std() / len(by_chain) ** 0.5)
    assert abs(z) < 4


def test_a_ladder_on_a_constrained_space() -> None:
    target = CONSTRAINED["Positive"][0]
    kernel = AnnealedLangevin((target**0.5,), steps_per_level=100)
    draws = quiet(target, 20_000, kernel=kernel, num_chains=400, generator=seeded())
    by_chain = draws.samples.mean((1, 2))
    assert abs(by_chain.mean() - 2.0) < 4 * by_chain.std() / 400**0.5


def test_initial_positions_are_given_in_the_targets_own_space() -> None:
    target = CONSTRAINED["Interval"][0]
    x = torch.full((4, 2), 0.25)
    draws = quiet(target, 4, kernel=MALA(1e-12), warmup=0, initial=x, generator=seeded())
    torch.testing.assert_close(draws.samples[:, 0], x, atol=1e-4, rtol=0)


# Where it starts


def test_chains_start_at_draws_of_a_samplable_expert() -> None:
    far = experts.Gaussian([100.0], scale=[0.1])
    target = poe.Product(shape=gaussian_like(1), far=far)
    draws = quiet(target, 4, kernel=MALA(1e-9), warmup=0, generator=seeded())
    assert (draws.samples - 100).abs().max() < 1


def test_a_negative_expert_is_no_place_to_start() -> None:
    far = experts.Gaussian([100.0], scale=[10.0])
    target = gaussian_like(1) / far
    draws = quiet(target, 4, kernel=MALA(1e-9), warmup=0, generator=seeded())
    assert draws.samples.abs().max() < 6


def test_starts_outside_the_support_are_drawn_again() -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x > 0, -x, -torch.inf).sum(-1), space=poe.Real(1)
    )
    draws = quiet(target, 80, kernel=MALA(0.1), num_chains=40, warmup=0, generator=seeded())
    assert (draws.samples > 0).all()


def test_a_start_that_never_gets_inside_is_an_error_with_the_experts_name() -> None:
    nowhere = poe.FromLogDensity(lambda x: torch.full_like(x[:, 0], -torch.inf), space=poe.Real(1))
    target = poe.Product(fine=gaussian_like(1), nowhere=nowhere)
    with pytest.raises(poe.NonFiniteError, match="expert 'nowhere': -inf"):
        quiet(target, 10)


def test_an_initial_position_outside_the_support_is_an_error_with_the_experts_name() -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x > 0, -x, -torch.inf).sum(-1), space=poe.Real(1)
    )
    target = poe.Product(fine=gaussian_like(1), half=half)
    with pytest.raises(poe.NonFiniteError, match="expert 'half': -inf"):
        quiet(target, 10, initial=torch.tensor([[1.0], [-1.0]]))


def test_a_nan_start_is_an_error() -> None:
    target = poe.FromLogDensity(lambda x: x.sum(-1) * torch.nan, space=poe.Real(1))
    with pytest.raises(poe.NonFiniteError, match="nan"):
        quiet(target, 10)


def test_a_log_density_of_more_digits_leaves_positions_as_they_are() -> None:
    # A function over float64 constants, of float32 positions.
    scales = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    target = poe.FromLogDensity(lambda x: -(x / scales).square().sum(-1), space=poe.Real(3))
    for kernel in (None, poe.samplers.MALA(), poe.samplers.MetropolisHastings()):
        draws = poe.sample(target, 200, kernel=kernel, generator=seeded(), progress=False)
        assert draws.samples.dtype == torch.float32
        assert draws.log_density.dtype == torch.float64


def test_float64_all_the_way() -> None:
    x = torch.zeros(4, 2, dtype=torch.float64)
    draws = quiet(gaussian_like(), 40, warmup=50, initial=x, generator=seeded())
    assert draws.samples.dtype == draws.log_density.dtype == torch.float64


# A batch of densities


class Shifted(poe.Conditional):
    """N(y, 0.5²) for a label y: one density for each chain."""

    space = poe.Real(1)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return -2.0 * (x.squeeze(-1) - condition).square()


def test_a_batch_of_densities_has_a_chain_for_each_condition() -> None:
    labels = torch.tensor([0.0, 10.0, -10.0])
    target = Shifted().given(labels)
    draws = quiet(target, 900, initial=labels[:, None], generator=seeded())
    assert draws.samples.shape == (3, 300, 1)
    for chain, label in zip(draws.samples, labels, strict=True):
        assert abs(chain.mean() - label) < 4 * poe.diagnostics.mcse_mean(chain[None])
    ladder = AnnealedLangevin((target**0.2,), steps_per_level=50)
    warmup = poe.Warmup(50, per_chain=True)
    draws = quiet(target, 900, kernel=ladder, warmup=warmup, generator=seeded())
    for chain, label in zip(draws.samples, labels, strict=True):
        assert abs(chain.mean() - label) < 4 * poe.diagnostics.mcse_mean(chain[None])
    assert isinstance(draws.kernel, AnnealedLangevin)
    assert draws.kernel.step_size is not None
    assert draws.kernel.step_size[1].shape == (3,)  # type: ignore[union-attr]


def test_numbers_of_chains_must_agree() -> None:
    target = Shifted().given(torch.zeros(3))
    with pytest.raises(poe.ShapeError, match=r"num_chains = 4, the target's number .* = 3"):
        quiet(target, 100, num_chains=4)
    with pytest.raises(poe.ShapeError, match="one number of chains"):
        quiet(gaussian_like(), 100, num_chains=4, initial=torch.zeros(5, 2))
    with pytest.raises(poe.ShapeError):
        quiet(gaussian_like(), 100, num_chains=0)


@pytest.mark.parametrize("num_samples", [0, -3])
def test_no_samples_are_refused(num_samples: int) -> None:
    with pytest.raises(poe.PoeError, match="num_samples >= 1"):
        quiet(gaussian_like(), num_samples)


# What it notices


def test_an_exploding_ula_is_counted_and_warned_about() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(1))
    start = torch.tensor([[10.0], [0.0], [10.0]])
    with pytest.warns(poe.TrustWarning, match="2 of 3 chains exploded"):
        draws = quiet(target, 90, kernel=ULA(0.1), warmup=0, initial=start, generator=seeded())
    assert draws.num_undefined is not None
    assert (draws.num_undefined > 20).tolist() == [True, False, True]
    assert (draws.num_nonfinite > 20).tolist() == [True, False, True]
    assert "exploded" in str(draws.summary())


def test_a_ula_that_explodes_in_warm_up_is_still_reported() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(1))
    start = torch.full((3, 1), 10.0)
    with pytest.warns(poe.TrustWarning, match="3 of 3 chains exploded"):
        quiet(target, 9, kernel=ULA(0.1), warmup=20, initial=start, generator=seeded())


def test_nan_proposals_are_counted_and_warned_about() -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x > -1, -0.5 * x.square(), torch.nan).sum(-1), space=poe.Real(1)
    )
    with pytest.warns(poe.TrustWarning, match="NaN"):
        draws = quiet(target, 400, initial=torch.zeros(4, 1), warmup=50, generator=seeded())
    assert draws.num_undefined is not None
    assert draws.num_undefined.sum() > 0
    assert draws.samples.isfinite().all()


def test_chains_that_never_move_are_named() -> None:
    scale = torch.tensor([1.0, 1e6])
    with pytest.warns(poe.TrustWarning, match=r"1 of 2 chains never moved.*chain 1"):
        draws = quiet(
            gaussian_like(), 200, kernel=MetropolisHastings(scale), num_chains=2, warmup=0,
            generator=seeded(),
        )  # fmt: skip
    assert draws.stuck_chains == [1]


@pytest.mark.parametrize(
    ("log_density", "name"),
    [
        (lambda x: -0.5 * x.square().sum(-1), "explosive"),  # N / N² grows like exp(x²/2)
        (lambda x: -0.5 * x.sum(-1), "linear"),
    ],
)
def test_an_escape_from_an_improper_product_is_noticed(
    log_density: Callable[[Tensor], Tensor], name: str
) -> None:
    bad = poe.FromLogDensity(log_density, space=poe.Real(1))
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(1))
    target = poe.Product(flat=flat, bad=bad**-1)
    with pytest.warns(poe.TrustWarning, match="may be improper.*'bad'"):
        quiet(target, 800, kernel=MALA(0.3), warmup=300, generator=seeded())


def test_a_flat_density_is_an_escape_too() -> None:
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(1))
    target = poe.Product(flat=flat, cancelled=gaussian_like(1) / gaussian_like(1))
    with pytest.warns(poe.TrustWarning, match="still moving outward"):
        quiet(target, 19_200, kernel=MALA(0.3), num_chains=64, warmup=1, generator=seeded())


@pytest.mark.parametrize("seed", range(2))
def test_a_proper_product_with_a_negative_exponent_is_not_blamed(seed: int) -> None:
    narrow = poe.FromLogDensity(lambda x: -2.0 * x.square().sum(-1), space=poe.Real(2))
    target = narrow / gaussian_like() ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", poe.TrustWarning)
        quiet(target, 800, warmup=400, generator=seeded(seed))


def test_a_product_that_can_be_shown_improper_is_refused() -> None:
    target = poe.Product(
        sharp=experts.Gaussian([0.0], scale=[2.0]),
        taken_away=experts.Gaussian([0.0], scale=[1.0]) ** -1,
    )
    with pytest.raises(poe.ImproperError, match="taken_away"):
        quiet(target, 100)


def test_chains_in_chunks_give_the_same_draws() -> None:
    class Few(poe.Expert):
        space = poe.Real(2)

        def forward(self, x: Tensor) -> Tensor:
            assert len(x) <= 12, "too many at a time"
            return -0.5 * x.square().sum(-1)

    arguments = {"kernel": MALA(), "num_chains": 20, "warmup": 20}
    whole = quiet(gaussian_like(), 100, generator=seeded(), **arguments)
    with pytest.raises(AssertionError, match="too many at a time"):
        quiet(Few(), 100, generator=seeded(), **arguments)
    start = torch.randn(12, 2, generator=seeded())
    part = quiet(gaussian_like(), 100, generator=seeded(), chains_at_once=7, **arguments)
    assert torch.equal(whole.samples, part.samples)
    few = {**arguments, "num_chains": 12, "initial": start}
    assert quiet(Few(), 100, generator=seeded(), chains_at_once=5, **few).samples.shape[0] == 12


def test_a_batch_of_densities_cannot_be_evaluated_in_chunks() -> None:
    target = Shifted().given(torch.tensor([0.0, 1.0]))
    with pytest.raises(poe.PoeError, match=r"got a batch of them.*chains_at_once"):
        quiet(target, 10, chains_at_once=1)


def _two_modes() -> poe.Expert:
    """0.25 N(−6, 1) + 0.75 N(6, 1), in both components, as nobody can sample it exactly."""
    weights = torch.tensor([0.25, 0.75]).log()

    def log_density(x: Tensor) -> Tensor:
        left, right = -0.5 * (x + 6).square().sum(-1), -0.5 * (x - 6).square().sum(-1)
        return torch.logaddexp(weights[0] + left, weights[1] + right)

    return poe.FromLogDensity(log_density, space=poe.Real(2))


@pytest.mark.law
@pytest.mark.parametrize("has_score", [True, False])
def test_chains_that_settle_apart_jump_or_are_tempered(has_score: bool) -> None:
    target = _two_modes() if has_score else _without_score(_two_modes())
    draws = quiet(target, 16_000, num_chains=16, warmup=400, generator=seeded())
    assert isinstance(draws.kernel, ModeJumps if has_score else ParallelTempering)
    assert "settled in different" in draws.choice
    assert draws.guarantee == "asymptotically exact"
    summary = draws.summary()
    expected = torch.full((2,), 0.5 * 6.0, dtype=torch.float64)  # −6 · 0.25 + 6 · 0.75
    assert ((summary.mean - expected) / summary.mcse).abs().max() < 4


def _without_score(target: poe.Expert) -> poe.Expert:
    """The same on a fine grid, whose score is 0 wherever there is one."""
    return poe.FromLogDensity(lambda x: target((64 * x).round() / 64), space=poe.Real(2))


class Tempered(NamedTuple):
    """A run that is led between modes, and how many rows of the target it asked for."""

    draws: poe.Draws
    num_rows: int


def tempered_run(checkpoint: Path | None, has_score: bool) -> Tempered:
    num_rows, modes = 0, _two_modes()
    modes = modes if has_score else _without_score(modes)

    def counted(x: Tensor) -> Tensor:
        nonlocal num_rows
        num_rows += len(x)
        return modes(x)

    target = poe.FromLogDensity(counted, space=poe.Real(2))
    draws = quiet(
        target,
        8 * 100 if has_score else 16 * 100,
        num_chains=8 if has_score else 16,
        warmup=200 if has_score else 400,
        generator=seeded(),
        checkpoint=checkpoint,
    )
    return Tempered(draws, num_rows)


@pytest.fixture(scope="module", params=[True, False], ids=["jumps", "tempering"])
def tempered(request: pytest.FixtureRequest) -> Tempered:
    return tempered_run(None, request.param)


@pytest.mark.law
def test_what_led_between_modes_counts_as_warm_up(tempered: Tempered) -> None:
    """The first run's warm-up, the look, tuning, and the burn-in: all evaluate the target."""
    draws, num_rows = tempered
    is_tempered = isinstance(draws.kernel, ParallelTempering)
    assert is_tempered or isinstance(draws.kernel, ModeJumps)
    num_evaluations = draws.warmup_gradients + draws.num_gradients
    # Some few more: where the chains start, are tried, and where each level of the ladder starts.
    assert num_evaluations <= num_rows / len(draws.samples) <= num_evaluations + 50
    assert draws.num_warmup > 200 + (200 + 500 if is_tempered else 80 + 30)
    assert draws.seconds >= draws.warmup_seconds + draws.sampling_seconds
    assert draws.warmup_seconds > 2 * draws.sampling_seconds


@pytest.mark.law
def test_a_run_between_modes_resumes_with_the_same_bits(tempered: Tempered, tmp_path: Path) -> None:
    whole, has_score = tempered.draws.samples, isinstance(tempered.draws.kernel, ModeJumps)
    assert torch.equal(tempered_run(tmp_path / "run", has_score).draws.samples, whole)
    assert (tmp_path / "run.tempering").exists()
    assert torch.equal(tempered_run(tmp_path / "run", has_score).draws.samples, whole)


@pytest.mark.parametrize("is_exact", [True, False])
def test_more_chains_than_memory_holds_are_refused_before_any_is_made(is_exact: bool) -> None:
    plain = poe.FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(2))
    target = experts.Gaussian([0.0, 0.0], 1.0) if is_exact else plain
    with pytest.raises(
        poe.SizeError, match="chains that memory holds, got 10,000,000,000 of shape"
    ):
        poe.sample(target, 100, num_chains=10**10, progress=False)
