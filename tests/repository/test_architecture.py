"""Imports run downward, `poe` knows no concrete model, and importing it needs nothing optional."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

import experts
import poe

ROOT = Path(__file__).resolve().parents[2]
COMMAND_LINE = ("poe.cli", "poe.demo", "poe.studio", "poe.__main__")
ADAPTED = (
    "jax", "nflows", "normflows", "numpyro", "onnxruntime", "pzflow", "sklearn", "transformers",
    "zuko",
)  # fmt: skip
OPTIONAL = (
    "arviz", "huggingface_hub", "matplotlib", "pandas", "scipy", "skimage", "tensorboard",
    "xarray", *ADAPTED,
)  # fmt: skip
LINES_OF_A_FACE = 40
FILES_OF_A_PACKAGE = 17
MOST_CLIMBS = 12
SAME_NAME_ANOTHER_THING = {
    "Categorical",  # experts.families.Categorical is a density, poe.Categorical a space
    "load",  # a shipped expert by its name; a saved one by its folder
}


def _script(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "docs"))


architecture = _script("draw_architecture")


def test_every_module_has_a_place() -> None:
    homeless = [m for m in architecture.source_files() if architecture.layer_of(m) is None]
    assert not homeless, f"give them a place in LAYERS of docs/draw_architecture.py: {homeless}"


def test_imports_between_packages_run_strictly_downward() -> None:
    upward = [
        f"{importer} imports {imported}"
        for importer, imported in architecture.imports()
        if architecture.package_of(importer) != architecture.package_of(imported)
        if architecture.layer_of(importer) <= architecture.layer_of(imported)
    ]
    assert not upward


def test_no_circle_of_modules() -> None:
    graph: dict[str, set[str]] = {}
    for importer, imported in architecture.imports():
        graph.setdefault(importer, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_imports_in_functions_and_for_type_checkers_count(tmp_path: Path) -> None:
    package = tmp_path / "poe"
    package.mkdir()
    for name in ("a", "b", "c"):
        (package / f"{name}.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "d.py").write_text(
        "from typing import TYPE_CHECKING\nfrom poe.a import x\nif TYPE_CHECKING:\n"
        "    from poe.b import y\ndef f():\n    from poe import c\n"
    )
    found = {imported for _, imported in architecture.imports(tmp_path)}
    assert found == {"poe.a", "poe.b", "poe.c"}


def test_poe_knows_no_concrete_model() -> None:
    offenders = [
        f"{importer} imports {imported}"
        for importer, imported in architecture.imports()
        if importer.startswith("poe") and imported.startswith("experts")
        if not importer.startswith(COMMAND_LINE)
    ]
    assert not offenders


def test_sample_hands_its_target_down_the_house() -> None:
    walk = _script("follow_parameter")
    route = list(walk.follow("poe.sampling.sample", "sample", "target"))
    assert len(route) > 200
    assert len(walk.climbs(route)) <= MOST_CLIMBS


def test_only_faces_lie_at_the_roots() -> None:
    for root in ("poe", "experts"):
        for path in (ROOT / root).glob("*.py"):
            if path.name in ("__init__.py", "parameters.py"):
                continue
            lines = path.read_text(encoding="utf-8").splitlines()
            assert len(lines) <= LINES_OF_A_FACE, f"{path.name} is more than a face"
            defined = (ast.FunctionDef, ast.ClassDef)
            body = ast.parse("\n".join(lines)).body
            assert not any(isinstance(node, defined) for node in body), path.name


def test_packages_are_small_enough_to_be_read_at_a_glance() -> None:
    files = Counter(path.parent for path in architecture.source_files().values())
    large = {str(p.relative_to(ROOT)): n for p, n in files.items() if n > FILES_OF_A_PACKAGE}
    assert not large


def _packages() -> list[str]:
    return [
        module
        for module, path in architecture.source_files().items()
        if path.name == "__init__.py" and not module.startswith(COMMAND_LINE)
    ]


@pytest.mark.parametrize("package", _packages())
def test_a_public_function_never_shares_its_name_with_a_submodule(package: str) -> None:
    module = importlib.import_module(package)
    modules = {info.name for info in pkgutil.iter_modules(module.__path__)}
    shared = {n for n in modules if n in vars(module) and not inspect.ismodule(vars(module)[n])}
    assert not shared


def test_no_name_of_experts_is_one_of_poe_with_another_meaning() -> None:
    both = set(poe.__all__) & set(experts.__all__)
    differ = {name for name in both if getattr(poe, name) is not getattr(experts, name)}
    assert differ <= SAME_NAME_ANOTHER_THING


REACHED = """
import sys, poe, experts
loaded = [name for name in {optional!r} if name in sys.modules]
import poe.cli
poe.testing.check_expert, poe.losses.Loss, poe.ranges.Rescale, poe.draws.Draws
experts.boltzmann.training.fit_rbm, experts.graphs.at_most, experts.pretrained.FAMILIES
loaded += [name for name in {optional!r} if name in sys.modules]
experts.adapters.huggingface.load, poe.hub.HubExpert  # these load what they adapt
import json; print(json.dumps(loaded))
"""


@pytest.mark.process
def test_importing_needs_nothing_optional_and_reaches_every_package() -> None:
    # In an interpreter of its own: this one has imported plenty already.
    code = REACHED.format(optional=OPTIONAL)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


MOVED = ("fit_rbm", "Mask", "at_most", "contrast", "Standardize", "data_log_odds", "jem_loss")


@pytest.mark.parametrize("name", MOVED)
def test_a_name_that_moved_still_works_and_says_where_it_is(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"experts\.{name} is now experts\.\w+") as caught:
        found = getattr(experts, name)
    assert found.__name__ == name
    assert caught[0].filename == __file__


FORMER_MODULES = {
    "anomaly": "ProductDetector",
    "library": "load",
    "noise": "DensityRatio",
    "rbm_features": "RBMFeatures",
    "adapters.diffusion": "ScoreModel",
}


@pytest.mark.parametrize(("module", "name"), FORMER_MODULES.items())
def test_a_module_that_moved_is_reached_as_before_without_an_import(module: str, name: str) -> None:
    face = attrgetter(module)(experts)
    with pytest.warns(DeprecationWarning, match=rf"experts\.{module}\.{name} is now experts\.\w+"):
        getattr(face, name)


def test_a_name_that_never_was_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'experts' has no attribute 'Nonsense'"):
        experts.Nonsense  # noqa: B018
