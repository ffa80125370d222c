"""What the docstrings of the examples show is so."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.example

ROOT = Path(__file__).resolve().parents[2]


def with_doctests() -> list[str]:
    """Modules whose docstrings show what they do."""
    paths = [
        path for path in (ROOT / "examples").rglob("*.py") if ">>> " in path.read_text("utf-8")
    ]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)


@pytest.mark.parametrize("module", with_doctests())
def test_docstrings_show_what_is_so(module: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert found.attempted > 0
    assert found.failed == 0
