"""What is known of a density on a discrete space, asked at once: it is what its experts say."""

from __future__ import annotations

import pytest
import torch

import experts
import poe
from poe.density.capabilities import conditionals, spin_pairs
from poe.structure.discrete import Structure, structure_of


def test_of_a_grid_of_spins_all_is_known() -> None:
    target = experts.Ising.grid((4, 4), coupling=0.25)
    known, pairs, found = structure_of(target), spin_pairs(target), conditionals(target)
    assert known.spins is not None
    assert known.conditionals is not None
    assert pairs is not None
    assert found is not None
    assert torch.equal(known.spins.couplings, pairs.couplings)
    assert torch.equal(known.conditionals.edges, found.edges)
    assert known.grid == (0.25, (False, False))
    assert (known.space, known.is_batch, known.labels) == (target.space, False, None)


def test_spins_of_unlike_couplings_are_no_grid() -> None:
    alone = experts.Ising([[0.0, 0.5], [0.5, 0.0]])
    assert structure_of(alone).spins is not None
    assert structure_of(alone).grid is None


@pytest.mark.parametrize(
    "target",
    [
        experts.Gaussian([0.0], scale=[1.0]),
        poe.FromLogDensity(lambda x: x.float().sum(-1), space=poe.Binary(3)),
    ],
    ids=["continuous", "unknown"],
)
def test_nothing_is_known_of_others(target: poe.Expert) -> None:
    assert structure_of(target) == Structure(target.space, is_batch=False)
