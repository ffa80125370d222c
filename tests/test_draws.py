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
from poe.samplers import MALA

arviz = diagnostics.import_arviz()


def draws_of(samples: Tensor, **fields: Any) -> poe.Draws:
    log_density = -0.5 * samples.square().reshape(*samples.shape[:2], -1).sum(-1)
    return poe.Draws(samples, log_density, fields.pop("guarantee", "exact"), **fields)


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
    assert summary.ess_bulk[1].item() == float(arviz.ess(column, method="bulk"))
    assert summary.ess_tail[1].item() == float(arviz.ess(column, method="tail"))
    assert summary.r_hat[1].item() == float(arviz.rhat(column))
    assert summary.mcse[1].item() == float(arviz.mcse(column))


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
    samples = torch.randn(4, 50, 1, generator=torch.Generator().manual_seed(0))
    (words,) = [w for w in draws_of(samples).summary().warnings if "ESS" in w]
    assert "< 400" in words


def test_too_few_draws_show_nothing() -> None:
    draws = draws_of(torch.randn(100, 2, 1, generator=torch.Generator().manual_seed(0)))
    (words,) = draws.summary().warnings
    assert "nothing here shows that the chains have converged" in words


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
    assert "! it went badly" in str(draws_of(independent, remarks=("it went badly",)).summary())


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
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[diagnostics\]"'):
        draws_of(independent).summary()


def test_gradients_and_devices_do_not_get_in_the_way(independent: Tensor) -> None:
    draws = draws_of(independent.requires_grad_())
    assert draws.summary().warnings == ()
