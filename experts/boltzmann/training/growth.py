"""A deep Boltzmann machine with one layer more, which has no say as yet."""

from __future__ import annotations

import torch

from experts.boltzmann.dbm import DBM
from experts.boltzmann.rbm import RBM
from poe.core.errors import PoeError
from poe.core.randomness import resolve

WEIGHT_SCALE = 0.01
"""The standard deviation of new weights."""


@torch.no_grad()
def grow_dbm(below: RBM | DBM, num_units: int, *, generator: torch.Generator | None = None) -> DBM:
    """A DBM with a new top layer over an RBM or a DBM, for ``fit_dbm`` to train.

    The new weights are draws of N(0, 0.01²), and the new biases 0. Summed out, a new unit j adds
    log(1 + exp(aⱼ)) ≈ log 2 + aⱼ/2 + aⱼ²/8, a = W'h. What that says of each unit of the layer below
    alone, Wᵢⱼ/2 + Wᵢⱼ²/8, is taken from its bias. So the density of x starts near that of
    ``below``, less so the more units there are; the learning rate should be small, or what it has
    settled on is shaken up. ``pretrain_dbm`` starts every layer afresh instead.

    Args:
        below: What gets a layer more; it is not changed itself.
        num_units: Units of the new layer, at least one.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.

    Returns:
        A DBM of the same layers and the new one.

    Raises:
        PoeError: For what is no RBM or DBM, and for less than one unit.

    Example:
        >>> grow_dbm(RBM([[2.0], [-1.0]], [0.0, 0.5], [1.0]), 3)
        DBM(layers of 2, 1, 3)
    """
    if not isinstance(below, RBM | DBM) or num_units < 1:
        raise PoeError(
            f"expected an RBM or a DBM and at least one new unit, got {type(below).__name__} and "
            f"{num_units}"
        )
    is_rbm = isinstance(below, RBM)
    weights, biases = ([below.W], [below.b, below.c]) if is_rbm else (below.weights, below.biases)
    top = biases[-1]
    new = top.new_empty((len(top), num_units))
    new.normal_(0, WEIGHT_SCALE, generator=resolve(generator, top.device))
    top = top - (new / 2 + new.square() / 8).sum(1)
    return DBM([*weights, new], [*biases[:-1], top, top.new_zeros(num_units)])
