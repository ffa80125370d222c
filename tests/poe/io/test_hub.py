"""Compositions pushed and pulled through huggingface_hub's mixin, on folders of this machine."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import experts
import poe

pytest.importorskip("huggingface_hub")
import huggingface_hub.hub_mixin
from huggingface_hub import ModelHubMixin

from poe.hub import HubExpert
from tests.missing import import_without
from tests.seeds import seeded


def joint() -> poe.Product:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(-2))
    return poe.Product(
        wide=experts.Gaussian([0.0, 1.0], scale=[1.0, 2.0]),
        learned=experts.NeuralEnergy(net, poe.Real(2)) ** 0.5,
    )


X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


@seeded()
def test_it_is_the_mixin_of_huggingface_hub() -> None:
    assert isinstance(HubExpert(joint()), ModelHubMixin)


@seeded()
def test_a_folder_gives_back_the_same_bits_and_no_pickle(tmp_path: Path) -> None:
    expert = joint()
    HubExpert(expert).save_pretrained(tmp_path / "joint")
    loaded = HubExpert.from_pretrained(tmp_path / "joint").expert
    assert torch.equal(loaded(X), expert(X))
    assert loaded.names == ("wide", "learned")
    names = sorted(path.name for path in (tmp_path / "joint").iterdir())
    kinds = {Path(name).suffix for name in names}
    assert kinds == {".json", ".md", ".safetensors"}
    assert torch.equal(poe.load(tmp_path / "joint")(X), expert(X))  # the same files as poe.save's


@seeded()
def test_loading_a_folder_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        HubExpert.from_pretrained(tmp_path)
    assert caplog.records == []


@seeded()
def test_saved_again_the_old_one_is_replaced(tmp_path: Path) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    expert = joint()
    HubExpert(expert).save_pretrained(tmp_path)
    assert torch.equal(HubExpert.from_pretrained(tmp_path).expert(X), expert(X))
    assert len(list(tmp_path.glob("weights-*.safetensors"))) == 1


@seeded()
def test_the_card_shows_the_tree_and_how_to_load(tmp_path: Path) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "library_name: product-of-experts" in card
    assert "names=['wide', 'learned']" in card
    assert "`Real(2)`" in card
    assert "HubExpert.from_pretrained" in card


def test_conditionals_are_shared_too(tmp_path: Path) -> None:
    step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
    HubExpert(step).save_pretrained(tmp_path)
    loaded = HubExpert.from_pretrained(tmp_path).expert
    y = torch.tensor([[0.5]])
    assert torch.equal(loaded.given(y)(y), step.given(y)(y))


def as_cache(folder: Path, cache: Path, name: str) -> None:
    """A folder laid out as huggingface_hub keeps a repository that it has downloaded."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))


@seeded()
def test_by_name_it_is_read_from_the_cache(tmp_path: Path) -> None:
    expert = joint()
    HubExpert(expert).save_pretrained(tmp_path / "joint")
    as_cache(tmp_path / "joint", tmp_path / "cache", "user/joint")
    loaded = HubExpert.from_pretrained(
        "user/joint", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert torch.equal(loaded.expert(X), expert(X))


@seeded()
def test_pushing_uploads_the_files_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        """Stands in for the hub: a push is a folder that is copied."""

        def __init__(self, token: str | None = None) -> None:
            self.repo_id = ""

        def create_repo(self, repo_id: str, **_: Any) -> Api:
            self.repo_id = repo_id
            return self

        def upload_folder(self, *, folder_path: Path, **_: Any) -> str:
            as_cache(Path(folder_path), tmp_path / "cache", self.repo_id)
            return f"pushed {self.repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    expert = joint()
    assert HubExpert(expert).push_to_hub("user/joint") == "pushed user/joint"
    pulled = HubExpert.from_pretrained(
        "user/joint", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert torch.equal(pulled.expert(X), expert(X))


# Refusals


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    bare = poe.FromLogDensity(lambda x: -x.sum(-1), space=poe.Real(2))
    with pytest.raises(poe.StorageError, match=r"cannot save .* not registered"):
        HubExpert(bare).save_pretrained(tmp_path)


def test_a_name_is_no_expert() -> None:
    with pytest.raises(poe.StorageError, match=r"to share, got str; .*from_pretrained\(name\)"):
        HubExpert("user/joint")  # type: ignore[arg-type]


def test_a_folder_without_an_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(poe.StorageError, match="expected a saved expert at"):
        HubExpert.from_pretrained(tmp_path)


@seeded()
def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    [weights] = tmp_path.glob("weights-*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(poe.StorageError, match="truncated or was altered"):
        HubExpert.from_pretrained(tmp_path)


def test_a_foreign_pickle_is_not_looked_at(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(poe.StorageError, match=r"found no expert\.json"):
        HubExpert.from_pretrained(tmp_path)


@pytest.mark.process
@seeded()
def test_a_class_that_nobody_registered_is_refused(tmp_path: Path) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    code = (
        "import sys, poe\n"
        "from poe.hub import HubExpert\n"
        "try:\n"
        "    HubExpert.from_pretrained(sys.argv[1])\n"
        "except poe.StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "which is not registered here; import the package that defines it" in done.stdout


@seeded()
def test_settings_are_refused(tmp_path: Path) -> None:
    HubExpert(joint()).save_pretrained(tmp_path)
    with pytest.raises(poe.StorageError, match=r"got \['device'\]: an expert comes with its own"):
        HubExpert.from_pretrained(tmp_path, device="cpu")


@seeded()
def test_a_file_that_names_settings_does_not_set_them(tmp_path: Path) -> None:
    expert = joint()
    HubExpert(expert).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"expert": "another"}))
    with pytest.raises(poe.StorageError, match=r"got \['expert'\]"):
        HubExpert.from_pretrained(tmp_path)


def test_without_huggingface_hub_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[hub\]"'):
        import_without("huggingface_hub", "poe.io.hub", monkeypatch)


@seeded()
def test_another_models_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(poe.StorageError, match=r"config\.json or that of an expert"):
        HubExpert(joint()).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "README.md"}
    (tmp_path / "config.json").unlink()
    for _ in range(2):
        HubExpert(joint()).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
