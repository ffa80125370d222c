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
    (
        "the ground, and where x lives",
        (
            "poe.core.errors",
            "poe.core.randomness",
            "poe.core.space",
            "poe.core.joint_space",
            "poe.core.no_gradient",
        ),
    ),
    (
        "maps that carry their tensors",
        (
            "poe.ranges",
            "poe.core.distribution_modules",
            "poe.core.image_of_space",
            "poe.core.conversions",
        ),
    ),
    ("what an expert is", ("poe.density",)),
    (
        "what only some have",
        (
            "poe.density.nonfinite",
            "poe.structure.tails",
            "poe.structure.quadratic_forms",
            "poe.structure.proper",
            "poe.structure.conditionals",
            "poe.structure.pairs",
            "poe.structure.pairs",
        ),
    ),
    (
        "how experts combine",
        (
            "poe.density.conditional",
            "poe.link",
            "poe.gaussian_factors",
            "poe.density.wrappers",
            "poe.density.wrappers",
            "poe.density.latent",
            "poe.density.latent",
            "poe.exponents.calibration",
            "poe.structure.autoregressive",
            "poe.structure.twists",
        ),
    ),
    ("what comes from outside", ("poe.density.adapt", "poe.structure.distribution_tails")),
    ("how a chain moves", ("poe.samplers",)),
    (
        "how it is tuned",
        (
            "poe.diagnostics.settled",
            "poe.tuning.dual_averaging",
            "poe.tuning.warmup",
            "poe.tuning.tempering",
            "poe.density.coordinates",
            "poe.tuning.deterministic",
        ),
    ),
    (
        "particles between densities",
        ("poe.particles.mutation", "poe.particles.resampling", "poe.particles"),
    ),
    (
        "how it is run, and judged",
        (
            "poe.diagnostics",
            "poe.density.normalized",
            "poe.draws",
            "poe.sampling.tally",
            "poe.sampling.unfused",
            "poe.sampling.compiled",
            "poe.structure.uniform",
            "poe.tuning.start",
            "poe.tuning.choice",
            "poe.sampling.multimodality",
            "poe.sampling.run",
            "poe.sampling.run_checkpoint",
            "poe.sampling.remarks",
            "poe.sampling.progress",
            "poe.sampling.driver",
            "poe.sampling.multimodality",
            "poe.sampling.simulated_annealing",
            "poe.sampling.sample",
            "poe.advance",
            "poe.short_run",
        ),
    ),
    (
        "what is computed from it",
        (
            "poe.probabilities.ratio",
            "poe.normalizers.quadrature",
            "poe.normalizers.enumeration",
            "poe.diagnostics.independent_groups",
            "poe.smc",
            "poe.particles.smc_over_positions",
            "poe.normalizers",
            "poe.normalize",
            "poe.probabilities.normalizer_error",
            "poe.probabilities.density_bounds",
            "poe.any_of",
            "poe.probabilities.evidence",
            "poe.exponents",
            "poe.losses",
            "poe.losses.replay",
            "poe.probabilities.overlap",
            "poe.compatibility",
        ),
    ),
    (
        "laws, storage and pictures",
        (
            "poe.testing",
            "poe.io",
            "poe.io.codecs",
            "poe.hub",
            "poe.sampling.tensorboard",
            "poe.plot",
        ),
    ),
    ("the public names", ("poe",)),
    ("the models", ("experts",)),
    ("the command line", ("poe.demo", "poe.studio", "poe.cli", "poe.__main__")),
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
    """Every import between our own modules, those for type checkers alone too."""
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
    """A column of modules in their order; an arc leads from each down to what it imports."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "architecture"  # the same picture, the same bytes
    from matplotlib import pyplot as plt
    from matplotlib.patches import Arc, FancyBboxPatch

    present = {drawn_name(module) for module in source_files(root)}
    layers = [(caption, [n for n in names if n in present]) for caption, names in LAYERS]
    order = [name for _, names in layers for name in names]
    # Within a layer too, what is imported stands beneath what imports it.
    edges = reduced_edges(root)
    row = {name: index for index, name in enumerate(_lowest_first(order, edges))}
    width, height = 3.0, 0.66
    longest = max((row[above] - row[below] for above, below in edges), default=1)

    figure, axis = plt.subplots(figsize=(8.0, 0.36 * len(row)), layout="constrained")
    for index, (caption, names) in enumerate(layers):
        if not names:
            continue
        low, high = min(row[n] for n in names) - 0.5, max(row[n] for n in names) + 0.5
        axis.axhspan(low, high, color="#f1eee6" if index % 2 else "#faf9f5", zorder=0)
        axis.text(-6.4, (low + high) / 2, caption, va="center", color="#6b675e", style="italic")
    for name, y in row.items():
        colour = "#2a5c99" if name.startswith("poe") else "#b4552d"
        box = FancyBboxPatch(
            (-width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.15",
            color=colour, zorder=2,
        )  # fmt: skip
        axis.add_patch(box)
        axis.text(0, y - 0.03, name, ha="center", va="center", color="white", fontsize=10)
    for above, below in sorted(edges):
        # Arcs leave a box a little under its middle and arrive a little above it.
        top, bottom = row[above] - 0.12, row[below] + 0.12
        reach = 2 * 7.0 * (top - bottom) / longest
        arc = Arc(
            (width / 2, (top + bottom) / 2), reach, top - bottom, theta1=-90, theta2=90,
            color="#6f8fb3", linewidth=1.2,
        )  # fmt: skip
        axis.add_patch(arc)
        axis.plot(width / 2 + 0.1, bottom, marker="<", markersize=4.5, color="#6f8fb3")
    axis.set(xlim=(-6.6, 8.9), ylim=(-0.6, len(row) - 0.4))
    axis.set_axis_off()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _lowest_first(order: list[str], edges: set[tuple[str, str]]) -> list[str]:
    """`order`, rearranged inside each layer so that every edge leads to an earlier name."""
    depth: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((measure(low) for high, low in edges if high == name), default=0)
        return depth[name]

    return sorted(order, key=lambda name: (layer_of(name), measure(name)))


if __name__ == "__main__":
    draw(ROOT / "docs" / "architecture.svg")
