"""Draw the import order of the packages, from the real imports.

    python docs/draw_architecture.py        # writes docs/architecture.svg

`LAYERS` is the one place that states the order; `tests/test_architecture.py` holds the code to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module imports from its own layer and from those below it, never from above.
# A package named here stands for all its modules, save those that have a place of their own.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("where x lives", ("poe.errors", "poe.space")),
    ("what an expert is", ("poe.expert",)),
    ("how experts combine", ("poe.algebra", "poe.conditional", "poe.link")),
    ("what only some have", ("poe.properties",)),
    ("what comes from outside", ("poe.adapt",)),
    ("how a chain moves", ("poe.samplers",)),
    ("how it is tuned and run", ("poe.adapt_kernel", "poe.draws", "poe.run")),
    ("what is computed from it", ("poe.ratio", "poe.partition")),
    ("laws and storage", ("poe.testing", "poe.io")),
    ("the public names", ("poe",)),
    ("the models", ("experts",)),
    ("the command line", ("poe.demo", "poe.cli", "poe.__main__")),
)


class Import(NamedTuple):
    """One import statement between two of our modules; lazy means inside a function."""

    importer: str
    imported: str
    is_lazy: bool


def source_files(root: Path = ROOT) -> dict[str, Path]:
    """Dotted module name to file, for both packages."""
    files = {}
    for package in ("poe", "experts"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(root: Path = ROOT) -> list[Import]:
    """Every import between our own modules; those for type checkers alone do not count."""
    files = source_files(root)
    found = set()
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_package = path.name == "__init__.py"
        for statement, is_lazy in _import_statements(tree, is_lazy=False):
            for name in _imported_modules(statement, module, is_package, files):
                if name != module:
                    found.add(Import(module, name, is_lazy))
    return sorted(found)


def layer_of(module: str) -> int | None:
    """Index into `LAYERS`, by the longest name there that is the module or a package around it."""
    places = {name: index for index, (_, names) in enumerate(LAYERS) for name in names}
    if module in places:
        return places[module]
    # `poe` is the list of public names, not a home for whatever is found beneath it.
    packages = [name for name in places if module.startswith(f"{name}.") and name != "poe"]
    return places[max(packages, key=len)] if packages else None


def _import_statements(
    node: ast.AST, *, is_lazy: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_lazy
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        else:
            inside_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_statements(child, is_lazy=is_lazy or inside_function)


def _imported_modules(
    statement: ast.Import | ast.ImportFrom, module: str, is_package: bool, known: dict[str, Path]
) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name in known)
        return
    source = statement.module or ""
    if statement.level:
        parts = module.split(".") if is_package else module.split(".")[:-1]
        parts = parts[: len(parts) - statement.level + 1]
        source = ".".join([*parts, source] if source else parts)
    for alias in statement.names:
        submodule = f"{source}.{alias.name}"
        if submodule in known or source in known:
            yield submodule if submodule in known else source


def drawn_name(module: str) -> str:
    """The box a module is drawn in: its entry of `LAYERS`."""
    index = layer_of(module)
    if index is None:
        raise ValueError(f"{module} has no layer: give it a place in LAYERS of {__file__}")
    names = [name for name in LAYERS[index][1] if module == name or module.startswith(f"{name}.")]
    return max(names, key=len)


def reduced_edges(root: Path = ROOT) -> set[tuple[str, str]]:
    """Imports between boxes, less those that follow from others (a transitive reduction)."""
    boxes: dict[str, set[str]] = {}
    for importer, imported, is_lazy in imports(root):
        above, below = drawn_name(importer), drawn_name(imported)
        if above != below and not is_lazy:
            boxes.setdefault(above, set()).add(below)

    def reachable(box: str) -> set[str]:
        below = boxes.get(box, set())
        return below.union(*(reachable(name) for name in below))

    return {
        (above, below)
        for above, direct in boxes.items()
        for below in direct
        if not any(below in reachable(other) for other in direct - {below})
    }


def draw(path: Path, root: Path = ROOT) -> None:
    """One band a layer, one box a module, one line an import."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "architecture"  # the same picture, the same bytes
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    present = {drawn_name(module) for module in source_files(root)}
    layers = [(caption, [n for n in names if n in present]) for caption, names in LAYERS]
    layers = [(caption, names) for caption, names in layers if names]
    centre = {
        name: (4.4 * (column - (len(names) - 1) / 2) / 1.7, float(row))
        for row, (_, names) in enumerate(layers)
        for column, name in enumerate(names)
    }
    width, height = 1.9, 0.46

    figure, axis = plt.subplots(figsize=(10.0, 0.72 * len(layers) + 0.4), layout="constrained")
    for row, (caption, _) in enumerate(layers):
        axis.axhspan(row - 0.5, row + 0.5, color="#f4f2ec" if row % 2 else "#fbfaf7", zorder=0)
        axis.text(-7.2, row, caption, va="center", fontsize=10, color="#6b675e", style="italic")
    for above, below in sorted(reduced_edges(root)):
        (x0, y0), (x1, y1) = centre[above], centre[below]
        if y0 == y1:  # within a layer: from side to side
            side = width / 2 if x1 > x0 else -width / 2
            points = [(x0 + side, y0), (x0 + side, y0), (x1 - side, y1), (x1 - side, y1)]
        else:
            start, end = y0 - height / 2, y1 + height / 2
            middle = (start + end) / 2
            points = [(x0, start), (x0, middle), (x1, middle), (x1, end)]
        curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        axis.add_patch(PathPatch(curve, fill=False, color="#8fa9c4", linewidth=1.2, zorder=1))
    for name, (x, y) in centre.items():
        colour = "#2a5c99" if name.startswith("poe") else "#b4552d"
        corner = (x - width / 2, y - height / 2)
        box = FancyBboxPatch(
            corner, width, height, boxstyle="round,pad=0,rounding_size=0.1", color=colour, zorder=2
        )
        axis.add_patch(box)
        axis.text(x, y - 0.01, name, ha="center", va="center", color="white", fontsize=10, zorder=3)
    axis.set(xlim=(-7.4, 4.6), ylim=(-0.5, len(layers) - 0.5))
    axis.set_axis_off()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.svg")
