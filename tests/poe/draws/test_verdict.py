"""The verdict on a run: whether it has arrived, told once, and of the right runs nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import experts
import poe
from poe.core.doubt import Doubt, Kind, kinds
from poe.diagnostics.agreement import MAX_R_HAT, agreement, series


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def opaque(dimension: int) -> poe.Expert:
    return poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(dimension))


def told(target: poe.Expert, count: int, **options: object) -> tuple[poe.Draws, list[str]]:
    """The draws, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draws = poe.sample(target, count, generator=seeded(), progress=False, **options)  # type: ignore[arg-type]
    trust = [w for w in caught if issubclass(w.category, poe.TrustWarning)]
    assert all(w.filename == __file__ for w in trust)
    return draws, [str(w.message) for w in trust]


def slow_run() -> tuple[poe.Draws, list[str]]:
    """A run whose chains begin apart and hardly move."""
    start = torch.tensor([[-4.0], [-2.0], [2.0], [4.0]])
    kernel = poe.samplers.MALA(step_size=1e-3)
    return told(opaque(1), 400, kernel=kernel, initial=start, warmup=1)


def test_a_run_that_has_not_arrived_says_so_once_and_everywhere(tmp_path: Path) -> None:
    draws, warned = slow_run()
    [words] = warned
    assert words.startswith("the run has not arrived:\n- ")
    assert draws.guarantee == "asymptotically exact"
    assert not draws.is_trusted
    assert {Kind.NOT_CONVERGED, Kind.FEW} <= kinds(draws.verdict.doubts)
    assert draws.doubts == ()  # the run itself noticed nothing on its way
    assert draws.remarks == draws.verdict.remarks == draws.summary().warnings
    assert "not arrived: chains disagree with each other" in repr(draws)
    assert "not arrived: chains disagree with each other" in str(draws.summary())
    assert all(remark in words for remark in draws.remarks)


def test_a_run_that_has_arrived_is_not_accused() -> None:
    draws, warned = told(opaque(2), 1000, kernel=poe.samplers.HMC(0.5, 4), warmup=50)
    assert (warned, draws.remarks, draws.is_trusted) == ([], (), True)
    assert "asymptotically exact, arrived, HMC(" in repr(draws)
    assert draws.verdict.r_hat < 1.05
    assert draws.verdict.ess > 40
    assert draws.verdict.figures.endswith("of the log-density and 2 components")


@pytest.mark.parametrize("count", [4, 20, 100])
@pytest.mark.parametrize("seed", range(5))
def test_exact_draws_are_independent_however_few(count: int, seed: int) -> None:
    target = experts.Gaussian([0.0, 0.0], scale=[1.0, 2.0])
    generator = torch.Generator().manual_seed(seed)
    draws = poe.sample(target, count, generator=generator, progress=False)
    assert draws.remarks == ()
    assert repr(draws).endswith("exact)")


class Seen(poe.Conditional):
    condition_ndim = 1

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return Normal(condition, 0.5).log_prob(x).sum(-1)


def test_posteriors_of_a_batch_are_not_compared_with_each_other() -> None:
    y = 20 * torch.randn(8, 2, generator=torch.Generator().manual_seed(5))
    prior = experts.Gaussian([0.0, 0.0], scale=[1.0, 1.0])
    draws, warned = told(poe.Product(Seen().given(y), prior), 8 * 500, warmup=300)
    assert draws.is_batch
    assert (warned, draws.remarks) == ([], ())
    assert draws.escaped_chains == draws.still_chains == []
    summary = draws.summary()
    assert summary.mean.shape == summary.r_hat.shape == (8, 2)
    assert ((summary.mean - 0.8 * y) / summary.mcse).abs().max() < 4.5
    assert "a density for each chain" in str(summary)


def test_a_chain_of_a_batch_that_drifts_is_told() -> None:
    x = torch.randn(8, 400, 1, generator=torch.Generator().manual_seed(0))
    x = x + 50 * torch.arange(8.0)[:, None, None]
    draws = poe.Draws(x, x[..., 0], "asymptotically exact", is_batch=True)
    assert draws.is_trusted
    x[3, 200:] += 2.0
    draws = poe.Draws(x, x[..., 0], "asymptotically exact", is_batch=True)
    assert "halves of the same chains disagree" in draws.remarks[0]


@pytest.mark.parametrize("count", [50, 250, 1000])
@pytest.mark.parametrize("dimension", [1, 100])
def test_chance_is_not_disagreement(count: int, dimension: int) -> None:
    """The largest R-hat of 100 components of 4 chains exceeds 1.01 in most runs of 250 draws."""
    generator, num_accused = torch.Generator().manual_seed(0), 0
    for _ in range(20):
        x = torch.randn(4, count, dimension, generator=generator)
        for t in range(1, count):  # of autocorrelation 1/3: worth half of as many
            x[:, t] = x[:, t - 1] / 3 + x[:, t] * (8 / 9) ** 0.5
        num_accused += not poe.Draws(x, x.sum(-1), "asymptotically exact").is_trusted
    assert num_accused <= 1


@pytest.mark.parametrize("shift", [0.5, 1.0])
@pytest.mark.parametrize("chains", [4, 20])
def test_disagreement_is_not_chance(shift: float, chains: int) -> None:
    for seed in range(10):
        x = torch.randn(chains, 1000, 30, generator=torch.Generator().manual_seed(seed))
        x[: chains // 4, :, 17] += shift
        assert not poe.Draws(x, x[..., 0], "asymptotically exact").is_trusted


def test_a_difference_in_scale_is_seen_among_many_components() -> None:
    x = torch.randn(4, 1000, 500, generator=torch.Generator().manual_seed(0))
    x[0, :, 321] *= 2
    draws = poe.Draws(x, torch.zeros(4, 1000), "asymptotically exact")
    assert Kind.NOT_CONVERGED in kinds(draws.verdict.doubts)
    assert "of 500 components that differ most" in draws.verdict.compared


def test_the_log_density_is_always_compared() -> None:
    x = torch.randn(4, 1000, 500, generator=torch.Generator().manual_seed(0))
    apart = x[..., 0] + torch.tensor([0.0, 0.0, 0.0, 2.0])[:, None]
    draws = poe.Draws(x, apart, "asymptotically exact")
    assert Kind.NOT_CONVERGED in kinds(draws.verdict.doubts)


def test_few_numbers_are_compared_whatever_the_size() -> None:
    sizes = [
        series(torch.zeros(c, n, d), torch.zeros(c, n)).values.numel()
        for c, n, d in [(4, 250, 32), (4, 1000, 32), (20, 1000, 784), (64, 2000, 10), (64, 20, 1)]
    ]
    assert max(sizes) <= 2**15 * 1.3, sizes


def test_the_limit_of_long_chains_is_that_of_the_literature() -> None:
    x = torch.randn(20, 1000, 2, generator=torch.Generator().manual_seed(0))
    assert agreement(series(x, x[..., 0])).limit == MAX_R_HAT


def test_few_draws_are_not_said_to_have_arrived() -> None:
    x = torch.randn(4, 20, 1, generator=torch.Generator().manual_seed(0))
    draws = poe.Draws(x, x[..., 0], "asymptotically exact")
    assert draws.is_trusted
    assert "too short to tell" in repr(draws)


def test_a_log_density_for_each_draw() -> None:
    with pytest.raises(poe.ShapeError, match=r"\(chains, draws\) = \(4, 20\), got \(80,\)"):
        poe.Draws(torch.zeros(4, 20, 1), torch.zeros(80), "asymptotically exact")


def test_dead_draws_are_counted() -> None:
    x = torch.randn(4, 100, 1, generator=torch.Generator().manual_seed(0))
    log_density = torch.where(x[..., 0] > 1.0, -torch.inf, 0.0)
    for guarantee in ("exact", "asymptotically exact", "biased"):
        draws = poe.Draws(x, log_density, guarantee)
        [doubt] = [one for one in draws.verdict.doubts if one.kind is Kind.DEAD]
        assert doubt.text.startswith(f"{int((x > 1).sum())} draws have a log-density of -inf")
    weights = log_density.clone()
    assert poe.Draws(x, log_density, "exact", log_weights=weights).num_dead.sum() == 0


def test_advice_is_for_who_set_a_step_size_only() -> None:
    x, divergent = torch.randn(4, 100, 1, generator=seeded()), torch.full((4,), 50)
    given = poe.samplers.HMC(0.3, 3)
    set_by_caller = poe.Draws(
        x, x[..., 0], "asymptotically exact", kernel=given, num_divergent=divergent
    )
    left_out = poe.Draws(
        x, x[..., 0], "asymptotically exact", kernel=given, num_divergent=divergent,
        tuned=("step size",),
    )  # fmt: skip
    assert "smaller step size" in set_by_caller.remarks[-1]
    assert "smaller step size" not in left_out.remarks[-1]
    assert "another parametrisation" in left_out.remarks[-1]


@pytest.mark.parametrize(
    ("kernel", "tuned"),
    [
        (poe.samplers.MALA(0.5), ()),
        (poe.samplers.MALA(), ("step size",)),
        (None, ("integrator", "number of steps", "preconditioner", "step size")),
    ],
)
def test_what_the_caller_left_to_the_run_is_known(
    kernel: poe.samplers.MALA | None, tuned: tuple[str, ...]
) -> None:
    draws, _ = told(opaque(1), 40, kernel=kernel, warmup=20)
    assert draws.tuned == tuned


def test_one_chain_is_told_and_not_accused() -> None:
    draws, warned = told(opaque(1), 400, num_chains=1, kernel=poe.samplers.HMC(0.8, 3))
    assert kinds(draws.verdict.doubts) == {Kind.ONE_CHAIN}
    assert warned == []
    assert draws.is_trusted


def test_the_verdict_travels_with_a_file(tmp_path: Path) -> None:
    for number, draws in enumerate([slow_run()[0], told(opaque(1), 40, warmup=20)[0]]):
        path = tmp_path / f"{number}"
        poe.save_draws(draws, path)
        loaded = poe.load_draws(path)
        assert loaded.remarks == draws.remarks
        assert repr(loaded) == repr(draws)
        assert loaded.verdict.doubts == draws.verdict.doubts
        assert (loaded.tuned, loaded.is_batch) == (draws.tuned, draws.is_batch)
        assert loaded.is_trusted == draws.is_trusted


def test_a_stored_verdict_is_that_of_its_day(tmp_path: Path) -> None:
    x = torch.zeros(4, 50, 1)
    x[:, ::2] = 1.0
    draws = poe.Draws(x, x[..., 0], "asymptotically exact")
    vars(draws)["verdict"] = draws.verdict._replace(doubts=(Doubt(Kind.OTHER, "it went badly"),))
    poe.save_draws(draws, tmp_path / "draws")
    assert poe.load_draws(tmp_path / "draws").remarks == ("it went badly",)


def test_a_short_run_claims_nothing_and_is_not_accused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", poe.TrustWarning)
        draws = poe.sampling.short_run.short_run(
            opaque(1), torch.zeros(20, 1), 5, 0.1, generator=seeded()
        )
    assert str(draws.verdict) == ""


def test_particles_whose_weights_collapse_warn_once() -> None:
    far = poe.FromLogDensity(lambda x: -(x - 30).square().sum(-1) * 50, space=poe.Real(4))
    start = experts.Gaussian([0.0] * 4, scale=[1.0] * 4)
    with pytest.warns(poe.TrustWarning) as caught:
        draws = poe.smc(
            far, 400, start=start, temperatures=[1.0], kernel=poe.samplers.MetropolisHastings(1e-3),
            generator=seeded(), progress=False,
        )  # fmt: skip
    assert len(caught) == 1
    assert not draws.is_trusted
    assert "not arrived" in repr(draws)


def test_chains_that_stand_still_apart_have_an_infinite_r_hat() -> None:
    stuck = torch.arange(4.0)[:, None, None].expand(4, 50, 1)
    verdict = poe.Draws(stuck, stuck[..., 0], "asymptotically exact").verdict
    assert verdict.r_hat == torch.inf
    assert any("R-hat is inf" in remark for remark in verdict.remarks)


def test_figures_that_are_none_are_not_told() -> None:
    x = torch.randn(4, 2, 1, generator=seeded())
    verdict = poe.Draws(x, x[..., 0], "asymptotically exact").verdict
    assert kinds(verdict.doubts) == {Kind.NOT_COMPARED}
    assert not verdict.figures


def test_who_gave_an_uncorrected_kernel_its_steps_is_told_to_make_them_smaller() -> None:
    x, divergent = torch.randn(4, 100, 1, generator=seeded()), torch.full((4,), 50)
    draws = poe.Draws(x, x[..., 0], "biased", kernel=poe.samplers.ULA(1.5), num_divergent=divergent)
    assert "smaller step size" in draws.remarks[-1]


@pytest.mark.parametrize("seed", range(3))
def test_short_chains_of_some_dependence_are_not_few(seed: int) -> None:
    g, x = torch.Generator().manual_seed(seed), torch.zeros(4, 50, 4)
    x[:, 0] = torch.randn(4, 4, generator=g)
    for t in range(1, 50):  # worth a third of as many independent draws
        x[:, t] = 0.5 * x[:, t - 1] + 0.75**0.5 * torch.randn(4, 4, generator=g)
    draws = poe.Draws(x, x.square().sum(-1), "asymptotically exact")
    assert Kind.FEW not in kinds(draws.verdict.doubts)


ROUNDED = experts.Gaussian([0.0, 1e9], scale=[1.0, 1.0])  # floats near 1e9 are 64 apart


@pytest.mark.parametrize("run", [poe.sample, poe.smc])
def test_draws_that_numbers_cannot_tell_apart_are_doubted(run: Callable[..., poe.Draws]) -> None:
    with pytest.warns(poe.TrustWarning, match="1 elements of the draws spread by no more than ro"):
        draws = run(ROUNDED, 512, generator=seeded(), progress=False)
    assert Kind.ROUNDED in kinds(draws.doubts)


@pytest.mark.parametrize(("scale", "is_rounded"), [(0.1, False), (0.01, True)])  # 1/128 apart
def test_a_spread_of_few_steps_is_told_from_one_of_many(scale: float, is_rounded: bool) -> None:
    draws = told(experts.Gaussian([1e5], scale=[scale]), 512)[0]
    assert (Kind.ROUNDED in kinds(draws.doubts)) == is_rounded


def test_what_stands_still_rightly_is_not_called_rounded() -> None:
    certain = experts.Bernoulli(torch.tensor([100.0, 0.0]))  # the first is always 1
    assert told(certain, 512)[0].doubts == ()
    draws, _ = told(opaque(1), 40, kernel=poe.samplers.MALA(step_size=1e12), warmup=0)
    assert Kind.ROUNDED not in kinds(draws.doubts)


@pytest.mark.parametrize(("rate", "is_rounded"), [(1e4, False), (1e9, True)])
def test_counts_that_floats_skip_are_told(rate: float, is_rounded: bool) -> None:
    counts = experts.Poisson([rate])
    with pytest.warns(poe.TrustWarning) if is_rounded else nullcontext():
        draws = poe.sample(counts, 64, generator=seeded(), progress=False)
    assert (Kind.ROUNDED in kinds(draws.doubts)) == is_rounded
    exact = poe.sample(counts.double(), 64, generator=seeded(), progress=False)
    assert Kind.ROUNDED not in kinds(exact.doubts)
