"""What is said where a library is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest


def hide(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a library were not installed, though parts of it may have been imported."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == library]
    for name in {library, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)


def import_without(library: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import a module anew, as where the library is missing; afterwards all is as it was."""
    hide(library, monkeypatch)
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module(module)
