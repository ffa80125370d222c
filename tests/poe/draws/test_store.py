"""Draws in a file: every figure bit for bit, whole or not at all."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import experts
import poe
from poe.core.doubt import Doubt, Kind
from poe.core.tensor_file import fingerprint, read, write
from poe.samplers import MALA, Preconditioned, SplitHMC
from poe.samplers.kernel import Kernel

EXPERT = experts.Gaussian([0.0, 1.0], scale=[1.0, 2.0])


TUNED = MALA()


def sampled(kernel: Kernel | None = TUNED) -> poe.Draws:
    return poe.sample(
        EXPERT, 40, kernel=kernel, num_chains=4, warmup=20, progress=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def particles() -> poe.Draws:
    sharper = EXPERT * experts.Gaussian([1.0, 1.0], scale=[1.0, 1.0])
    return poe.smc(
        poe.FromLogDensity(sharper.forward, space=poe.Real(2)), 200, start=EXPERT, progress=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


DRAWS = {
    "MALA": lambda: sampled(),
    "exact": lambda: sampled(kernel=None),
    "preconditioned": lambda: sampled(Preconditioned(SplitHMC())),
    "weighted, with log Z": particles,
    "not finite, large seed, remarks": lambda: poe.Draws(
        torch.tensor([[torch.nan, torch.inf]]), torch.tensor([[-torch.inf, torch.nan]]), "biased",
        seed=2**64 - 1, seconds=0.1 + 0.2, choice="ρ",
        doubts=(Doubt(Kind.STUCK, "a", (1, 3)), Doubt(Kind.OTHER, 'b "c"')),
    ),
    "bfloat16": lambda: poe.Draws(torch.ones(2, 3, 1).bfloat16(), torch.zeros(2, 3), "exact"),
    "tokens": lambda: poe.Draws(torch.ones(2, 3, 4).long(), torch.zeros(2, 3), "exact"),
    "scattered in memory": lambda: poe.Draws(
        torch.arange(6.0).view(3, 2).T, torch.zeros(2, 3), "exact"
    ),
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        is_same = one.dtype == other.dtype and one.shape == other.shape
        return is_same and fingerprint(one) == fingerprint(other)
    if isinstance(one, poe.LogPartition):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("name", DRAWS)
def test_every_figure_comes_back(name: str, tmp_path: Path) -> None:
    draws = DRAWS[name]()
    poe.save_draws(draws, tmp_path / "new" / "draws.safetensors")
    loaded = poe.load_draws(tmp_path / "new" / "draws.safetensors")
    for field in fields(draws):
        if field.name != "kernel":
            assert same(getattr(draws, field.name), getattr(loaded, field.name)), field.name
    assert repr(loaded) == repr(draws)
    assert os.listdir(tmp_path / "new") == ["draws.safetensors"]  # no temporary file is left


def test_loaded_draws_are_summarised_as_they_were(tmp_path: Path) -> None:
    draws = sampled()
    poe.save_draws(draws, tmp_path / "draws")
    loaded = poe.load_draws(tmp_path / "draws")
    assert str(loaded.summary()) == str(draws.summary())
    assert loaded.kernel is not None
    assert loaded.kernel.guarantee == "asymptotically exact"
    poe.save_draws(loaded, tmp_path / "again")
    assert repr(poe.load_draws(tmp_path / "again")) == repr(draws)


def test_a_described_kernel_does_not_sample(tmp_path: Path) -> None:
    poe.save_draws(sampled(MALA(0.5)), tmp_path / "draws")
    kernel = poe.load_draws(tmp_path / "draws").kernel
    words = r"got the description of one .* build it again, as MALA\(step_size=0.5\)"
    with pytest.raises(poe.PoeError, match=words):
        poe.sample(EXPERT, 10, kernel=kernel, progress=False)
    assert kernel is not None
    with pytest.raises(poe.PoeError, match=words):
        kernel.step(EXPERT, None, generator=torch.Generator())


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "draws"
    poe.save_draws(sampled(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(poe.StorageError, match=r"file of draws .* altered .* poe.save_draws"):
        poe.load_draws(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(poe.StorageError, match="cannot be read"):
        poe.load_draws(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(poe.StorageError, match="expected a file of draws at"):
        poe.load_draws(tmp_path / "nothing")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(poe.StorageError, match="its hash does not match"):
        poe.load_draws(tmp_path / "foreign")
    write(tmp_path / "checkpoint", {}, {})
    with pytest.raises(poe.StorageError, match=r"expected draws that poe\.save_draws wrote"):
        poe.load_draws(tmp_path / "checkpoint")
    save_file({}, tmp_path / "newer", metadata={"format_version": "3"})
    with pytest.raises(poe.StorageError, match=r"format_version 2 or before .* got 3: read it"):
        poe.load_draws(tmp_path / "newer")


def test_any_tool_reads_the_tensors(tmp_path: Path) -> None:
    draws = sampled()
    poe.save_draws(draws, tmp_path / "draws")
    assert torch.equal(load_file(tmp_path / "draws")["samples"], draws.samples)


def test_several_tensors_a_draw_are_refused(tmp_path: Path) -> None:
    parts: Any = {"mean": torch.zeros(2, 3)}
    with pytest.raises(poe.StorageError, match="samples are one tensor, got dict"):
        poe.save_draws(replace(sampled(), samples=parts), tmp_path / "draws")
    assert not (tmp_path / "draws").exists()


@pytest.mark.parametrize("kernel", [None, MALA(0.5)], ids=["exact", "MALA"])
@pytest.mark.parametrize(
    ("collect", "got"),
    [
        (lambda x: {"mean": x}, "dict"),
        (lambda x: (x, x), "tuple"),
        (lambda x: x.mean(), r"shape \(\)"),
    ],
)
def test_collect_keeps_one_tensor(kernel: Kernel | None, collect: Any, got: str) -> None:
    with pytest.raises(poe.PoeError, match=rf"collect= to return one tensor .* got {got}: flatten"):
        poe.sample(EXPERT, 10, kernel=kernel, warmup=1, collect=collect, progress=False)


def test_a_file_of_before_there_were_kinds_is_read(tmp_path: Path) -> None:
    path, draws = tmp_path / "draws.safetensors", particles()
    poe.save_draws(draws, path)
    facts, tensors = read(path)
    for told in (facts["draws"], facts["draws"]["log_partition"]):
        told.pop("doubts")
        told["remarks"] = ["it went badly", "very"]
    del facts["draws"]["verdict"], facts["draws"]["tuned"], facts["draws"]["is_batch"]
    write(path, facts, tensors)
    loaded = poe.load_draws(path)
    assert loaded.doubts == tuple(Doubt(Kind.OTHER, text) for text in ("it went badly", "very"))
    assert loaded.log_partition is not None
    assert loaded.log_partition.remarks == loaded.remarks


def test_a_kind_of_a_later_version_is_read_by_its_words(tmp_path: Path) -> None:
    path = tmp_path / "draws.safetensors"
    poe.save_draws(particles(), path)
    facts, tensors = read(path)
    facts["draws"]["doubts"] = [{"kind": "UNHEARD_OF", "text": "odd", "chains": [1]}]
    write(path, facts, tensors)
    assert poe.load_draws(path).doubts == (Doubt(Kind.OTHER, "odd", (1,)),)
