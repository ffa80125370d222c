"""What an earlier version saved is read for good: tests/fixtures/saved/v1, before any move."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.files.fingerprint import fingerprints
from poe.io.tree import _codecs

SAVED = next(p for p in Path(__file__).parents if p.name == "tests") / "fixtures" / "saved" / "v1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAVED / "expected.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def _networks_of_a_users_own() -> ModuleType:
    """The module that stands for a user's, under the name that it had then."""
    name = "saved_networks"
    spec = importlib.util.spec_from_file_location(name, SAVED.parents[1] / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded(folder: str) -> Any:
    """The expert; skips where it needs a library that is not installed."""
    if folder == "languagemodel":
        pytest.importorskip("transformers")
    if folder.startswith("onnx"):
        pytest.importorskip("onnxruntime")
    return poe.load(SAVED / folder)


@torch.no_grad()
def log_density(saved: Any, x: Tensor) -> Tensor:
    """In double precision; what is no expert itself stands for one."""
    if isinstance(saved, experts.Transitions):
        saved = saved.of_length(x.shape[1])
    if isinstance(saved, nn.ModuleList):
        saved = poe.Product(*saved)
    return saved.double()(x.double() if x.is_floating_point() else x)


def test_every_folder_has_its_log_densities() -> None:
    assert EXPECTED.keys() == {path.name for path in SAVED.iterdir() if path.is_dir()}
    assert {told["precision"] for told in EXPECTED.values()} == {"float64"}


@pytest.mark.parametrize("folder", EXPECTED)
def test_a_saved_expert_says_what_it_said(folder: str) -> None:
    told = EXPECTED[folder]
    x = torch.tensor(told["x"], dtype=getattr(torch, told["dtype"]))
    expected = torch.tensor([float(value) for value in told["log_density"]], dtype=torch.float64)
    # onnxruntime computes in single precision, whatever it is given.
    # nflows kept the ½ d log 2π of an ImageFlow in single precision.
    rtol = 1e-5 if folder.startswith("onnx") else 1e-8 if folder == "imageflow" else 1e-10
    torch.testing.assert_close(log_density(loaded(folder), x), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("folder", EXPECTED)
def test_loading_moves_no_generator(folder: str) -> None:
    loaded(folder)  # an adapter's library may draw as it is imported
    state = torch.get_rng_state()
    loaded(folder)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("folder", ["product", "nexttoken", "languagemodel", "everything"])
def test_saved_again_it_is_the_same_under_lasting_names(folder: str, tmp_path: Path) -> None:
    poe.save(loaded(folder), tmp_path)
    description = json.loads((tmp_path / "expert.json").read_text())
    assert description["format_version"] == 3
    assert kinds(description["tree"]).isdisjoint(kinds(tree_of(folder)) - own_names())
    again, x = poe.load(tmp_path), torch.tensor(EXPECTED[folder]["x"])
    x = x.to(getattr(torch, EXPECTED[folder]["dtype"]))
    assert torch.equal(log_density(again, x), log_density(loaded(folder), x))


def test_every_path_of_before_is_listed_where_its_class_is_registered() -> None:
    """So that it is read wherever the class lies, and not because it lies there still."""
    for folder in EXPECTED:
        loaded(folder)
    told = set().union(*(kinds(tree_of(folder)) for folder in EXPECTED))
    listed = set().union(*(codec.names for codec in _codecs.values()))
    assert sorted(told - listed) == []


def own_names() -> set[str]:
    """Names that files had already and that last."""
    return {codec.name for codec in _codecs.values()}


def tree_of(folder: str) -> Any:
    return json.loads((SAVED / folder / "expert.json").read_text())["tree"]


def kinds(node: Any) -> set[str]:
    """The names of all classes in a tree."""
    if isinstance(node, list):
        return set().union(*map(kinds, node))
    if not isinstance(node, dict):
        return set()
    own = {node["kind"]} if node.get("$") == "module" else set()
    return own.union(*map(kinds, node.values()))


@pytest.mark.parametrize("name", ["draws", "particles"])
def test_saved_draws_are_what_they_were(name: str) -> None:
    told = json.loads((SAVED / "expected_draws.json").read_text())[name]
    draws = poe.load_draws(SAVED / f"{name}.safetensors")
    assert list(draws.samples.shape) == told["shape"]
    assert draws.samples.double().sum().item() == float(told["sum"])
    assert draws.log_density.double().sum().item() == float(told["log_density"])
    assert repr(draws.kernel) == told["kernel"]
    assert draws.guarantee == told["guarantee"]
    assert list(draws.remarks) == told["remarks"]
    found = draws.log_partition and repr(draws.log_partition.value.double().item())
    assert found == told["log_partition"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_run_of_before_is_refused_in_words(version: str) -> None:
    target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    path = SAVED.parent / version / "run.safetensors"
    words = rf"format_version 3 at .*, got {version[1:]}, which an earlier version .* delete it"
    with pytest.raises(poe.StorageError, match=words):
        poe.sample(target, 90, checkpoint=path, progress=False)


@pytest.mark.process
def test_adapters_are_imported_where_a_folder_needs_them() -> None:
    """In an interpreter of its own, which has imported experts alone."""
    pytest.importorskip("onnxruntime")
    names = ("tableflow", "onnxclassifier", "onnxnetwork", "scoremodel")
    folders, own = [str(SAVED / name) for name in names], str(SAVED.parents[1])
    code = (
        f"import sys; sys.path.append({own!r}); import experts, poe, saved_networks\n"
        f"for folder in {folders!r}: print(type(poe.load(folder)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "TableFlow" in run.stdout


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_what_later_versions_saved_is_read(version: str) -> None:
    """A product with a shared factor and a network, and draws, each version of the same."""
    folder = SAVED.parent / version
    description = json.loads((folder / "product" / "expert.json").read_text())
    assert description["format_version"] == int(version[1:])
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    expected = torch.tensor([-5.629707336425781, -7.379706382751465], dtype=torch.float64)
    product = poe.load(folder / "product")
    torch.testing.assert_close(log_density(product, x), expected, rtol=1e-6, atol=1e-6)
    draws = poe.load_draws(folder / "draws.safetensors")
    assert draws.samples.double().sum().item() == 27.480130629613996
    assert draws.log_density.double().sum().item() == -47.762914180755615
    assert repr(draws.kernel) == "MALA(step_size=0.5)"


def test_a_file_of_the_version_before_that_was_altered_is_refused(tmp_path: Path) -> None:
    for name in ("draws.safetensors", "product"):  # a copy for each
        shutil.copytree(SAVED.parent / "v2", tmp_path / name)
    for path in (tmp_path / "draws.safetensors" / "draws.safetensors", *weights(tmp_path)):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(poe.StorageError, match="altered"):
        poe.load_draws(tmp_path / "draws.safetensors" / "draws.safetensors")
    with pytest.raises(poe.StorageError, match="altered"):
        poe.load(tmp_path / "product" / "product")


def weights(folder: Path) -> list[Path]:
    return list((folder / "product" / "product").glob("weights-*"))


@pytest.mark.parametrize("folder", EXPECTED)
def test_two_copies_of_an_expert_have_one_fingerprint(folder: str) -> None:
    """Of every expert that can be saved, so that its runs are taken up again."""
    first, second = loaded(folder), loaded(folder)
    before = fingerprints({"target": second})
    assert fingerprints({"target": first}) == before
    if not isinstance(first, experts.Transitions | nn.ModuleList):
        x = torch.tensor(EXPECTED[folder]["x"])
        first(x.to(getattr(torch, EXPECTED[folder]["dtype"])))
        after = fingerprints({"target": first})
        assert {path for path in before if before[path] != after.get(path)} == set()
