"""``tree``: what a composition is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.expert import Expert, Mixture, Product, Tempered, experts_in, require_expert
from poe.plot.factors import colors
from poe.plot.style import GREY, INK, LABEL, SMALL, figure_of, one_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LEAVES = 60
BESIDE = 33
"""Of the 60 points of an edge, where its exponent or weight stands."""
AND, OR = "AND  ×", "OR  +"


@dataclass(frozen=True)
class Node:
    """An expert of a composition: what it is called, and how its parent takes it.

    ``kind`` is "AND", "OR", or the class; ``name`` its name in a product, else empty; ``taken`` the
    exponent w or the weight α on the edge above, ``is_divided`` whether that exponent is negative
    (NOT).
    """

    kind: str
    name: str = ""
    taken: str = ""
    is_divided: bool = False
    children: tuple[Node, ...] = ()

    @property
    def leaves(self) -> int:
        """The number of experts below that are made of no other, at least 1."""
        return max(1, sum(child.leaves for child in self.children))

    @property
    def longest(self) -> int:
        """The number of letters of the longest name."""
        own = max(len(self.name), len(self.kind))
        return max(own, *(child.longest for child in self.children)) if self.children else own

    @property
    def depth(self) -> int:
        """The number of levels below."""
        return max((1 + child.depth for child in self.children), default=0)


@checked
def tree(product: Expert, *, axes: Axes | None = None) -> Figure:
    r"""The tree of a composition: AND, OR and NOT, with exponents, weights and names.

    Products are ×, with the exponent w_i on the edge to each factor that has one; where it is
    negative the edge is dashed and says NOT. Mixtures are +, with their weights. Experts made of
    another one (``Transformed``, ``At``, ...) have it as their child. The factors of the outermost
    product have the colours that they have in the other plots.

    Args:
        product: Any composition.
        axes: Where to draw; a new figure by default.

    Returns:
        The figure.

    Raises:
        PoeError: For compositions of more than 60 leaves, which ``print(product)`` shows.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[1.0])
        >>> figure = tree(poe.Product(a=a, rest=a | b) / b ** 0.5)
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['AND  ×', 'a\nGaussian', 'OR  +\nrest']
    """
    root = node_of(require_expert(product))
    if root.leaves > MAX_LEAVES:
        raise PoeError(
            f"expected a composition of at most {MAX_LEAVES} leaves, got {root.leaves}: "
            "print(product) shows all of it"
        )
    step = 1.75 + 0.07 * root.longest
    axis = one_axis(axes, 0.9 * step + step * root.depth, 0.5 + 0.62 * root.leaves)
    axis.set_axis_off()
    shades = colors(product) if isinstance(product, Product) else {}
    _draw(axis, root, 0, 0.0, shades, INK)
    axis.set_xlim(-0.45, root.depth + 0.45)
    axis.set_ylim(root.leaves - 0.4, -0.6)
    return figure_of(axis)


def node_of(expert: Expert) -> Node:
    """The tree of an expert.

    >>> node_of(experts.Gaussian([0.0], scale=[1.0]) ** -2)
    Node(kind='Gaussian', name='', taken='w = -2', is_divided=True, children=())
    """
    if isinstance(expert, Tempered):
        inner = node_of(expert.expert)
        weight = float(expert.exponent.detach())
        learned = "learned " if isinstance(expert.exponent, nn.Parameter) else ""
        if inner.taken:  # a power of a power, one of which is learned
            return Node("Tempered", taken=f"{learned}w = {weight:.3g}", children=(inner,))
        return replace(inner, taken=f"{learned}w = {weight:.3g}", is_divided=weight < 0)
    if isinstance(expert, Product):
        named = zip(expert.names, experts_in(expert.experts), strict=True)
        return Node(AND, children=tuple(replace(node_of(e), name=name) for name, e in named))
    if isinstance(expert, Mixture):
        weighted = zip(expert.proportions.tolist(), experts_in(expert.experts), strict=True)
        return Node(OR, children=tuple(_in_mixture(node_of(e), weight) for weight, e in weighted))
    parts = tuple(node_of(part) for part in _parts(expert))
    return Node(type(expert).__name__, children=parts)


def _in_mixture(node: Node, weight: float) -> Node:
    power = f", {node.taken}" if node.taken else ""
    return replace(node, taken=f"α = {weight:.3g}{power}")


def _parts(expert: Expert) -> Iterator[Expert]:
    """The experts that one is made of, which are its children as modules."""
    for module in expert.children():
        if isinstance(module, Expert):
            yield module
        elif isinstance(module, nn.ModuleList):
            yield from (part for part in module if isinstance(part, Expert))


def _draw(
    axis: Axes, node: Node, level: int, top: float, shades: dict[str, str], color: str
) -> None:
    """A node in the rows from ``top`` on, and all that is below it."""
    own, row = _middle(node, top), top
    _add_box(axis, node, level, own, color)
    for child in node.children:
        shade = shades.get(child.name, color) if level == 0 else color
        _add_edge(axis, child, level, own, _middle(child, row), shade)
        _draw(axis, child, level + 1, row, shades, shade)
        row += child.leaves


def _middle(node: Node, top: float) -> float:
    return top + (node.leaves - 1) / 2


def _add_box(axis: Axes, node: Node, level: int, row: float, color: str) -> None:
    """Filled where it combines others, outlined where it is an expert of its own."""
    combines = node.kind in (AND, OR)
    lines = [node.kind, node.name] if combines else [node.name, _kind_beside(node)]
    lines += [node.taken] if level == 0 else []
    axis.text(
        level, row, "\n".join(filter(None, lines)), ha="center", va="center", fontsize=LABEL,
        linespacing=1.25, color="white" if combines else INK, zorder=3,
        bbox={
            "boxstyle": "round,pad=0.45", "facecolor": color if combines else "white",
            "edgecolor": color, "linewidth": 1.4,
        },
    )  # fmt: skip


def _kind_beside(node: Node) -> str:
    """The class, where the name does not tell it already."""
    return "" if node.name.startswith(node.kind) else node.kind


def _add_edge(axis: Axes, child: Node, level: int, start: float, end: float, color: str) -> None:
    """A curve from a node to its child, with how it is taken beside it."""
    t = np.linspace(0, 1, 60)
    y = start + (end - start) * t**2 * (3 - 2 * t)
    axis.plot(level + t, y, "--" if child.is_divided else "-", color=color, lw=1.5, zorder=1)
    if child.taken:
        text = ("NOT, " if child.is_divided else "") + child.taken.replace("-", "\u2212")
        axis.text(level + t[BESIDE], y[BESIDE], text, ha="center", va="center", color=GREY,
                  fontsize=SMALL, zorder=2, bbox={"fc": "white", "lw": 0, "pad": 1.5})  # fmt: skip
