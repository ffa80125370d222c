"""Saving and loading: bit for bit, atomic, and nothing altered is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributions as D, nn

import poe
from experts import Gaussian, LinearGaussian
from poe.files.tensor_file import NO_HASH, sealed
from poe.io import DESCRIPTION, register, register_module
from tests.seeds import seeded

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


class Scaled(poe.Conditional):
    """A registered conditional with a constructor argument, a parameter and a derived buffer."""

    is_normalized = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.space = poe.Real(size)
        self.size = size
        self.logs = nn.Parameter(torch.randn(3))
        self.register_buffer("derived", torch.full((size,), 1 / 3), persistent=False)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        log = nn.functional.embedding(condition, self.logs[:, None])[..., 0]
        return ((x - self.derived).square() * -0.5).sum(-1) * log.exp() + log


register_module(Scaled, ("size",))


def network() -> nn.Sequential:
    layers = nn.Linear(2, 8), nn.SiLU(), nn.LayerNorm(8), nn.Linear(8, 1, bias=False), nn.Flatten(0)
    return nn.Sequential(*layers)


a = Gaussian([0.0, 1.0], scale=[1.0, 2.0])
b = Gaussian([1.0, -1.0], covariance=[[2.0, 0.5], [0.5, 1.0]])
with seeded():
    label = Scaled(2)
step = LinearGaussian([[2.0, 0.5], [0.0, -1.0]], bias=[0.1, 0.2], scale=[0.3, 0.4])

with seeded():
    EXPERTS: dict[str, poe.Expert] = {
        "Gaussian": a,
        "Gaussian, full": b,
        "Gaussian, precision": Gaussian([0.1, 0.2], precision=[[2.0, 0.5], [0.5, 1.0]]),
        "Gaussian, learned": Gaussian(
            nn.Parameter(torch.rand(2)), scale=nn.Parameter(torch.rand(2))
        ),
        "Tempered": a ** (1 / 3),
        "Tempered, learned": a ** nn.Parameter(torch.tensor(1 / 7)),
        "Product": poe.Product(prior=a, style=b**0.1) / a,
        "Mixture": poe.Mixture([a, b], [0.1, 0.9]),
        "Mixture, estimated": poe.Mixture([a, b**2], log_partitions=[None, 1 / 3]),
        "Transformed": poe.Transformed(
            b,
            D.ComposeTransform(
                [
                    D.AffineTransform(torch.rand(2), nn.Parameter(torch.rand(2) + 1)),
                    D.SigmoidTransform().inv,
                ]
            ),
            space=poe.Real(2),
        ),
        "Marginal": poe.Marginal(a, step, X),
        "Posterior": poe.Marginal(a, step, X).posterior(X[0]),
        "Chunked": poe.Chunked(a * b, 7),
        "Autocast": poe.Autocast(poe.link.softplus(network(), poe.Real(2)), torch.float16),
        "Together": poe.Together(
            poe.Product(
                first=poe.FromEnergy(network(), space=poe.Real(2)),
                between=b,
                second=poe.FromEnergy(network(), space=poe.Real(2)),
            )
        ),
        "At": b.at(nn.Linear(2, 2), poe.Real(2)),
        "Given": label.given(2),
        "Given, batch": label.given(torch.tensor([0, 1, 2, 1, 0])),
        "link": poe.link.softplus(network(), poe.Real(2)),
        "FromEnergy": poe.FromEnergy(network(), space=poe.Real(2)),
        "FromLogDensity": poe.FromLogDensity(network(), space=poe.Real(2)),
        "distribution": poe.as_expert(D.Independent(D.StudentT(torch.tensor([2.0, 3.0])), 1)),
        "distribution, moved": poe.as_expert(
            D.TransformedDistribution(
                D.MultivariateNormal(torch.rand(2), torch.eye(2)),
                [D.AffineTransform(torch.rand(2), 2.0)],
            )
        ),
        "everything": poe.Product(
            (a * b) ** nn.Parameter(torch.tensor(0.3)),
            net=poe.link.square(network(), poe.Real(2)),
            either=a | b,
            condition=label.given(1) ** -0.1,
        ),
    }


def saved(expert: nn.Module, folder: Path) -> Path:
    poe.save(expert, folder / "expert")
    return folder / "expert"


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXPERTS)
def test_round_trip_is_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    expert = EXPERTS[name].to(dtype)
    loaded = poe.load(saved(expert, tmp_path))
    assert repr(loaded) == repr(expert)
    assert loaded.space == expert.space
    assert torch.equal(loaded(X.to(dtype)), expert(X.to(dtype)))
    before, after = tensors(expert), tensors(loaded)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key
        assert tensor.dtype == after[key].dtype, key
        assert tensor.requires_grad == after[key].requires_grad, key
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in expert.named_parameters()]
    EXPERTS[name].to(torch.float32)


@pytest.mark.parametrize("space", [
    poe.Real((2, 3)), poe.Interval(2, -1 / 3, 2), poe.Positive(()), poe.Simplex(3),
    poe.PositiveDefinite(2), poe.Binary(4), poe.Categorical((2,), 5), poe.Count(1),
    poe.Sequence(7, 2),
], ids=str)  # fmt: skip
def test_every_space_comes_back(space: poe.Space, tmp_path: Path) -> None:
    expert = poe.FromEnergy(nn.Identity(), space=space)
    assert poe.load(saved(expert, tmp_path)).space == space


BRIDGES = {
    "Dequantized": (
        poe.Dequantized(poe.as_expert(D.Categorical(torch.tensor([0.7, 0.2, 0.4])))),
        torch.tensor([0.5, 2.2]),
    ),
    "Relaxed": (
        poe.Relaxed(poe.FromLogDensity(EXPERTS["FromLogDensity"].fn, space=poe.Binary(2))),
        X.sigmoid(),
    ),
}


@pytest.mark.parametrize(("expert", "x"), BRIDGES.values(), ids=BRIDGES)
def test_bridges_come_back(expert: poe.Expert, x: Tensor, tmp_path: Path) -> None:
    assert torch.equal(poe.load(saved(expert, tmp_path))(x), expert(x))


def test_names_come_back(tmp_path: Path) -> None:
    product = poe.Product(prior=a, style=b) * a * a
    assert poe.load(saved(product, tmp_path)).names == product.names


def test_what_was_shared_is_shared_again(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor(0.3))
    loaded = poe.load(saved((a * label.given(0) * label.given(1)) ** weight, tmp_path))
    first, second, third = loaded.experts
    assert first.exponent is second.exponent is third.exponent
    assert second.expert.conditional is third.expert.conditional


def test_conditional_can_be_saved_by_itself(tmp_path: Path) -> None:
    loaded = poe.load(saved(label, tmp_path))
    assert torch.equal(loaded.given(1)(X), label.given(1)(X))


@seeded()
def test_training_and_frozen_parts_come_back(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1), nn.Flatten(0))
    net[0].requires_grad_(False)
    expert = poe.link.exponential(net, poe.Real(2))
    expert.eval()
    net[2].train()
    loaded = poe.load(saved(expert, tmp_path))
    assert [m.training for m in loaded.modules()] == [m.training for m in expert.modules()]
    assert [p.requires_grad for p in loaded.parameters()] == [False, False, True, True]


def test_loading_leaves_the_saved_files_alone_and_shares_no_memory(tmp_path: Path) -> None:
    folder = saved(a, tmp_path)
    first = poe.load(folder)
    first.loc += 100
    assert torch.equal(poe.load(folder).loc, a.loc)


def test_saving_again_replaces(tmp_path: Path) -> None:
    saved(a, tmp_path)
    folder = saved(b, tmp_path)
    assert torch.equal(poe.load(folder)(X), b(X))
    assert len(list(folder.iterdir())) == 2


# What cannot be saved


def test_function_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    expert = a * poe.FromEnergy(lambda x: x.sum(-1), space=poe.Real(2))
    with pytest.raises(poe.StorageError, match=r"not registered; use poe\.io\.register"):
        saved(expert, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_subclass_is_not_taken_for_its_base(tmp_path: Path) -> None:
    class Other(Gaussian):
        pass

    with pytest.raises(poe.StorageError, match="Other: it is not registered"):
        saved(Other([0.0], scale=1.0), tmp_path)


def test_meta_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(poe.StorageError, match="meta device"):
        saved(Gaussian([0.0], scale=1.0).to("meta"), tmp_path)


def test_unknown_transform_is_refused(tmp_path: Path) -> None:
    class Odd(D.ExpTransform):
        pass

    with pytest.raises(poe.StorageError, match="not registered"):
        saved(poe.Transformed(a, Odd()), tmp_path)


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "expert").write_text("mine")
    with pytest.raises(poe.StorageError, match="expected a directory"):
        saved(a, tmp_path)
    assert (tmp_path / "expert").read_text() == "mine"


# What is not believed


def weights_of(folder: Path) -> Path:
    return next(folder.glob("weights-*.safetensors"))


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit of the weights": (lambda f: flip_a_bit(weights_of(f)), "truncated or was altered"),
    "weights cut": (lambda f: truncate(weights_of(f)), "truncated or was altered"),
    "weights emptied": (lambda f: weights_of(f).write_bytes(b""), "truncated or was altered"),
    "weights gone": (lambda f: weights_of(f).unlink(), "cannot read the weights"),
    "description cut": (lambda f: truncate(f / DESCRIPTION), "truncated or damaged"),
    "description emptied": (lambda f: (f / DESCRIPTION).write_text(""), "truncated or damaged"),
    "description gone": (lambda f: (f / DESCRIPTION).unlink(), "found no expert.json"),
    "description not text": (lambda f: (f / DESCRIPTION).write_bytes(b"\xff\xfe"), "damaged"),
    "description too deep": (
        lambda f: (f / DESCRIPTION).write_text("[" * 100_000),
        "truncated or damaged",
    ),
    "another format": (lambda f: (f / DESCRIPTION).write_text("{}"), "is not a saved expert"),
    "a list": (lambda f: (f / DESCRIPTION).write_text("[]"), "is not a saved expert"),
    "newer version": (
        lambda f: edit(f, lambda d: d.update(format_version=4)),
        "version 3 or before, got 4",
    ),
    "tree altered": (
        lambda f: edit(f, lambda d: d.update(tree=None)),
        "altered after it was saved",
    ),
    "hash of weights altered": (
        lambda f: edit(f, lambda d: d.update(weights_sha256="../../etc")),
        "altered after",
    ),
    "hash removed": (lambda f: edit(f, lambda d: d.pop("sha256")), "altered after"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_altered_files_are_refused(name: str, tmp_path: Path) -> None:
    change, words = TAMPERED[name]
    folder = saved(a * b, tmp_path)
    change(folder)
    with pytest.raises(poe.StorageError, match=words):
        poe.load(folder)


def forge(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Alter the tree and mend its hash, as somebody would who means it."""
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description["tree"])
    seal(folder, description)


def seal(folder: Path, description: dict[str, Any]) -> None:
    told = json.dumps({**description, "sha256": NO_HASH}).encode()
    (folder / DESCRIPTION).write_bytes(sealed(told, len(told)))


FORGED: dict[str, Callable[[dict[str, object]], object]] = {
    "unknown class": lambda tree: tree.update(kind="os.system"),
    "unknown node": lambda tree: tree.update({"$": "pickle"}),
    "field missing": lambda tree: tree.update(fields={}),
    "field too many": lambda tree: tree["fields"].update(extra=1),  # type: ignore[attr-defined]
    "wrong type": lambda tree: tree["fields"].update(loc=3),  # type: ignore[attr-defined]
    "no such tensor": lambda tree: tree["fields"]["loc"].update(key="99"),  # type: ignore[index]
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_trees_are_refused(name: str, tmp_path: Path) -> None:
    folder = saved(a, tmp_path)
    forge(folder, FORGED[name])
    with pytest.raises(poe.StorageError):
        poe.load(folder)


def test_unknown_class_names_the_remedy(tmp_path: Path) -> None:
    folder = saved(a, tmp_path)
    forge(folder, FORGED["unknown class"])
    with pytest.raises(poe.StorageError, match=r"os\.system, which is not registered.*import"):
        poe.load(folder)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(SIZE[0]))

    SIZE = [3]
    register_module(Small)
    folder = saved(Small(), tmp_path)
    SIZE[0] = 4
    with pytest.raises(poe.StorageError, match=r"Small\.weight of shape \(4,\), got \(3,\)"):
        poe.load(folder)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer(NAME[0], torch.zeros(3))

    NAME = ["old"]
    register_module(Changing)
    folder = saved(Changing(), tmp_path)
    NAME[0] = "new"
    with pytest.raises(poe.StorageError, match="do not fit: new, old"):
        poe.load(folder)


# Atomic


@pytest.mark.parametrize("failing_call", [1, 2])
def test_interrupted_save_keeps_the_old_expert(
    failing_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(a, tmp_path)
    calls = 0
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved(b, tmp_path)
    assert torch.equal(poe.load(folder)(X), a(X))
    assert not list(folder.glob(".*")), "a temporary file was left"


def test_registered_class_round_trips_by_its_own_functions(tmp_path: Path) -> None:
    class Constant(poe.Expert):
        def __init__(self, space: poe.Space, value: float) -> None:
            super().__init__()
            self.space = space
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            return torch.full(x.shape[:1], self.value)

    extra = {"note": None, "list": [1, (2.5, "a", True)], "dict": {"b": -torch.inf}}
    seen = {}

    def build(fields: dict[str, Any]) -> Constant:
        seen.update(fields)
        return Constant(fields["space"], fields["value"])

    register(Constant, lambda c: {"value": c.value, "space": c.space, **extra}, build)
    loaded = poe.load(saved(Constant(poe.Real(2), 1 / 3), tmp_path))
    assert loaded.value == 1 / 3
    assert {key: seen[key] for key in extra} == extra


def test_files_of_the_users_own_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["notes.txt", "weights-final.safetensors", "weights-0123.safetensors"]
    for name in names:
        (tmp_path / name).write_text("mine")
    for exponent in (1.0, 2.0):
        poe.save(Gaussian([0.0], scale=[1.0]) ** exponent, tmp_path)
    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * 3
    assert len(list(tmp_path.iterdir())) == 5  # and the description, and its weights alone
