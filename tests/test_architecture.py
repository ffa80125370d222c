"""Imports run downward, `poe` knows no concrete model, and importing it needs nothing optional."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINE = ("poe.cli", "poe.demo", "poe.studio", "poe.__main__")
ADAPTED = (
    "jax", "normflows", "numpyro", "onnxruntime", "pzflow", "sklearn", "transformers", "zuko",
)  # fmt: skip
OPTIONAL = {
    "poe": (
        "arviz", "huggingface_hub", "matplotlib", "nflows", "pandas", "scipy", "skimage",
        "tensorboard", "xarray", *ADAPTED,
    ),
    "poe.cli": ("arviz", "matplotlib", "skimage", "scipy", "nflows", *ADAPTED),
    "experts": ("arviz", "skimage", "scipy", *ADAPTED),  # nflows loads matplotlib by itself
}  # fmt: skip


def _load_script() -> ModuleType:
    path = ROOT / "docs" / "draw_architecture.py"
    spec = importlib.util.spec_from_file_location("draw_architecture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = _load_script()


def test_every_module_has_a_place() -> None:
    homeless = [m for m in architecture.source_files() if architecture.layer_of(m) is None]
    assert not homeless, f"give them a place in LAYERS of docs/draw_architecture.py: {homeless}"


def test_imports_run_downward() -> None:
    place = {module: architecture.layer_of(module) for module in architecture.source_files()}
    upward = [
        f"{importer} imports {imported}"
        for importer, imported, _ in architecture.imports()
        if place[importer] is not None and place[imported] is not None
        if place[importer] < place[imported]
    ]
    assert not upward


def test_imports_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in architecture.imports():
        graph.setdefault(importer, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_poe_knows_no_concrete_model() -> None:
    offenders = [
        f"{importer} imports {imported}"
        for importer, imported, _ in architecture.imports()
        if importer.startswith("poe") and imported.startswith("experts")
        if not importer.startswith(COMMAND_LINE)
    ]
    assert not offenders


@pytest.mark.parametrize("package", OPTIONAL)
def test_importing_needs_nothing_optional(package: str) -> None:
    # In an interpreter of its own: this one has imported plenty already.
    code = (
        f"import sys, {package}\n"
        f"loaded = [name for name in {OPTIONAL[package]!r} if name in sys.modules]\n"
        f"sys.exit(f'importing {package} loaded {{loaded}}' if loaded else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
