"""Runs: the same seed gives the same draws, and their guarantee is of what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import poe
from poe.core.doubt import Doubt, Kind, texts
from poe.studio import digits, draw, draws_file, garments, plane, words
from poe.studio.draw import Frame, Settings, run
from poe.studio.model import Composition, compose
from poe.studio.offer import Choice

RING_AND_BAR = [Choice("ring"), Choice("bar")]


def frames(composition: Composition, settings: Settings) -> list[Frame]:
    return list(run(composition, settings))


def last(choices: list[Choice], settings: Settings) -> poe.Draws:
    draws = frames(compose(choices), settings)[-1].draws
    assert draws is not None
    return draws


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_CHAINS": 2, "POOL": 3, "TRAJECTORIES": 1, "BURN_IN": 1}.items():
        monkeypatch.setattr(digits, name, value)


def test_the_same_seed_gives_the_same_draws_and_another_others() -> None:
    first, again, other = (
        last(RING_AND_BAR, Settings(seed=seed, num_draws=4)) for seed in (3, 3, 4)
    )
    assert torch.equal(first.samples, again.samples)
    assert torch.equal(first.log_density, again.log_density)
    assert not torch.equal(first.samples, other.samples)


def test_stopping_early_keeps_the_first_draws_of_the_whole_run() -> None:
    whole = frames(compose(RING_AND_BAR), Settings(num_draws=25))
    counts = [frame.draws.samples.shape[1] for frame in whole if frame.draws is not None]
    assert counts == [10, 20, 25]
    early = next(f for f in run(compose(RING_AND_BAR), Settings(num_draws=25)) if f.draws)
    assert early.draws is not None
    assert whole[-1].draws is not None
    assert torch.equal(early.draws.samples, whole[-1].draws.samples[:, :10])


@pytest.mark.parametrize(
    ("choices", "is_corrected", "guarantee"),
    [
        (RING_AND_BAR, True, "asymptotically exact"),
        (RING_AND_BAR, False, "biased"),
        ([Choice("bar"), Choice("spots", 1.0)], False, "exact"),
    ],
)
def test_the_guarantee_is_that_of_what_was_done(
    choices: list[Choice], is_corrected: bool, guarantee: str
) -> None:
    draws = last(choices, Settings(num_draws=3, is_corrected=is_corrected))
    assert draws.guarantee == guarantee
    assert words.meaning(draws) == words.MEANING[guarantee]
    assert words.facts(draws).startswith("256 chains × 3 draws")


def test_frames_tell_the_energy_that_the_experts_add_up_to() -> None:
    composition = compose(RING_AND_BAR)
    shown = frames(composition, Settings(num_draws=12))
    for frame in shown:
        with torch.no_grad():
            energy = -composition.product(frame.x)
        torch.testing.assert_close(-frame.contributions.sum(-1), energy)
        torch.testing.assert_close(frame.energy[:, -1], energy)
        assert frame.x.isfinite().all()
    assert [f.fraction for f in shown] == sorted(f.fraction for f in shown)
    assert shown[-1].fraction == 1.0
    assert shown[-1].energy.shape == (256, shown[-1].num_before + 12)


def test_draws_of_the_plane_have_the_moments_of_the_density() -> None:
    """By quadrature; the chains are independent."""
    composition = compose(RING_AND_BAR)
    samples = last(RING_AND_BAR, Settings(seed=1, num_draws=20)).samples.double()
    middle = 6 * (2 * (torch.arange(300) + 0.5) / 300 - 1)
    points = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1).flatten(0, 1)
    with torch.no_grad():
        weights = composition.product(points).double().softmax(0)
    means = samples.mean(1)
    z = (means.mean(0) - weights @ points.double()) / (means.std(0) / len(means) ** 0.5)
    assert z.abs().max() < 4, z


def test_joined_counts_add_up() -> None:
    x = torch.zeros(2, 3, 1)
    first = poe.Draws(
        x, x[..., 0], "asymptotically exact", acceptance_rate=torch.tensor([1.0, 0.0]),
        num_divergent=torch.tensor([1, 2]), num_gradients=3, doubts=(Doubt(Kind.OTHER, "a"),),
    )  # fmt: skip
    then = poe.Draws(
        x[:, :1] + 1, x[:, :1, 0], "asymptotically exact",
        acceptance_rate=torch.tensor([0.0, 1.0]), num_divergent=torch.tensor([1, 0]),
        num_gradients=1, doubts=(Doubt(Kind.OTHER, "a"), Doubt(Kind.OTHER, "b")),
    )  # fmt: skip
    both = draw.joined(first, then)
    assert both.samples[..., 0].tolist() == [[0, 0, 0, 1]] * 2
    assert both.acceptance_rate is not None
    assert both.acceptance_rate.tolist() == [0.75, 0.25]
    assert both.num_divergent is not None
    assert both.num_divergent.tolist() == [2, 2]
    assert both.num_gradients == 4
    assert texts(both.doubts) == ("a", "b")
    assert both.num_outside is None


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(
    "choices",
    [
        [Choice("digits-class", 1.0, "7"), Choice("digits-slant", -0.5, "left")],
        [Choice("digits-thickness", 1.0, "thick"), Choice("digits-prior", 0.2)],
        [Choice("digits-prior", 1.0)],
    ],
    ids=str,
)
def test_digits_walk_down_the_ladder_to_the_product(choices: list[Choice]) -> None:
    shown = frames(compose(choices), Settings(num_draws=1))
    said = [frame.words for frame in shown]
    assert "that the others like" in said[0]
    assert [word for word in said if "noise" in word and "burn" not in word] == [
        f"down a ladder of noise: noise {level:g}" for level in digits.LADDER
    ]
    assert shown[-1].draws is not None
    assert shown[-1].draws.guarantee == "asymptotically exact"
    assert shown[-1].draws.samples.shape == (2, 1, 16, 16)


def test_garments_are_walked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_CHAINS": 2, "NUM_STEPS": 4, "STEPS_A_FRAME": 2}.items():
        monkeypatch.setattr(garments, name, value)
    shown = frames(compose([Choice("fashion-energy", 2.0)]), Settings(num_draws=2))
    assert [frame.words for frame in shown[1:3]] == [
        "on the way: 2 of 4 Langevin steps", "on the way: 4 of 4 Langevin steps"
    ]  # fmt: skip
    draws = shown[-1].draws
    assert draws is not None
    assert draws.kernel == poe.samplers.MALA(garments.STEP_SIZE / 2)
    assert draws.samples.shape == (2, 2, 28, 28)


def test_no_draws_are_refused() -> None:
    with pytest.raises(poe.PoeError, match="at least one draw"):
        next(run(compose(RING_AND_BAR), Settings(num_draws=0)))


def test_resampling_is_by_weight() -> None:
    """Of two rows of weights 1 and 3, the second comes first in three of four."""
    generator = torch.Generator().manual_seed(0)
    pool, log_weight = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]).log()
    found = torch.cat([plane.resample(pool, log_weight, 1, generator) for _ in range(4000)])
    z = (found.mean() - 0.75) / (0.75 * 0.25 / 4000) ** 0.5
    assert z.abs() < 4, z


def test_a_file_of_draws_says_what_they_are(tmp_path: Path) -> None:
    composition = compose([Choice("ring"), Choice("bar", 0.5)])
    frame = frames(composition, Settings(seed=5, num_draws=2))[-1]
    (tmp_path / "draws.safetensors").write_bytes(draws_file.content(composition, frame))
    draws = poe.load_draws(tmp_path / "draws.safetensors")
    assert frame.draws is not None
    assert torch.equal(draws.samples, frame.draws.samples)
    assert torch.equal(draws.log_density, frame.draws.log_density)
    assert draws.guarantee == "asymptotically exact"
    assert draws.seed == 5
    assert repr(draws.kernel) == repr(frame.draws.kernel)
    with safe_open(tmp_path / "draws.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["facts"])["about"]
    assert about["formula"] == "ring · bar^0.5"
    assert about["experts"][1] == {"name": "bar", "exponent": 0.5, "label": ""}
    with pytest.raises(ValueError, match="with draws"):
        draws_file.content(composition, frame._replace(draws=None))
