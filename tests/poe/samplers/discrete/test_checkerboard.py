"""The checkerboard kernel against exact draws, block Gibbs and its own thresholds by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from experts import Bernoulli, Ising
from poe.density.capabilities import conditionals, spin_pairs
from poe.density.closed_forms import exact_sample
from poe.normalizers.enumeration import states
from poe.samplers import BlockGibbs, Checkerboard
from poe.samplers.discrete.checkerboard import RandomBits, halves, lattice, whole
from poe.testing import LawError
from tests.laws.discrete import check_frequencies
from tests.laws.kernels import check_kernel

CHAINS = 40_000


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half_periodic() -> Ising:
    """Rows closed to rings, columns free."""
    coupling = torch.full((2, 4, 4), -0.4)
    model = Ising.grid((4, 4), coupling, 0.1, periodic=True)
    steps = (model.edges[0] // 4 - model.edges[1] // 4).abs()
    kept = steps < 2
    return Ising.from_edges(model.edges[:, kept], model.couplings[kept], model.fields, (4, 4))


TARGETS: dict[str, Callable[[], poe.Expert]] = {
    "periodic": lambda: Ising.grid((4, 4), 0.44, periodic=True),
    "free, any field": lambda: Ising.grid((4, 6), 0.5, randn(4, 6, seed=0)),
    "repelling, rings": half_periodic,
    "a product": lambda: Ising.grid((4, 4), 0.3) ** 2 * Bernoulli(randn(4, 4, seed=1)),
}
each_target = pytest.mark.parametrize("name", TARGETS)


def checkerboard(target: poe.Expert) -> Checkerboard:
    found = spin_pairs(target)
    assert found is not None
    rows, cols = target.space.event_shape
    return Checkerboard(found, (rows, cols))


def exact_draws(target: poe.Expert, count: int, seed: int) -> Tensor:
    simple = poe.simplify(target).expert
    return exact_sample(simple, count, torch.Generator().manual_seed(seed))


@pytest.mark.law
@each_target
def test_invariance(name: str) -> None:
    target, g = TARGETS[name](), torch.Generator().manual_seed(2)
    exact = exact_draws(target, CHAINS, seed=3)
    check_kernel(checkerboard(target), target, exact, num_steps=4, generator=g)


@pytest.mark.law
@pytest.mark.parametrize("mistake", ["couplings", "fields"])
def test_a_kernel_of_other_pairs_is_caught(mistake: str) -> None:
    target = TARGETS["repelling, rings"]()
    pairs = spin_pairs(target)
    assert pairs is not None
    wrong = pairs._replace(**{mistake: 2.0 * getattr(pairs, mistake)})
    g, exact = torch.Generator().manual_seed(2), exact_draws(target, CHAINS, seed=3)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(Checkerboard(wrong, (4, 4)), target, exact, num_steps=4, generator=g)


@each_target
def test_it_draws_what_block_gibbs_draws(name: str) -> None:
    """From the same uniforms, word by word."""
    target = TARGETS[name]()
    shape, g = target.space.event_shape, torch.Generator().manual_seed(0)
    found, kernel = conditionals(target), checkerboard(target)
    assert found is not None
    x = (torch.rand(500, *shape, generator=g) < 0.5).float()
    state, twin = kernel.init(target, x), BlockGibbs(found)
    for _ in range(3):
        noise = kernel.draw_noise(x, g)
        uniforms = whole(*(noise.bits.double() + 2.0**31) / 2.0**32)
        state, _ = kernel.transition(target, state, noise)
        even = (torch.arange(shape[0])[:, None] + torch.arange(shape[1])) % 2 == 0
        for is_free in (even, ~even):
            p = found.given(x, x[:, :0, 0])(x).double().sigmoid()
            x = torch.where(is_free, (uniforms < p).float(), x)
        assert twin.num_sets == 2
        assert torch.equal(state.position, x)
        torch.testing.assert_close(state.log_density, target(x), rtol=1e-5, atol=1e-4)


@pytest.mark.law
def test_energies_are_those_of_the_table_of_states() -> None:
    """Total variation over the values of the log-density, from states all alike."""
    target, g = Ising.grid((4, 4), 0.44, 0.05, periodic=True), torch.Generator().manual_seed(0)
    kernel = checkerboard(target)
    state = kernel.init(target, torch.zeros(CHAINS, 4, 4))
    for _ in range(450):  # after 150 the chains are five standard errors away still
        state, _ = kernel.step(target, state, generator=g)
    table = target(states(target.space)).double()
    values, kind = (1e3 * table).round().unique(return_inverse=True)
    truth = torch.zeros(len(values), dtype=table.dtype).index_add(0, kind, table.softmax(0))
    place = torch.searchsorted(values, (1e3 * target(state.position).double()).round())
    check_frequencies(torch.bincount(place, minlength=len(values)) / CHAINS, truth, CHAINS)


def test_probabilities_are_right_to_the_last_word() -> None:
    """At the words next to a threshold of σ(2 (J (2k − 4) + h)), the draw changes."""
    target = Ising.grid((4, 4), 0.3, 0.1, periodic=True)
    kernel = checkerboard(target)
    for k, x in ((0, torch.zeros(1, 4, 4)), (4, torch.ones(1, 4, 4))):
        p = torch.tensor(2 * (0.3 * (2 * k - 4) + 0.1), dtype=torch.float64).sigmoid()
        word = round(p.item() * 2**32 - 2**31)
        state = kernel.init(target, x)
        for bits, expected in ((word - 200, 1.0), (word + 200, 0.0)):
            noise = RandomBits(torch.full((2, 1, 4, 2), bits, dtype=torch.int32))
            after, _ = kernel.transition(target, state, noise)
            assert (after.even == expected).all()


def test_random_words_use_all_their_bits() -> None:
    kernel = checkerboard(TARGETS["periodic"]())
    noise = kernel.draw_noise(torch.zeros(20_000, 4, 4), torch.Generator().manual_seed(0))
    bits = noise.bits.flatten()[:, None] >> torch.arange(32, dtype=torch.int32) & 1
    share = bits.double().mean(0)
    assert ((share - 0.5).abs() < 4 * 0.5 / len(bits) ** 0.5).all()


def test_halves_and_degrees() -> None:
    x = torch.arange(24).reshape(1, 4, 6)
    even, odd = halves(x)
    assert even[0, 1].tolist() == [7, 9, 11]
    assert odd[0, 1].tolist() == [6, 8, 10]
    pairs = spin_pairs(Ising.grid((4, 6), 0.3))
    assert pairs is not None
    found = lattice(pairs, torch.Size((4, 6)))
    assert found is not None
    assert found.degrees((4, 6))[:2].tolist() == [[2, 3, 3, 3, 3, 2], [3, 4, 4, 4, 4, 3]]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Ising.grid((4, 4), torch.linspace(0.1, 0.2, 32).reshape(2, 4, 4)), (4, 4)),
        (Ising.grid((5, 4), 0.1), (5, 4)),
        (Ising.grid((2, 4), 0.1, periodic=True), (2, 4)),
        (Ising(torch.ones(16, 16).triu(1)), (4, 4)),
        (Bernoulli(torch.zeros(4, 4)), (4, 4)),
    ],
    ids=["couplings differ", "an odd side", "two rows", "dense", "no pairs"],
)
def test_what_is_no_grid_is_refused(model: poe.Expert, shape: tuple[int, int]) -> None:
    pairs = spin_pairs(model)
    assert pairs is not None
    with pytest.raises(poe.PoeError, match=r"nearest neighbours of a grid.*use BlockGibbs"):
        Checkerboard(pairs, shape)


def test_sample_chooses_it_for_fields_of_both_signs() -> None:
    target = TARGETS["free, any field"]() * Ising.grid((4, 6), 0.1)
    start = Bernoulli(torch.zeros(4, 6))
    unknown = poe.FromLogDensity(lambda x: 0 * x.sum((-2, -1)), space=target.space)
    g = torch.Generator().manual_seed(0)
    draws = poe.smc(target, 4000, start=start, num_islands=16, generator=g, progress=False)
    assert isinstance(draws.kernel, Checkerboard)
    truth = poe.log_partition(target).value
    assert abs(draws.log_partition.value - truth) < 4 * draws.log_partition.std_error
    draws = poe.sample(
        Ising.grid((24, 24), 0.3, randn(24, 24, seed=0)),
        40,
        num_chains=4,
        warmup=5,
        generator=g,
        progress=False,
    )
    assert isinstance(draws.kernel, Checkerboard)
    assert spin_pairs(target * unknown) is None


def test_a_step_needs_no_look_at_the_numbers() -> None:
    target = TARGETS["free, any field"]()
    kernel, x = checkerboard(target), torch.zeros(7, 4, 6)
    state, noise = kernel.init(target, x), kernel.draw_noise(x, torch.Generator().manual_seed(1))
    captured = torch.compile(kernel.transition, fullgraph=True, backend="eager")
    assert torch.equal(
        captured(target, state, noise)[0].position,
        kernel.transition(target, state, noise)[0].position,
    )
