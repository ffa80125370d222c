"""What looking for other modes comes to in ``poe.sample``: found, or said; never in silence."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from poe.core.doubt import Kind, kinds

ERRORS = [
    KeyError("a bug"),
    ValueError("no such place"),
    RuntimeError("device"),
    ZeroDivisionError(),
]


def two_modes(error: Exception | None = None) -> poe.Expert:
    """At −4 and 4, with an error where only a search comes to."""

    def log_density(x: Tensor) -> Tensor:
        if error is not None and float(x.abs().max()) > 22:
            raise error
        return torch.logaddexp(-8 * (x[..., 0] - 4).square(), -8 * (x[..., 0] + 4).square())

    return poe.FromLogDensity(log_density, space=poe.Real(1))


def sampled(target: poe.Expert, progress: bool = False, **options: object) -> poe.Draws:
    g = torch.Generator().manual_seed(1)
    start = 4 + 0.05 * torch.randn(4, 1, generator=g)
    g.manual_seed(0)
    return poe.sample(
        target, 4000, num_chains=4, initial=start, generator=g, progress=progress, **options
    )


@pytest.mark.law
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_far_out_is_said(error: Exception) -> None:
    with pytest.warns(poe.TrustWarning, match=type(error).__name__):
        draws = sampled(two_modes(error))
    [doubt] = [doubt for doubt in draws.doubts if doubt.kind is Kind.RAISED]
    assert str(error) in doubt.text
    assert doubt.text in draws.remarks
    assert doubt.text in draws.summary().warnings
    assert doubt.kind.is_aside  # it does not speak against the draws
    assert abs(draws.summary().mean.item()) < 4 * draws.summary().mcse.item()


def test_that_there_is_no_memory_far_out_ends_the_run() -> None:
    with pytest.raises(MemoryError) as raised:
        sampled(two_modes(MemoryError("nothing left")))
    assert "nothing left" in str(raised.value.__cause__)


@pytest.mark.law
def test_what_does_not_fail_is_found() -> None:
    draws = sampled(two_modes())
    assert Kind.NOT_LOOKED not in kinds(draws.doubts)
    assert abs(draws.summary().mean.item()) < 4 * draws.summary().mcse.item()


def test_what_takes_too_long_is_said() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(3))
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(target, 40, num_chains=4, warmup=20, generator=g, progress=False)
    assert Kind.TOO_LONG_TO_LOOK in kinds(draws.doubts)
    assert any("other modes" in words for words in draws.remarks)


@pytest.mark.law
@pytest.mark.parametrize("error", [None, ValueError("no such place")], ids=["found", "failed"])
def test_who_watches_changes_nothing(error: Exception | None) -> None:
    target = two_modes(error)
    quiet, watched = sampled(target), sampled(target, progress=True, callback=lambda _: None)
    assert torch.equal(quiet.samples, watched.samples)
    assert quiet.doubts == watched.doubts
    assert quiet.num_gradients == watched.num_gradients


@pytest.mark.law
def test_a_run_taken_up_again_says_what_was_said_before(tmp_path: Path) -> None:
    target, path = two_modes(ValueError("no such place")), tmp_path / "run.safetensors"
    whole = sampled(target)

    def stop(progress: poe.Progress) -> None:
        if progress.is_sampling and progress.step > 1500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled(target, checkpoint=path, callback=stop)
    resumed = sampled(target, checkpoint=os.fspath(path))
    assert torch.equal(resumed.samples, whole.samples)
    assert resumed.doubts == whole.doubts
    assert math.isfinite(resumed.seconds)
