"""The loop of all trainings: rates, means, rows, and going on from a file bit for bit."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import experts
import poe
from experts import DBM
from experts.boltzmann import training
from experts.boltzmann.fast_linear import linear
from experts.boltzmann.hidden_states import HiddenDensity
from experts.boltzmann.training import fit_dbm, fit_rbm, pretrain_dbm
from experts.boltzmann.training.loop import (
    Checkpoint,
    Schedule,
    State,
    ascend,
    falling,
    is_averaged,
    look,
    run,
)
from poe.core.last_call_cache import Latest
from poe.files import tensor_file
from poe.files.signature import Signature, Start, sign


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def schedule(**changed: Any) -> Schedule:
    settings = {
        "num_epochs": 4, "batch_size": 3, "learning_rate": 1.0, "momentum": 0.5,
        "weight_decay": 0.2, "averaged": 0.0,
    }  # fmt: skip
    return Schedule(**(settings | changed))


def test_the_rate_falls_along_a_line_that_would_end_after_the_last_update() -> None:
    assert [falling(update, 5) for update in (0, 2, 4)] == pytest.approx([1.0, 0.6, 0.2])
    assert [falling(update, 5, 0.5) for update in (0, 2, 4)] == pytest.approx([1.0, 0.8, 0.6])
    assert [falling(update, 5, 1.0) for update in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("averaged", "seen"),
    [(0.0, []), (1.0, [0, 10, 20, 30]), (0.5, [20, 30]), (0.49, [30]), (0.2, []), (0.25, [30])],
)
def test_every_tenth_of_the_last_updates_is_averaged(averaged: float, seen: list[int]) -> None:
    assert [update for update in range(40) if is_averaged(update, 40, averaged)] == seen


def test_the_mean_gives_each_term_the_same_weight() -> None:
    state, values = State([torch.zeros(1, 1)], [torch.zeros(1)]), (3.0, -1.0, 7.0)
    assert state.result()[0].item() == 0.0
    for value in values:
        state.weights[0].fill_(value)
        state.biases[0].fill_(2 * value)
        look(state)
    W, b = state.result()
    assert (W.item(), b.item()) == pytest.approx((3.0, 6.0))
    state.weights[0].fill_(9.0)
    assert W.item() == pytest.approx(3.0)


def test_a_step_with_momentum_and_decay_in_numbers() -> None:
    """From 2, velocity ½, slope 3, rate ½, m = ½, λ = ⅕: u = ¼ + ½ (3 − 0.4) = 1.55.

    A bias alike, but without decay: u = ¼ + ½ · 3 = 1.75.
    """
    state = State([torch.full((1, 1), 2.0)], [torch.full((1,), 2.0)])
    for velocity in state.velocity:
        velocity.fill_(0.5)
    ascend(state, [torch.full((1, 1), 3.0), torch.full((1,), 3.0)], 0.5, schedule())
    assert [v.item() for v in state.velocity] == pytest.approx([1.55, 1.75])
    assert [v.item() for v in state.parameters] == pytest.approx([3.55, 3.75])


def trace(data: Tensor, plan: Schedule) -> list[tuple[list[float], float]]:
    """The rows of each batch and its rate."""
    seen = []

    def step(state: State, batch: Tensor, rate: float) -> None:
        seen.append((batch[:, 0].tolist(), rate))

    state = State([torch.zeros(1, 1)], [torch.zeros(1)])
    run(step, state, data, plan, generator=seeded(), progress=False)
    assert state.num_updates == len(seen)
    return seen


def test_each_epoch_goes_once_through_the_rows_in_an_order_of_its_own() -> None:
    seen = trace(torch.arange(8)[:, None], schedule(num_epochs=2))
    assert [len(rows) for rows, _ in seen] == [3, 3, 2] * 2
    epochs = [[row for rows, _ in seen[k : k + 3] for row in rows] for k in (0, 3)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(8))
    assert [rate for _, rate in seen] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_batch_larger_than_the_data_is_all_of_them() -> None:
    seen = trace(torch.arange(4)[:, None], schedule(num_epochs=2, batch_size=100))
    assert [sorted(rows) for rows, _ in seen] == [list(range(4))] * 2
    assert [rate for _, rate in seen] == [1.0, 0.5]


class Stopped(Exception):
    pass


def noisy(state: State, batch: Tensor, rate: float, *, generator: torch.Generator) -> None:
    """A step that depends on all that a state has: what it keeps, velocities, random numbers."""
    noise = torch.randn(2, 1, generator=generator)
    state.kept["chain"] = 0.5 * state.kept["chain"] + noise
    slope = state.kept["chain"] - state.weights[0] + batch.mean()
    ascend(state, [slope, -state.biases[0] + slope.sum()], rate, schedule(num_epochs=6))


def known_as(name: str, generator: torch.Generator | None = None) -> Signature:
    """What a training of that name is told by."""
    start = Start.of(seeded() if generator is None else generator, is_given=True)
    return sign(start, {"name": name}, {}, torch.zeros(0))


def trained(
    checkpoint: Checkpoint | None, stop: int | None = None, seed: int = 0
) -> tuple[State, torch.Generator]:
    """Six epochs of three updates; stopped in an update, if at all."""
    state = State([torch.zeros(2, 1)], [torch.zeros(1)], {"chain": torch.zeros(2, 1)})
    g = seeded(seed)

    def step(state: State, batch: Tensor, rate: float) -> None:
        if state.num_updates == stop:
            raise Stopped
        noisy(state, batch, rate, generator=g)

    plan = schedule(num_epochs=6, averaged=0.9)
    data = torch.arange(8.0)[:, None]
    run(step, state, data, plan, generator=g, checkpoint=checkpoint, progress=False)
    return state, g


@pytest.mark.parametrize("stop", [0, 1, 3, 10, 17])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop: int, tmp_path: Path) -> None:
    whole, g = trained(None)
    checkpoint = Checkpoint(tmp_path / "state", known_as("this one"))
    with pytest.raises(Stopped):
        trained(checkpoint, stop)
    resumed, other = trained(checkpoint)
    for one, two in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(one, two)
    assert all(map(torch.equal, whole.velocity, resumed.velocity))
    assert all(map(torch.equal, whole.result(), resumed.result()))
    assert torch.equal(whole.kept["chain"], resumed.kept["chain"])
    assert torch.equal(g.get_state(), other.get_state())
    assert (whole.num_updates, whole.num_terms) == (resumed.num_updates, resumed.num_terms)
    assert whole.num_terms == 1
    again, _ = trained(checkpoint, stop=0)  # all is done: no step is taken
    assert all(map(torch.equal, whole.parameters, again.parameters))


def test_files_that_are_of_no_use_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(poe.StorageError, match="found no folder"):
        Checkpoint(tmp_path / "nowhere" / "state", known_as("this one"))
    trained(Checkpoint(path, known_as("this one")))
    with pytest.raises(poe.StorageError, match="of another run, which differs in name"):
        trained(Checkpoint(path, known_as("another")))
    with pytest.raises(Stopped):  # what is of another stage is none of this one's
        trained(Checkpoint(path, known_as("this one"), stage=1), stop=0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(poe.StorageError, match="checkpoint of a training"):
        trained(Checkpoint(path, known_as("this one")))


def test_parameters_that_run_away_are_told_and_leave_the_last_file(tmp_path: Path) -> None:
    def step(state: State, batch: Tensor, rate: float) -> None:
        ascend(state, [torch.full((1, 1), 1e38), torch.zeros(1)], 1.0, schedule(momentum=1.0))

    state = State([torch.zeros(1, 1)], [torch.zeros(1)])
    checkpoint = Checkpoint(tmp_path / "state", known_as("this one"))
    with pytest.raises(poe.PoeError, match=r"expected finite parameters, got others in epoch 2"):
        run(
            step, state, torch.zeros(3, 1), schedule(batch_size=2), generator=seeded(),
            checkpoint=checkpoint, progress=False,
        )  # fmt: skip
    saved = checkpoint.read()
    assert saved is not None
    assert saved.num_updates == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_epochs": 0}, "num_epochs of at least 1, got 0"),
        ({"num_epochs": 2.5}, "whole number as num_epochs, got 2.5"),
        ({"batch_size": -3}, "batch_size of at least 1, got -3"),
        ({"learning_rate": -0.1}, "learning_rate from 0 to 1, got -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate from 0 to 1, got nan"),
        ({"learning_rate": "fast"}, "a number as learning_rate, got 'fast'"),
        ({"momentum": 1.5}, "momentum from 0 to 1, got 1.5"),
        ({"weight_decay": -1e-9}, "weight_decay from 0 to 1"),
        ({"averaged": 1.01}, "averaged from 0 to 1, got 1.01"),
    ],
)
@pytest.mark.parametrize("trainer", ["fit_rbm", "fit_dbm", "pretrain_dbm"])
def test_settings_out_of_range_are_refused(
    trainer: str, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(poe.PoeError, match=words):
        TRAINERS[trainer](BITS, **changed)


def small_dbm() -> DBM:
    return DBM([torch.ones(3, 2), -torch.ones(2, 1)], [torch.zeros(n) for n in (3, 2, 1)])


BITS = torch.randint(2, (9, 3), generator=seeded(1)).float()
TRAINERS: dict[str, Callable[..., Any]] = {
    "fit_rbm": partial(fit_rbm, num_hidden=2, progress=False),
    "fit_dbm": lambda data, **settings: fit_dbm(small_dbm(), data, progress=False, **settings),
    "pretrain_dbm": partial(pretrain_dbm, layer_sizes=(3, 2, 2), progress=False),
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.full((9, 3), torch.nan), "got nan"),
        (torch.where(BITS == 1, torch.tensor(torch.nan), BITS), "got nan"),
        (2 * BITS, "2"),
        (-BITS, "-1"),
        (torch.zeros(0, 3), r"got \(0, 3\): give at least one row"),
        (torch.zeros(9, 0), "got"),
        (torch.zeros(9), r"shape \(n, .*got \(9,\)"),
        (torch.zeros(3, 3, 1), r"shape \(n, .*got \(3, 3, 1\)"),
        (BITS.numpy(), "expected a tensor, got ndarray"),
        ([[0.0, 1.0, 1.0]], "expected a tensor, got list"),
    ],
)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_data_that_cannot_be_learned_from_are_refused(trainer: str, data: Any, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        TRAINERS[trainer](data)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_bits_of_any_dtype_are_learned_from_alike(trainer: str, dtype: torch.dtype) -> None:
    fitted = [
        TRAINERS[trainer](data, num_epochs=2, generator=seeded()) for data in (BITS, BITS.to(dtype))
    ]
    assert all(map(torch.equal, *(model.buffers() for model in fitted)))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_file_of_another_trainer_is_refused(trainer: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    TRAINERS[trainer](BITS, num_epochs=1, checkpoint=path)
    for name, other in TRAINERS.items():
        if name != trainer:
            with pytest.raises(poe.StorageError, match="of another run, which differs in"):
                other(BITS, num_epochs=1, checkpoint=path)
    with pytest.raises(poe.StorageError, match="of another run, which differs in"):
        TRAINERS[trainer](1 - BITS, num_epochs=1, checkpoint=path)


@pytest.mark.parametrize("trainer", ["fit_rbm", "fit_dbm"])
def test_what_is_reported_stays_as_it_was(trainer: str) -> None:
    seen: list[Any] = []
    copies: list[list[Tensor]] = []

    def report(epoch: int, model: Any) -> None:
        seen.append(model)
        copies.append([value.clone() for value in model.buffers()])

    TRAINERS[trainer](BITS, num_epochs=3, averaged=0.0, learning_rate=0.5, report=report)
    for model, values in zip(seen, copies, strict=True):
        assert all(map(torch.equal, model.buffers(), values))
    assert not torch.equal(copies[0][0], copies[2][0])


@pytest.mark.parametrize("trainer", ["fit_rbm", "fit_dbm"])
def test_what_augment_makes_has_the_shape_of_the_rows(trainer: str) -> None:
    with pytest.raises(poe.ShapeError, match=r"batch \(9, 3\) from augment, got \(9, 2\)"):
        TRAINERS[trainer](BITS, augment=lambda batch, g: batch[:, 1:])
    with pytest.raises(poe.ShapeError, match="from augment, got NoneType"):
        TRAINERS[trainer](BITS, augment=lambda batch, g: None)


@pytest.mark.parametrize("settings", [{}, {"averaged": 0.9, "final_share": 0.0}], ids=str)
@pytest.mark.parametrize("stop", [0, 4, 5, 20, 37, 40, 59])
def test_pretraining_goes_on_from_any_layer_bit_for_bit(
    settings: dict[str, Any], stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three layers of four epochs of five updates, stopped before the update ``stop`` of the 60."""
    module = sys.modules[pretrain_dbm.__module__]
    plain = module.contrastive_divergence  # type: ignore[attr-defined]
    path, left = tmp_path / "state", iter(range(stop))

    def pretrained(checkpoint: Path | None, seed: int = 0) -> tuple[DBM, Tensor]:
        g = seeded(seed)
        made = pretrain_dbm(
            BITS, (3, 4, 3, 2), num_epochs=4, batch_size=2, learning_rate=0.5, generator=g,
            checkpoint=checkpoint, progress=False, **settings,
        )  # fmt: skip
        return made, g.get_state()

    def stopped(*arguments: Any) -> list[Tensor]:
        if next(left, None) is None:
            raise Stopped
        return plain(*arguments)

    whole, state = pretrained(None)
    with monkeypatch.context() as patch:
        patch.setattr(module, "contrastive_divergence", stopped)
        with pytest.raises(Stopped):
            pretrained(path)
    assert path.exists() == (stop >= 5)  # after an epoch
    for _ in range(2):  # the second time there is nothing left to do
        resumed, resumed_state = pretrained(path)
        assert all(map(torch.equal, whole.buffers(), resumed.buffers()))
        assert torch.equal(state, resumed_state)
    with pytest.raises(poe.StorageError, match="differs in the state of the generator"):
        pretrained(path, seed=99)
    with pytest.raises(poe.StorageError, match="of another run, which differs in"):
        pretrain_dbm(BITS, (3, 4, 3, 1), num_epochs=4, checkpoint=path, progress=False)


def test_pretraining_averages_each_layer() -> None:
    """Of one layer, by the parameters after its first, eleventh and twenty-first update."""
    common = {"layer_sizes": (3, 2), "batch_size": 9, "learning_rate": 0.5, "progress": False}
    latest = [
        pretrain_dbm(BITS, num_epochs=count, generator=seeded(), **common) for count in (1, 11, 21)
    ]
    mean = pretrain_dbm(BITS, num_epochs=21, averaged=1.0, generator=seeded(), **common)
    for found, *each in zip(mean.buffers(), *(dbm.buffers() for dbm in latest), strict=True):
        torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=0, atol=1e-6)


def modules_imported_by(module: ModuleType) -> set[str]:
    tree = ast.parse(inspect.getsource(module))
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    plain = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    return {name for name in (*names, *plain) if name is not None}


@pytest.mark.parametrize(
    "model",
    [
        experts.RBM, experts.GaussianRBM, experts.PottsRBM, experts.DBM, experts.VisibleDBM,
        experts.boltzmann.BaseRateAIS, experts.boltzmann.LayerGibbs,
        experts.boltzmann.mean_field, experts.boltzmann.sweep,
        experts.Bernoulli, experts.families.data_log_odds, HiddenDensity, Latest, linear,
    ],
    ids=lambda model: model.__name__,
)  # fmt: skip
def test_models_do_not_import_trainers(model: Any) -> None:
    trainers = (
        training.CD, training.fit_rbm, training.fit_dbm, training.pretrain_dbm, training.grow_dbm,
        Schedule,
    )  # fmt: skip
    places = {trainer.__module__ for trainer in trainers}
    assert not modules_imported_by(sys.modules[model.__module__]) & places
    assert model.__module__ not in places


def test_numpy_numbers_are_numbers() -> None:
    Schedule(np.int64(3), np.int32(2), np.float32(0.5), np.float64(0.5), 0, 1)


@pytest.mark.parametrize("wrong", [None, training.CD, 3])
def test_what_are_no_particles_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(poe.PoeError, match="expected particles such as CD"):
        fit_rbm(torch.zeros(4, 2), 2, particles=wrong, num_epochs=1, progress=False)


def test_data_without_numbers_are_refused_in_words() -> None:
    data = torch.zeros(4, 2, device="meta")
    for train in (
        lambda: fit_rbm(data, 2, progress=False),
        lambda: pretrain_dbm(data, [2, 2, 2], progress=False),
        lambda: fit_dbm(DBM([[[1.0], [0.0]]], [[0.0, 0.0], [0.0]]), data, progress=False),
    ):
        with pytest.raises(poe.PoeError, match="expected data that hold numbers"):
            train()


# A checkpoint is of one training


def fitted(trainer: str, path: Path, **settings: Any) -> Any:
    return TRAINERS[trainer](BITS, num_epochs=3, checkpoint=path, **settings)


def stops(epoch: int, _: object) -> None:
    if epoch == 2:
        raise Stopped


def flipped(batch: Tensor, share: float, generator: torch.Generator) -> Tensor:
    noise = torch.rand(batch.shape, generator=generator)
    return torch.where(noise < share, 1 - batch, batch)


def flips(share: float) -> training.loop.Augment:
    return lambda batch, generator: flipped(batch, share, generator)


AUGMENTS: dict[str, tuple[training.loop.Augment | None, training.loop.Augment | None]] = {
    "none": (None, lambda rows, g: rows),
    "code": (lambda rows, g: rows, lambda rows, g: 1 - rows),
    "closure": (flips(0.0), flips(1e-9)),
}


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("trainer", ["fit_rbm", "fit_dbm"])
def test_another_augment_is_refused(trainer: str, name: str, tmp_path: Path) -> None:
    path, (first, other) = tmp_path / "state", AUGMENTS[name]
    with pytest.raises(Stopped):
        fitted(trainer, path, augment=first, generator=seeded(), report=stops)
    with pytest.raises(poe.StorageError, match="which differs in augment"):
        fitted(trainer, path, augment=other, generator=seeded())
    resumed = fitted(trainer, path, augment=first, generator=seeded())
    whole = fitted(trainer, tmp_path / "whole", augment=first, generator=seeded())
    assert all(map(torch.equal, resumed.buffers(), whole.buffers()))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_another_generator_is_refused(trainer: str, tmp_path: Path) -> None:
    generator = seeded()
    fitted(trainer, tmp_path / "state", generator=generator)
    for other in (generator, seeded(99)):
        with pytest.raises(poe.StorageError, match="differs in the state of the generator"):
            fitted(trainer, tmp_path / "state", generator=other)
    fitted(trainer, tmp_path / "state", generator=seeded())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_finished_training_is_not_handed_back_as_a_new_one(trainer: str, tmp_path: Path) -> None:
    fitted(trainer, tmp_path / "state")
    with pytest.raises(poe.StorageError, match="one that is finished"):
        fitted(trainer, tmp_path / "state")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_another_file_is_refused_and_left_alone(trainer: str, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("precious")
    with pytest.raises(poe.StorageError, match=r"thesis\.txt"):
        fitted(trainer, path)
    assert path.read_text() == "precious"
    poe.save_draws(poe.Draws(torch.zeros(2, 3, 1), torch.zeros(2, 3), "exact"), tmp_path / "draws")
    with pytest.raises(poe.StorageError, match="another file of this package"):
        fitted(trainer, tmp_path / "draws")
    poe.load_draws(tmp_path / "draws")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_training_is_not_lost_with_its_checkpoint(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(trainer, tmp_path / "whole", generator=seeded())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "write_bytes", full)
    with pytest.warns(poe.TrustWarning, match=r"could not be written .*No space left"):
        again = fitted(trainer, tmp_path / "state", generator=seeded())
    assert all(map(torch.equal, whole.buffers(), again.buffers()))


def test_a_training_that_is_sealed_anew_and_says_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fitted("fit_rbm", path, generator=seeded())
    facts, tensors = tensor_file.read(path)
    wrong = [
        (facts, {k: v for k, v in tensors.items() if k != name})
        for name in tensors
        if "signature" not in name
    ]
    wrong += [({k: v for k, v in facts.items() if k != name}, tensors) for name in facts]
    wrong += [({**facts, name: None}, tensors) for name in facts]
    wrong += [
        (facts, {**tensors, name: torch.zeros(7)}) for name in tensors if "signature" not in name
    ]
    for told, held in wrong:
        path.write_bytes(tensor_file.packed(told, held))
        with pytest.raises(poe.StorageError, match="state"):
            fitted("fit_rbm", path, generator=seeded())
