"""Tensor files: whole or not at all, sealed, and known by what is in them."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import poe
from poe.files.atomic import replacing, write_bytes
from poe.files.fingerprint import fingerprint
from poe.files.tensor_file import packed, read, write


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Step:
    size: float
    count: int = 1


class Bare:
    """What has no ``repr`` of its own."""


def line(weight: float) -> nn.Module:
    """A network of one weight."""
    net = nn.utils.skip_init(nn.Linear, 1, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    return net


DIFFERENT: dict[str, tuple[object, object]] = {
    "nesting": (((1,), 2), ((1, 2),)),
    "nesting, empty": (((), 1), ((1,),)),
    "nesting, at the end": (([1], [2]), ([1, 2], [])),
    "nesting of mappings": ({"a": {"b": 1}}, {"a": {}, "b": 1}),
    "mappings beside values": (({"a": 1}, 2), ({"a": (1, 2)},)),
    "words cut elsewhere": (("ab", "c"), ("a", "bc")),
    "words that look like more": (("a", "b"), ("a', 'b",)),
    "empty tuple and list": ((), []),
    "empty mapping and list": ({}, []),
    "empty and nothing": ((), None),
    "nothing twice": ((None,), (None, None)),
    "nothing and its name": (None, "None"),
    "tuple and list": ((1, 2), [1, 2]),
    "order": ((1, 2), (2, 1)),
    "whole number and float": (1, 1.0),
    "whole number and bool": (1, True),
    "number and word": (1, "1"),
    "word and bytes": ("a", b"a"),
    "signs of zero": (0.0, -0.0),
    "keys of other types": ({1: 2}, {"1": 2}),
    "keys and values": ({"a": "b"}, {"b": "a"}),
    "named tuple": (Pair(1, 2), (1, 2)),
    "dataclass": (Step(1.0), Step(1.0, 2)),
    "dtypes": (torch.zeros(2), torch.zeros(2).double()),
    "shapes": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "empty tensors": (torch.zeros(0, 2), torch.zeros(0, 3)),
    "tensor and its number": (torch.tensor(1), 1),
    "tensors that are cut elsewhere": (
        (torch.zeros(1), torch.zeros(2)), (torch.zeros(2), torch.zeros(1))
    ),
    "arrays, too long to print": (np.zeros(5000), np.eye(1, 5000, 2000)[0]),
    "arrays, dtypes": (np.zeros(2), np.zeros(2, np.float32)),
    "conjugates": (torch.tensor([1j]), torch.tensor([1j]).conj()),
    "weights": (line(1.0), line(2.0)),
    "modules": (nn.Tanh(), nn.SiLU()),
    "sets": ({1, 2}, {1, 3}),
    "set and frozen set": ({1}, frozenset({1})),
    "kernels": (poe.samplers.MALA(0.1), poe.samplers.MALA(0.2)),
    "kernel and none": (poe.samplers.MALA(), None),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_has_another_fingerprint(name: str) -> None:
    one, other = DIFFERENT[name]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint((one, 0)) != fingerprint((other, 0))


SAME: dict[str, tuple[object, object]] = {
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "keys that cannot be sorted": ({1: 0, "a": 0, None: 0}, {None: 0, "a": 0, 1: 0}),
    "order of sets": (set("abcdef"), set("fedcba")),
    "memory of tensors": (torch.arange(6).view(3, 2).T, torch.tensor([[0, 2, 4], [1, 3, 5]])),
    "gradients": (torch.zeros(1), torch.zeros(1).requires_grad_()),
    "addresses": (Bare(), Bare()),
    "views of numbers": (torch.zeros(3)[1:], torch.zeros(2)),
    "not a number": (float("nan"), float("nan")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_has_one_fingerprint(name: str) -> None:
    one, other = SAME[name]
    assert fingerprint(one) == fingerprint(other)


def test_a_type_is_no_value_of_it() -> None:
    assert fingerprint(Step) != fingerprint(Step(1.0))
    assert fingerprint(OrderedDict(a=1)) != fingerprint({"a": 1})


def test_facts_and_tensors_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {"a": shared[:3], "b": shared.view(2, 3).T, "c": torch.tensor(True), "d": shared[:0]}
    write(tmp_path / "file", {"x": [1, None, "é"], "y": {"z": 0.1}}, tensors)
    facts, found = read(tmp_path / "file")
    assert facts == {"x": [1, None, "é"], "y": {"z": 0.1}}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_all_that_a_file_says_is_sealed(tmp_path: Path) -> None:
    """Every byte of it, changed by a bit or into another blank, and every length that is short."""
    path, content = tmp_path / "file", packed({"step": 33}, {"x": torch.ones(2)})
    assert b"  " in content  # the header is filled up with blanks
    for place in range(len(content)):
        for change in (1, 0x20, 0x29):
            other = bytes([content[place] ^ change])
            path.write_bytes(content[:place] + other + content[place + 1 :])
            with pytest.raises(poe.StorageError):
                read(path)
        path.write_bytes(content[:place])
        with pytest.raises(poe.StorageError):
            read(path)
    for more in (b" ", b"\0", content):
        path.write_bytes(content + more)
        with pytest.raises(poe.StorageError):
            read(path)


@pytest.mark.parametrize("version", ["4", "10", "0", "", "two", "-1", "2.0"])
def test_a_file_of_a_newer_version_is_refused(version: str, tmp_path: Path) -> None:
    save_file({}, tmp_path / "file", metadata={"format_version": version, "facts": "{}"})
    words = rf"expected a run of format_version 3 or before at .*file, got {version}: read it"
    with pytest.raises(poe.StorageError, match=words):
        read(tmp_path / "file", kind="run")


def test_facts_that_json_cannot_hold_write_nothing(tmp_path: Path) -> None:
    write(tmp_path / "file", {"step": 1}, {})
    with pytest.raises(TypeError):
        write(tmp_path / "file", {"step": object()}, {})
    assert read(tmp_path / "file") == ({"step": 1}, {})
    assert os.listdir(tmp_path) == ["file"]


def fails() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("break_at", ["write", "fsync", "replace"])
def test_an_interrupted_write_leaves_what_was_there(
    break_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")
    broken: Callable[..., None] = lambda *_: fails()  # noqa: E731
    if break_at == "write":
        monkeypatch.setattr(Path, "write_bytes", broken)
    else:
        monkeypatch.setattr(os, break_at, broken)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_file_is_readable_by_whom_the_user_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "file", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_the_temporary_file_lies_beside_and_has_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "picture.png") as temporary:
        temporary.write_bytes(b"png")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        assert not (tmp_path / "picture.png").exists()
    assert os.listdir(tmp_path) == ["picture.png"]
