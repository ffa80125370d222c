"""Block Gibbs against enumeration, exact draws, and its own healthy twin with known mistakes."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import poe
from experts import RBM, Bernoulli, Ising
from poe.density.capabilities import Conditionals, LogOdds, conditionals
from poe.density.expert import experts_in
from poe.samplers import BlockGibbs, Gibbs
from poe.samplers.discrete.block_gibbs import BlockNoise
from poe.testing import LawError
from tests.laws.discrete import check_table, table_of
from tests.laws.kernels import check_kernel

CHAINS = 40_000


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Grid(poe.Expert):
    """Neighbours in a row or a column that are both 1 add β: edges, and no hidden units."""

    def __init__(self, rows: int, columns: int, beta: float) -> None:
        super().__init__()
        self.space = poe.Binary((rows, columns))
        self.register_buffer("beta", torch.tensor(beta))
        places = torch.arange(rows * columns).reshape(rows, columns)
        right = torch.stack([places[:, :-1].flatten(), places[:, 1:].flatten()])
        down = torch.stack([places[:-1].flatten(), places[1:].flatten()])
        self.edges = torch.cat([right, down], 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(-2)
        return self.beta * (flat[..., self.edges[0]] * flat[..., self.edges[1]]).sum(-1)


@conditionals.register
def _(expert: Grid) -> Conditionals:
    def log_odds(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
        rows, columns = padded[:, 1:-1], padded[:, :, 1:-1]
        sums = rows[..., :-2] + rows[..., 2:] + columns[:, :-2] + columns[:, 2:]
        return expert.beta * sums

    return Conditionals(expert.edges, 0, lambda x, uniforms: log_odds)


def rbm(visible: int, hidden: int, seed: int) -> RBM:
    shapes = (visible, hidden), (visible,), (hidden,)
    return RBM(*(randn(*shape, seed=seed + k) for k, shape in enumerate(shapes)))


RBMS = rbm(8, 5, seed=0) * Bernoulli(randn(8, seed=3)) * rbm(8, 3, seed=4) ** 2
GRID = Grid(3, 3, 1.2) * Bernoulli(randn(3, 3, seed=7)) / Grid(3, 3, 0.5) ** 0.3
TARGETS = {"RBM x field x RBM": RBMS, "grid x field / grid": GRID}


def block_gibbs(target: poe.Expert) -> BlockGibbs:
    found = conditionals(target)
    assert found is not None
    return BlockGibbs(found)


def exact_draws(target: poe.Expert, count: int, seed: int) -> Tensor:
    x, probability = table_of(target)
    g = torch.Generator().manual_seed(seed)
    return x[torch.multinomial(probability, count, replacement=True, generator=g)]


@pytest.mark.law
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_total_variation_is_that_of_independent_draws(target: poe.Expert) -> None:
    kernel, g = block_gibbs(target), torch.Generator().manual_seed(0)
    x = torch.zeros(CHAINS, *target.space.event_shape)
    state = kernel.init(target, x)
    for _ in range(60):
        state, _ = kernel.step(target, state, generator=g)
    check_table(target, state.position)
    torch.testing.assert_close(state.log_density, target(state.position))


@pytest.mark.law
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_invariance(target: poe.Expert) -> None:
    g = torch.Generator().manual_seed(2)
    exact = exact_draws(target, CHAINS, seed=3)
    check_kernel(block_gibbs(target), target, exact, num_steps=4, generator=g)


@pytest.mark.law
def test_a_kernel_of_other_conditionals_is_caught() -> None:
    """A missing factor, and a grid whose neighbours are drawn together."""
    g = torch.Generator().manual_seed(2)
    without = poe.Product(*experts_in(RBMS.experts)[1:])
    found = conditionals(GRID)
    assert found is not None
    together = BlockGibbs(found._replace(edges=found.edges[:, :0]))
    for kernel, target in ((block_gibbs(without), RBMS), (together, GRID)):
        with pytest.raises(LawError, match="does not leave its target invariant"):
            check_kernel(
                kernel, target, exact_draws(target, CHAINS, seed=3), num_steps=4, generator=g
            )


def test_sets_and_counts() -> None:
    for target, num_sets in ((RBMS, 1), (GRID, 2)):
        kernel = block_gibbs(target)
        assert (kernel.num_sets, kernel.gradients_per_step) == (num_sets, num_sets + 1)
        assert kernel.guarantee == "asymptotically exact"
        assert kernel not in (block_gibbs(target), block_gibbs(GRID))


def test_one_step_by_hand() -> None:
    """z = (u < σ(c + W'x)), then x = (u < σ(b + Wz)): with one unit each, by numbers."""
    target = RBM([[2.0]], [-1.0], [0.5])
    kernel, x = block_gibbs(target), torch.tensor([[0.0], [1.0]])
    hidden, visible = torch.tensor([[0.7], [0.9]]), torch.tensor([[0.25], [0.72]])
    # Chain 0: 0.7 > σ(0.5) = 0.62, so z = 0, and x = 1 where u < σ(−1) = 0.269.
    # Chain 1: 0.9 < σ(2.5) = 0.924, so z = 1, and x = 1 where u < σ(1) = 0.731.
    state = kernel.init(target, x)
    below, info = kernel.transition(target, state, BlockNoise(hidden, visible))
    above, _ = kernel.transition(target, state, BlockNoise(hidden, visible + 0.02))
    assert below.position.tolist() == [[1.0], [1.0]]
    assert above.position.tolist() == [[0.0], [0.0]]
    assert info.is_accepted.all()


def test_elements_that_no_edge_joins_are_drawn_too() -> None:
    """Three elements, an edge between the first two: the third goes with the first set."""
    edges = torch.tensor([[0], [1]])
    kernel = BlockGibbs(Conditionals(edges, 0, lambda x, u: lambda x: torch.full_like(x, 50.0)))
    target = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(3))
    g = torch.Generator().manual_seed(0)
    state, _ = kernel.step(target, kernel.init(target, torch.zeros(2, 3)), generator=g)
    assert (state.position == 1).all()
    one = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(1))
    state = kernel.init(one, torch.zeros(4, 1))
    with pytest.raises(poe.ShapeError, match=r"at least 2 elements.*got \(4, 1\)"):
        kernel.step(one, state, generator=g)


def test_log_odds_that_are_no_numbers_are_reported_and_not_followed() -> None:
    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        return lambda x: torch.where(x.sum(1, keepdim=True) == 2, torch.nan, torch.zeros(2))

    kernel = BlockGibbs(Conditionals(torch.zeros((2, 0), dtype=torch.int64), 0, given))
    target = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(2))
    x = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    state, info = kernel.step(
        target, kernel.init(target, x), generator=torch.Generator().manual_seed(0)
    )
    assert state.position[0].tolist() == [1.0, 1.0]
    assert info.is_undefined.tolist() == [True, False]
    assert info.is_accepted.tolist() == [False, True]
    assert info.acceptance_probability.tolist() == [0.0, 1.0]


def test_what_it_cannot_draw_from_is_refused() -> None:
    unknown = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(8))
    for wrong in (conditionals(unknown), RBMS):
        with pytest.raises(poe.PoeError, match=r"expected Conditionals, got .* use Gibbs\(space\)"):
            BlockGibbs(wrong)  # type: ignore[arg-type]
    with pytest.raises(poe.ShapeError, match=r"expected x of shape \(\*batch, 8\)"):
        block_gibbs(RBMS).init(RBMS, torch.zeros(4, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_positions_keep_their_dtype(dtype: torch.dtype) -> None:
    kernel, g = block_gibbs(RBMS), torch.Generator().manual_seed(0)
    x = torch.ones(3, 8, dtype=dtype)
    state, _ = kernel.step(RBMS, kernel.init(RBMS, x), generator=g)
    assert state.position.dtype == dtype
    assert RBMS.space.contains(state.position).all()


def test_a_step_needs_no_look_at_the_numbers() -> None:
    """On "meta" there are none."""
    target = (rbm(8, 5, seed=0) * Bernoulli(randn(8, seed=3))).to("meta")
    kernel = block_gibbs(target)
    x = torch.empty(5, 8, device="meta")
    noise = BlockNoise(torch.empty(5, 5, device="meta"), torch.empty(5, 8, device="meta"))
    state, info = kernel.transition(target, kernel.state_at(target, x), noise)
    assert state.position.device.type == info.is_undefined.device.type == "meta"
    assert state.position.shape == (5, 8)


LINE = Ising(
    torch.diag(torch.full((7,), 0.4), 1) + torch.diag(torch.full((7,), 0.4), -1), [0.0] * 8
)
"""Neighbours in a row of eight; a field and RBMs alone would be one RBM, which is drawn exactly."""


@pytest.mark.parametrize("target", [RBMS * LINE, GRID], ids=["RBM x field x RBM x Ising", "grid"])
def test_sample_chooses_it(target: poe.Expert) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = poe.sample(
            target, 32_000, num_chains=400, warmup=40, progress=False,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
    assert isinstance(draws.kernel, BlockGibbs)
    assert draws.guarantee == "asymptotically exact"
    assert draws.choice == (
        "known conditionals: all elements in 2 sets"
        if target is GRID
        else "known conditionals: 11 hidden units, then all elements in 2 sets"
    )
    by_chain = draws.samples.flatten(2).double().mean(1)
    x, probability = table_of(target)
    truth = probability @ x.flatten(1).double()
    assert ((by_chain.mean(0) - truth).abs() < 4 * by_chain.std(0) / 20).all()


def test_rbms_and_a_field_are_one_rbm_which_is_drawn_exactly() -> None:
    g = torch.Generator().manual_seed(1)
    draws = poe.sample(RBMS, CHAINS, generator=g, progress=False)
    assert draws.guarantee == "exact"
    check_table(RBMS, draws.samples.flatten(0, 1))


def test_an_unknown_factor_goes_site_by_site() -> None:
    unknown = poe.FromLogDensity(lambda x: x[..., 0], space=poe.Binary(8))
    g = torch.Generator().manual_seed(0)
    assert poe.sample(RBMS * unknown, 10, warmup=5, generator=g, progress=False).kernel == Gibbs(
        poe.Binary(8)
    )
    draws = poe.smc(RBMS * unknown, 200, generator=g, progress=False)
    assert draws.kernel == Gibbs(poe.Binary(8))
    # On the way hidden units have powers that are no counts; where it ends, they have not.
    at_the_end = poe.smc(RBMS, 200, generator=g, progress=False).kernel
    assert repr(at_the_end) == "BlockGibbs(11 hidden units, 1 set of elements)"


@pytest.mark.compiled
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_step_is_captured_in_one_graph(target: poe.Expert) -> None:
    kernel = block_gibbs(target)
    state = kernel.init(target, exact_draws(target, 7, seed=0))
    noise = kernel.draw_noise(state.position, torch.Generator().manual_seed(1))
    captured = torch.compile(kernel.transition, fullgraph=True, backend="eager")
    found, expected = (step(target, state, noise)[0] for step in (captured, kernel.transition))
    assert torch.equal(found.position, expected.position)
    assert torch.equal(found.log_density, expected.log_density)
