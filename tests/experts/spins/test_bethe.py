"""Belief propagation: exact on trees, near the truth on loops of weak couplings, and honest."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import poe
from experts import (
    RBM,
    Bernoulli,
    Categorical,
    Ising,
    Potts,
)
from experts.spins import belief_propagation
from poe.normalizers.enumeration import states

DOUBLE = torch.float64
TREE = [[0, 1, 1, 3, 3, 6], [1, 2, 3, 4, 5, 7]]
"""Eight sites in two trees."""


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


TREES: dict[str, Callable[[], poe.Expert]] = {
    "Ising": lambda: Ising.from_edges(TREE, 2 * _normal(6), _normal(8, seed=1), 8),
    "Ising, frozen": lambda: Ising.from_edges(TREE, 30 * _normal(6), _normal(8, seed=1), 8),
    "Ising x Bernoulli": lambda: (
        Ising.from_edges(TREE, _normal(6), 0.1, 8).double() ** 0.7 * Bernoulli(_normal(8, seed=2))
    ),
    "Potts": lambda: Potts(TREE, 2 * _normal(6), _normal(8, 3, seed=1), 8, 3),
    "Potts x Categorical": lambda: (
        Potts(TREE, _normal(6), 0.0, 8, 3).double() * Categorical(_normal(8, 3, seed=2)) ** 2
    ),
    "no pairs": lambda: Ising(torch.zeros(3, 3, dtype=DOUBLE), _normal(3)),
}


def marginals(target: poe.Expert) -> Tensor:
    x = states(target.space)
    one_hot = F.one_hot(x.long(), target.space.num_values).to(DOUBLE)
    return torch.tensordot(target(x).double().softmax(0), one_hot, 1)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_exact_on_trees(name: str, damping: float) -> None:
    target = TREES[name]()
    found = belief_propagation(target, damping=damping, tolerance=1e-12)
    assert found.change < 1e-12
    torch.testing.assert_close(found.marginals, marginals(target), rtol=0, atol=1e-9)
    truth = torch.logsumexp(target(states(target.space)).double(), 0)
    torch.testing.assert_close(found.log_partition, truth, rtol=0, atol=1e-8)


def test_weak_couplings_on_a_grid() -> None:
    """The error of a loop of four is of fourth order in the couplings."""
    target = Ising.grid((3, 4), torch.tensor(0.2, dtype=DOUBLE), _normal(3, 4))
    found = belief_propagation(target)
    assert (found.marginals - marginals(target)).abs().max() < 0.2**4
    assert (found.log_partition - poe.log_partition(target).value).abs() < 12 * 0.2**4
    assert found.marginals.shape == (3, 4, 2)


def frustrated() -> Ising:
    g = torch.Generator().manual_seed(0)
    return Ising((2 * torch.randn(12, 12, generator=g)).triu(1), torch.randn(12, generator=g))


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        (Ising.grid((3, 4), 0.5, 0.3), {"max_steps": 3}),
        (frustrated(), {"max_steps": 50, "damping": 0.0}),
    ],
)
def test_messages_that_have_not_settled_are_told(target: Ising, settings: dict[str, float]) -> None:
    with pytest.warns(poe.TrustWarning, match="have not settled: a log-message still changed by"):
        found = belief_propagation(target, **settings)  # type: ignore[arg-type]
    assert found.change > settings.get("tolerance", 1e-6)


def test_messages_that_have_settled_come_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = belief_propagation(Ising.grid((3, 4), 0.5, 0.3))
    assert found.change < 1e-6


def test_the_warning_names_the_line_that_asked() -> None:
    with pytest.warns(poe.TrustWarning) as told:
        belief_propagation(frustrated(), max_steps=2)
    assert told[0].filename == __file__


def test_refusals() -> None:
    rbm = RBM(torch.zeros(2, 2), torch.zeros(2), torch.zeros(2))
    with pytest.raises(poe.PoeError, match=r"expected an Ising or a Potts model.*got RBM: use"):
        belief_propagation(rbm)
    with pytest.raises(poe.PoeError, match="damping of at least 0 and below 1, got 1"):
        belief_propagation(TREES["Ising"](), damping=1.0)
    for wrong in (0, -1):
        with pytest.raises(
            poe.PoeError, match=f"max_steps must be a whole number >= 1, got {wrong}"
        ):
            belief_propagation(TREES["Ising"](), max_steps=wrong)
    for tolerance in (0.0, -1.0, float("nan")):
        with pytest.raises(poe.PoeError, match="tolerance must be"):
            belief_propagation(TREES["Ising"](), tolerance=tolerance)
