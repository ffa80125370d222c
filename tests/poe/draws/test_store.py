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
from poe.files.fingerprint import fingerprint
from poe.files.tensor_file import packed, read, write
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
    with pytest.raises(poe.StorageError, match=r"draws at .* another file of this package"):
        poe.load_draws(tmp_path / "checkpoint")
    save_file({}, tmp_path / "newer", metadata={"format_version": "4"})
    with pytest.raises(poe.StorageError, match=r"format_version 3 or before .* got 4: read it"):
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


# Files of others, and files that mean harm


@pytest.mark.parametrize("content", [b"precious", b"{}", b"\x08" + bytes(7) + b"{}      "])
def test_another_file_is_not_written_over(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "draws.safetensors"
    path.write_bytes(content)
    with pytest.raises(poe.StorageError, match=r"draws\.safetensors"):
        poe.save_draws(sampled(), path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["draws.safetensors"]


def test_neither_weights_nor_checkpoints_are_written_over(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    write(tmp_path / "run", {"format": "product-of-experts run"}, {})
    for name in ("weights.safetensors", "run"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(poe.StorageError, match="got a"):
            poe.save_draws(sampled(), tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_draws_and_empty_files_are_written_over(tmp_path: Path) -> None:
    (tmp_path / "draws").touch()
    for seed in (1, 2):
        draws = replace(sampled(), seed=seed)
        poe.save_draws(draws, tmp_path / "draws")
        assert poe.load_draws(tmp_path / "draws").seed == seed
    first = (tmp_path / "draws").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "draws")
    poe.save_draws(sampled(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "draws").read_bytes() != first


def test_what_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file" / "draws", Path("/dev/null"), Path("/proc/draws")):
        with pytest.raises(poe.StorageError):
            poe.save_draws(sampled(), path)


def test_no_byte_of_draws_can_be_changed_or_lacking(tmp_path: Path) -> None:
    path = tmp_path / "draws"
    poe.save_draws(particles(), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, header, 11), *range(header, len(whole), 501)]:
        change = 0x29 if whole[place : place + 1] == b" " else 0x20
        other = bytes([whole[place] ^ change])
        for content in (whole[:place] + other + whole[place + 1 :], whole[:place]):
            path.write_bytes(content)
            with pytest.raises(poe.StorageError, match=str(path)):
                poe.load_draws(path)


def test_a_file_that_is_sealed_anew_and_says_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "draws"
    poe.save_draws(particles(), path)
    facts, tensors = read(path)
    told = facts["draws"]
    wrong: list[tuple[dict[str, Any], dict[str, Tensor]]] = [
        *((facts | {"draws": told | {name: [{}]}}, tensors) for name in told),
        *((facts | {"draws": told | {name: {"a": 1}}}, tensors) for name in told),
        *((facts, tensors | {name: torch.zeros(7)}) for name in ("samples", "log_density")),
        *((facts, {k: v for k, v in tensors.items() if k != name}) for name in ("samples",)),
        (facts | {"draws": told | {"more": 1}}, tensors),
        (facts | {"draws": told | {"guarantee": "certain"}}, tensors),
        (facts | {"draws": []}, tensors),
        (facts | {"format": []}, tensors),
        ({"format": facts["format"]}, tensors),
        (facts, tensors | {"more": torch.zeros(1)}),
        (facts, tensors | {"log_partition.more": torch.zeros(1)}),
    ]
    for other, held in wrong:
        path.write_bytes(packed(other, held))
        with pytest.raises(poe.StorageError, match=str(path)):
            poe.load_draws(path)


def test_headers_that_mean_harm_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "draws"
    deep, long = b'{"__metadata__":' + b"[" * 50_000, b'{"x":{"dtype":"F64","shape":[99999999999],'
    for header in (deep, long + b'"data_offsets":[0,8]}}', b"", b"{" * 100_000):
        for size in (len(header), 2**62, 2**64 - 1):
            path.write_bytes(size.to_bytes(8, "little") + header)
            with pytest.raises(poe.StorageError, match="cannot be read"):
                poe.load_draws(path)
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(poe.StorageError, match="no regular file"):
        poe.load_draws(path)
