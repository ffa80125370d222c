"""Draw the import order of the packages, from the real imports.

    python docs/draw_architecture.py        # writes docs/architecture.svg

`LAYERS` is the one place that states the order; `tests/repository/test_architecture.py` holds the
code to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# From the ground up: a package imports from layers beneath its own, never from its own or above.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what everything stands on", ("poe.core",)),
    ("what lies on disk", ("poe.files",)),
    ("experts and their algebra", ("poe.density",)),
    ("what is known without sampling", ("poe.structure",)),
    ("stored, learned, judged", ("poe.io", "poe.losses", "poe.diagnostics")),
    ("how a chain moves", ("poe.samplers",)),
    ("before and after a run", ("poe.draws", "poe.tuning")),
    ("between densities", ("poe.particles",)),
    ("the run, and log Z", ("poe.normalizers", "poe.sampling")),
    (
        "what becomes a number",
        ("poe.probabilities", "poe.exponents", "poe.testing", "poe.plot"),
    ),
    ("the public names", ("poe",)),
    ("how an argument becomes a tensor", ("experts.parameters",)),
    ("languages", ("experts.language",)),
    ("exponential families", ("experts.families",)),
    (
        "models by family",
        (
            "experts.neural",
            "experts.tables",
            "experts.spins",
            "experts.images",
            "experts.boltzmann",
        ),
    ),
    ("models on models", ("experts.adapters", "experts.noised", "experts.graphs")),
    ("how Boltzmann machines learn", ("experts.boltzmann.training",)),
    ("shipped weights", ("experts.pretrained",)),
    ("the models' public names", ("experts",)),
    ("the main job", ("poe.demo",)),
    ("the page", ("poe.studio",)),
    ("the command line", ("poe.cli",)),
    ("python -m poe", ("poe.__main__",)),
)

# One line each: they hand on what users import from there.
FACES = (
    "poe.hub", "poe.link", "poe.ranges",
    "experts.anomaly", "experts.library", "experts.noise", "experts.rbm_features",
)  # fmt: skip


class Import(NamedTuple):
    """One import between two of our modules, at whatever depth it stands."""

    importer: str
    imported: str


@cache
def source_files(root: Path = ROOT) -> dict[str, Path]:
    """Dotted module name to file, for both packages."""
    files = {}
    for package in ("poe", "experts"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


@cache
def imports(root: Path = ROOT) -> list[Import]:
    """Every import between our own modules, those in functions and for type checkers too."""
    files = source_files(root)
    found = set()
    for module, path in files.items():
        is_package = path.name == "__init__.py"
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _imported_modules(statement, module, is_package, files):
                if name != module:
                    found.add(Import(module, name))
    return sorted(found)


def package_of(module: str) -> str | None:
    """The entry of `LAYERS` that holds a module: the longest name that is it or a package of it.

    The faces at a root (``poe.ranges``, say) are public names, as ``poe`` itself is.
    """
    names = {name for _, names in LAYERS for name in names}
    if module in names:
        return module
    around = [name for name in names if module.startswith(f"{name}.") and "." in name]
    if around:
        return max(around, key=len)
    return module.partition(".")[0] if module in FACES else None


def layer_of(module: str) -> int | None:
    """Index into `LAYERS`; None for a module that has no place there."""
    package = package_of(module)
    return next((i for i, (_, names) in enumerate(LAYERS) if package in names), None)


def _imported_modules(
    statement: ast.AST, module: str, is_package: bool, known: dict[str, Path]
) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name in known)
    elif isinstance(statement, ast.ImportFrom):
        source = _absolute(statement, module, is_package)
        for alias in statement.names:
            submodule = f"{source}.{alias.name}"
            if submodule in known or source in known:
                yield submodule if submodule in known else source


def _absolute(statement: ast.ImportFrom, module: str, is_package: bool) -> str:
    source = statement.module or ""
    if not statement.level:
        return source
    parts = module.split(".") if is_package else module.split(".")[:-1]
    parts = parts[: len(parts) - statement.level + 1]
    return ".".join([*parts, source] if source else parts)


def edges(root: Path = ROOT) -> set[tuple[str, str]]:
    """Imports between packages."""
    pairs = {(package_of(high), package_of(low)) for high, low in imports(root)}
    return {(high, low) for high, low in pairs if high and low and high != low}


def reduced_edges(root: Path = ROOT) -> set[tuple[str, str]]:
    """Imports between packages, less those that follow from others (a transitive reduction)."""
    below: dict[str, set[str]] = {}
    for high, low in edges(root):
        below.setdefault(high, set()).add(low)

    def reachable(name: str) -> set[str]:
        direct = below.get(name, set())
        return direct.union(*(reachable(low) for low in direct))

    return {
        (high, low)
        for high, direct in below.items()
        for low in direct
        if not any(low in reachable(other) for other in direct - {low})
    }


def draw(path: Path, root: Path = ROOT) -> None:
    """A column of packages in their order; an arc leads from each down to what it imports."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "architecture"  # the same picture, the same bytes
    arrows = reduced_edges(root)
    row = {name: i for i, name in enumerate(name for _, names in LAYERS for name in names)}
    figure = Figure(figsize=(8.0, 0.36 * len(row)), layout="constrained")
    axis = figure.subplots()
    _draw_layers(axis, row)
    _draw_arcs(axis, row, arrows)
    axis.set(xlim=(-6.6, 8.9), ylim=(-0.6, len(row) - 0.4))
    axis.set_axis_off()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


WIDTH, HEIGHT = 3.6, 0.66


def _draw_layers(axis, row: dict[str, int]) -> None:
    from matplotlib.patches import FancyBboxPatch

    for index, (caption, names) in enumerate(LAYERS):
        low, high = row[names[0]] - 0.5, row[names[-1]] + 0.5
        axis.axhspan(low, high, color="#f1eee6" if index % 2 else "#faf9f5", zorder=0)
        axis.text(
            -6.4,
            (low + high) / 2,
            caption,
            va="center",
            color="#6b675e",
            style="italic",
        )
    for name, y in row.items():
        box = FancyBboxPatch(
            (-WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.15",
            color="#2a5c99" if name.startswith("poe") else "#b4552d", zorder=2,
        )  # fmt: skip
        axis.add_patch(box)
        axis.text(0, y - 0.03, name, ha="center", va="center", color="white", fontsize=9)


def _draw_arcs(axis, row: dict[str, int], arrows: set[tuple[str, str]]) -> None:
    from matplotlib.patches import Arc

    longest = max((row[high] - row[low] for high, low in arrows), default=1)
    for high, low in sorted(arrows):
        # Arcs leave a box a little under its middle and arrive a little above it.
        top, bottom = row[high] - 0.12, row[low] + 0.12
        reach = 2 * 6.6 * (top - bottom) / longest
        arc = Arc(
            (WIDTH / 2, (top + bottom) / 2), reach, top - bottom, theta1=-90, theta2=90,
            color="#6f8fb3", linewidth=1.2,
        )  # fmt: skip
        axis.add_patch(arc)
        axis.plot(WIDTH / 2 + 0.1, bottom, marker="<", markersize=4.5, color="#6f8fb3")


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.svg")
