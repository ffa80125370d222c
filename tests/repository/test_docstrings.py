"""Every public callable says what each of its parameters is, in a form that other tools read."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator

import pytest
from torch import nn

PACKAGES = (
    "poe", "poe.diagnostics", "poe.draws", "poe.exponents", "poe.hub", "poe.io", "poe.link",
    "poe.losses", "poe.normalizers", "poe.plot", "poe.ranges", "poe.samplers", "poe.testing",
    "experts", "experts.boltzmann", "experts.boltzmann.training", "experts.families",
    "experts.graphs", "experts.images", "experts.language", "experts.neural", "experts.noised",
    "experts.pretrained", "experts.spins", "experts.tables",
    "experts.adapters.huggingface", "experts.adapters.jax", "experts.adapters.nflows",
    "experts.adapters.normflows", "experts.adapters.numpyro", "experts.adapters.onnx",
    "experts.adapters.pzflow", "experts.adapters.sklearn", "experts.adapters.zuko",
)  # fmt: skip
SECTION = re.compile(r"^Args:\n((?:(?: .*)?\n?)*)", re.MULTILINE)
ENTRY = re.compile(r"^    \*{0,2}(\w+)(?: \([^)]*\))?: \S", re.MULTILINE)


def public_callables(package: str) -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions, classes and the classes' own public methods, by the name they are found under."""
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        found = getattr(module, name)
        if not callable(found) or not is_ours(found):
            continue
        yield f"{package}.{name}", found
        if inspect.isclass(found):
            for method, value in vars(found).items():
                if not method.startswith("_") and inspect.isroutine(value):
                    yield f"{package}.{name}.{method}", getattr(found, method)


def is_ours(found: object) -> bool:
    return getattr(found, "__module__", "").split(".")[0] in ("poe", "experts")


def parameters(found: Callable[..., object]) -> list[str]:
    if inspect.isclass(found) and inherits_its_constructor(found):
        return []
    try:
        names = list(inspect.signature(found).parameters)
    except ValueError:  # a class without a constructor of its own
        return []
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def inherits_its_constructor(found: type) -> bool:
    """Whether its constructor is a base class's of torch or typing, as of modules and protocols.

    The signature of that, ``(*args, **kwargs)``, says nothing that a docstring could explain.
    """
    return getattr(found.__init__, "__module__", "").split(".")[0] in ("torch", "typing")


def described(found: Callable[..., object]) -> set[str]:
    text = found.__doc__ if inspect.isclass(found) else inspect.getdoc(found)
    sections = SECTION.findall(inspect.cleandoc(text or "") + "\n")
    return {name for section in sections for name in ENTRY.findall(section)}


def undescribed(package: str) -> dict[str, list[str]]:
    """Names of callables to the parameters of which their docstrings say nothing."""
    found = {}
    for name, value in public_callables(package):
        if name.endswith(".forward") and value is nn.Module.forward:
            continue
        missing = [p for p in parameters(value) if p not in described(value)]
        if missing:
            found[name] = missing
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_parameter_of_a_public_callable_is_described(package: str) -> None:
    if package.startswith("experts.adapters."):
        pytest.importorskip(package)
    assert undescribed(package) == {}


def test_a_missing_parameter_is_noticed() -> None:
    def half(a: int, b: int) -> None:
        """Do nothing.

        Args:
            a: A number,
                with a second line.
        """

    assert described(half) == {"a"}
    assert parameters(functools.partial(half, 1)) == ["b"]


def test_a_class_without_a_constructor_of_its_own_has_no_parameters() -> None:
    class Bare(nn.Module):
        """One that subclasses build."""

    class Own(Bare):
        """One of its own."""

        def __init__(self, size: int) -> None:
            super().__init__()

    assert parameters(Bare) == []
    assert parameters(Own) == ["size"]


if __name__ == "__main__":
    for package in PACKAGES:
        for name, missing in undescribed(package).items():
            print(f"{name}: {', '.join(missing)}")
