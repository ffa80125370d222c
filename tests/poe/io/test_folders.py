"""Folders that others have files in, read and write at the same time, or mean harm by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import experts
import poe
from experts.pretrained.writing import Card, write
from poe.files.tensor_file import NO_HASH, sealed
from poe.io import DESCRIPTION, read
from tests.seeds import seeded

A = experts.Gaussian([0.0], scale=[1.0])
B = experts.Gaussian([1.0], scale=[2.0])
X = torch.zeros(3, 1)
HEX = "weights-0123456789abcdef.safetensors"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights_of(folder: Path) -> Path:
    return folder / json.loads((folder / DESCRIPTION).read_text())["weights"]


# What others have there


def test_weights_that_another_wrote_stay(tmp_path: Path) -> None:
    others = {"weights-epoch10.safetensors", "weights-best.safetensors", HEX, "weights-0.pt"}
    for name in others:
        (tmp_path / name).write_text(name)
    for expert in (A, B, A, A * B):
        poe.save(expert, tmp_path)
    assert len(names(tmp_path)) == len(others) + 2
    assert all((tmp_path / name).read_text() == name for name in others)


@pytest.mark.parametrize("content", ["{}", "[1]", "precious", '{"format": "another"}', "[" * 9999])
def test_a_description_of_another_kind_is_not_written_over(content: str, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(content)
    with pytest.raises(poe.StorageError, match=r"expert\.json or the description of a saved"):
        poe.save(A, tmp_path)
    assert (tmp_path / DESCRIPTION).read_text() == content
    assert names(tmp_path) == {DESCRIPTION}


def test_a_file_that_has_the_name_of_the_weights_is_not_written_over(tmp_path: Path) -> None:
    poe.save(A, tmp_path / "one")
    name = weights_of(tmp_path / "one").name
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("precious")
    with pytest.raises(poe.StorageError, match="or the same weights, got another file"):
        poe.save(A, tmp_path / "other")
    assert (tmp_path / "other" / name).read_text() == "precious"


def test_a_description_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    """The expert that it belongs to would lose its weights."""
    poe.save(A, tmp_path / "one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / DESCRIPTION).symlink_to(tmp_path / "one" / DESCRIPTION)
    with pytest.raises(poe.StorageError, match="got a link to"):
        poe.save(B, tmp_path / "other")
    assert torch.equal(poe.load(tmp_path / "one")(X), A(X))
    assert names(tmp_path / "other") == {DESCRIPTION}


def test_a_folder_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "folder", Path("/proc/folder")):
        with pytest.raises(poe.StorageError):
            poe.save(A, path)


def test_the_weights_of_before_are_removed_with_their_description(tmp_path: Path) -> None:
    poe.save(A, tmp_path)
    before = weights_of(tmp_path)
    poe.save(B, tmp_path)
    assert not before.exists()
    weights_of(tmp_path).write_text("cut")  # what is damaged is mended by saving again
    poe.save(B, tmp_path)
    assert torch.equal(poe.load(tmp_path)(X), B(X))


def test_a_description_that_was_edited_removes_nothing(tmp_path: Path) -> None:
    """Its hash is not its own, so that nobody knows who named those weights."""
    poe.save(A, tmp_path)
    (tmp_path / HEX).write_text("precious")
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"weights": HEX}))
    poe.save(B, tmp_path)
    assert (tmp_path / HEX).read_text() == "precious"


# Others at the same time

SAVER = """
import sys, poe, experts
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numbers = list(range(first, last))
print("ready", flush=True)
while True:
    for number in numbers:
        poe.save(experts.Gaussian([float(number)], scale=[1.0]), folder)
"""


@pytest.mark.process
def test_readers_see_whole_experts_beside_two_savers(tmp_path: Path) -> None:
    """The savers share an expert, so that one removes weights while the other writes the same."""
    poe.save(experts.Gaussian([1.0], scale=[1.0]), tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(poe.__file__).parents[1])}
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), *bounds],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for bounds in (("0", "3"), ("2", "5"))
    ]
    try:
        for saver in savers:
            assert saver.stdout is not None
            assert saver.stdout.readline() == b"ready\n"
        began, seen = time.monotonic(), set()
        while time.monotonic() - began < 2.0:
            seen.add(poe.load(tmp_path).loc.item())
    finally:
        for saver in savers:
            saver.kill()
            saver.communicate()
    assert seen == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert poe.load(tmp_path).loc.item() in seen
    poe.save(A, tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")], "left by the killed"


def test_weights_that_keep_their_name_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of shipped experts: between the weights and their description there is a moment."""
    card = Card("MIT", ("none",), "None.")
    file = write(experts.Gaussian([0.0], scale=1.0), "normal", card, into=tmp_path)
    before = file.read_bytes()
    write(experts.Gaussian([5.0], scale=1.0), "normal", card, into=tmp_path)
    after = file.read_bytes()
    file.write_bytes(before)
    now = time.time()
    os.utime(file, (now - 5, now - 5))
    os.utime(tmp_path / "normal.safetensors", (now, now))
    monkeypatch.setattr(time, "sleep", lambda _: file.write_bytes(after))
    assert read(file).loc.item() == 5.0


# What means harm


def described(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter a description and mend its hash, as somebody would who means it."""
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    told = json.dumps({**description, "sha256": NO_HASH}).encode()
    (folder / DESCRIPTION).write_bytes(sealed(told, len(told)))


def test_no_byte_of_an_expert_can_be_changed_or_lacking(tmp_path: Path) -> None:
    """Every third of them, which are all kinds."""
    poe.save(A, tmp_path)
    for path in (tmp_path / DESCRIPTION, weights_of(tmp_path)):
        whole = path.read_bytes()
        for place in range(0, len(whole), 3):
            other = bytes([whole[place] ^ (0x2A if whole[place] in b" \n" else 0x20)])
            for content in (whole[:place] + other + whole[place + 1 :], whole[:place]):
                path.write_bytes(content)
                with pytest.raises(poe.StorageError, match=str(tmp_path)):
                    poe.load(tmp_path)
        path.write_bytes(whole)
    assert torch.equal(poe.load(tmp_path)(X), A(X))


def linear(size: int) -> dict[str, Any]:
    fields = {"in_features": size, "out_features": size, "bias": False}
    arguments = {"$": "dict", "items": fields}
    inner = {"arguments": arguments, "tensors": {"$": "dict", "items": {}}}
    return {"$": "module", "kind": "torch.nn.Linear", "id": 0, "fields": inner}


def doubled(levels: int) -> dict[str, Any]:
    """Lists of lists: a module, and within each level all that came before, twice."""
    node: dict[str, Any] = {"$": "module", "kind": "torch.nn.Identity", "id": 0, "fields": {
        "arguments": {"$": "dict", "items": {}}, "tensors": {"$": "dict", "items": {}}}
    }  # fmt: skip
    for level in range(1, levels):
        layers = {"$": "list", "items": [node, {"$": "same", "as": level - 1}]}
        node = {"$": "module", "kind": "torch.nn.ModuleList", "id": level, "fields": {
            "layers": layers}}  # fmt: skip
    return node


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "weights above": lambda d: d.update(weights="../" + d["weights"]),
    "weights elsewhere": lambda d: d.update(weights="/etc/passwd"),
    "weights of no name": lambda d: d.update(weights=""),
    "weights are the folder": lambda d: d.update(weights="."),
    "weights with a zero": lambda d: d.update(weights="a\0b"),
    "weights are a number": lambda d: d.update(weights=3),
    "no weights": lambda d: d.pop("weights"),
    "no hash of weights": lambda d: d.pop("weights_sha256"),
    "no tree": lambda d: d.pop("tree"),
    "no modes": lambda d: d.pop("in_training"),
    "modes that are lists": lambda d: d.update(in_training=[[]]),
    "version is true": lambda d: d.update(format_version=True),
    "version is a list": lambda d: d.update(format_version=[3]),
    "a tree that is text": lambda d: d["tree"].update({"$": "tuple", "items": 3}),
    "names itself": lambda d: d["tree"]["fields"].update(loc={"$": "same", "as": d["tree"]["id"]}),
    "a billion numbers": lambda d: d.update(tree=linear(10**6)),
    "more than there are": lambda d: d.update(tree=linear(10**12)),
    "doubled": lambda d: d.update(tree=doubled(60)),
    "no node": lambda d: d.update(tree={"a": 1}),
    "a list as kind": lambda d: d["tree"].update(kind=[]),
    "another tensor": lambda d: d["tree"]["fields"]["loc"].update(key=[]),
    "another dtype": lambda d: d["tree"]["fields"]["loc"].update(dtype="object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_made_to_harm_is_refused(name: str, tmp_path: Path) -> None:
    poe.save(A, tmp_path)
    described(tmp_path, HOSTILE[name])
    began = time.process_time()
    with pytest.raises(poe.StorageError, match=r"expert\.json|weights"):
        poe.load(tmp_path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "told",
    ['{"a": NaN}', '{"a": 1, "a": 1}', '{"a": ' + "9" * 5000 + "}", "[" * 100_000, "{" * 100_000],
)
def test_what_is_no_plain_text_is_refused(told: str, tmp_path: Path) -> None:
    poe.save(A, tmp_path)
    whole = (tmp_path / DESCRIPTION).read_text()
    (tmp_path / DESCRIPTION).write_text(whole.replace('"format"', f'"more": {told}, "format"', 1))
    with pytest.raises(poe.StorageError, match=r"expert\.json"):
        poe.load(tmp_path)


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / DESCRIPTION)
    with pytest.raises(poe.StorageError, match="no regular file"):
        poe.load(tmp_path)
    with pytest.raises(poe.StorageError, match="a device or a pipe"):
        poe.save(A, tmp_path)
    (tmp_path / "other").mkdir()
    poe.save(A, tmp_path / "other")
    path = weights_of(tmp_path / "other")
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(poe.StorageError, match="no regular file"):
        poe.load(tmp_path / "other")


@seeded()
def test_a_part_that_is_shared_by_many_is_saved_and_loaded(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
    energy = poe.FromEnergy(net, space=poe.Real(1)).eval()
    shared = poe.Product(*[energy] * 200)
    poe.save(shared, tmp_path)
    loaded = poe.load(tmp_path)
    assert torch.equal(loaded(X), shared(X))
    assert not any(part.training for part in loaded.experts[0].modules())


def test_an_expert_of_nan_replaces_nothing_that_can_be_loaded(tmp_path: Path) -> None:
    poe.save(A, tmp_path / "a")
    diverged = experts.Gaussian(nn.Parameter(torch.zeros(1)), scale=[1.0])
    diverged.loc.data.fill_(torch.nan)
    with pytest.raises(poe.NonFiniteError, match="expected numbers in expert 'Gaussian', got nan"):
        poe.save(diverged, tmp_path / "a")
    assert torch.equal(poe.load(tmp_path / "a")(X), A(X))
