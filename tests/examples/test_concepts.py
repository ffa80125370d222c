"""The parts of examples/concepts: what is drawn is read again; compositions are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import experts
import poe
from examples.common import seeded
from examples.concepts import compositions, data, energy, read_out, sampling
from examples.concepts.compositions import Concepts
from examples.concepts.formula import Is
from examples.concepts.weights import WEIGHTS
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


@pytest.fixture(scope="module")
def concepts() -> Concepts:
    """Small untrained ones that depend on their input."""
    with seeded(0):
        return untrained()


def untrained() -> Concepts:
    picture = energy.PictureEnergy(channels=4)
    attributes = {
        name: energy.Concept(picture, data.labels_of(name), channels=2) for name in data.FACTORS
    }
    for concept in attributes.values():
        concept.net.last[-1].weight.data.mul_(30.0)
    presence = energy.Presence(picture, channels=2)
    joint = energy.JointEnergy(channels=4)
    return Concepts(picture, attributes, presence, joint)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("held_out", [False, True])
def test_what_is_drawn_is_read_again(held_out: bool) -> None:
    g = generator()
    labels = data.random_labels(80, g, held_out=held_out)
    assert (data.is_held_out(labels) == held_out).all()
    pictures = data.singles(labels, g)
    ink = pictures.ink + 0.05 * torch.randn(pictures.ink.shape, generator=g)
    reading = read_out.read(ink)
    assert (reading.labels == labels).all()
    assert reading.is_whole.all()


def test_paper_fragments_and_pairs_are_no_objects() -> None:
    g = generator()
    ink = data.singles(data.random_labels(20, g, held_out=False), g).ink
    paper = 0.05 * torch.randn(20, 3, 32, 32, generator=g)
    striped = ink * (torch.arange(32) % 4 < 2)
    for pictures in (paper, 0.3 * ink, striped, ink + ink.roll(16, 2)):
        assert not read_out.read(pictures).is_whole.any()


def test_places_of_scenes_are_found() -> None:
    g = generator()
    scenes = data.scenes(60, g)
    ink = scenes.ink + 0.05 * torch.randn(scenes.ink.shape, generator=g)
    counts = torch.tensor([len(one) for one in read_out.centres(ink)])
    assert (counts == scenes.present.sum((1, 2))).all()
    assert counts.min() >= 2
    cells = scenes.present.flatten(1).float().topk(2).indices
    assert read_out.hits(ink, cells).all()
    assert not read_out.hits(ink, torch.zeros_like(cells)).any()  # the corner is too near


def test_coverage_adds_up_to_the_area() -> None:
    shape = torch.arange(3).repeat(4)
    area, centre = torch.full((12,), 90.0), torch.full((12, 2), 16.3)
    covered = data.coverage(shape, area, centre, torch.linspace(0, 1, 12)).sum((1, 2))
    # The error of a pixel is of second order in how oblique its edge is: 3 % of 38 edge pixels.
    torch.testing.assert_close(covered, area, rtol=0.02, atol=0)


def test_the_plain_product_counts_the_energy_of_pictures_six_times(concepts: Concepts) -> None:
    labels = data.random_labels(3, generator(), held_out=False)
    x = 0.3 * torch.randn(3, 3, 32, 32, generator=generator())
    columns = zip(concepts.attributes.values(), labels.T, strict=True)
    product = sum(concept.given(column)(x) for concept, column in columns)
    plain = compositions.plain_product(concepts, labels)
    torch.testing.assert_close(plain.density(x), product)
    composed = compositions.times_prior(concepts, compositions.all_of(concepts, labels))
    torch.testing.assert_close(composed.density(x), product - 5 * concepts.prior(x))


def test_a_formula_is_the_sum_and_product_of_what_its_labels_say(concepts: Concepts) -> None:
    x = 0.3 * torch.randn(5, 3, 32, 32, generator=generator())
    large, red, bar = (
        concepts.says(name, label)(x).exp()
        for name, label in (("size", "large"), ("colour", "red"), ("shape", "bar"))
    )
    assert large.std() > 1e-3 * large.mean()  # far above the tolerance below
    concept = concepts.attributes["x"]
    concept.frequency = torch.tensor([0.3, 0.3, 0.2, 0.2])
    left = concepts.says("x", "left")(x).exp()
    formula = ((Is("large") & Is("red")) | Is("bar")) & ~Is("left")
    assert str(formula) == "((large AND red) OR bar) AND NOT left"
    # p(not left | x) / p(not left), with p(left | x) = 0.3 left
    expected = (large * red + bar) / 2 * (1 - 0.3 * left) / 0.7
    torch.testing.assert_close(formula.said_by(concepts)(x).exp(), expected)
    quotient = Is("large") / Is("red")
    torch.testing.assert_close(quotient.said_by(concepts)(x).exp(), large / red)
    moved = at_level(concepts.prior * formula.said_by(concepts), 0.7)
    assert moved(x).isfinite().all()


def at_level(expert: poe.Expert, noise_level: float) -> poe.Expert:
    return experts.noised.at_noise_level(expert, noise_level)


def test_shares_that_are_due() -> None:
    labels = torch.cartesian_prod(*map(torch.arange, (3, 4, 2, 3, 3, 2)))
    either = Is("triangle") | Is("blue")
    weight = either.ratio(labels)
    share = (weight * Is("triangle").holds(labels)).sum() / weight.sum()
    torch.testing.assert_close(share, torch.tensor(0.5 + 0.5 / 3))
    assert (either.holds(labels) == (weight > 0)).all()
    both = Is("large") & ~Is("red")
    torch.testing.assert_close(both.ratio(labels).mean(), torch.tensor(1.0))
    assert (both.holds(labels) == (both.ratio(labels) > 0)).all()


def test_the_ladder_ends_at_the_target(concepts: Concepts) -> None:
    labels = data.random_labels(2, generator(), held_out=False)
    said = compositions.all_of(concepts, labels)
    target = compositions.times_prior(concepts, said)
    schedule = sampling.Schedule(levels=3, per_level=1, at_target=2)
    assert schedule.noise_levels[0] == energy.HIGHEST
    assert schedule.noise_levels[-1] == pytest.approx(energy.LOWEST)
    draws = sampling.sample(target, 2, schedule, generator())
    assert draws.samples.shape == (2, 1, 3, 32, 32)
    assert draws.guarantee == "asymptotically exact"
    assert draws.num_warmup + 1 == 3 + 2
    torch.testing.assert_close(target.density(draws.samples[:, -1]), draws.log_density[:, -1])
    unadjusted = sampling.sample_unadjusted(target, 2, schedule, generator())
    assert unadjusted.guarantee == "biased"
    assert unadjusted.num_warmup + 1 == schedule.gradients
    corrected = sampling.sample_corrected(target, 2, schedule, generator())
    assert corrected.guarantee == "asymptotically exact"


def test_a_colourless_concept_does_not_see_colour() -> None:
    g = torch.Generator().manual_seed(0)
    with seeded(0):
        concept = energy.Colourless(energy.PictureEnergy(channels=2), ("a", "b"), channels=2)
    concept.net.last[-1].weight.data.mul_(30.0)  # far above the tolerances below
    x, level = torch.randn(5, 3, 32, 32, generator=g), torch.full((5,), 0.3)
    grey = torch.tensor(energy.GREY)
    colour = torch.linalg.cross(grey, torch.randn(3, generator=g))[:, None, None]
    found = concept.logits(x, level)
    torch.testing.assert_close(concept.logits(x + colour, level), found, atol=1e-5, rtol=1e-5)
    ink = torch.zeros(1, 1, 32, 32).index_fill_(2, torch.arange(9), 1.0)
    assert not torch.allclose(concept.logits(x + ink, level), found, atol=1e-3)
    assert float(grey.norm()) == pytest.approx(1, abs=1e-3)


def test_other_colours_are_no_held_out_combination() -> None:
    """What is read as one of these is in no colour that its label is told of."""
    ink = data.in_other_colours(900)
    reading = read_out.read(ink)
    held_out = data.is_held_out(reading.labels)
    assert 20 < int(held_out.sum()) < 300  # the nearest of four names, however far away
    colour = read_out.mean_ink(ink, read_out.ink_mask(ink))
    off = (colour - data.INKS[reading.labels[:, 1]]).abs().amax(1)
    assert float(off[held_out].min()) > data.NEAR - 0.02  # pixels at an edge pull the mean a little
    assert float(off.min()) < 0.1


def test_concepts_are_trained_apart(run: Run, tmp_path: Path) -> None:
    ran = run("concepts.train", "--fast", "--threads", "1", "--weights", "new")
    new, shipped = (
        {path.stem for path in folder.glob("*.safetensors")}
        for folder in (tmp_path / "new", WEIGHTS)
    )
    assert set(ran.rows(r"(\w+): \d+ updates.*")) == new == shipped


def test_concepts_compose(run: Run) -> None:
    ran = run("concepts", "--fast", "--threads", "1")
    rows = [line.strip("| ").split(" | ") for line in ran.printed.splitlines() if line[:2] == "| "]
    table = {tuple(row[:2]): row for row in rows}
    for group in ("seen", "held out"):
        assert ("AND", group) in table
        assert ("plain product", group) in table
    places = {row[0]: float(row[1]) for row in rows if len(row) == 4 and row[0] != "three objects"}
    # 12 places: of p(x) alone, an object is in one cell of 64 some 5 times in 100.
    assert places["product of three places"] >= 75
    assert places["p(x) alone"] <= 50
    assert ran.rows(r"AND: .*(asymptotically exact).*")
    assert ran.rows(r"AND, unadjusted: .*(biased).*")
    pictures = ran.images()
    assert len(pictures) == 4 * (2 * 5 + 5 + 1)  # chains of each way and group, formula, and places
    assert all(image.min() >= 0 and image.max() <= 1 for image in pictures)
    assert np.mean([image.min() < 0.7 for image in pictures]) > 0.5  # ink on paper
