"""The training loop that users copy: it resumes, stops where it must, and measures what it says."""

from __future__ import annotations

import gzip
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import experts
import poe
from examples.common import seeded
from examples.train_energy import loop
from examples.train_energy.chains import Persistent, ShortRun
from examples.train_energy.data import pictures
from examples.train_energy.frechet import Moments, frechet_distance, moments
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def images() -> Tensor:
    return torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0))


def begun(kind: str = "persistent", learning_rate: float = 1e-3) -> Any:
    g = torch.Generator().manual_seed(1)
    with seeded(0):
        net = experts.neural.ResidualNetwork((8, 8), (4, 8), spectral_norm=True)
    gaussian = experts.ProbabilisticPCA.fit(images(), 3)
    expert = poe.Product(moments=gaussian, shape=experts.NeuralEnergy(net, poe.Real((8, 8))))
    buffer = poe.ReplayBuffer(gaussian, 30, generator=g)
    chains = {
        "persistent": Persistent(buffer, poe.samplers.ULA(1e-3), 2),
        "short": ShortRun(gaussian, 1e-3, 2),
        "none": None,
    }
    return loop.begin(expert, chains[kind], learning_rate=learning_rate, generator=g)


def train(state: Any, checkpoint: Path, steps: int = 6, **settings: Any) -> poe.Expert:
    given = {"noise": 0.1, "batch_size": 8, "num_draws": 8, "checkpoint_every": 3} | settings
    found: poe.Expert = loop.train(state, images(), steps=steps, checkpoint=checkpoint, **given)
    return found


@pytest.mark.parametrize("kind", ["persistent", "short", "none"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(begun(kind), tmp_path / "whole.pt")
    real, count = loop.update, 0

    def stops(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:  # after the checkpoint of step 3, in the middle of what follows
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "update", stops)
    with pytest.raises(KeyboardInterrupt):
        train(begun(kind), tmp_path / "parts.pt")
    monkeypatch.setattr(loop, "update", real)
    resumed = train(begun(kind), tmp_path / "parts.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not list(tmp_path.glob("*.part"))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(begun("persistent"), tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"noise 0.1, not 0.2: give its settings"):
        train(begun("persistent"), tmp_path / "run.pt", noise=0.2)
    with pytest.raises(ValueError, match=r"chains 30 persistent chains, .*, not none"):
        train(begun("none"), tmp_path / "run.pt")


@pytest.mark.parametrize("kind", ["persistent", "short"])
def test_an_exploding_run_stops_and_says_where(kind: str, tmp_path: Path) -> None:
    state = begun(kind)
    with pytest.raises(poe.NonFiniteError, match=r"step 0: .*Last good checkpoint: none"):
        train(_spoiled(state), tmp_path / "run.pt")
    state = begun(kind)
    told: list[int] = []

    def spoil(step: int, scalars: dict[str, float]) -> None:
        if step == 10:
            told.append(step)
            _spoiled(state)

    with pytest.raises(poe.NonFiniteError) as caught:
        loop.train(
            state, images(), steps=30, noise=0.1, batch_size=8, num_draws=8,
            checkpoint=tmp_path / "run.pt", checkpoint_every=10, report=spoil,
        )  # fmt: skip
    said = str(caught.value)
    assert told == [10]
    assert said.startswith("step 11: ")
    assert "shape" in said  # the factor at fault, by its name in the product
    assert f"{tmp_path / 'run.pt'} (after 10 updates)" in said


def _spoiled(state: Any) -> Any:
    with torch.no_grad():
        next(iter(state.expert.experts[1].parameters())).fill_(torch.nan)
    return state


def test_sampling_leaves_the_weights_learning(tmp_path: Path) -> None:
    state = begun()
    train(state, tmp_path / "run.pt")
    net = state.expert.experts[1]
    assert all(weight.requires_grad for weight in net.parameters())
    fresh = begun().expert.experts[1]
    pairs = zip(net.named_parameters(), fresh.parameters(), strict=True)
    kept = [name for (name, weight), before in pairs if torch.equal(weight, before)]
    assert kept == ["net.last.bias"]  # a constant, on which neither loss depends
    assert torch.equal(state.expert.experts[0].loc, begun().expert.experts[0].loc)


def test_the_average_lags_behind_by_its_formula() -> None:
    state = begun()
    old = [weight.clone() for weight in state.average.parameters()]
    with torch.no_grad():
        for weight in state.expert.parameters():
            weight.add_(1.0)
    loop.update_average(state, 0.9)
    for before, after in zip(old, state.average.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.1)


def test_chains_are_written_back_and_short_runs_begin_anew() -> None:
    state = begun()
    positions = state.chains.buffer.positions.clone()
    g = torch.Generator().manual_seed(2)
    state.chains.draw(state.expert.requires_grad_(False), 30, generator=g)
    moved = state.chains.buffer.positions
    assert bool((moved != positions).flatten(1).any(1).all())
    short = begun("short").chains
    draws = [
        short.draw(state.expert, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(*draws)


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Of commuting covariances it is |m|² + Σ (√a − √b)²; of a sample with itself 0."""
    g = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64))
    a, b = torch.rand(2, 4, generator=g, dtype=torch.float64)
    b[0] = 0.0  # one direction without spread
    shift = torch.randn(4, generator=g, dtype=torch.float64)
    first = Moments(torch.zeros_like(shift), turn * a @ turn.T)
    second = Moments(shift, turn * b @ turn.T)
    expected = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    rows = torch.randn(100, 4, generator=g)
    assert frechet_distance(moments(rows), moments(rows)) == pytest.approx(0.0, abs=1e-9)


def test_idx_files_are_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, 5)
    rows = pictures("train", tmp_path)
    assert rows.images.shape == (5, 28, 28)
    assert rows.images.min() >= -1
    assert rows.images.max() <= 1
    assert rows.images[1, 2, 10] == pytest.approx(101 / 127.5 - 1)
    assert rows.labels.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match="no IDX array of bytes"):
        pictures("train", tmp_path)


def test_it_trains_and_shows_in_little_time(run: Run, tmp_path: Path) -> None:
    """As a user calls it, on pictures of a moving bar; the second run ends in a table."""
    write_pictures(tmp_path, 400)
    scalars = ("--tensorboard", "scalars") if importlib.util.find_spec("tensorboard") else ()
    given = ("--fast", "--threads", "1", "--data", ".")
    run("train_energy.train", "persistent", *given, *scalars)
    assert not scalars or list((tmp_path / "scalars").glob("events*"))
    assert isinstance(poe.load(tmp_path / "runs" / "fast" / "persistent"), poe.Product)
    ran = run("train_energy", *given)

    row = r"(.+?): (test rows, noised|[\d,]+ steps) +(-?[\d.]+) +(-?[\d.]+) +([\d.]+)"
    found = ran.rows(row)
    assert [name for name, *_ in found] == [
        name for name in ("shipped", "denoising alone", "persistent chains") for _ in range(4)
    ], ran.printed
    for _, _, distance, log_density, classes in found:
        assert float(distance) > 0
        assert math.isfinite(float(log_density))
        assert 1 <= float(classes) <= 10
    assert ran.titles() == [f"{name}: {what}" for name, what, *_ in found]
    assert all(image.shape == (6 * 28, 6 * 28) for image in ran.images())


def write_pictures(folder: Path, count: int) -> None:
    """Files as those of Fashion-MNIST: a bar whose place depends on the class."""
    for part in ("train", "t10k"):
        pixels = np.random.default_rng(0).integers(0, 9, (count, 28, 28), np.uint8)
        for index, image in enumerate(pixels):
            image[2 * (index % 10) : 2 * (index % 10) + 8, 10:18] = 100 + index % 155
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        path = folder / f"{part}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(header + pixels.tobytes()))
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = b"\0\0\x08\x01" + np.array([count], ">u4").tobytes()
        path = folder / f"{part}-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(header + labels.tobytes()))


def test_the_card_states_the_updates_that_its_command_makes() -> None:
    """Of chains as they were made, by denoising what the command makes and what was made."""
    from examples.train_energy.train import DENOISING, STAGES

    card = (Path(experts.__file__).parent / "pretrained" / "fashion-energy.md").read_text()
    training = " ".join(card[card.index("**Training.**") : card.index("**Figures.**")].split())
    share = float(re.search(r"--share ([\d.]+)`", training)[1])  # type: ignore[index]
    made = [f"{round(share * stage.updates):,}" for stage in STAGES["persistent"]]
    found = re.findall(r"(?:together: |; )([\d,]+)", training)
    assert found == made
    assert f"with {round(share * DENOISING.updates):,} updates by denoising before" in training
    assert training.startswith("**Training.** 666 updates by denoising")


def test_a_checkpoint_of_another_generator_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(begun("none"), path)
    other = begun("none")
    torch.rand(1, generator=other.generator)
    with pytest.raises(ValueError, match="is of a run with generator"):
        train(other, path)
    path.write_text("precious")
    with pytest.raises(ValueError, match="is no checkpoint"):
        train(begun("none"), path)
    assert path.read_text() == "precious"
