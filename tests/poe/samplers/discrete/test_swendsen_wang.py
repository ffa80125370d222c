"""Swendsen-Wang against enumeration and exact draws, with its own healthy twin's known mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from experts import RBM, Bernoulli, Ising
from poe.density.capabilities import SpinPairs, spin_pairs
from poe.normalizers.enumeration import states
from poe.samplers import Checkerboard, SwendsenWang
from poe.samplers.discrete.clusters import ClusterNoise, components
from poe.testing import LawError
from tests.laws.discrete import check_table
from tests.laws.kernels import check_kernel

CHAINS = 40_000


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TARGETS: dict[str, Callable[[], poe.Expert]] = {
    "attractive": lambda: Ising.grid((3, 3), 0.44, periodic=True),
    "attractive, a field": lambda: Ising.grid((3, 3), randn(2, 3, 3, seed=0).abs(), 0.2),
    "fields of both signs": lambda: Ising.grid((3, 3), 0.6) * Bernoulli(randn(3, 3, seed=1)),
    "couplings of both signs": lambda: Ising(0.4 * randn(8, 8, seed=2).triu(1), randn(8, seed=3)),
    "a pair twice": lambda: Ising.from_edges([[0, 1, 1], [1, 0, 2]], [0.5, -0.2, 0.7], 0.1, 4) ** 2,
}
each_target = pytest.mark.parametrize("name", TARGETS)


def swendsen_wang(target: poe.Expert) -> SwendsenWang:
    found = spin_pairs(target)
    assert found is not None
    return SwendsenWang(found)


def exact_draws(target: poe.Expert, count: int, seed: int) -> Tensor:
    x = states(target.space)
    g = torch.Generator().manual_seed(seed)
    return x[torch.multinomial(torch.softmax(target(x).double(), 0), count, True, generator=g)]


@pytest.mark.law
@each_target
def test_invariance(name: str) -> None:
    target, g = TARGETS[name](), torch.Generator().manual_seed(2)
    exact = exact_draws(target, CHAINS, seed=3)
    check_kernel(swendsen_wang(target), target, exact, num_steps=4, generator=g)


@pytest.mark.law
@each_target
def test_total_variation_is_that_of_independent_draws(name: str) -> None:
    target, g = TARGETS[name](), torch.Generator().manual_seed(0)
    kernel, x = swendsen_wang(target), torch.zeros(CHAINS, *target.space.event_shape)
    state = kernel.init(target, x)
    for _ in range(60):
        state, info = kernel.step(target, state, generator=g)
    assert info.is_accepted.all()
    check_table(target, state.position)
    torch.testing.assert_close(state.log_density, target(state.position))


@pytest.mark.law
@pytest.mark.parametrize("mistake", ["couplings", "fields"])
def test_a_kernel_of_other_pairs_is_caught(mistake: str) -> None:
    target = TARGETS["attractive, a field"]()
    pairs = spin_pairs(target)
    assert pairs is not None
    wrong = pairs._replace(**{mistake: 1.2 * getattr(pairs, mistake)})
    g, exact = torch.Generator().manual_seed(2), exact_draws(target, CHAINS, seed=3)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(SwendsenWang(wrong), target, exact, num_steps=4, generator=g)


def test_one_step_by_hand() -> None:
    """Three spins in a row, J = (0.5, −0.5), field 0.2 on the first; all start at 1."""
    target = Ising.from_edges([[0, 1], [1, 2]], [0.5, -0.5], [0.2, 0.0, 0.0], 3)
    kernel, x = swendsen_wang(target), torch.ones(2, 3)
    # The first pair is joined where u < 1 − e⁻¹ = 0.632, the second, discontent, never; a cluster
    # of the first site flips where u < σ(−0.4) = 0.401, the others where u < 0.5.
    bonds = torch.tensor([[0.62, 0.0], [0.64, 0.0]])
    flips = torch.tensor([[0.39, 0.9, 0.51], [0.41, 0.49, 0.49]])
    state, _ = kernel.transition(target, kernel.init(target, x), ClusterNoise(bonds, flips))
    assert state.position.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_components_by_powers_of_the_adjacency(density: float) -> None:
    g = torch.Generator().manual_seed(0)
    edges = torch.triu_indices(30, 30, 1)
    is_joined = torch.rand(40, edges.shape[1], generator=g) < density
    found = components(edges, is_joined, 30)
    reach = torch.eye(30).repeat(40, 1, 1)
    reach[:, edges[0], edges[1]] = reach[:, edges[1], edges[0]] = is_joined.float()
    for _ in range(5):  # paths of up to 32 edges
        reach = (reach @ reach).clamp(max=1.0)
    first = reach.argmax(2)  # of the sites within reach
    assert torch.equal(found, first + 30 * torch.arange(40)[:, None])


def test_components_of_a_long_spiral() -> None:
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    path = torch.stack([order[:-1], order[1:]])
    assert (components(path, torch.ones(1, 4999, dtype=torch.bool), 5000) == 0).all()


def test_the_pairs_of_compositions() -> None:
    ising, field = Ising.grid((2, 3), 0.5, 0.1), Bernoulli(randn(2, 3, seed=0))
    for target in (ising, ising**0.3 * field, poe.Product(ising, field**-1.0) ** 2, field):
        found, x = spin_pairs(target), states(target.space)
        assert found is not None
        model = Ising.from_edges(found.edges, found.couplings, found.fields.reshape(2, 3), (2, 3))
        gap = target(x) - model(x)
        torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-5)
    rbm = RBM(randn(6, 2, seed=0), randn(6, seed=1), randn(2, seed=2))
    assert spin_pairs(rbm) is None
    assert spin_pairs(rbm * Bernoulli(randn(6, seed=3))) is None


def test_sample_chooses_it_where_clusters_move() -> None:
    g = torch.Generator().manual_seed(0)
    for field, kernel in ((0.1, SwendsenWang), (randn(14, 14, seed=0), Checkerboard)):
        target = Ising.grid((14, 14), 0.44, field, periodic=True)
        draws = poe.sample(target, 40, num_chains=4, warmup=5, generator=g, progress=False)
        assert isinstance(draws.kernel, kernel)
        assert draws.guarantee == "asymptotically exact"


def test_what_it_cannot_draw_from_is_refused() -> None:
    rbm = RBM(randn(6, 2, seed=0), randn(6, seed=1), randn(2, seed=2))
    with pytest.raises(poe.PoeError, match=r"expected SpinPairs, got NoneType: .* use BlockGibbs"):
        SwendsenWang(spin_pairs(rbm))  # type: ignore[arg-type]
    target = TARGETS["attractive"]()
    other = Ising.grid((2, 2), 0.1)
    kernel, g = swendsen_wang(target), torch.Generator().manual_seed(0)
    with pytest.raises(poe.ShapeError, match=r"of 9 elements.*got \(4, 2, 2\)"):
        kernel.step(other, kernel.init(other, torch.zeros(4, 2, 2)), generator=g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_positions_keep_their_dtype(dtype: torch.dtype) -> None:
    target, g = TARGETS["attractive, a field"](), torch.Generator().manual_seed(0)
    kernel, x = swendsen_wang(target), torch.ones(3, 3, 3, dtype=dtype)
    state, _ = kernel.step(target, kernel.init(target, x), generator=g)
    assert state.position.dtype == dtype
    assert target.space.contains(state.position).all()


def test_it_goes_through_the_shapes_on_meta() -> None:
    target = Ising.grid((3, 3), 0.4).to("meta")
    pairs = spin_pairs(target)
    assert isinstance(pairs, SpinPairs)
    kernel, x = SwendsenWang(pairs), torch.empty(5, 3, 3, device="meta")
    noise = ClusterNoise(torch.empty(5, 12, device="meta"), torch.empty(5, 9, device="meta"))
    state, _ = kernel.transition(target, kernel.state_at(target, x), noise)
    assert state.position.device.type == "meta"
    assert state.position.shape == (5, 3, 3)
