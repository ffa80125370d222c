"""The most probable state: climbs, cooling chains, and the exact cut, against enumeration."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

import poe
from experts import RBM, Bernoulli, Ising
from experts.spins import graph_cut
from poe.normalizers.enumeration import states
from poe.sampling.simulated_annealing import iterated_conditional_modes, simulated_annealing


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def best(target: poe.Expert) -> Tensor:
    x = states(target.space)
    return x[target(x).argmax()]


def attractive(seed: int) -> poe.Expert:
    prior = Ising.grid((3, 4), randn(2, 3, 4, seed=seed).abs(), periodic=True)
    return prior * Bernoulli(3 * randn(3, 4, seed=seed + 100))


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_is_the_most_probable_state(seed: int) -> None:
    target = attractive(seed)
    assert torch.equal(graph_cut(target), best(target))


def test_the_cut_of_any_graph_and_of_fields_alone() -> None:
    dense = Ising(randn(8, 8, seed=0).abs().triu(1), 3 * randn(8, seed=1))
    field = Bernoulli(randn(5, seed=2))
    for target in (dense, dense**0.5, field):
        assert torch.equal(graph_cut(target), best(target))


def test_the_cut_refuses_couplings_that_repel() -> None:
    frustrated = Ising.from_edges([[0, 1, 2], [1, 2, 0]], [0.5, -0.25, 0.5], 0.0, 3)
    words = r"at least 0 for a graph cut, got 1 negative ones, as -0.25 between sites 1 and 2: use"
    with pytest.raises(poe.PoeError, match=words):
        graph_cut(frustrated)
    rbm = RBM(randn(6, 2, seed=0), randn(6, seed=1), randn(2, seed=2))
    with pytest.raises(
        poe.PoeError, match=r"pairs and fields alone, got RBM: use poe\.simulated_annealing"
    ):
        graph_cut(rbm)


def test_the_cut_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[graphcut\]"'):
        graph_cut(attractive(0))


@pytest.mark.parametrize("seed", range(8))
def test_annealing_finds_the_summit_of_a_small_glass(seed: int) -> None:
    glass = Ising(randn(10, 10, seed=seed).triu(1), randn(10, seed=seed + 50))
    g = torch.Generator().manual_seed(0)
    assert torch.equal(simulated_annealing(glass, num_chains=16, generator=g), best(glass))


def test_annealing_of_a_grid_and_of_a_product() -> None:
    for target in (attractive(3), Ising.grid((4, 4), 0.7) * Bernoulli(randn(4, 4, seed=0))):
        g = torch.Generator().manual_seed(0)
        found = simulated_annealing(target, num_chains=16, generator=g)
        assert torch.equal(found, graph_cut(target))


def test_annealing_that_hardly_cools_ends_at_a_summit_too() -> None:
    glass = Ising(randn(40, 40, seed=0).triu(1))
    found = simulated_annealing(glass, schedule=(0.1,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(iterated_conditional_modes(glass, found), found)


@pytest.mark.parametrize("schedule", [(), (0.1, 1.0, 0.5), (0.0, 1.0)])
def test_cyclic_schedules_are_refused(schedule: tuple[float, ...]) -> None:
    with pytest.raises(poe.PoeError, match=r"never go down, got .*a cyclic one heats"):
        simulated_annealing(attractive(0), schedule=schedule)


def test_climbs_end_where_no_flip_of_one_element_is_better() -> None:
    glass = Ising(randn(9, 9, seed=0).triu(1), randn(9, seed=1))
    x = states(glass.space)[::3].reshape(-1, 1, 9)
    top = iterated_conditional_modes(glass, x)
    assert top.shape == x.shape
    assert (glass(top) >= glass(x)).all()
    for site in range(9):
        flipped = top.clone()
        flipped[..., site] = 1 - flipped[..., site]
        assert (glass(flipped) <= glass(top) + 1e-5).all()


def test_ties_stay_as_they_are() -> None:
    free = Ising.from_edges([[0], [1]], 0.0, 0.0, 2)
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(iterated_conditional_modes(free, x), x)


def test_unknown_conditionals_are_refused() -> None:
    rbm = RBM(randn(6, 2, seed=0), randn(6, seed=1), randn(2, seed=2))
    for call in (lambda: iterated_conditional_modes(rbm, torch.zeros(6)), lambda: anneal(rbm)):
        with pytest.raises(poe.PoeError, match="without hidden units, got RBM"):
            call()


def anneal(target: poe.Expert) -> Tensor:
    return simulated_annealing(target)
