"""Graphs of pairwise models: the edges of lattices, and of lists of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.parameters import sizes
from poe import PoeError, ShapeError, Space


def grid_graph(
    family: str, shape: tuple[int, ...], strength: Tensor, periodic: bool
) -> tuple[Tensor, Tensor]:
    """Edges and couplings of nearest neighbours on a grid.

    Args:
        family: How the family takes other graphs, for the error.
        shape: ``(rows, cols)``.
        strength: ``()``, or ``(2, rows, cols)`` with ``[0, i, j]`` between (i, j) and the site
            below, and ``[1, i, j]`` to the one on the right.
        periodic: Whether the last row is joined to the first, and the last column to the first.

    Returns:
        Edges ``(2, m)`` and couplings ``(m,)``.

    Raises:
        ShapeError: Where it is no grid, or the strength is of another shape.

    Example:
        >>> grid_graph("Ising.from_edges", (2, 2), torch.tensor(0.5), False)[0]
        tensor([[0, 1, 0, 2],
                [2, 3, 1, 3]])
    """
    shape = sizes("shape", shape)
    if len(shape) != 2:
        raise ShapeError(
            f"expected a grid of (rows, cols), got {shape}: for other lattices use "
            f"{family}(edges, couplings, fields, shape)"
        )
    if strength.shape not in ((), (2, *shape)):
        raise ShapeError(
            f"expected coupling to be a number or of shape {(2, *shape)}, got "
            f"{tuple(strength.shape)}: one for the site below and one for that on the right"
        )
    sites = torch.arange(shape[0] * shape[1]).reshape(shape)
    strength = strength.expand(2, *shape)
    edges, couplings = [], []
    for axis in (0, 1):
        wraps = periodic and shape[axis] > 1
        kept = shape[axis] if wraps else shape[axis] - 1
        pairs = torch.stack([sites, sites.roll(-1, axis)]).narrow(axis + 1, 0, kept)
        edges.append(pairs.flatten(1))
        couplings.append(strength[axis].narrow(axis, 0, kept).flatten())
    return torch.cat(edges, 1), torch.cat(couplings)


def united(edges: Tensor, couplings: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Each pair once, with the sum of its couplings.

    Args:
        edges: Pairs of sites, ``(2, m)``.
        couplings: One for each pair, ``(m,)``.
        size: How many sites there are.

    Returns:
        Edges and couplings of the pairs that differ.
    """
    low, high = edges.sort(0).values
    numbers, where = (low * size + high).unique(return_inverse=True)
    total = couplings.new_zeros(len(numbers)).index_add(0, where, couplings)
    return torch.stack([numbers // size, numbers % size]), total


def check_edges(edges: Tensor, space: Space) -> None:
    """Raise an error for anything but pairs of different sites of the space.

    Args:
        edges: Whole numbers, ``(2, m)``.
        space: Whose flattened elements are the sites.

    Raises:
        ShapeError: For another shape, and for floating-point numbers.
        PoeError: For sites that are not there, or joined to themselves.
    """
    if edges.ndim != 2 or len(edges) != 2 or edges.is_floating_point():
        raise ShapeError(
            f"expected edges of whole numbers and shape (2, m), got {edges.dtype} of shape "
            f"{tuple(edges.shape)}: two rows, the one and the other site of each pair"
        )
    if edges.is_meta or edges.numel() == 0:
        return
    last = space.event_shape.numel() - 1
    if int(edges.min()) < 0 or int(edges.max()) > last:
        raise PoeError(
            f"expected edges between sites 0 ... {last} of {space}, got {int(edges.min())} ... "
            f"{int(edges.max())}: sites are numbered as in x.flatten()"
        )
    loops = edges[0, edges[0] == edges[1]]
    if len(loops):
        raise PoeError(
            f"expected edges between different sites, got site {int(loops[0])} joined to itself: "
            "leave it out, it adds but a constant"
        )
