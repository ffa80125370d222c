"""What is imported only when it is asked for: names of a package, and optional dependencies."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def found_when_asked(
    package: str,
    *,
    submodules: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
    moved: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562) for what is imported only when it is asked for.

    Args:
        package: Its ``__name__``.
        submodules: Modules beneath it that are reached without an import of their own.
        names: Names that are its own, each with the module that has it.
        moved: Names that it once had, each with the module that has it now: they still work, with
            a ``DeprecationWarning`` that says where they are.

    Returns:
        A function of a name that gives what is asked for, or raises ``AttributeError``.

    Example:
        >>> ask = found_when_asked("poe", submodules=["testing"], moved={"pi": "math"})
        >>> ask("testing").__name__
        'poe.testing'
    """
    submodules, names, moved = frozenset(submodules), dict(names or {}), dict(moved or {})

    def ask(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        if name in names:
            return getattr(importlib.import_module(names[name]), name)
        if name in moved:
            warnings.warn(
                f"{package}.{name} is now {moved[name]}.{name}; the old name goes with the next "
                "release",
                DeprecationWarning,
                stacklevel=2,
            )
            return getattr(importlib.import_module(moved[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return ask


def require(module: str, extra: str) -> Any:
    """The module, imported.

    Args:
        module: Its name.
        extra: The extra of this package that installs it.

    Returns:
        The module.

    Raises:
        ImportError: Where it is missing, with the line that installs it.

    Example:
        >>> require("numpy", "plots").__name__
        'numpy'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(library: str, extra: str) -> ImportError:
    """The error that names the library and the command that installs it.

    Args:
        library: Its name.
        extra: The extra of this package that installs it.

    Returns:
        The error, to be raised.

    Example:
        >>> print(missing("zuko", "zuko"))
        expected zuko to be installed, got none: pip install "product-of-experts[zuko]"
    """
    return ImportError(
        f'expected {library} to be installed, got none: pip install "product-of-experts[{extra}]"'
    )
