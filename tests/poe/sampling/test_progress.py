"""What a run tells on its way, and TensorBoard as one who listens."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import experts
import poe
from poe.samplers import MALA

EXPERT = experts.Gaussian([0.0, 1.0], scale=[1.0, 2.0])


def run(**arguments: Any) -> poe.Draws:
    settings: dict[str, Any] = {"kernel": MALA(), "num_chains": 4, "warmup": 151} | arguments
    generator = torch.Generator().manual_seed(0)
    return poe.sample(EXPERT, 200, generator=generator, progress=False, **settings)


def test_it_is_told_at_the_same_steps_each_time_and_changes_no_draw() -> None:
    first: list[poe.Progress] = []
    second: list[poe.Progress] = []
    draws = run(callback=first.append)
    assert torch.equal(run(callback=second.append).samples, draws.samples)
    assert torch.equal(run().samples, draws.samples)
    steps = [told.step for told in first]
    assert steps == [told.step for told in second] == [*range(2, 201, 2), 201]
    assert {told.total_steps for told in first} == {201}
    assert [told.is_sampling for told in first] == [step > 151 for step in steps]


def test_the_numbers_are_those_of_the_draws() -> None:
    told: list[poe.Progress] = []
    draws = run(callback=told.append)
    last = told[-1]
    assert last.log_density == pytest.approx(draws.log_density[:, -1].double().mean().item())
    assert last.num_gradients == draws.warmup_gradients + draws.num_gradients
    assert 0 < last.acceptance <= 1
    assert draws.num_divergent is not None
    assert last.num_divergent == int(draws.num_divergent.sum())
    assert last.seconds <= draws.seconds


def test_chains_that_start_outside_are_counted() -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x.abs().amax(-1) < 1, 0.0, -torch.inf), space=poe.Real(1)
    )
    told: list[poe.Progress] = []
    draws = poe.sample(
        target, 40, kernel=poe.samplers.MetropolisHastings(2.0), num_chains=2, warmup=0,
        initial=torch.zeros(2, 1), generator=torch.Generator().manual_seed(0), progress=False,
        callback=told.append,
    )  # fmt: skip
    assert draws.num_outside is not None
    assert told[-1].num_outside == int(draws.num_outside.sum()) > 0


def test_what_it_raises_ends_the_run_which_the_checkpoint_keeps(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(progress: poe.Progress) -> None:
        if progress.is_sampling:
            raise Enough

    with pytest.raises(Enough):
        run(callback=stop, checkpoint=tmp_path / "run")
    told: list[poe.Progress] = []
    resumed = run(callback=told.append, checkpoint=tmp_path / "run")
    assert torch.equal(resumed.samples, run().samples)
    assert [told[0].step, told[-1].step] == [154, 201]


def test_exact_draws_take_no_steps() -> None:
    told: list[poe.Progress] = []
    assert run(kernel=None, warmup=None, callback=told.append).guarantee == "exact"
    assert told == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    told: list[poe.Progress] = []
    run(callback=told.append)
    board = poe.TensorBoard(tmp_path)
    run(callback=board)
    board.report(3, {"loss": torch.tensor(0.25)})
    board(told[0]._replace(step=0, acceptance=math.nan))
    board.close()
    held = scalars(tmp_path)
    assert [step for step, _ in held["sample/log_density"][:-1]] == [one.step for one in told]
    values = [value for _, value in held["sample/log_density"][:-1]]
    assert values == pytest.approx([one.log_density for one in told])
    assert len(held["sample/acceptance"]) == len(told)  # NaN is left out
    assert held["loss"] == [(3, 0.25)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("value", [torch.zeros(2), "a word", None])
def test_a_scalar_is_one_number(value: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = poe.TensorBoard(tmp_path)
    with pytest.raises(
        poe.PoeError, match=r"expected 'loss' to be one number, got .*: write its mean"
    ):
        board.report(0, {"loss": value})
    board.close()


def test_without_tensorboard_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[tensorboard\]"'):
        poe.TensorBoard(tmp_path)
