"""All that is known of a density on a discrete space before it is evaluated, asked at once."""

from __future__ import annotations

from typing import NamedTuple

from poe.core.space import Space
from poe.density.capabilities import (
    Conditionals,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
)
from poe.density.chains import is_batch
from poe.density.expert import Expert


class Structure(NamedTuple):
    """What a density is made of; None where that is not known, as of all on a continuous space.

    - ``is_batch``: whether it is a batch of densities, one for each chain;
    - ``spins``, ``labels``: its couplings and fields, where it has nothing else;
    - ``conditionals``: how the elements of a binary event go together.
    """

    space: Space
    is_batch: bool
    spins: SpinPairs | None = None
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
    return known._replace(
        spins=spin_pairs(target), labels=label_pairs(target), conditionals=conditionals(target)
    )
