"""Ising models too wide for an exact sum, as exactly solved strips and the couplings between."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.spins.ising import Ising
from experts.spins.transfer_matrix import best_order
from poe.density.capabilities import in_tractable_parts
from poe.density.expert import Expert, Product

MAX_STRIP_WORK = 2**23
"""The most table entries of all strips together: 64 MB, and a fraction of a second."""


@in_tractable_parts.register
def _(expert: Ising) -> Expert:
    """A model on a grid as Product(strips, between): the first without the couplings that it cuts.

    Strips run along the rows or the columns, as wide as can be summed over, and are cut open where
    they close on themselves. A path that tempers the few couplings between them is far shorter than
    one that begins at all states alike.
    """
    if expert.fields.ndim != 2 or expert.fields.is_meta:
        return expert
    cuts = [_widest(expert, axis) for axis in (0, 1)]
    found = [cut for cut in cuts if cut is not None]
    if not found:
        return expert
    is_cut = min(found, key=lambda cut: int(cut.sum()))
    if not bool(is_cut.any()):
        return expert
    strips, between = (_part(expert, is_kept) for is_kept in (~is_cut, is_cut))
    strips.fields, strips.offset = expert.fields.detach(), expert.offset
    return Product(strips=strips, between=between)


def _widest(expert: Ising, axis: int) -> Tensor | None:
    """Which pairs lead out of the widest strips side by side along ``axis`` that can be summed."""
    for count in range(1, expert.fields.shape[axis] + 1):
        is_cut = _leaves_strip(expert, axis, count)
        order = best_order(expert.edges[:, ~is_cut], expert.fields.shape)
        if order.work <= MAX_STRIP_WORK:
            return is_cut
    return None


def _leaves_strip(expert: Ising, axis: int, count: int) -> Tensor:
    """Pairs of sites in different of ``count`` strips, or that are more than one step apart."""
    rows, cols = expert.fields.shape
    places = torch.stack([expert.edges // cols, expert.edges % cols])
    strip = places[axis] * count // (rows, cols)[axis]
    steps = (places[:, 0] - places[:, 1]).abs().amax(0)
    return (strip[0] != strip[1]) | (steps > 1)


def _part(expert: Ising, is_kept: Tensor) -> Ising:
    """Some of the couplings, and no fields."""
    fields = torch.zeros_like(expert.fields)
    couplings = expert.couplings.detach()[is_kept]
    return Ising.from_edges(expert.edges[:, is_kept], couplings, fields, fields.shape)
