"""Ising models against sums over all their states, and against Kaufman's formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Bernoulli, Ising
from experts.spins.transfer_matrix import best_order
from poe.density.capabilities import can_sample_exactly, conditionals, exact_log_partition, widen
from poe.density.closed_forms import exact_sample
from poe.normalizers.enumeration import states
from poe.samplers import BlockGibbs
from poe.structure.conditionals import colours
from tests.laws.discrete import check_table

DOUBLE = torch.float64


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def _dense(n: int = 6) -> Ising:
    return Ising(_normal(n, n).triu(1), _normal(n, seed=1))


def _graph() -> Ising:
    """Two parts, a pair that is there twice, and a site by itself."""
    edges = [[0, 4, 1, 2, 6, 3], [4, 0, 2, 3, 3, 1]]
    return Ising.from_edges(edges, _normal(6), _normal(8, seed=1), 8)


def _grid(rows: int, cols: int, periodic: bool) -> Ising:
    coupling, field = _normal(2, rows, cols), _normal(rows, cols, seed=1)
    return Ising.grid((rows, cols), coupling, field, periodic=periodic)


MODELS: dict[str, Callable[[], Ising]] = {
    "dense": _dense,
    "graph": _graph,
    "free": lambda: _grid(3, 4, False),
    "free, taller": lambda: _grid(5, 2, False),
    "periodic": lambda: _grid(4, 3, True),
    "periodic, two rows": lambda: _grid(2, 4, True),
    "ring": lambda: _grid(1, 7, True),
    "fields alone": lambda: Ising(torch.zeros(5, 5, dtype=DOUBLE), _normal(5)),
    "one site": lambda: Ising([[0.0]], _normal(1)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def _by_definition(model: Ising, x: Tensor) -> Tensor:
    """Pair by pair, in a loop."""
    s = 2 * x.to(DOUBLE).flatten(1) - 1
    value = s @ model.fields.flatten()
    for (i, j), strength in zip(model.edges.T.tolist(), model.couplings, strict=True):
        value = value + strength * s[:, i] * s[:, j]
    return value


def _grid_by_definition(x: Tensor, coupling: Tensor, field: Tensor, periodic: bool) -> Tensor:
    """Site by site, by the definition in the docstring of ``Ising.grid``."""
    s = 2 * x.to(DOUBLE) - 1
    value = (s * field).sum((-2, -1))
    rows, cols = field.shape
    for i in range(rows):
        for j in range(cols):
            if i + 1 < rows or (periodic and rows > 1):
                value = value + coupling[0, i, j] * s[:, i, j] * s[:, (i + 1) % rows, j]
            if j + 1 < cols or (periodic and cols > 1):
                value = value + coupling[1, i, j] * s[:, i, j] * s[:, i, (j + 1) % cols]
    return value


def kaufman(n: int, beta: float) -> float:
    """log Z of the periodic n x n model without a field. Source: Kaufman 1949, eq. (61)."""
    cosh_sum = math.cosh(2 * beta) ** 2 / math.sinh(2 * beta)
    gamma = [math.acosh(cosh_sum - math.cos(math.pi * r / n)) for r in range(1, 2 * n)]
    gamma = [2 * beta + math.log(math.tanh(beta)), *gamma]
    products = [
        math.prod(2 * function(n * gamma[2 * r + odd] / 2) for r in range(n))
        for odd in (0, 1)
        for function in (math.cosh, math.sinh)
    ]
    return -math.log(2) + n * n / 2 * math.log(2 * math.sinh(2 * beta)) + math.log(sum(products))


def test_dense_log_density_sums_over_pairs() -> None:
    J, h = _normal(5, 5).triu(1), _normal(5, seed=1)
    x = states(poe.Binary(5))
    s = 2 * x.double() - 1
    expected = torch.einsum("bi,ij,bj->b", s, J, s) + s @ h
    for given in (J, J + J.mT):
        torch.testing.assert_close(Ising(given, h)(x), expected, rtol=0, atol=1e-12)


@each_model
def test_log_density(name: str) -> None:
    model = MODELS[name]()
    x = states(model.space)
    torch.testing.assert_close(model(x), _by_definition(model, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3), (1, 5), (12, 12)])
def test_grid_log_density(shape: tuple[int, int], periodic: bool) -> None:
    coupling, field = _normal(2, *shape), _normal(*shape, seed=1)
    x = (_normal(7, *shape, seed=2) > 0).float()
    expected = _grid_by_definition(x, coupling, field, periodic)
    model = Ising.grid(shape, coupling, field, periodic=periodic)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-11)


def test_numbers_fill_the_grid() -> None:
    x = (_normal(7, 3, 4) > 0).double()
    filled = Ising.grid((3, 4), torch.full((2, 3, 4), 0.3), torch.full((3, 4), -0.1))
    torch.testing.assert_close(Ising.grid((3, 4), 0.3, -0.1)(x), filled(x))


def test_numbers_are_of_the_dtype_of_the_tensors_beside_them() -> None:
    x = torch.ones(1, 2, 2)
    assert Ising.grid((2, 2), 0.1, torch.zeros(2, 2, dtype=DOUBLE))(x).item() == 0.4
    assert Ising([[0.0, 0.1], [0.1, 0.0]], torch.zeros(2, dtype=DOUBLE))(x[0]).tolist() == [0.1] * 2


def test_batches_and_dtypes_of_x() -> None:
    model = _grid(3, 4, True)
    x = states(model.space)[:6]
    expected = _by_definition(model, x)
    torch.testing.assert_close(model(x.reshape(2, 3, 3, 4)), expected.reshape(2, 3))
    torch.testing.assert_close(model(x[0]), expected[0])
    torch.testing.assert_close(model(x.bool()), expected)


@pytest.mark.parametrize("side", [3, 12])
def test_gradients(side: int) -> None:
    """In x of the relaxed density, by the local fields: ds/dx = 2."""
    model = _grid(side, side, True)
    x = (_normal(4, side, side, seed=2) > 0).double().requires_grad_()
    [gradient] = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient, 2 * model.local_fields(x), rtol=0, atol=1e-12)


@each_model
def test_log_partition(name: str) -> None:
    model = MODELS[name]()
    found = poe.log_partition(model)
    expected = torch.logsumexp(_by_definition(model, states(model.space)), 0)
    torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-10)
    assert found.method == "closed form"


@pytest.mark.parametrize("n", [3, 4, 8])
@pytest.mark.parametrize("beta", [0.2, 0.4406868, 0.6])
def test_log_partition_by_kaufman(n: int, beta: float) -> None:
    model = Ising.grid((n, n), torch.full((2, n, n), beta, dtype=DOUBLE), periodic=True)
    assert abs(poe.log_partition(model).value.item() - kaufman(n, beta)) < 1e-8


@pytest.mark.parametrize(
    ("n", "beta", "value"),
    [
        (3, 0.2, 6.669745),
        (3, 0.4406868, 9.020213),
        (3, 0.6, 11.587695),
        (4, 0.2, 11.771470),
        (4, 0.4406868, 15.521916),
        (4, 0.6, 20.056533),
    ],
)
def test_kaufman(n: int, beta: float, value: float) -> None:
    assert abs(kaufman(n, beta) - value) < 1e-6


def test_log_partition_at_low_temperature_is_that_of_the_ground_states() -> None:
    """Weights far beyond what a float holds: only their logarithms fit."""
    model = Ising.grid((6, 6), torch.full((2, 6, 6), 100.0, dtype=DOUBLE))
    assert abs(poe.log_partition(model).value.item() - (6000 + math.log(2))) < 1e-9


def test_log_partition_is_differentiable() -> None:
    """Its derivatives are the means of s_i s_j and of s_i."""
    model = _graph()
    learned = Ising.from_edges(
        model.edges, nn.Parameter(model.couplings), nn.Parameter(model.fields), 8
    )
    log_z = exact_log_partition(learned)
    assert log_z is not None
    by_coupling, by_field = torch.autograd.grad(log_z, [learned.couplings, learned.fields])
    x = states(model.space)
    p, s = model(x).softmax(0), 2 * x.double() - 1
    pairs = s[:, model.edges[0]] * s[:, model.edges[1]]
    torch.testing.assert_close(by_coupling, p @ pairs, rtol=0, atol=1e-12)
    torch.testing.assert_close(by_field, p @ s, rtol=0, atol=1e-12)


def test_larger_models_are_estimated() -> None:
    model = Ising.grid((12, 12), 0.2, periodic=True)
    assert exact_log_partition(model) is None
    found = poe.log_partition(model, generator=torch.Generator().manual_seed(0))
    assert not found.is_exact
    gap = found.value.item() - kaufman(12, 0.2)
    assert abs(gap) < 4 * found.std_error.item(), (gap, found)


def test_tables_beyond_memory_are_not_begun() -> None:
    assert exact_log_partition(Ising(torch.ones(26, 26).fill_diagonal_(0.0))) is None


@each_model
def test_exact_draws(name: str) -> None:
    """Counts of states by χ², where at least 5 are expected."""
    model = MODELS[name]()
    count = 20_000
    draws = exact_sample(model, count, torch.Generator().manual_seed(0))
    _check_counts(model, draws)


def _check_counts(model: Ising, draws: Tensor) -> None:
    x = states(model.space)
    p = model(x).softmax(0)
    observed = _counts(draws)
    expected = len(draws) * p
    is_many = expected >= 5
    chi2 = ((observed - expected).square() / expected)[is_many].sum().item()
    k = int(is_many.sum())
    assert abs(chi2 - k) < 4 * math.sqrt(2 * k) + 8, (chi2, k)
    assert bool(model.space.contains(draws).all())


def _counts(draws: Tensor) -> Tensor:
    """How often each state is there, in the order of ``states``."""
    bits = draws.flatten(1).long()
    places = 2 ** torch.arange(bits.shape[1]).flip(0)
    return torch.bincount((bits * places).sum(-1), minlength=2 ** bits.shape[1])


def test_sample_prefers_exact_draws() -> None:
    model = Ising.grid((8, 8), 0.44, periodic=True)
    draws = poe.sample(model, 100, generator=torch.Generator().manual_seed(0), progress=False)
    assert draws.guarantee == "exact"


def test_no_exact_draws_where_tables_are_too_large() -> None:
    model = Ising.grid((12, 12), 0.2, periodic=True)
    assert not can_sample_exactly(model)
    with pytest.raises(AttributeError, match=r"use poe\.sample"):
        model.sample(3)


@pytest.mark.parametrize("exponents", [(1.0, 1.0, 1.0), (2.0, -0.7, 0.0), (-1.5, 0.3, 4.0)])
def test_products_merge(exponents: tuple[float, float, float]) -> None:
    field = Bernoulli(_normal(4, 3, seed=5))
    parts = [_grid(4, 3, True), Ising.grid((4, 3), 0.7, -0.2).double(), field]
    product = poe.Product(*(part**w for part, w in zip(parts, exponents, strict=True)))
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, Ising)
    x = states(product.space).double()
    torch.testing.assert_close(simple(x) + log_constant, product(x), rtol=0, atol=1e-10)
    expected = torch.logsumexp(product(x), 0)
    torch.testing.assert_close(poe.log_partition(product).value, expected, rtol=0, atol=1e-10)


def test_bernoulli_and_ising_with_one_pair_each() -> None:
    """The constant of the Bernoulli is kept, also of one that stays by itself."""
    product = Bernoulli(_normal(3)) * Ising.from_edges([[0], [2]], 0.5, _normal(3, seed=1), 3)
    x = states(product.space)
    expected = torch.logsumexp(product(x), 0)
    torch.testing.assert_close(poe.log_partition(product).value, expected, rtol=0, atol=1e-12)


def test_pairs_merge_whichever_site_comes_first() -> None:
    one, other = (Ising.from_edges(pair, 0.5, 0.0, 2) for pair in ([[0], [1]], [[1], [0]]))
    merged = poe.simplify(one * other).expert
    assert isinstance(merged, Ising)
    assert (merged.edges.tolist(), merged.couplings.tolist()) == ([[0], [1]], [1.0])


def test_bernoulli_as_an_ising_model(tmp_path: Path) -> None:
    """The same density, normalised as it was, also after storage."""
    field = Bernoulli(_normal(2, 3))
    model = widen(field, {Ising})
    assert isinstance(model, Ising)
    poe.save(model, tmp_path)
    x = states(field.space)
    for same in (model, poe.load(tmp_path)):
        torch.testing.assert_close(same(x), field(x), rtol=0, atol=1e-12)
    assert abs(poe.log_partition(model).value.item()) < 1e-12


@pytest.mark.parametrize("shape", [(12, 3), (3, 12)])
def test_the_shorter_side_is_summed_along(shape: tuple[int, int]) -> None:
    assert best_order(Ising.grid(shape, 1.0).edges, shape).widths.max() == 4


def test_learned_exponents_keep_their_gradient() -> None:
    exponent = nn.Parameter(torch.tensor(0.6, dtype=DOUBLE))
    product = _dense() ** exponent * _dense()
    x = states(product.space)
    log_z = exact_log_partition(product)
    assert log_z is not None
    [found] = torch.autograd.grad(log_z, exponent)
    [expected] = torch.autograd.grad(torch.logsumexp(product(x), 0), exponent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@each_model
def test_conditionals(name: str) -> None:
    model = MODELS[name]()
    x = states(model.space)[::3].double()
    found = conditionals(model)
    assert found is not None
    log_odds = found.given(x, x.new_zeros(len(x), 0))(x).flatten(1)
    for site in range(log_odds.shape[1]):
        flips = [x.flatten(1).clone() for _ in range(2)]
        for value, flipped in enumerate(flips):
            flipped[:, site] = value
        zero, one = (model(flipped.reshape(x.shape)) for flipped in flips)
        torch.testing.assert_close(log_odds[:, site], one - zero, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "periodic"), [((4, 6), True), ((3, 5), False), ((2, 2), True)])
def test_grids_have_the_colours_of_a_checkerboard(shape: tuple[int, int], periodic: bool) -> None:
    found = conditionals(Ising.grid(shape, 0.3, periodic=periodic))
    assert found is not None
    groups = colours(found.edges, shape[0] * shape[1])
    rows, cols = torch.arange(shape[0]), torch.arange(shape[1])
    board = ((rows[:, None] + cols) % 2).flatten()
    assert [group.tolist() for group in groups] == [
        (board == colour).nonzero().flatten().tolist() for colour in (0, 1)
    ]


@pytest.mark.law
def test_block_gibbs_against_enumeration() -> None:
    """Chains from any state alike, as far from the table of states as independent draws are."""
    model = Ising.grid((4, 4), 0.44, periodic=True)
    p = model(states(model.space)).softmax(0)
    found = conditionals(model)
    assert found is not None
    kernel = BlockGibbs(found)
    assert kernel.num_sets == 2
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(model, (torch.rand(20_000, 4, 4, generator=generator) < 0.5).float())
    for _ in range(300):
        state, _ = kernel.step(model, state, generator=generator)
    check_table(model, state.position)
    energies, mean = model(state.position), p @ model(states(model.space))
    z = (energies.mean() - mean) / (energies.std() / len(energies) ** 0.5)
    assert abs(z.item()) < 4


@each_model
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    poe.save(model, tmp_path)
    loaded = poe.load(tmp_path)
    x = states(model.space)
    assert loaded.space == model.space
    assert torch.equal(loaded(x), model(x))


def test_parameters_stay_parameters(tmp_path: Path) -> None:
    couplings = nn.Parameter(torch.zeros(2))
    model = Ising.from_edges([[0, 1], [1, 2]], couplings, nn.Parameter(torch.zeros(3)), 3)
    assert model.couplings is couplings
    poe.save(model, tmp_path)
    assert [name for name, _ in poe.load(tmp_path).named_parameters()] == ["couplings", "fields"]


SYMMETRIC = [[0.0, 1.0], [1.0, 0.0]]
REFUSED: dict[str, tuple[Callable[[], Ising], str]] = {
    "asymmetric": (lambda: Ising([[0.0, 1.0], [0.5, 0.0]]), r"\(J \+ J.T\).triu\(1\)"),
    "lower triangle alone": (lambda: Ising([[0.0, 0.0], [0.5, 0.0]]), r"\(J \+ J.T\).triu\(1\)"),
    "diagonal": (lambda: Ising([[1.0, 1.0], [1.0, 0.0]]), "diagonal of 0.*use J - diag"),
    "not square": (lambda: Ising([[0.0, 1.0]]), r"shape \(n, n\), got \(1, 2\)"),
    "J learned": (lambda: Ising(nn.Parameter(torch.zeros(2, 2))), "use Ising.from_edges"),
    "J not finite": (
        lambda: Ising([[0.0, math.inf], [math.inf, 0.0]]),
        "J must be finite, got inf",
    ),
    "field of a wrong shape": (lambda: Ising(SYMMETRIC, [0.0, 1.0, 2.0]), r"\(2,\), or a number"),
    "edge out of range": (
        lambda: Ising.from_edges([[0, 1], [1, 3]], 1.0, 0.0, 3),
        r"sites 0 ... 2 of Binary\(3\), got 0 ... 3: sites are numbered as in",
    ),
    "edge to itself": (lambda: Ising.from_edges([[0], [0]], 1.0, 0.0, 3), "site 0 joined to itse"),
    "edges transposed": (
        lambda: Ising.from_edges([[0, 1], [1, 2], [2, 0]], 1.0, 0.0, 3),
        r"shape \(2, m\)",
    ),
    "couplings of a wrong number": (
        lambda: Ising.from_edges([[0, 1], [1, 2]], [1.0], 0.0, 3),
        r"couplings must be of shape \(2,\), or a number for all",
    ),
    "dtypes of parameters": (
        lambda: Ising.from_edges([[0], [1]], nn.Parameter(torch.zeros(1)), _normal(2), 2),
        "of one dtype.*before making it a parameter",
    ),
    "grid of three sides": (lambda: Ising.grid((2, 2, 2), 1.0), "for other lattices use"),
    "grid's coupling": (lambda: Ising.grid((2, 3), torch.ones(2, 3)), r"of shape \(2, 2, 3\)"),
    "grid's field": (
        lambda: Ising.grid((2, 3), 1.0, torch.ones(3)),
        r"fields must be of shape \(2, 3\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(poe.PoeError, match=words):
        build()
