"""Factor tables: log Z, draws, gradients and products against enumeration."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.normalizers.enumeration import log_sum, states
from poe.structure.twists import twists

NUM_DRAWS = 40_000


def randn(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def holed(*shape: int, seed: int = 0) -> Tensor:
    """A third of the entries −inf."""
    values = randn(*shape, seed=seed)
    return values.masked_fill(randn(*shape, seed=seed + 99) > 0.45, -torch.inf)


GRAPHS: dict[str, experts.FactorGraph] = {
    "bits": experts.FactorGraph(
        poe.Binary(5),
        [
            ((0,), randn(2)),
            ((3, 1), randn(2, 2, seed=1)),
            ((0, 1), randn(2, 2, seed=2)),
            ((4, 0, 2), holed(2, 2, 2, seed=3)),
        ],
    ),
    "a free bit": experts.FactorGraph(poe.Binary((2, 2)), [((0, 3), randn(2, 2))]),
    "a chain of tokens": experts.FactorGraph(
        poe.Sequence(3, 5), [((i, i + 1), holed(3, 3, seed=i)) for i in range(4)]
    ),
    "a ring of classes": experts.FactorGraph(
        poe.Categorical((4,), 3), [((i, (i + 1) % 4), randn(3, 3, seed=i)) for i in range(4)]
    ),
    "one element": experts.FactorGraph(poe.Sequence(4, 1), [((0,), randn(4))]),
    "no tables": experts.FactorGraph(poe.Binary(3), []).double(),
}


def by_hand(graph: experts.FactorGraph, factors: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    x = states(graph.space).flatten(1).long()
    return sum(
        (table[tuple(x[:, i] for i in scope)] for scope, table in factors), start=0 * x[:, 0]
    )


def test_the_log_density_is_the_sum_of_the_tables() -> None:
    factors = [((4, 0), randn(3, 3)), ((2, 1, 3), holed(3, 3, 3, seed=1)), ((0, 4), randn(3, 3))]
    graph = experts.FactorGraph(poe.Sequence(3, 5), factors)
    torch.testing.assert_close(graph(states(graph.space)), by_hand(graph, factors))
    bits = [((2, 0), holed(2, 2)), ((1,), randn(2, seed=1))]
    small = experts.FactorGraph(poe.Binary(3), bits)
    torch.testing.assert_close(small(states(small.space).double()), by_hand(small, bits))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_log_z_by_elimination_is_the_sum_over_all_states(graph: experts.FactorGraph) -> None:
    found = poe.log_partition(graph)
    assert found.method == "closed form"
    truth = graph(states(graph.space)).logsumexp(0)
    torch.testing.assert_close(found.value, truth)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_draws_have_the_frequencies_of_the_table(graph: experts.FactorGraph) -> None:
    truth = graph(states(graph.space)).softmax(0)
    x = graph.sample(NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    k, n = graph.space.num_values, graph.space.event_shape.numel()
    assert k is not None
    place = (x.reshape(len(x), n).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)
    found = torch.bincount(place, minlength=k**n).double() / NUM_DRAWS
    std_error = (truth * (1 - truth) / NUM_DRAWS).sqrt()
    # Of some hundred states the largest |z| of honest draws is above 4.8 once in some thousands.
    assert ((found - truth).abs() <= 4.8 * std_error).all()


def test_a_long_chain_that_nobody_could_enumerate() -> None:
    """100 bits, no two neighbours 1: the number of such states is a Fibonacci number."""
    never_both = torch.tensor([[0.0, 0.0], [0.0, -torch.inf]], dtype=torch.float64)
    graph = experts.FactorGraph(poe.Binary(100), [((i, i + 1), never_both) for i in range(99)])
    a, b = 1, 2
    for _ in range(100):
        a, b = b, a + b
    torch.testing.assert_close(
        poe.log_partition(graph).value, torch.tensor(float(a), dtype=torch.float64).log()
    )
    x = graph.sample(200, generator=torch.Generator().manual_seed(0))
    assert not ((x[:, 1:] == 1) & (x[:, :-1] == 1)).any()


def test_where_elimination_is_too_much_there_is_no_log_z_and_no_draw() -> None:
    pairs = [((i, j), randn(2, 2)) for i in range(40) for j in range(i)]
    dense = experts.FactorGraph(poe.Binary(40), pairs)
    assert poe.density.capabilities.exact_log_partition(dense) is None
    assert not hasattr(dense, "sample")
    assert dense(torch.zeros(2, 40).double()).shape == (2,)


def test_products_of_powers_merge_and_tables_of_the_same_elements_add() -> None:
    a = experts.FactorGraph(
        poe.Sequence(3, 3), [((0, 1), randn(3, 3)), ((2,), [-torch.inf, 1.0, 0.5])]
    )
    b = experts.FactorGraph(poe.Sequence(3, 3), [((1, 0), randn(3, 3, seed=2))])
    product = a**2 * b**-0.5
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, experts.FactorGraph)
    assert len(simple.factors()) == 2
    x = states(a.space)
    torch.testing.assert_close(simple(x) + log_constant, product(x))
    torch.testing.assert_close(poe.log_partition(product).value, log_sum(product))
    never = [0.0, 0.0, -torch.inf]
    hard = a / experts.FactorGraph(poe.Sequence(3, 3), [((2,), never)])
    assert isinstance(poe.simplify(hard).expert, poe.Product)  # 0 / 0 is 0, which no table says
    nothing = a**0.0
    assert (poe.simplify(nothing).expert(x) == 0).all()


def test_gradients_in_bits_are_the_differences_of_the_table() -> None:
    graph = experts.FactorGraph(poe.Binary(3), [((0, 2), randn(2, 2)), ((1, 2), holed(2, 2))])
    x = states(graph.space).double()
    x = x[graph(x) > -torch.inf].requires_grad_()
    (score,) = torch.autograd.grad(graph(x).sum(), x)
    for place in range(3):
        one, zero = x.detach().clone(), x.detach().clone()
        one[:, place], zero[:, place] = 1, 0
        slope = graph(one) - graph(zero)
        is_inside = slope.isfinite()
        torch.testing.assert_close(score[is_inside, place], slope[is_inside])
    assert score.isfinite().all()


def test_values_at_bits_between_them_and_under_a_gradient_agree() -> None:
    """Looked up at bits, and a product of matrices elsewhere: one multilinear function."""
    factors = [((0, 2, 4), randn(2, 2, 2)), ((1,), randn(2)), ((3, 1), randn(2, 2))]
    graph = experts.FactorGraph(poe.Binary(5), factors)
    x = states(poe.Binary(5)).double()
    torch.testing.assert_close(graph(x), graph(x.clone().requires_grad_()).detach())
    between = torch.rand(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.where(x == 1, between[:, None], 1 - between[:, None]).prod(-1)
    torch.testing.assert_close(graph(between), weights @ graph(x))
    torch.testing.assert_close(torch.func.vmap(graph)(between), graph(between))


def test_second_derivatives_are_the_second_differences_of_the_table() -> None:
    table = randn(2, 2)
    graph = experts.FactorGraph(poe.Binary(2), [((0, 1), table)])
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: graph(x).sum(), x)
    mixed = table[1, 1] - table[1, 0] - table[0, 1] + table[0, 0]
    torch.testing.assert_close(hessian, mixed * torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double())


def test_wide_tables_on_bits_cost_what_they_cost_on_labels() -> None:
    """Of time on the processor, the least of five; a dense contraction took 300 times as much."""
    g = torch.Generator().manual_seed(0)
    factors = [(torch.randperm(40, generator=g)[:10].tolist(), randn(*[2] * 10)) for _ in range(30)]
    x = (torch.rand(1000, 40, generator=g) < 0.5).double()
    bits = experts.FactorGraph(poe.Binary(40), factors)
    labels = experts.FactorGraph(poe.Sequence(2, 40), factors)
    torch.testing.assert_close(bits(x), labels(x.long()))

    def seconds(graph: experts.FactorGraph, given: Tensor) -> float:
        found = []
        for _ in range(5):
            began = time.process_time()
            graph(given)
            found.append(time.process_time() - began)
        return min(found)

    assert seconds(bits, x) < 10 * seconds(labels, x.long())


def test_gradients_in_one_hot_classes_are_the_entries_of_the_table() -> None:
    graph = GRAPHS["a ring of classes"]
    x = states(graph.space)
    z = nn.functional.one_hot(x, 3).double().requires_grad_()
    value = graph.log_density_of_one_hot(z)
    torch.testing.assert_close(value, graph(x))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    for place in range(4):
        for v in range(3):
            moved = x.clone()
            moved[:, place] = v
            change = gradient[:, place, v] - gradient[torch.arange(81), place, x[:, place]]
            torch.testing.assert_close(change, graph(moved) - graph(x))


def test_tables_can_be_learned() -> None:
    values = nn.Parameter(torch.zeros(1, 2, 2))
    graph = experts.FactorGraph.from_tables(poe.Binary(2), [(torch.tensor([[0, 1]]), values)])
    graph(torch.ones(1, 2)).sum().backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == [[0, 0], [0, 1]]
    (gradient,) = torch.autograd.grad(poe.density.capabilities.exact_log_partition(graph), values)
    torch.testing.assert_close(gradient, torch.full((1, 2, 2), 0.25))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_its_twist_covers_every_table_once(graph: experts.FactorGraph) -> None:
    x = states(graph.space)
    (twist,) = twists(graph)
    state, total = twist.begin(len(x)), torch.zeros(len(x), dtype=torch.float64)  # type: ignore[operator]
    for place, values in enumerate(x.flatten(1).long().T):
        total = total + twist.log_next(state, place).gather(1, values[:, None])[:, 0]  # type: ignore[operator]
        state = twist.append(state, place, values)  # type: ignore[operator]
    torch.testing.assert_close(total, graph(x))


def test_saved_and_loaded(tmp_path: Path) -> None:
    for name, graph in GRAPHS.items():
        poe.save(graph, tmp_path / name)
        loaded = poe.load(tmp_path / name)
        assert torch.equal(loaded(states(graph.space)), graph(states(graph.space)))
        assert repr(loaded) == repr(graph)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: experts.FactorGraph(poe.Binary(3), [((0, 3), randn(2, 2))]), r"elements 0 ... 2"),
        (lambda: experts.FactorGraph(poe.Binary(3), [((1, 1), randn(2, 2))]), r"got \[1, 1\]"),
        (lambda: experts.FactorGraph(poe.Binary(3), [((0, 1), randn(2, 3))]), r"shape \(2, 2\)"),
        (
            lambda: experts.FactorGraph(poe.Binary(3), [((0,), [0.0, torch.nan])]),
            "over \\(0,\\) must be numbers or -inf, got nan",
        ),
        (lambda: experts.FactorGraph(poe.Real(3), []), "finitely many values"),
        (
            lambda: experts.FactorGraph(poe.Binary(20), [(range(13), torch.zeros([2] * 13))]),
            "experts.graphs.at_most or experts.graphs.parity",
        ),
    ],
)
def test_bad_tables_are_refused_in_words(build: Callable[[], object], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        build()
