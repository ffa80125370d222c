"""Follow one parameter through the packages, and count how often it is handed up.

    python docs/follow_parameter.py                                  # `target` from `poe.sample`
    python docs/follow_parameter.py poe.particles.smc smc target

The calls that are handed the parameter, or what was made of it, in the order in which the code is
written, each followed into the function that is called (once per set of parameters). A call climbs
where it hands the parameter to a function in a package higher in the import order than its own: as
imports run downward, to an answer that a higher package registered to a question of a lower one.
Beside it stands how often the reader's own way goes up: how often a call's package is higher than
that of the call before it, wherever it was made. Whatever the source alone does not tell (a method
that several classes have, a function held in a variable) is not followed, and errors that are
raised are no stops.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from draw_architecture import ROOT, layer_of, package_of, source_files


class Place(NamedTuple):
    """A function or class: its module, and its name there (``Class.method`` for a method)."""

    module: str
    name: str


class Stop(NamedTuple):
    """A call that is handed the parameter: what is called, how deep, by whom.

    ``answers``: the packages whose rules may answer, where a question is called.
    """

    place: Place
    depth: int
    caller: Place | None
    answers: frozenset[str] = frozenset()


def follow(module: str, name: str, parameter: str) -> Iterator[Stop]:
    """The calls that are handed the parameter of a function, in the order of the code."""
    yield Stop(Place(module, name), 0, None)
    yield from _Walk().enter(Place(module, name), frozenset({parameter}), 1)


def climbs(stops: list[Stop]) -> list[Stop]:
    """The calls that hand the parameter to a package higher than the caller's, each once."""
    return list({(s.caller, s.place): s for s in stops if _climbs(s)}.values())


def _climbs(stop: Stop) -> bool:
    if stop.caller is None:
        return False
    here = layer_of(stop.caller.module)
    reached = {stop.place.module, *stop.answers}
    return any(layer_of(module) > here for module in reached)


def turns_up(stops: list[Stop]) -> int:
    """How often a call's package lies higher than that of the call before it."""
    layers = [layer_of(stop.place.module) for stop in stops]
    return sum(low < high for low, high in pairwise(layers))


class _Walk:
    def __init__(self) -> None:
        self.visited: set[tuple[Place, frozenset[str]]] = set()

    def enter(self, place: Place, held: frozenset[str], depth: int) -> Iterator[Stop]:
        function = _definitions(place.module).get(place.name)
        if function is None or (place, held) in self.visited:
            return
        self.visited.add((place, held))
        yield from self._block(function.body, place, set(held), depth)

    def _block(
        self, body: list[ast.stmt], place: Place, held: set[str], depth: int
    ) -> Iterator[Stop]:
        for statement in body:
            if isinstance(statement, ast.Raise):
                continue
            for part in _own_expressions(statement):
                yield from self._calls(part, place, held, depth)
            _hold(statement, held)
            for block in _blocks(statement):
                yield from self._block(block, place, held, depth)

    def _calls(
        self, expression: ast.AST, place: Place, held: set[str], depth: int
    ) -> Iterator[Stop]:
        for child in ast.iter_child_nodes(expression):
            if isinstance(child, ast.comprehension) and _names(child.iter) & held:
                held |= _names(child.target)
        for child in ast.iter_child_nodes(expression):
            yield from self._calls(child, place, held, depth)
        if isinstance(expression, ast.Call):
            yield from self._call(expression, place, held, depth)

    def _call(self, call: ast.Call, place: Place, held: set[str], depth: int) -> Iterator[Stop]:
        handed = _is_handed(call, held)
        callee = _callee(call.func, place) if handed else None
        if callee is None:
            return
        yield Stop(callee, depth, place, _answers(callee))
        entered = _entered(callee)
        if entered is not None:
            yield from self.enter(entered, _parameters(call, entered, held), depth + 1)


def _is_handed(call: ast.Call, held: set[str]) -> bool:
    handed = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        handed.append(call.func.value)
    return any(_names(value) & held for value in handed)


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The parts of a statement that are no statements, in the order of the code."""
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(statement, field, None)
        if isinstance(block, list) and not isinstance(statement, ast.ClassDef):
            yield block
    for handler in [
        *getattr(statement, "handlers", []),
        *getattr(statement, "cases", []),
    ]:
        yield handler.body


def _hold(statement: ast.stmt, held: set[str]) -> None:
    """A name that a held one is put into is held from there on."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) and statement.value:
        if _names(statement.value) & held:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            held.update(*(_stored(target) for target in targets))
    elif isinstance(statement, ast.For) and _names(statement.iter) & held:
        held.update(_stored(statement.target))
    elif isinstance(statement, ast.With):
        for item in statement.items:
            if item.optional_vars and _names(item.context_expr) & held:
                held.update(_stored(item.optional_vars))


def _stored(target: ast.AST) -> set[str]:
    return {
        child.id
        for child in ast.walk(target)
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
    } or ({"self"} if _names(target) == {"self"} else set())


def _callee(function: ast.expr, place: Place) -> Place | None:
    if isinstance(function, ast.Name):
        return _resolved(place.module, function.id)
    if not isinstance(function, ast.Attribute):
        return None
    owner = function.value
    if isinstance(owner, ast.Name):
        if owner.id in ("self", "cls") and "." in place.name:
            return _method(place.module, place.name.split(".")[0], function.attr)
        known = _resolved(place.module, owner.id)
        if known and isinstance(_statement(known), ast.ClassDef):
            return _method(known.module, known.name, function.attr)
        module = _imports(place.module).get(owner.id)
        if module and module[1] is None:
            return _resolved(module[0], function.attr)
    return _only_method(function.attr)


def _entered(callee: Place) -> Place | None:
    """What runs when a place is called: the function, or the constructor of a class."""
    if isinstance(_statement(callee), ast.ClassDef):
        for name in ("__init__", "__post_init__"):
            found = _method(callee.module, callee.name, name)
            if found:
                return found
        return None
    return callee


def _parameters(call: ast.Call, callee: Place, held: set[str]) -> frozenset[str]:
    function = _definitions(callee.module)[callee.name]
    names = [a.arg for a in [*function.args.posonlyargs, *function.args.args]]
    found = set()
    if names and names[0] in ("self", "cls"):
        names = names[1:]
        if isinstance(call.func, ast.Attribute) and _names(call.func.value) & held:
            found.add("self")
    if callee.name.endswith("__post_init__"):
        return frozenset({"self"})
    for name, value in zip(names, call.args, strict=False):
        if _names(value) & held:
            found.add(name)
    for keyword in call.keywords:
        if keyword.arg and _names(keyword.value) & held:
            found.add(keyword.arg)
    return frozenset(found)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def _definitions(module: str) -> dict[str, ast.FunctionDef]:
    found = {}
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    found[f"{node.name}.{member.name}"] = member
    return found


@cache
def _imports(module: str) -> dict[str, tuple[str, str | None]]:
    """Name here to (module, name there); None for the name of a module itself."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                here = alias.asname or alias.name
                found[here] = (whole, None) if whole in FILES else (node.module, alias.name)
    return found


def _statement(place: Place) -> ast.stmt | None:
    for node in _tree(place.module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == place.name:
            return node
    return None


def _resolved(module: str, name: str) -> Place | None:
    """Where a name of a module is defined, through the faces that hand it on."""
    for _ in range(5):
        if module not in FILES:
            return None
        if _statement(Place(module, name)) is not None:
            return Place(module, name)
        source = _imports(module).get(name)
        if source is None or source[1] is None:
            return None
        module, name = source
    return None


def _method(module: str, owner: str, name: str) -> Place | None:
    if f"{owner}.{name}" in _definitions(module):
        return Place(module, f"{owner}.{name}")
    node = _statement(Place(module, owner))
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        if isinstance(base, ast.Name):
            known = _resolved(module, base.id)
            found = _method(known.module, known.name, name) if known else None
            if found:
                return found
    return None


@cache
def _answers(question: Place) -> frozenset[str]:
    """The modules of `poe` that register an answer: ``@question.register`` above a function."""
    found = set()
    for module in FILES:
        if module.startswith("poe") and _resolved(module, question.name) == question:
            for node in _tree(module).body:
                for decorator in getattr(node, "decorator_list", ()):
                    if ast.unparse(decorator).startswith(f"{question.name}.register"):
                        found.add(module)
    return frozenset(found)


@cache
def _only_method(name: str) -> Place | None:
    """The method of that name, where one class alone has it; tensors and lists have some too."""
    if any(hasattr(kind, name) for kind in (list, dict, set, str, tuple)) or name in OF_TENSORS:
        return None
    found = [
        Place(module, place)
        for module in FILES
        if package_of(module) and module.startswith("poe")
        for place in _definitions(module)
        if place.endswith(f".{name}")
    ]
    return found[0] if len(found) == 1 else None


FILES = source_files(ROOT)
OF_TENSORS = frozenset(
    {"all", "any", "cumsum", "max", "mean", "min", "prod", "std", "sum", "to", "where", "write"}
)
"""Methods of tensors and files, too: none of them is ours alone."""


if __name__ == "__main__":
    asked = sys.argv[1:] or ["poe.sampling.sample", "sample", "target"]
    route = list(follow(*asked))
    up = climbs(route)
    for stop in route:
        mark = "up" if stop in up else ""
        print(f"{mark:>2} {'  ' * stop.depth}{stop.place.module}.{stop.place.name}")
    print(f"{len(route)} calls, {len(up)} climbs; the way turns up {turns_up(route)} times")
    for stop in up:
        assert stop.caller is not None
        print(f"  {stop.caller.module}.{stop.caller.name} -> {stop.place.name}")
