"""The pieces of the command line: names with settings, rows of files, draws as a file, pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import poe
from poe.cli import points as picture
from poe.cli.points import read_rows
from poe.cli.settings import classes, named
from poe.cli.terminal import BadInput, plain, table
from poe.draws import Draws

KERNELS = classes(poe.samplers, "step")


def test_a_kernel_by_its_name_and_settings() -> None:
    assert named("MALA(step_size=0.1)", KERNELS, poe.Real(2)) == poe.samplers.MALA(0.1)
    assert named("MALA", KERNELS, poe.Real(2)) == poe.samplers.MALA()
    inner = named("Preconditioned(kernel=SplitHMC(num_steps=8))", KERNELS, poe.Real(2))
    assert inner == poe.samplers.Preconditioned(poe.samplers.SplitHMC(num_steps=8))
    assert named("Gibbs", KERNELS, poe.Binary(3)) == poe.samplers.Gibbs(poe.Binary(3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mala", r"expected one of .*MALA.*; got 'Mala'"),
        ("MALA(0.1)", "give every setting by its name"),
        ("MALA(step=0.1)", "MALA has the settings step_size; got 'step'"),
        ("ULA", r"ULA needs step_size: ULA\(step_size=...\)"),
        ("MALA(", "was never closed"),
        ("3", "neither a name nor a name with settings"),
        ("MALA(step_size=__import__('os').getcwd())", "neither a name nor a name with settings"),
        ("MALA(step_size=1 + x)", "settings are numbers"),
        ("MALA(**{})", "MALA has the settings step_size; got None"),
    ],
)
def test_what_is_no_kernel_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        named(text, KERNELS, poe.Real(2))


def rows_of(path: Path, space: poe.Space) -> list[object]:
    found: list[object] = read_rows(path, space, torch.float32).tolist()
    return found


def test_rows_of_each_kind_of_file(tmp_path: Path) -> None:
    rows = [[1.0, 2.0], [3.0, -4.5]]
    np.save(tmp_path / "a.npy", np.array(rows))
    np.save(tmp_path / "big.npy", np.array(rows, dtype=">f8"))
    save_file({"points": torch.tensor(rows)}, tmp_path / "a.safetensors")
    (tmp_path / "a.csv").write_text("1,2\n3,-4.5\n")
    (tmp_path / "named.csv").write_text("u,v\n1,2\n\n3,-4.5\n")
    for name in ("a.npy", "big.npy", "a.safetensors", "a.csv", "named.csv"):
        assert rows_of(tmp_path / name, poe.Real(2)) == rows


def test_events_may_be_whole_flat_or_in_chains(tmp_path: Path) -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    save_file({"samples": x, "log_density": torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    found = read_rows(tmp_path / "x.safetensors", poe.Real((2, 2)), torch.float64)
    assert torch.equal(found, x.reshape(6, 2, 2).double())
    np.save(tmp_path / "flat.npy", x.reshape(6, 4).numpy())
    assert torch.equal(read_rows(tmp_path / "flat.npy", poe.Real((2, 2)), torch.float64), found)
    np.save(tmp_path / "scalars.npy", np.arange(3.0))
    assert rows_of(tmp_path / "scalars.npy", poe.Real(())) == [0.0, 1.0, 2.0]


def test_labels_stay_whole_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([[0, 2], [1, 1]]))
    found = read_rows(tmp_path / "labels.npy", poe.Categorical(2, 3), torch.float32)
    assert found.dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2\n3\n", "line 2: expected 2 numbers, got 1"),
        ("1,2\n3,x\n", "line 2: expected 2 numbers, got 'x'"),
        ("a,b\n", "expected a row of numbers, got none"),
        ("1,2,3\n", r"expected rows of Real\(2\), of shape \(n, 2\) .* got shape \(1, 3\)"),
    ],
)
def test_a_bad_csv_is_refused_by_line(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(BadInput, match=words):
        read_rows(tmp_path / "x.csv", poe.Real(2), torch.float32)


def test_other_bad_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\0" * 20)
    (tmp_path / "bits.csv").write_text("0,1\n1,0.5\n")
    for name, space, words in (
        ("pickled.npy", poe.Real(1), "cannot be read: .*Python objects"),
        ("words.npy", poe.Real(2), "expected an array of numbers"),
        ("two.safetensors", poe.Real(1), "expected a tensor 'samples', or one tensor alone; got a"),
        ("torn.safetensors", poe.Real(1), "cannot be read"),
        ("none.npy", poe.Real(1), "cannot be read"),
        ("x.pt", poe.Real(1), "expected a file that ends in .safetensors, .npy, .csv"),
        ("bits.csv", poe.Binary(2), r"expected x in Binary\(2\), got 0.5 in event 1"),
    ):
        with pytest.raises(BadInput, match=words):
            read_rows(tmp_path / name, space, torch.float32)


def test_a_grid_shows_draws_of_every_chain(tmp_path: Path) -> None:
    x = torch.arange(3.0).reshape(3, 1, 1, 1) + torch.zeros(3, 100, 5, 6)
    draws = Draws(x, torch.zeros(3, 100), "exact")
    shown = picture.chosen(draws)
    assert shown.shape == (63, 5, 6)
    assert [int((shown[:, 0, 0] == chain).sum()) for chain in range(3)] == [21, 21, 21]
    picture.write(draws, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]


def test_the_last_draw_of_each_chain_is_shown() -> None:
    x = torch.arange(10.0).reshape(1, 10, 1, 1).expand(1, 10, 4, 4)
    assert picture.chosen(Draws(x, torch.zeros(1, 10), "exact"))[0, 0, 0] == 9
    many = x.expand(100, 10, 4, 4)
    assert picture.chosen(Draws(many, torch.zeros(100, 10), "exact")).shape == (64, 4, 4)


@pytest.mark.parametrize("space", [poe.Real(2), poe.Real((2, 2)), poe.Real((3, 8, 8))])
def test_what_is_no_picture_has_no_grid(space: poe.Space) -> None:
    with pytest.raises(BadInput, match=r"a \.png shows draws that are pictures"):
        picture.require_pictures(space)


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'pip install "product-of-experts\[plots\]"'):
        picture.require_pictures(poe.Real((8, 8)))


def test_json_holds_no_number_that_json_has_not() -> None:
    value = plain({"a": [math.nan, math.inf, -math.inf, 1.5], "b": torch.tensor([1, 2])})
    assert value == {"a": [None, "inf", "-inf", 1.5], "b": [1, 2]}


def test_a_table_has_its_columns_below_each_other() -> None:
    assert table(["", "x"], [["a", "10"]]) == "    x\na  10"


def test_kernels_that_need_more_than_numbers_say_so() -> None:
    assert dataclasses.is_dataclass(poe.samplers.BlockGibbs)
    with pytest.raises(BadInput, match="BlockGibbs needs "):
        named("BlockGibbs", KERNELS, poe.Binary(2))
