"""What ``poe.plot.tree`` says of a composition."""

from __future__ import annotations

import pytest
import torch
from matplotlib.colors import to_hex

import experts
import poe
from poe import plot
from poe.plot.tree_diagram import (
    AND,
    OR,
    Node,
    node_of,
)


def _composition() -> poe.Product:
    g = experts.Gaussian([0.0], scale=[1.0])
    moved = poe.Transformed(g, torch.distributions.AffineTransform(1.0, 2.0))
    return poe.Product(plain=g, loud=g ** torch.nn.Parameter(torch.tensor(2.0)),
                       either=(g | moved) ** -0.5)  # fmt: skip


def test_nodes_tell_how_experts_are_taken() -> None:
    leaf = Node("Gaussian")
    moved = Node("Transformed", taken="α = 0.5", children=(leaf,))
    assert node_of(_composition()) == Node(
        AND,
        children=(
            Node("Gaussian", "plain"),
            Node("Gaussian", "loud", "learned w = 2"),
            Node(OR, "either", "w = -0.5", True, (Node("Gaussian", taken="α = 0.5"), moved)),
        ),
    )


def test_powers_of_learned_powers_are_both_told() -> None:
    g = experts.Gaussian([0.0], scale=[1.0])
    node = node_of(poe.Tempered(g ** torch.nn.Parameter(torch.tensor(2.0)), 0.5))
    inner = Node("Gaussian", taken="learned w = 2")
    assert node == Node("Tempered", taken="w = 0.5", children=(inner,))


def test_tree_has_a_box_for_each_expert_and_a_line_to_each() -> None:
    product = _composition()
    (axis,) = plot.tree(product).axes
    texts = [text.get_text() for text in axis.texts]
    boxes = [AND, "plain\nGaussian", "loud\nGaussian", f"{OR}\neither", "Transformed", "Gaussian"]
    assert set(texts) == {*boxes, "learned w = 2", "NOT, w = −0.5", "α = 0.5"}
    assert [one.get_linestyle() for one in axis.lines] == ["-", "-", "--", "-", "-", "-"]
    shades = list(plot.colors(product).values())
    drawn = [to_hex(one.get_color()).upper() for one in axis.lines]
    assert drawn == [*shades, shades[2], shades[2], shades[2]]
    # Rows from the top: four leaves, of which the last two are below the OR.
    rows = [float(one.get_ydata()[-1]) for one in axis.lines]
    assert rows == pytest.approx([0, 1, 2.5, 2, 3, 3])
    figure = plot.tree(experts.Gaussian([0.0], scale=[1.0]) ** 2)
    assert [text.get_text() for text in figure.axes[0].texts] == ["Gaussian\nw = 2"]


def test_large_trees_are_refused() -> None:
    with pytest.raises(poe.PoeError, match=r"at most 60 leaves, got 61: print\(product\)"):
        plot.tree(poe.Product(*[experts.Gaussian([0.0], scale=[1.0])] * 61))
