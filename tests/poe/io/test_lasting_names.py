"""The names by which files call classes: they last, and no two classes share one."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import experts
import poe
from poe.io.tree import (
    _SPACES,
    _by_name,
    _codecs,
    _on_demand,
    register,
    register_module,
    register_on_demand,
)


@pytest.fixture(scope="module", autouse=True)
def _every_module_that_registers() -> None:
    for package in (poe, experts):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            source = Path(module.module_finder.find_spec(module.name).origin)  # type: ignore
            if "poe.io" not in source.read_text():
                continue
            try:
                importlib.import_module(module.name)
            except ImportError:  # a library that is not installed
                assert module.name.startswith(("experts.adapters", "poe.hub")), module.name


@pytest.fixture(autouse=True)
def _registry_as_it_was(_every_module_that_registers: None) -> Iterator[None]:
    kept_ones = [(dict(current), current) for current in (_codecs, _by_name, _on_demand)]
    yield
    for kept, current in kept_ones:
        current.clear()  # type: ignore[attr-defined]
        current.update(kept)  # type: ignore[arg-type]


def of_this_project() -> list[Any]:
    """All that poe and experts register."""
    roots = ("poe", "experts", "torch")
    return [c for c in _codecs.values() if c.kind.__module__.partition(".")[0] in roots]


def test_every_savable_class_has_a_lasting_name() -> None:
    codecs = of_this_project()
    assert len(codecs) > 100
    without = sorted(codec.name for codec in codecs if not codec.is_lasting)
    assert without == [], "give them a name where they are registered: name='experts.RBM'"


def test_lasting_names_stay() -> None:
    """Those that files of the present format have: none may change, more may come."""
    known = json.loads(Path(__file__).with_name("lasting_names.json").read_text())
    assert set(known) <= {codec.name for codec in of_this_project()}


class Old(nn.Module):
    """Stands for what a file of before has in it."""


def path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def saved(module: nn.Module, folder: Path) -> Path:
    poe.save(module, folder)
    return folder


def kind_in(folder: Path) -> str:
    kind: str = json.loads((folder / "expert.json").read_text())["tree"]["kind"]
    return kind


def test_a_class_without_a_name_goes_by_its_path(tmp_path: Path) -> None:
    register_module(Old)
    folder = saved(Old(), tmp_path)
    assert kind_in(folder) == path(Old)
    assert isinstance(poe.load(folder), Old)


def test_a_class_that_moved_is_found_by_what_it_was_called(tmp_path: Path) -> None:
    class New(nn.Module):
        pass

    register_module(Old, name="mine.Old")
    by_name = saved(Old(), tmp_path / "by name")
    _codecs.pop(Old)
    for name in ("mine.Old", path(Old)):
        _by_name.pop(name)
    with pytest.raises(poe.StorageError, match=r"holds a mine\.Old, which .* \(`import mine`\)"):
        poe.load(by_name)
    register_module(New, name="mine.New", formerly=["mine.Old", path(Old)])
    assert isinstance(poe.load(by_name), New)
    assert kind_in(saved(poe.load(by_name), tmp_path / "again")) == "mine.New"


def test_a_name_given_later_finds_files_by_the_path(tmp_path: Path) -> None:
    register_module(Old)
    folder = saved(Old(), tmp_path)
    register_module(Old, name="mine.Old")
    assert isinstance(poe.load(folder), Old)
    assert kind_in(saved(Old(), tmp_path)) == "mine.Old"


def test_registered_again_a_class_keeps_its_name(tmp_path: Path) -> None:
    register_module(Old, name="mine.Old", formerly=["mine.Older"])
    register(Old, lambda module: {}, lambda fields: Old().eval())
    assert kind_in(saved(Old(), tmp_path)) == "mine.Old"
    assert _by_name["mine.Older"] is _by_name["mine.Old"]


@pytest.mark.parametrize(
    ("name", "formerly"),
    [
        ("poe.Mixture", ()),
        ("mine.Old", ("experts.boltzmann.rbm.RBM",)),
        ("mine.Old", ("torch.nn.modules.linear.Linear",)),
        (None, ("experts.Gaussian",)),
        ("poe.algebra.Mixture", ()),
    ],
)
def test_names_of_others_are_refused(name: str | None, formerly: tuple[str, ...]) -> None:
    before = dict(_by_name)
    with pytest.raises(poe.StorageError, match=r"name of its own for .*\.Old, got .* is saved"):
        register_module(Old, name=name, formerly=formerly)
    assert _by_name == before


def test_a_class_defined_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """As where the cell of a notebook is run twice."""

    def defined() -> type[nn.Module]:
        class Mine(nn.Module):
            pass

        register_module(Mine)
        return Mine

    first, second = defined(), defined()
    assert type(poe.load(saved(second(), tmp_path))) is second
    with pytest.raises(poe.StorageError, match="not registered"):
        poe.save(first(), tmp_path)


def test_classes_of_one_path_may_have_names_of_their_own(tmp_path: Path) -> None:
    """As those that a function makes."""

    def made(name: str) -> type[nn.Module]:
        class Mine(nn.Module):
            pass

        register_module(Mine, name=name)
        return Mine

    kinds = {name: made(name) for name in ("mine.A", "mine.B")}
    for name, kind in kinds.items():
        folder = saved(kind(), tmp_path / name)
        assert kind_in(folder) == name
        assert type(poe.load(folder)) is kind


def test_a_space_that_no_file_can_name_is_refused(tmp_path: Path) -> None:
    class Real(poe.Real):
        pass

    expert = poe.FromEnergy(nn.Flatten(0), space=Real(1))
    with pytest.raises(poe.StorageError, match=r"cannot save the space .*Real: expected one of"):
        poe.save(expert, tmp_path)


@pytest.mark.parametrize("version", [4, 10, None, "2", 0, 1.5])
def test_a_file_of_another_format_is_refused(version: object, tmp_path: Path) -> None:
    poe.save(experts.Gaussian([0.0], scale=1.0), tmp_path)
    description = json.loads((tmp_path / "expert.json").read_text())
    (tmp_path / "expert.json").write_text(json.dumps(description | {"format_version": version}))
    words = rf"format_version 3 or before, got {version}: load it with"
    with pytest.raises(poe.StorageError, match=words):
        poe.load(tmp_path)


def test_every_space_has_its_public_name() -> None:
    spaces = {
        n: k for n, k in vars(poe).items() if isinstance(k, type) and issubclass(k, poe.Space)
    }
    assert spaces.pop("Space") is poe.Space
    assert spaces == _SPACES


def test_a_module_is_imported_where_a_file_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "of_flows.py"
    source.write_text(
        "import poe.io\nfrom torch import nn\n"
        "class Flow(nn.Module): ...\n"
        "poe.io.register_module(Flow, name='flows.Flow')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register_module(Old, name="flows.Flow")
    folder = saved(Old(), tmp_path / "saved")
    _codecs.pop(Old)
    for name in ("flows.Flow", path(Old)):
        _by_name.pop(name)
    with pytest.raises(poe.StorageError, match=r"not registered here"):
        poe.load(folder)
    register_on_demand("flows.", "of_flows")
    assert type(poe.load(folder)).__module__ == "of_flows"


def test_a_module_that_cannot_be_imported_is_named_with_the_reason(tmp_path: Path) -> None:
    register_module(Old, name="flows.Flow")
    folder = saved(Old(), tmp_path)
    _by_name.pop("flows.Flow")
    register_on_demand("flows.", "nowhere.to.be.found")
    with pytest.raises(poe.StorageError, match=r"flows\.Flow, and nowhere.*: No module named"):
        poe.load(folder)
