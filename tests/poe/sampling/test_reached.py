"""Runs that go on until their draws are worth enough: when they stop, and at which bits."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import experts
import poe
import poe.sampling.run
from poe.core.doubt import Kind, kinds
from poe.samplers import MALA
from poe.sampling.reached import Reached, first_look, is_met, next_look, worth_of


def logistic(x: Tensor) -> Tensor:
    """The log-density of independent logistic variables."""
    return (logsigmoid(x) + logsigmoid(-x)).sum(-1)


ROUND = poe.FromLogDensity(logistic, space=poe.Real(2))
BUDGET = pytest.warns(poe.TrustWarning, match="ended the run before")
SOON = Reached(ess=50, r_hat=1.1)


def run(until: Reached | None, target: poe.Expert = ROUND, **arguments: Any) -> poe.Draws:
    known = {"kernel": MALA(), "num_chains": 4, "warmup": 60, "num_samples": 40} | arguments
    num_samples = known.pop("num_samples")
    generator = torch.Generator().manual_seed(0)
    return poe.sample(
        target, num_samples, generator=generator, progress=False, until=until, **known
    )


def is_beginning(short: poe.Draws, long: poe.Draws) -> bool:
    length = short.samples.shape[1]
    return torch.equal(short.samples, long.samples[:, :length]) and torch.equal(
        short.log_density, long.log_density[:, :length]
    )


class Shifted(poe.Conditional):
    """exp(-(x - y)⁴), a density of x for each y."""

    space = poe.Real(1)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return -(x.squeeze(-1) - condition).square().square()


# --- It is reached


@pytest.mark.parametrize("ess", [100, 400])
@pytest.mark.parametrize("kernel", [None, MALA()])
def test_every_component_has_what_was_asked_for(ess: float, kernel: MALA | None) -> None:
    until = Reached(ess=ess, r_hat=1.01)
    draws = run(until, kernel=kernel, warmup=200)
    summary = draws.summary()
    assert min(summary.ess_bulk.min(), summary.ess_tail.min()) >= ess
    assert summary.r_hat.max() <= 1.01
    assert f"until an ESS of {ess} and R-hat of 1.01: reached, ESS" in draws.choice
    assert draws.is_trusted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_few_chains_agree_one_by_one(seed: int) -> None:
    laplace = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(2))
    draws = poe.sample(
        laplace * experts.Gaussian([0.0, 0.0], scale=[1.0, 1.0]),
        100,
        until=poe.Reached(ess=400, r_hat=1.01),
        generator=torch.Generator().manual_seed(seed),
        progress=False,
    )
    assert len(draws.samples) <= 20
    assert poe.diagnostics.r_hat(draws.samples).max() <= 1.01


def test_of_many_components_and_draws_none_is_left_out() -> None:
    scale = torch.ones(100)
    scale[37] = 3.0  # slow, and not among those that are looked at first
    wide = poe.FromLogDensity(lambda x: -0.5 * (x / scale).square().sum(-1), space=poe.Real(100))
    draws = run(Reached(ess=40, r_hat=1.1), wide, kernel=MALA(0.5), num_chains=8)
    summary = draws.summary()
    assert min(summary.ess_bulk.min(), summary.ess_tail.min()) >= 40
    assert summary.r_hat.max() <= 1.1


def test_an_ess_of_more_draws_than_the_verdict_looks_at_is_reached() -> None:
    draws = run(Reached(ess=12_000), kernel=None, num_chains=32, warmup=100)
    assert draws.summary().ess_bulk.min() >= 12_000
    assert draws.verdict.ess < 12_000  # of thinned draws


def test_num_samples_is_the_least_number() -> None:
    draws = run(SOON, num_samples=4000)
    assert draws.samples.shape == (4, 1000, 2)
    assert "reached" in draws.choice


def test_a_run_that_is_not_asked_is_as_before() -> None:
    assert run(None).samples.shape == (4, 10, 2)
    assert "until" not in run(None).choice


@pytest.mark.parametrize("num_densities", [1, 3])
def test_exact_draws_are_enough_at_once(num_densities: int) -> None:
    target: poe.Expert = experts.Gaussian([0.0, 0.0], scale=1.0)
    if num_densities > 1:
        joint = experts.LinearGaussian([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], scale=[1.0, 1.0])
        target = joint.given(torch.arange(6.0).reshape(3, 2))
    draws = run(Reached(ess=100), target, kernel=None, num_chains=None, warmup=None)
    assert draws.guarantee == "exact"
    assert draws.log_density.numel() == 200 * num_densities
    assert "reached at once, by" in draws.choice


def test_each_density_of_a_batch_has_what_was_asked_for() -> None:
    batch = Shifted().given(torch.tensor([0.0, 5.0, 50.0]))
    draws = run(Reached(ess=100, r_hat=1.05), batch, kernel=None, num_chains=None, warmup=300)
    assert draws.is_batch
    assert draws.summary().ess_bulk.min() >= 100
    assert draws.summary().ess_tail.min() >= 100
    assert draws.summary().r_hat.max() <= 1.05


@pytest.mark.law
def test_draws_of_modes_that_chains_jump_between_are_gone_on_with() -> None:
    apart = poe.FromEnergy(lambda x: 4 * (x.abs() - 3).square().sum(-1), space=poe.Real(1))
    initial = torch.tensor([[-3.0], [-3.0], [3.0], [3.0]])
    until = Reached(ess=100, r_hat=1.05, max_gradients=30_000)
    draws = run(until, apart, kernel=None, warmup=200, initial=initial)
    assert isinstance(draws.kernel, poe.samplers.ModeJumps)
    assert "until an ESS of 100" in draws.choice
    assert draws.summary().ess_bulk.min() >= 100
    assert draws.summary().r_hat.max() <= 1.05


def test_what_is_collected_is_what_counts() -> None:
    slow = poe.FromLogDensity(
        lambda x: -0.5 * (x / torch.tensor([1.0, 6.0])).square().sum(-1), space=poe.Real(2)
    )
    arguments: dict[str, Any] = {"kernel": MALA(0.8), "warmup": 20}
    quick = run(SOON, slow, collect=lambda x: x[:, :1], **arguments)
    whole = run(SOON, slow, **arguments)
    assert whole.samples.shape[1] > 2 * quick.samples.shape[1]
    assert torch.equal(whole.samples[:, : quick.samples.shape[1], :1], quick.samples)


def test_chains_at_once_changes_no_draw() -> None:
    assert torch.equal(run(SOON, chains_at_once=2).samples, run(SOON).samples)


# --- A budget is spent


@pytest.mark.parametrize("kernel", [MALA(), None])
def test_a_budget_of_gradients_is_kept_and_said(kernel: Any) -> None:
    with BUDGET:
        draws = run(Reached(ess=1e4, max_gradients=3000), kernel=kernel, warmup=200, num_samples=8)
    spent = draws.warmup_gradients + draws.num_gradients
    assert 0.99 * 3000 < spent <= 3000
    assert "max_gradients=3000 ended the run before an ESS of 10000" in draws.choice
    assert kinds(draws.doubts) - {Kind.TOO_LONG_TO_LOOK} == {Kind.BUDGET}
    assert draws.is_trusted  # they are fewer than was asked for, and right


def test_a_budget_ends_no_run_before_its_least_number() -> None:
    with BUDGET:
        draws = run(Reached(ess=20, r_hat=1.0001, max_gradients=1, max_seconds=1e-9))
    assert draws.samples.shape == (4, 10, 2)


def test_where_the_budget_is_spent_and_it_is_so_it_is_so() -> None:
    draws = run(Reached(ess=20, r_hat=1.5, max_gradients=1), num_samples=400)
    assert "reached" in draws.choice
    assert not draws.doubts


def test_a_budget_of_seconds_decides_only_where_it_stops() -> None:
    whole = run(Reached(ess=300, r_hat=1.01))
    seconds = []
    with BUDGET:
        at_once = run(Reached(ess=300, r_hat=1.01, max_seconds=1e-9))
    for share in (0.3, 0.6):
        until = Reached(
            ess=1e6, max_seconds=share * (whole.warmup_seconds + whole.sampling_seconds)
        )
        with BUDGET:
            draws = run(until)
        seconds.append(draws.warmup_seconds + draws.sampling_seconds)
        assert seconds[-1] >= until.max_seconds
        assert f"max_seconds={until.max_seconds:g}" in draws.choice
        assert is_beginning(*sorted([draws, whole], key=lambda each: each.samples.shape[1]))
    assert is_beginning(at_once, whole)
    assert at_once.samples.shape[1] == 10


def test_a_plain_run_is_the_beginning_of_one_that_goes_on() -> None:
    assert is_beginning(run(None), run(Reached(ess=100, r_hat=1.05)))


def test_steps_without_evaluations_are_counted_too() -> None:
    frozen = experts.Ising.grid((3, 3), coupling=3.0) * experts.Ising.grid((3, 3), coupling=3.0)
    space = poe.Binary((3, 3))
    kernel = poe.samplers.Gibbs(space)
    until = Reached(ess=1e5, max_gradients=400)
    with pytest.warns(poe.TrustWarning, match="max_gradients=400 ended"):
        draws = run(until, frozen, kernel=kernel, warmup=10)
    assert draws.samples.shape[1] <= 400


def test_memory_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poe.sampling.run, "memory", lambda device: 4 * 4 * 12 * 1000)
    with pytest.warns(poe.TrustWarning, match="memory ended the run before.*collect="):
        draws = run(Reached(ess=1e5), num_samples=40, kernel=MALA(0.3), warmup=5)
    assert "memory" in draws.choice


# --- It is watched, interrupted and taken up again


def test_progress_tells_how_far_it_is() -> None:
    first: list[poe.Progress] = []
    second: list[poe.Progress] = []
    until = Reached(ess=300, r_hat=1.01)
    draws = run(until, callback=first.append)
    assert torch.equal(run(until, callback=second.append).samples, draws.samples)
    assert [told.step for told in first] == [told.step for told in second]
    assert math.isnan(first[0].ess)
    assert first[-1].ess >= 300
    assert first[-1].r_hat <= 1.01
    assert first[-1].step == 60 + draws.samples.shape[1]
    assert all(told.step <= told.total_steps for told in first)
    assert len(first) < 400


def test_the_progress_bar_shows_what_the_draws_are_worth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    generator = torch.Generator().manual_seed(0)
    poe.sample(ROUND, 40, kernel=MALA(), warmup=60, until=SOON, generator=generator)
    said = capsys.readouterr().err
    assert "draws or more, until an ESS of 50 and R-hat of 1.1, after 60 warm-up steps" in said
    assert "step/s, ESS " in said
    assert "%" not in said


class Interrupted(poe.Expert):
    """``ROUND``, which is interrupted at the n-th evaluation in float32."""

    def __init__(self, at: float = math.inf) -> None:
        super().__init__()
        self.space, self.left = poe.Real(2), at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= x.dtype == torch.float32
        if self.left == 0:
            raise KeyboardInterrupt
        return logistic(x)


@pytest.mark.parametrize("at", [30, 100, 101, 124, 125, 126, 127, 150, 160, 161, 200, 220])
def test_a_resumed_run_gives_the_same_bits(at: int, tmp_path: Path) -> None:
    until = Reached(ess=60, r_hat=1.01)
    whole = run(until, Interrupted())
    assert whole.samples.shape[1] > 200
    with pytest.raises(KeyboardInterrupt):
        run(until, Interrupted(at), checkpoint=tmp_path / "run")
    resumed = run(until, Interrupted(), checkpoint=tmp_path / "run")
    assert torch.equal(resumed.samples, whole.samples)
    assert torch.equal(resumed.log_density, whole.log_density)
    assert resumed.choice == whole.choice
    again = run(until, Interrupted(), checkpoint=tmp_path / "run")  # finished
    assert torch.equal(again.samples, whole.samples)
    assert again.choice == whole.choice


def test_a_run_that_a_budget_ended_goes_on_by_another(tmp_path: Path) -> None:
    whole = run(Reached(ess=200, r_hat=1.01))
    assert whole.samples.shape[1] > 275
    for budget in ({"max_seconds": 1e-9}, {"max_gradients": 250}, {"max_gradients": 333}):
        with BUDGET:
            part = run(Reached(200, 1.01, **budget), checkpoint=tmp_path / "run")
        assert is_beginning(part, whole)
        assert len(part.samples[0]) < len(whole.samples[0])
    rest = run(Reached(ess=200, r_hat=1.01), checkpoint=tmp_path / "run")
    assert torch.equal(rest.samples, whole.samples)
    assert rest.choice == whole.choice


def test_a_checkpoint_of_another_goal_is_refused(tmp_path: Path) -> None:
    run(SOON, checkpoint=tmp_path / "run")
    for until in (None, Reached(ess=51, r_hat=1.1), Reached(ess=50, r_hat=1.05)):
        with pytest.raises(poe.StorageError, match="differs in"):
            run(until, checkpoint=tmp_path / "run")


# --- What is asked for


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ess": 0}, "expected a finite ess > 0, got 0"),
        ({"ess": math.nan}, "expected a finite ess > 0, got nan"),
        ({"ess": math.inf}, "expected a finite ess > 0, got inf"),
        ({"r_hat": 1.0}, "expected a finite r_hat > 1, got 1.0"),
        ({"r_hat": math.inf}, "expected a finite r_hat > 1, got inf"),
        ({"max_gradients": 0}, "expected max_gradients >= 1, got 0"),
        ({"max_gradients": 1.5}, "expected max_gradients to be a whole number, got float 1.5"),
        ({"max_seconds": 0}, "expected max_seconds > 0, got 0"),
        ({"max_seconds": math.nan}, "expected max_seconds > 0, got nan"),
        ({"ess": "400"}, "expected ess to be a number, got '400'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(poe.PoeError, match=said):
        Reached(**settings)


@pytest.mark.parametrize("until", [400, "400", Reached, {"ess": 400}])
def test_another_kind_is_refused(until: Any) -> None:
    with pytest.raises(poe.PoeError, match="expected until to be a Reached"):
        run(until)


# --- What stopping early costs


def autoregressive(coefficient: float, seeds: int, length: int) -> Tensor:
    """Chains x' = a x + √(1 − a²) z from the standard normal: ``(seeds, 4, length)``."""
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(length, seeds, 4, generator=generator, dtype=torch.float64)
    x = itertools.accumulate(z, lambda x, z: coefficient * x + math.sqrt(1 - coefficient**2) * z)
    return torch.stack(list(x), -1)


def stopped(x: Tensor, until: Reached) -> poe.Draws:
    """The draws ``(4, n, 2)`` of x and x², up to where the rule stops."""
    values, length = torch.stack([x, x.square()], -1), first_look(until, 1) // len(x)
    while True:
        draws = poe.Draws(values[:, :length], -0.5 * x[:, :length].square(), "asymptotically exact")
        if is_met(until, worth_of(draws, until)):
            return draws
        length = next_look(length)
        assert length <= x.shape[1]


@pytest.mark.law
@pytest.mark.parametrize(("coefficient", "length"), [(0.0, 400), (0.5, 800), (0.9, 4000)])
def test_stopping_moves_no_mean_and_intervals_hold_the_truth(
    coefficient: float, length: int
) -> None:
    until, seeds, truth = Reached(ess=100, r_hat=1.03), 300, torch.tensor([0.0, 1.0])
    ends = [stopped(x, until) for x in autoregressive(coefficient, seeds, length)]
    means = torch.stack([draws.samples.mean((0, 1)) for draws in ends])
    errors = torch.stack([poe.diagnostics.mcse_mean(draws.samples) for draws in ends])
    assert len({draws.samples.shape[1] for draws in ends}) > 1  # it does stop by what it sees
    bias = (means.mean(0) - truth) / (means.std(0) / math.sqrt(seeds))
    assert bias.abs().max() < 4
    assert ((means.mean(0) - truth).abs() < 0.25 * errors.mean(0)).all()
    coverage = ((means - truth).abs() < 1.96 * errors).double().mean(0)
    assert (coverage > 0.95 - 4 * math.sqrt(0.95 * 0.05 / seeds)).all()


def test_looks_are_few() -> None:
    looks = list(itertools.takewhile(lambda n: n < sys.maxsize, _looks(10)))
    assert looks[:4] == [10, 12, 15, 18]
    assert len(looks) < 200


def _looks(first: int) -> itertools.accumulate[int]:
    return itertools.accumulate(itertools.repeat(first), lambda n, _: next_look(n))
