"""The documentation site: its code runs and prints what it shows, and every name has its place."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import poe
from tests.seeds import seeded

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^::: ([\w.]+)(?:\n    options:\n      members: (.*))?$", re.MULTILINE)
PACKAGES = (
    "poe", "poe.diagnostics", "poe.exponents", "poe.losses", "poe.normalizers", "poe.plot",
    "poe.samplers", "poe.testing", "experts", "experts.boltzmann", "experts.boltzmann.training",
    "experts.families", "experts.graphs", "experts.images", "experts.language", "experts.neural",
    "experts.noised", "experts.pretrained", "experts.spins", "experts.tables",
)  # fmt: skip
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
ONE_RUN = 'text title="one run"'
"""Output of random numbers: its words are checked, and that numbers stand where numbers stand."""
UNTESTED = ("restoration", "train_digits")
"""What trained shipped weights, from data that must be fetched: no test runs their scripts."""


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _with_code() -> list[Path]:
    return [page for page in PAGES if re.search(r"^```python", _text(page), re.MULTILINE)]


def _is_shown(expected: str, printed: str, kind: str) -> bool:
    if kind == ONE_RUN:
        expected, printed = (NUMBER.sub("0", text) for text in (expected, printed))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected, printed, flags)


@pytest.mark.page
@pytest.mark.parametrize("page", _with_code(), ids=lambda page: str(page.relative_to(DOCS)))
def test_code_of_a_page_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with seeded():  # a page is a script of a user's, who may leave generators out
        _run_blocks(page)


def _run_blocks(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    printed = ""
    for number, (kind, text) in enumerate(BLOCK.findall(_text(page))):
        if kind.split(" ")[0] == "python":
            file = f"{page.name}, block {number}"
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(compile(text, file, "exec", dont_inherit=True), names)
            printed = stdout.getvalue()
        elif kind in ("output", ONE_RUN):
            assert _is_shown(text, printed, kind), f"shown:\n{text}\nprinted:\n{printed}"


def test_words_are_compared_and_of_one_run_no_numbers() -> None:
    assert _is_shown("mean 1.25 ok", "mean  1.5 ok\n", ONE_RUN)
    assert not _is_shown("mean 1.25 ok", "mean 1.5 bad\n", ONE_RUN)
    assert not _is_shown("mean 1.25 ok\n", "mean 1.5 ok\n", "output")
    assert not _is_shown("mean 1.25 ok\n", "", "output")


def _explained() -> Iterator[str]:
    """Names after a ``:::``, and those in the list of a module's members there."""
    for page in PAGES:
        for name, members in DIRECTIVE.findall(_text(page)):
            yield name
            if members.startswith("["):
                yield from (f"{name}.{member}" for member in re.findall(r"\w+", members))


def _public() -> Iterator[tuple[str, str]]:
    """Names of packages, each as it is there and as it would be at the top of its tree."""
    for package in map(importlib.import_module, PACKAGES):
        top = importlib.import_module(package.__name__.partition(".")[0])
        for name in package.__all__:
            is_at_the_top = name in top.__all__ and getattr(top, name) is getattr(package, name)
            yield (
                f"{package.__name__}.{name}",
                f"{(top if is_at_the_top else package).__name__}.{name}",
            )


def test_every_public_name_is_explained_once() -> None:
    explained = Counter(_explained())
    missing = [
        name for name, at_the_top in _public() if explained[name] + explained[at_the_top] == 0
    ]
    twice = [name for name, top in _public() if name != top and explained[name] and explained[top]]
    assert {name: count for name, count in explained.items() if count > 1} == {}
    assert [name for name in missing if not _is_package(name)] == []
    assert twice == []


def _is_package(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return inspect.ismodule(getattr(importlib.import_module(module), attribute))


def test_names_that_are_explained_exist() -> None:
    for name in _explained():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_example_is_in_the_gallery_and_run_by_a_test() -> None:
    gallery = _text(DOCS / "gallery.md").replace("-m examples.", "examples/")
    for name in sorted(path.parent.name for path in (ROOT / "examples").glob("*/*.py")):
        assert f"examples/{name}" in gallery, f"{name} is missing in docs/gallery.md"
        test = ROOT / "tests" / "examples" / f"test_{name}.py"
        assert name in UNTESTED or f'run("{name}"' in _text(test)


def test_pictures_of_the_gallery_are_there() -> None:
    for target in re.findall(r"\]\(([\w/]+\.png)\)", _text(DOCS / "gallery.md")):
        assert (DOCS / target).is_file(), target


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe")
    spec = spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.page
@pytest.mark.process
def test_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    # Not --quiet, by which warnings are not only not shown, but not counted either.
    command = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    for name in poe.__all__:
        assert f"#poe.{name}" in reference, name
