"""Examples use what users may use: public names of poe and experts, and nothing of the process."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import pytest

import experts
import poe

pytestmark = pytest.mark.example

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES} - {EXAMPLES})

PUBLIC = {
    "poe",
    "poe.diagnostics",
    "poe.exponents",
    "poe.hub",
    "poe.io",
    "poe.link",
    "poe.losses",
    "poe.normalizers",
    "poe.plot",
    "poe.ranges",
    "poe.samplers",
    "poe.testing",
    "experts",
    "experts.boltzmann",
    "experts.boltzmann.training",
    "experts.families",
    "experts.graphs",
    "experts.images",
    "experts.language",
    "experts.neural",
    "experts.noised",
    "experts.pretrained",
    "experts.spins",
    "experts.tables",
}
"""Packages whose names are public, and all of ``experts.adapters``."""
DEMO = {"poe.demo.attributes", "poe.demo.conjunction", "poe.demo.evaluate", "poe.demo.judge"}
"""Parts of the demo, for ``train_digits``, which trains its experts, and ``plots``."""
FORMER = {
    "experts.tables.anomaly_detector": "experts.tables:ProductDetector",
    "experts.noised.embedding": "experts.noised:NoiseEmbedding",
    "experts.pretrained.loading": "experts.pretrained:FAMILIES",
    "experts.noised.conditional": "experts.noised:ANY",
    "experts.neural.spectral_norm": "experts.neural:power_iterate",
}
"""Modules that count as public for as long as their names have no public home."""


def is_public(module: str) -> bool:
    """Whether names may be taken from a module."""
    if module in FORMER:
        return not is_there(FORMER[module])
    is_adapter = re.fullmatch(r"experts\.adapters\.[a-z]\w*", module) is not None
    return module in PUBLIC | DEMO or is_adapter


def is_there(name: str) -> bool:
    """Whether there is such a name, ``package:name``."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def is_ours(module: str | None) -> bool:
    return (module or "").split(".")[0] in {"poe", "experts"}


def private_in(tree: ast.AST) -> Iterator[str]:
    """What a file takes of poe and experts that is not public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_ours(node.module):
            assert node.module is not None
            yield from imported(node.module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if is_ours(a.name) and not is_public(a.name))
        elif isinstance(node, ast.Attribute):
            path = dotted(node)
            if is_ours(path) and path != "":
                yield from reached(path)


def imported(module: str, names: list[str]) -> Iterator[str]:
    """Those of ``from module import names`` that are not public."""
    if not is_public(module):
        yield module
        return
    found = importlib.import_module(module)
    yield from (f"{module}.{name}" for name in names if not offers(found, name))


def offers(module: ModuleType, name: str) -> bool:
    """Whether a name is among a module's public ones, or a package that is public itself."""
    if is_public(f"{module.__name__}.{name}"):
        return True
    listed = getattr(module, "__all__", None)
    return not name.startswith("_") and (
        hasattr(module, name) if listed is None else name in listed
    )


def dotted(node: ast.expr) -> str:
    """``a.b.c``, or nothing where the root is no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        root = dotted(node.value)
        return f"{root}.{node.attr}" if root else ""
    return ""


def reached(path: str) -> Iterator[str]:
    """The first part of ``poe.a.b`` that is not public; what an object has is its own affair."""
    root, *names = path.split(".")
    found: object = {"poe": poe, "experts": experts}[root]
    for name in names:
        if not isinstance(found, ModuleType):
            return
        if not offers(found, name):
            yield path
            return
        found = getattr(found, name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_only_public_names_are_used(path: Path) -> None:
    assert set(private_in(ast.parse(path.read_text(encoding="utf-8")))) == set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from poe.exponents.newton import maximise", {"poe.exponents.newton"}),
        ("from poe.exponents import FittedExponents", set()),
        ("from poe.exponents import fitted", {"poe.exponents.fitted"}),
        ("import poe\npoe.samplers.MALA(), poe.samplers.kernel", {"poe.samplers.kernel"}),
        ("import experts.boltzmann.block_gibbs", {"experts.boltzmann.block_gibbs"}),
        ("import poe\npoe.sample(1).samples.shape", set()),
        ("import poe\npoe.not_there", {"poe.not_there"}),
        (
            "from experts.adapters.huggingface import load, _load",
            {"experts.adapters.huggingface._load"},
        ),
    ],
)
def test_private_names_are_seen(code: str, expected: set[str]) -> None:
    assert set(private_in(ast.parse(code))) == expected


def test_neither_the_path_nor_the_backend_is_touched() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "sys.path" not in text, path
        assert "matplotlib.use" not in text, path


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES} - {EXAMPLES}), ids=lambda p: p.name
)
def test_each_example_says_how_it_is_run(folder: Path) -> None:
    told = (folder / "README.md").read_text(encoding="utf-8")
    assert f"python -m examples.{folder.name}" in told
    assert (folder / "__main__.py").exists() == (folder / "run.py").exists()
    commands = {
        line.split()[2] for line in told.splitlines() if line.startswith("python -m examples")
    }
    for command in commands:
        assert find_spec(command) is not None, command
