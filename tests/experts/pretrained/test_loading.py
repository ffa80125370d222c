"""Shipped experts: read by name, checked, and independent of each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import experts
import poe
from experts.pretrained import loading as library
from experts.pretrained.writing import Card, halved, write
from poe.io import read
from tests.seeds import seeded

Randomize = Callable[[nn.Module], None]
SETTINGS: dict[str, dict[str, int]] = {
    "PixelMixture": {"channels": 3, "blocks": 1, "components": 2},
    "ImageFlow": {"layers": 2, "hidden": 4},
    "ReconstructionEnergy": {"channels": 2},
}
CARD = Card("MIT", ("none: drawn",), "A small one, to try.")
LABELS = dict.fromkeys(SETTINGS, ("a", "b")) | {"ReconstructionEnergy": ("a", "b", "any")}


@pytest.fixture
@seeded()
def models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, randomize: Randomize
) -> dict[str, experts.NoisyConditional]:
    """One small expert of each family, written to a folder that stands for the shipped one."""
    monkeypatch.setattr(library, "folder", lambda: tmp_path)
    made = {}
    for family, settings in SETTINGS.items():
        model = library.FAMILIES[family]((4, 4), LABELS[family], 0.25, **settings)
        randomize(model)
        made[family] = model
        write(model, family, CARD, into=tmp_path)
    return made


def images() -> Tensor:
    return 0.3 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("models")
def test_available_lists_the_descriptions() -> None:
    assert experts.available() == tuple(sorted(SETTINGS))


@pytest.mark.parametrize("family", SETTINGS)
def test_load_gives_the_saved_expert_in_single_precision(
    family: str, models: dict[str, experts.NoisyConditional]
) -> None:
    loaded, model = experts.load(family), models[family]
    assert type(loaded) is type(model)
    assert loaded.labels == LABELS[family]
    # Half precision keeps every number to one part in 2,048.
    for key, value in model.state_dict().items():
        tensor = loaded.state_dict()[key]
        assert tensor.dtype == value.dtype
        torch.testing.assert_close(tensor, value, rtol=2**-11, atol=2**-24)
    assert loaded.given("a")(images()).isfinite().all()


@pytest.mark.usefixtures("models")
def test_a_prior_is_the_geometric_mean_of_marginals(tmp_path: Path) -> None:
    sources = {"flow": "ImageFlow", "pixels": "PixelMixture"}
    (tmp_path / "prior.json").write_text(json.dumps({"prior_of": sources}))
    prior, x = experts.load("prior"), images()
    assert prior.names == ("flow", "pixels")
    expected = torch.zeros(3)
    for source in sources.values():
        values = torch.stack([experts.load(source).given(label)(x) for label in ("a", "b")])
        expected += 0.5 * (values.logsumexp(0) - torch.tensor(2.0).log())
    torch.testing.assert_close(prior(x), expected)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("family", SETTINGS)
def test_loaded_experts_are_fixed_and_independent(family: str) -> None:
    first, second = experts.load(family), experts.load(family)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    before = second.given(0)(images())
    for parameter in first.parameters():
        parameter.zero_()
    assert torch.equal(second.given(0)(images()), before)
    assert torch.equal(experts.load(family).given(0)(images()), before)


@pytest.mark.usefixtures("models")
def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(poe.PoeError, match=r"ImageFlow, PixelMixture.*got 'image-flow'"):
        experts.load("image-flow")


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("change", ["one bit", "truncated", "appended"])
def test_changed_weights_are_refused(family: str, change: str, tmp_path: Path) -> None:
    weights = tmp_path / f"{family}.safetensors"
    content = weights.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    changed = {"one bit": flipped, "truncated": content[:-2], "appended": content + b"\0"}
    weights.write_bytes(changed[change])
    with pytest.raises(poe.StorageError, match=rf"{family}\.safetensors is truncated or was alt"):
        experts.load(family)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("change", ["cut", "another label", "another file"])
def test_a_changed_description_is_refused(change: str, tmp_path: Path) -> None:
    file = tmp_path / "ImageFlow.json"
    text = file.read_text()
    changed = {
        "cut": text[:-20],
        "another label": text.replace('"b"', '"c"'),
        "another file": text.replace("ImageFlow.safetensors", "PixelMixture.safetensors"),
    }
    file.write_text(changed[change])
    with pytest.raises(poe.StorageError, match=r"ImageFlow\.json was altered"):
        experts.load("ImageFlow")


@seeded()
def test_parameters_are_halved_and_buffers_kept(tmp_path: Path) -> None:
    """In the file; both come back in the precision that they had."""
    vae = experts.neural.dense_vae(
        (2, 2), 3, torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    )
    description = json.loads(write(vae, "vae", CARD, into=tmp_path).read_text())
    stored = load_file(tmp_path / "vae.safetensors").values()
    dtypes = {dtype: sum(t.dtype == dtype for t in stored) for dtype in (torch.half, torch.float)}
    assert dtypes == {torch.half: len(list(vae.parameters())), torch.float: 1}
    assert {"format_version": 3, "licence": "MIT", "card": "vae.md"}.items() <= description.items()
    found = read(tmp_path / "vae.json")
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32}
    assert torch.equal(found.noises, vae.noises)
    for kept, parameter in zip(found.parameters(), vae.parameters(), strict=True):
        assert torch.equal(kept, parameter.half().float())


@seeded()
def test_a_written_expert_in_double_precision_comes_back_so(tmp_path: Path) -> None:
    rbm = experts.RBM(nn.Parameter(torch.rand(3, 2).double()), torch.rand(3), torch.rand(2))
    found = read(write(rbm.double(), "rbm", CARD, into=tmp_path))
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float64}


def test_what_half_precision_does_not_hold_is_refused(tmp_path: Path) -> None:
    rbm = experts.RBM(nn.Parameter(torch.full((1, 1), 7e4)), [0.0], [0.0])
    with pytest.raises(poe.StorageError, match=r"up to 65,504, .* got 70000"):
        write(rbm, "rbm", CARD, into=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert halved(nn.Parameter(torch.tensor(-torch.inf))) == -torch.inf


def test_the_head_of_a_card_says_what_programs_read(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    file = write(experts.Gaussian([0.0], scale=1.0), "normal", CARD, into=tmp_path)
    head = yaml.safe_load(file.with_suffix(".md").read_text().split("---")[1])
    assert head["license"] == "MIT"
    assert head["datasets"] == ["none: drawn"]
    assert head["weights_sha256"] == json.loads(file.read_text())["weights_sha256"]


@pytest.mark.parametrize("name", experts.available())
def test_a_shipped_card_has_a_head_that_fits_its_weights(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    description = json.loads((library.folder() / f"{name}.json").read_text())
    text = (library.folder() / f"{name}.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == description.get("licence", "MIT")
    assert head.get("weights_sha256") == description.get("weights_sha256")
    if name != "digits-prior":
        assert head["num_parameters"] == sum(p.numel() for p in experts.load(name).parameters())
    assert f"\n# {name}\n" in text


@pytest.mark.parametrize("name", experts.available())
def test_a_card_is_read_as_it_was_written(name: str) -> None:
    text = (library.folder() / f"{name}.md").read_text()
    card = Card.of_file(Path(str(library.folder())) / f"{name}.md")
    assert card.licence == "MIT"
    assert card.datasets
    facts = [line for line in text.split("---")[1].splitlines() if re.match("num_|weights", line)]
    assert card.markdown(name, dict(line.split(": ") for line in facts)) == text


def test_a_card_without_a_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# a\n\nA text.\n")
    with pytest.raises(poe.StorageError, match=r"expected a card with a head .* at .*card\.md"):
        Card.of_file(tmp_path / "card.md")


def test_an_installation_without_weights_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "folder", lambda: tmp_path / "missing")
    assert experts.available() == ()


def test_the_digits_are_shipped() -> None:
    shipped = {"digits-class", "digits-slant", "digits-thickness", "digits-prior", "digits-vae"}
    assert shipped <= set(experts.available())


@pytest.mark.parametrize("name", experts.available())
def test_a_shipped_expert_works_and_has_a_card(name: str) -> None:
    loaded = experts.load(name)
    expert = loaded if isinstance(loaded, poe.Expert) else loaded.given(0)
    blank = torch.zeros(2, *expert.space.event_shape)
    log_density, score = expert.log_density_and_score(blank)
    assert log_density.isfinite().all()
    assert score.isfinite().all()
    card = library.folder().joinpath(f"{name}.md")
    assert card.is_file(), f"write the card {card}"
    assert "licence" in card.read_text().lower()


def test_shipped_patches_are_tiles_and_take_any_shape() -> None:
    patches = experts.load("pictures-patches").on((16, 24))
    broad = experts.Gaussian(torch.full((16, 24), 0.5), scale=4.0)
    x = poe.sample(patches * broad, 8, generator=torch.Generator().manual_seed(0), progress=False)
    assert x.guarantee == "exact"
    responses = patches.bank(torch.ones(1, 16, 24))
    assert responses.abs().max() < 1e-2  # filters in half precision sum to zero up to rounding


def test_shipped_vae_knows_digits_from_noise() -> None:
    vae, g = experts.load("digits-vae"), torch.Generator().manual_seed(0)
    drawn = vae.sample(32, generator=g)
    shuffled = drawn.flatten(1)[:, torch.randperm(784, generator=g)].reshape(32, 28, 28)
    assert (vae(drawn) > vae(shuffled)).all()


@pytest.mark.parametrize("name", ["digits-class", "digits-slant", "digits-thickness"])
def test_rounding_leaves_a_shipped_density_normalised(name: str) -> None:
    """The noise level is the stated one, and a flow's principal axes are a rotation."""
    model = experts.load(name)
    description = json.loads(library.folder().joinpath(f"{name}.json").read_text())
    assert model.noise_level.item() == pytest.approx(description["noise_level"], rel=1e-6)
    if isinstance(model, experts.ImageFlow):
        axes = model.whitening.axes
        torch.testing.assert_close(axes.T @ axes, torch.eye(len(axes)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", experts.available())
def test_loading_moves_no_generator(name: str) -> None:
    state = torch.get_rng_state()
    experts.load(name)
    assert torch.equal(torch.get_rng_state(), state)


def test_notes_and_descriptions_of_others_are_not_written_over(tmp_path: Path) -> None:
    expert = experts.Gaussian([0.0], scale=1.0)
    for name, content in (("normal.md", "mine"), ("normal.json", "{}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(poe.StorageError, match=name):
            write(expert, "normal", CARD, into=tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {name}
        (tmp_path / name).unlink()
    (tmp_path / "normal.safetensors").write_text("mine")
    with pytest.raises(poe.StorageError, match=r"normal\.safetensors"):
        write(expert, "normal", CARD, into=tmp_path)
    assert (tmp_path / "normal.safetensors").read_text() == "mine"
    (tmp_path / "normal.safetensors").unlink()
    for scale in (1.0, 2.0):
        write(experts.Gaussian([0.0], scale=scale), "normal", CARD, into=tmp_path)
    assert read(tmp_path / "normal.json")(torch.zeros(1, 1)) < -1.5
