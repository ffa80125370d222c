"""All that is known of a density on a discrete space before it is evaluated, asked at once."""

from __future__ import annotations

from typing import NamedTuple

from poe.core.space import Space
from poe.density.capabilities import (
    Conditionals,
    Grid,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
)
from poe.density.conditional import is_batch
from poe.density.expert import Expert


class Structure(NamedTuple):
    """What a density is made of; None where that is not known, as of all on a continuous space.

    - ``is_batch``: whether it is a batch of densities, one for each chain;
    - ``spins``, ``labels``: its couplings and fields, where it has nothing else;
    - ``grid``: what the spins lie on, all of one coupling;
    - ``conditionals``: how the elements of a binary event go together.
    """

    space: Space
    is_batch: bool
    spins: SpinPairs | None = None
    grid: Grid | None = None
    labels: LabelPairs | None = None
    conditionals: Conditionals | None = None


def structure_of(target: Expert) -> Structure:
    """What is known of a density, each question asked once.

    >>> known = structure_of(experts.Ising([[0.0, 0.5], [0.5, 0.0]]))
    >>> known.spins.couplings, known.labels
    (tensor([0.5000]), None)
    """
    known = Structure(target.space, is_batch(target))
    if not target.space.is_discrete:
        return known
    spins = spin_pairs(target)
    return known._replace(
        spins=spins,
        grid=None if spins is None else spins.grid(target.space.event_shape),
        labels=label_pairs(target),
        conditionals=conditionals(target),
    )
