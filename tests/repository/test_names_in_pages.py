"""What pages, comments and scripts call by its full name, or by its path, is there."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")])
NAME = re.compile(r"(?<![\w./\"-])(?:poe|experts)(?:\.[A-Za-z_]\w*)+(?![\w/-])")
FILE = re.compile(r"`((?:poe|experts|tests|docs|examples|benchmarks)/[\w./-]*)`")
GONE = "### Module paths that are gone"
"""The last heading of the changelog: what follows are names that are no more."""
TABLES = re.compile(r"^\[experts\..*\]$", re.MULTILINE)
"""Headings of the tables of a TOML file, which may give an expert any name."""


def _text(page: Path) -> str:
    return TABLES.sub("", page.read_text(encoding="utf-8").partition(GONE)[0])


def _resolve(name: str) -> object:
    """The thing of that name, found as a user's import and attributes would find it."""
    found: object = importlib.import_module(name.partition(".")[0])
    parts = name.split(".")
    for end, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:end]))
        found = getattr(found, part)
    return found


def _problem(name: str) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            _resolve(name)
        except (AttributeError, ImportError, DeprecationWarning) as error:
            return f"{name}: {error}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_files_of_a_page_are_there(page: Path) -> None:
    text = _text(page)
    problems = [problem for name in sorted(set(NAME.findall(text))) if (problem := _problem(name))]
    problems += [path for path in sorted(set(FILE.findall(text))) if not (ROOT / path).exists()]
    assert problems == []


def test_a_name_that_moved_and_one_that_never_was_are_noticed() -> None:
    assert _problem("experts.Gaussian") is None
    assert "experts.boltzmann.training" in str(_problem("experts.fit_rbm"))
    assert _problem("poe.no_such_name") is not None
