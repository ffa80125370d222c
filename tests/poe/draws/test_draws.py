"""Draws: their summary, what it says in words, and ArviZ."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import poe
from poe import diagnostics
from poe.core.doubt import Doubt, Kind
from poe.samplers import MALA

arviz = diagnostics.import_arviz()
arviz.Numba.disable_numba()  # where Numba is there, NumPy 2.4 refuses what ArviZ makes of it


def draws_of(samples: Tensor, **fields: Any) -> poe.Draws:
    log_density = -0.5 * samples.square().reshape(*samples.shape[:2], -1).sum(-1)
    guarantee = fields.pop("guarantee", "asymptotically exact")
    return poe.Draws(samples, log_density, guarantee, **fields)


@pytest.fixture
def independent() -> Tensor:
    return torch.randn(4, 500, 2, generator=torch.Generator().manual_seed(0))


def test_a_good_summary_has_no_words(independent: Tensor) -> None:
    summary = draws_of(independent).summary()
    assert summary.warnings == ()
    assert summary.mean.shape == summary.r_hat.shape == (2,)
    torch.testing.assert_close(summary.mean, independent.double().mean((0, 1)))
    torch.testing.assert_close(summary.sd, independent.double().flatten(0, 1).std(0))
    assert (summary.mcse - 2000**-0.5).abs().max() < 0.005


def test_the_numbers_are_those_of_arviz(independent: Tensor) -> None:
    summary, column = draws_of(independent).summary(), independent[:, :, 1].double().numpy()
    expected = {
        "ess_bulk": arviz.ess(column, method="bulk"),
        "ess_tail": arviz.ess(column, method="tail"),
        "r_hat": arviz.rhat(column),
        "mcse": arviz.mcse(column),
    }
    for name, value in expected.items():
        assert getattr(summary, name)[1].item() == pytest.approx(float(value), rel=1e-9)


def test_it_prints_as_a_table(independent: Tensor) -> None:
    kernel, rate = MALA(0.5), torch.full((4,), 0.5)
    draws = draws_of(
        independent, guarantee="asymptotically exact", kernel=kernel, acceptance_rate=rate,
        num_warmup=7,
    )  # fmt: skip
    lines = str(draws.summary()).splitlines()
    assert lines[0].split() == ["mean", "sd", "mcse", "ess_bulk", "ess_tail", "r_hat"]
    assert lines[1].startswith("x[0] ")
    assert lines[2].startswith("x[1] ")
    assert len({len(line) for line in lines[:3]}) == 1  # the columns line up
    assert lines[3] == (
        "asymptotically exact; 4 chains x 500 draws; 7 warm-up steps; acceptance 0.50"
    )
    assert lines[4].startswith("arrived: R-hat at most 1.0")
    assert lines[4].endswith("of the log-density and 2 components")
    assert "MALA(step_size=0.5)" in repr(draws)


@pytest.mark.parametrize("event", [(), (3, 2)])
def test_any_event_shape(event: tuple[int, ...]) -> None:
    samples = torch.randn(4, 50, *event, generator=torch.Generator().manual_seed(0))
    summary = draws_of(samples).summary()
    assert summary.mean.shape == event
    assert ("x[2, 1]" if event else "x ") in str(summary)


def test_many_components_are_cut_short() -> None:
    samples = torch.randn(4, 20, 25, generator=torch.Generator().manual_seed(0))
    text = str(draws_of(samples).summary())
    assert "x[19]" in text
    assert "x[20]" not in text
    assert "... and 5 more components" in text


def test_chains_that_disagree(independent: Tensor) -> None:
    apart = independent + torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None, None]
    (words,) = [w for w in draws_of(apart).summary().warnings if "R-hat" in w]
    assert "chains disagree" in words


def test_a_small_ess() -> None:
    steps = torch.randn(4, 400, 1, generator=torch.Generator().manual_seed(0))
    slow = steps.clone()
    for t in range(1, 400):
        slow[:, t] = 0.97 * slow[:, t - 1] + steps[:, t]
    (words,) = [w for w in draws_of(slow).summary().warnings if "ESS" in w]
    assert "< 40" in words
    assert draws_of(steps[:, :50]).summary().warnings == ()  # few, and worth their number


def test_too_few_draws_show_nothing() -> None:
    draws = draws_of(torch.randn(100, 2, 1, generator=torch.Generator().manual_seed(0)))
    (words,) = draws.summary().warnings
    assert "nothing here shows that the chains have converged" in words


def test_one_draw_a_chain_shows_nothing() -> None:
    x = torch.randn(16, 1, 2, generator=torch.Generator().manual_seed(0))
    summary = draws_of(x).summary()
    assert summary.r_hat.isnan().all()
    assert "could not be computed" in str(summary)


def test_draws_that_do_not_vary() -> None:
    (words,) = draws_of(torch.ones(4, 100, 1)).summary().warnings
    assert "do not vary" in words


def test_one_bad_component_does_not_hide_behind_the_others(independent: Tensor) -> None:
    independent[0, :3, 0] = torch.nan
    draws = draws_of(independent)
    assert draws.num_nonfinite.tolist() == [3, 0, 0, 0]
    summary = draws.summary()
    assert summary.r_hat.isnan().tolist() == [True, False]
    assert summary.mean.isnan().tolist() == [True, False]
    assert any("3 draws are not finite" in words for words in summary.warnings)


def test_remarks_of_the_run_are_repeated(independent: Tensor) -> None:
    told = (Doubt(Kind.OTHER, "it went badly"),)
    assert "! it went badly" in str(draws_of(independent, doubts=told).summary())


def test_stuck_chains_need_enough_draws_to_be_called_so() -> None:
    rate = torch.tensor([0.0, 0.5])
    assert draws_of(torch.zeros(2, 20, 1), acceptance_rate=rate).stuck_chains == [0]
    assert draws_of(torch.zeros(2, 2, 1), acceptance_rate=rate).stuck_chains == []
    assert draws_of(torch.zeros(2, 20, 1)).stuck_chains == []


def test_to_arviz(independent: Tensor) -> None:
    draws = draws_of(independent)
    data = draws.to_arviz()
    if hasattr(arviz, "InferenceData"):
        assert isinstance(data, arviz.InferenceData)
    posterior = data["posterior"]["x"]
    assert posterior.dims[:2] == ("chain", "draw")
    assert posterior.shape == (4, 500, 2)
    assert (posterior.values == independent.double().numpy()).all()
    assert (data["sample_stats"]["lp"].values == draws.log_density.double().numpy()).all()


def test_without_arviz_the_message_says_what_to_install(
    independent: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def no_arviz(name: str, *arguments: Any) -> Any:
        if name == "arviz":
            raise ImportError(name)
        return real_import(name, *arguments)

    monkeypatch.delitem(sys.modules, "arviz")
    monkeypatch.setattr(builtins, "__import__", no_arviz)
    assert draws_of(independent).summary().warnings == ()  # which does not need it
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[diagnostics\]"'):
        draws_of(independent).to_arviz()


def test_gradients_and_devices_do_not_get_in_the_way(independent: Tensor) -> None:
    draws = draws_of(independent.requires_grad_())
    assert draws.summary().warnings == ()


def words_of(samples: Tensor, **fields: Any) -> str:
    return " | ".join(draws_of(samples, **fields).summary().warnings)


def test_one_chain_has_no_r_hat() -> None:
    samples = torch.randn(1, 2000, 1, generator=torch.Generator().manual_seed(0))
    assert words_of(samples).startswith("R-hat could not be computed, since there is one chain")
    assert draws_of(samples).is_trusted
    samples[:, 1000:] += 1.0
    assert "halves of the same chains disagree" in words_of(samples)
    assert not draws_of(samples).is_trusted


def test_divergences_are_told_with_the_chains_they_come_from(independent: Tensor) -> None:
    assert words_of(independent, num_divergent=torch.zeros(4)) == ""
    words = words_of(independent, num_divergent=torch.tensor([0, 30, 0, 40]))
    assert words.startswith("70 steps of 2 of 4 chains diverged")


def test_few_divergences_count_where_something_else_is_in_doubt(independent: Tensor) -> None:
    few = torch.tensor([0, 3, 0, 4])
    assert words_of(independent, num_divergent=few) == ""
    assert "7 divergent steps" in str(draws_of(independent, num_divergent=few).summary())
    independent[3] += 1.0
    assert "7 steps of 2 of 4 chains diverged" in words_of(independent, num_divergent=few)


def test_a_stuck_chain_is_told_once(independent: Tensor) -> None:
    rate = torch.tensor([0.5, 0.5, 0.0, 0.5])
    independent[2] = independent[2, :1]
    assert "1 of 4 chains never moved (chain 2 is one)" in words_of(
        independent, acceptance_rate=rate
    )
    told = (Doubt(Kind.STUCK, "chain 2 is stuck", (2,)),)
    words = words_of(independent, acceptance_rate=rate, doubts=told)
    assert "stuck" in words
    assert "never moved" not in words


def test_chains_that_hardly_move(independent: Tensor) -> None:
    rate = torch.full((4,), 0.5)
    assert draws_of(independent, acceptance_rate=rate).still_chains == []
    independent[1, 100:225] = independent[1, 100]  # a quarter of its draws
    assert draws_of(independent, acceptance_rate=rate).still_chains == [1]
    assert "1 of 4 chains hardly moved (chain 1 is one)" in words_of(
        independent, acceptance_rate=rate
    )
    independent[1, 124] += 1.0
    assert draws_of(independent, acceptance_rate=rate).still_chains == []
    rare = torch.tensor([0.5, 0.5, 0.5, 0.04])
    assert draws_of(independent, acceptance_rate=rare).still_chains == [3]
    assert draws_of(independent).still_chains == []  # exact draws may repeat a value


def test_escaped_chains(independent: Tensor) -> None:
    assert draws_of(independent).escaped_chains == []
    independent[3] += 30
    assert draws_of(independent).escaped_chains == [3]
    assert "1 of 4 chains are far from the others (chain 3 is one)" in words_of(independent)
    assert draws_of(independent[:, :19]).escaped_chains == []


def test_weighted_draws_have_weighted_moments(independent: Tensor) -> None:
    """Weights exp(x) move a standard normal's mean to 1 and leave its sd."""
    draws = draws_of(independent, log_weights=independent[:, :, 0])
    summary = draws.summary()
    assert ((summary.mean - torch.tensor([1.0, 0.0])) / summary.mcse).abs().max() < 4
    assert summary.ess_weights is not None
    assert 400 < summary.ess_weights < 1200  # 2000 / e = 736
    assert summary.r_hat.isnan().all()
    lines = str(summary).splitlines()
    assert lines[0].split() == ["mean", "sd", "mcse"]
    assert "R-hat and the ESS of chains are not defined" in lines[3]
    assert summary.warnings == ()
    assert "weighted" in repr(draws)


@pytest.mark.parametrize(
    ("length", "scale", "words"),
    [(125, 1.8, "the weights are worth"), (500, 5.0, "the weights have collapsed")],
)
def test_uneven_weights(independent: Tensor, length: int, scale: float, words: str) -> None:
    x = independent[:, :length]
    assert words in words_of(x, log_weights=scale * x[:, :, 0])


def test_weights_that_are_not_numbers(independent: Tensor) -> None:
    weights = torch.zeros(4, 500)
    weights[0, 0] = torch.nan
    assert "the weights are NaN" in words_of(independent, log_weights=weights)


def test_a_draw_of_weight_zero_may_be_anything(independent: Tensor) -> None:
    weights = torch.zeros(4, 500)
    weights[0, 0] = -torch.inf
    independent[0, 0] = torch.nan
    assert words_of(independent, log_weights=weights) == ""
    weights[0, 0] = 0.0
    assert "1 draws are not finite" in words_of(independent, log_weights=weights)


def test_the_experts_of_draws(independent: Tensor) -> None:
    target = poe.Product(*(poe.FromLogDensity(f, space=poe.Real(2)) for f in (pull, push)))
    report = draws_of(independent).experts(target)
    assert report.cosine[0, 1].item() == pytest.approx(-1.0)
    with pytest.raises(poe.PoeError, match="resample"):
        draws_of(independent, log_weights=torch.zeros(4, 500)).experts(target)


def pull(x: Tensor) -> Tensor:
    return -x.square().sum(-1)


def push(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(-1)


def test_draws_on_meta_can_be_printed() -> None:
    x = torch.zeros(4, 100, 2, device="meta")
    draws = poe.Draws(x, x[..., 0], "asymptotically exact")
    assert repr(draws) == "Draws(4 chains x 100 draws of shape (2,), asymptotically exact)"
    assert draws.is_trusted
