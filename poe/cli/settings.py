"""A kernel or a method by its name and settings, written as in Python, and never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import ModuleType
from typing import Any

from poe.cli.terminal import BadInput, shortened
from poe.core.space import Space


def named(text: str, known: Mapping[str, type], space: Space) -> Any:
    """The setting-holder that a text names, such as ``HMC(step_size=0.1, num_steps=8)``.

    Settings are numbers and the like, or again names from ``known``; a setting called ``space``
    need not be given. Raises BadInput, with what is known, where it cannot be read.

    >>> import poe
    >>> named("HMC(num_steps=8)", classes(poe.samplers, "step"), poe.Real(2)).num_steps
    8
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _refusal(text, f"{error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise _refusal(text, "it is nested too deeply") from error
    return _build(text, tree, known, space)


def classes(module: ModuleType, method: str) -> dict[str, type]:
    """The dataclasses that a module offers and that have the method."""
    offered = {name: getattr(module, name) for name in module.__all__}
    return {
        name: kind
        for name, kind in offered.items()
        if isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, method)
    }


def _build(text: str, node: ast.expr, known: Mapping[str, type], space: Space) -> Any:
    name, keywords = _parts(text, node)
    if name not in known:
        raise BadInput(f"expected one of {', '.join(sorted(known))}; got {name!r}")
    kind = known[name]
    settings = {field.name: field for field in fields(kind) if field.init}
    given: dict[str, Any] = {"space": space} if "space" in settings else {}
    for keyword in keywords:
        if keyword.arg not in settings:
            raise BadInput(f"{name} has the settings {_told(settings)}; got {keyword.arg!r}")
        given[keyword.arg] = _value(text, keyword.value, known, space)
    missing = [
        each for each, field in settings.items() if _is_required(field) and each not in given
    ]
    if missing:
        raise BadInput(f"{name} needs {', '.join(missing)}: {name}({missing[0]}=...)")
    try:
        return kind(**given)
    except (ValueError, TypeError) as error:
        raise _refusal(text, str(error)) from error


def _parts(text: str, node: ast.expr) -> tuple[str, list[ast.keyword]]:
    """The name and its keywords, of ``Name`` or ``Name(key=value)``."""
    if isinstance(node, ast.Name):
        return node.id, []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.args:
            raise _refusal(text, "give every setting by its name")
        return node.func.id, node.keywords
    raise _refusal(text, "that is neither a name nor a name with settings")


def _value(text: str, node: ast.expr, known: Mapping[str, type], space: Space) -> Any:
    if isinstance(node, ast.Call | ast.Name):
        return _build(text, node, known, space)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _refusal(text, "settings are numbers, or names with settings") from error


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _told(settings: Mapping[str, Field[Any]]) -> str:
    return ", ".join(settings) or "none"


def _refusal(text: str, why: str) -> BadInput:
    return BadInput(
        f"expected a name with settings, such as HMC(step_size=0.1); got {shortened(text)}: {why}"
    )
