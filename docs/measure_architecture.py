"""Print the figures of the house: rooms, floors, arrows, circles, lines, public names.

    python docs/measure_architecture.py [FOLDER]        # of another checkout, say an older one

A room is a package beneath ``poe`` or ``experts``, or a module that lies at their root. An arrow
is an import between two rooms, wherever it stands; the floor of a room is the length of the
longest path of arrows beneath it (rooms in a circle share one); a circle is a set of modules that
import each other in a loop.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from draw_architecture import ROOT, imports, source_files

ON_TOP = ("poe.cli", "poe.demo", "poe.studio", "poe.__main__")


def room_of(module: str) -> str:
    """Its package, or itself where it lies at a root; each root's list of names is a room too."""
    return ".".join(module.split(".")[:2])


def arrows(root: Path) -> dict[str, set[str]]:
    """Room to the rooms that it imports from."""
    found: dict[str, set[str]] = {room_of(module): set() for module in source_files(root)}
    for high, low in imports(root):
        if room_of(high) != room_of(low):
            found[room_of(high)].add(room_of(low))
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected sets of more than one member (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for below in sorted(graph.get(name, ())):
            if below not in index:
                visit(below)
                low[name] = min(low[name], low[below])
            elif below in stack:
                low[name] = min(low[name], index[below])
        if low[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def floors(graph: dict[str, set[str]]) -> int:
    """Length of the longest path, with each circle drawn together into one room."""
    home = {name: members[0] for members in circles(graph) for name in members}
    depth: dict[str, int] = {}

    def measure(room: str) -> int:
        if room not in depth:
            members = [name for name in graph if home.get(name, name) == room]
            below = {home.get(low, low) for name in members for low in graph[name]} - {room}
            depth[room] = 1 + max((measure(low) for low in below), default=0)
        return depth[room]

    return max(measure(home.get(name, name)) for name in graph)


def public_names(root: Path) -> int:
    """Names in the ``__all__`` of the packages of both trees, the top ones aside."""
    total = 0
    for module, path in source_files(root).items():
        if path.name == "__init__.py" and not module.startswith(ON_TOP):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    total += len(getattr(node.value, "elts", ()))
    return total


def figures(root: Path) -> dict[str, object]:
    """Name of a figure to its value."""
    files = source_files(root)
    modules: dict[str, set[str]] = {module: set() for module in files}
    for high, low in imports(root):
        modules[high].add(low)
    graph = arrows(root)
    found: dict[str, object] = {}
    for top in ("poe", "experts"):
        at_root = [path for path in files.values() if path.parent == root / top]
        found[f"files at the root of {top}/"] = len(at_root)
        found[f"packages of {top}/"] = sum((root / top / p).is_dir() for p in _names(root / top))
    found["rooms"] = len(graph)
    found["floors"] = floors(graph)
    found["arrows between rooms"] = sum(len(below) for below in graph.values())
    found["circles of modules"] = len(circles(modules))
    found["circles of rooms"] = len(circles(graph))
    texts = [path.read_text(encoding="utf-8") for path in files.values()]
    found["lines"] = sum(len(text.splitlines()) for text in texts)
    found["public names"] = public_names(root)
    return found


def _names(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob("*/__init__.py")]


if __name__ == "__main__":
    asked = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    for name, value in figures(asked).items():
        print(f"{name:32} {value!s:>8}")
