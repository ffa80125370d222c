"""How `poe.as_expert` finds the adapter of a library: by the package of the model's class."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import distributions as D

import poe
from experts import adapters


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type:
    """A library with one class, whose adapter says that it is a standard normal."""

    class Model:
        pass

    Model.__module__ = "some_library.models"
    adapter = ModuleType("experts.adapters.some_library")
    imported = []

    def import_module(name: str) -> ModuleType:
        imported.append(name)
        poe.as_expert.register(Model, lambda model: poe.as_expert(D.Normal(0.0, 1.0)))
        return adapter

    monkeypatch.setitem(adapters.LIBRARIES, "some_library", "some_library")
    monkeypatch.setattr(adapters.importlib, "import_module", import_module)
    Model.imported = imported  # type: ignore[attr-defined]
    return Model


def test_a_model_of_a_known_library_loads_its_adapter(library: type) -> None:
    expert = poe.as_expert(library())
    assert expert(torch.zeros(1)).item() == pytest.approx(-0.9189385)
    assert library.imported == ["experts.adapters.some_library"]  # type: ignore[attr-defined]
    poe.as_expert(library())
    assert len(library.imported) == 1  # type: ignore[attr-defined]  # it is registered now


def test_a_class_of_ones_own_that_is_derived_from_a_librarys_loads_it_too(library: type) -> None:
    mine = type("Mine", (library,), {"__module__": "my_project"})
    assert isinstance(poe.as_expert(mine()), poe.Expert)


@pytest.mark.parametrize("name", [None, "some_library"])
def test_what_the_adapter_does_not_know_is_refused(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown:
        pass

    if name:  # a known library, of which this class is none that it registers
        Unknown.__module__ = name
        monkeypatch.setitem(adapters.LIBRARIES, name, name)
        monkeypatch.setattr(adapters.importlib, "import_module", lambda name: ModuleType(name))
    with pytest.raises(poe.AdaptationError, match="cannot adapt Unknown; known are experts"):
        poe.as_expert(Unknown())


def test_a_distribution_of_an_unknown_library_is_taken_by_torchs_rules() -> None:
    class Mine(D.Normal):
        pass

    assert isinstance(poe.as_expert(Mine(torch.tensor(0.0), torch.tensor(1.0))), poe.Expert)


@pytest.mark.process
def test_an_adapter_is_loaded_by_the_first_model_only() -> None:
    code = (
        "import sys, poe, experts\n"
        "names = [f'experts.adapters.{name}' for name in experts.adapters.LIBRARIES.values()]\n"
        "assert not any(name in sys.modules for name in names), 'loaded too early'\n"
        "from sklearn.mixture import GaussianMixture\n"
        "poe.as_expert(GaussianMixture(1, random_state=0).fit([[0.0], [1.0]]))\n"
        "assert [n for n in names if n in sys.modules] == ['experts.adapters.sklearn']\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_conditionals_and_experts_are_themselves() -> None:
    class Mine(poe.Conditional):
        space = poe.Real(1)

    conditional = Mine()
    assert poe.as_expert(conditional) is conditional
