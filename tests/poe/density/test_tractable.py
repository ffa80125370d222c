"""What is tractable is one question, answered without trying attributes, and paid for once."""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import experts
import poe
from experts.graphs import factor_graph
from experts.graphs.variable_elimination import (
    Step,
    Table,
    eliminate,
    elimination_order,
)
from experts.spins import ising
from poe.density.capabilities import (
    can_sample_exactly,
    exact_log_partition,
    is_normalized,
    log_prob_of,
    sampler_of,
)

ROOT = Path(poe.__file__).resolve().parents[1]
ASKED = {"log_prob", "sample", "log_density_of_one_hot"}


def library() -> list[tuple[str, ast.AST]]:
    """What is written in the files that look attributes up."""
    files = [path for package in ("poe", "experts") for path in (ROOT / package).rglob("*.py")]
    texts = {str(path): path.read_text("utf-8") for path in files}
    asking = {f: text for f, text in texts.items() if "hasattr" in text or "getattr" in text}
    return [(f, node) for f, text in asking.items() for node in ast.walk(ast.parse(text))]


def test_no_expert_is_asked_by_its_attributes() -> None:
    nodes = library()
    asked = [
        f"{file}:{node.lineno}"
        for file, node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("hasattr", "getattr") and len(node.args) > 1
        if isinstance(node.args[1], ast.Constant) and node.args[1].value in ASKED
        if "adapters" not in file and "score_model" not in file  # other libraries' models
    ]
    assert not asked
    defined = [
        file for file, n in nodes if isinstance(n, ast.FunctionDef) if n.name == "__getattr__"
    ]
    assert [Path(file).name for file in defined if "__init__" not in file] == ["expert.py"]


class Faulty(poe.Expert):
    """Says by a property whether it is normalised, with a mistake in it."""

    space = poe.Real(1)

    def forward(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1)

    @property
    def log_prob(self) -> Callable[[Tensor], Tensor]:
        return self.space.no_such_thing  # type: ignore[attr-defined, no-any-return]


class Ruled(Faulty):
    log_prob = None  # type: ignore[assignment]


@sampler_of.register
def _(expert: Ruled) -> None:
    return expert.space.no_such_thing  # type: ignore[attr-defined, no-any-return]


def test_a_mistake_inside_is_not_read_as_not_normalised() -> None:
    for ask in (is_normalized, exact_log_partition, poe.log_partition):
        with pytest.raises(AttributeError, match="no_such_thing"):
            ask(Faulty())  # type: ignore[operator]
    for ask in (can_sample_exactly, lambda e: can_sample_exactly(poe.Chunked(e, 3))):
        with pytest.raises(AttributeError, match="no_such_thing"):
            ask(Ruled())
    with pytest.raises(poe.PoeError, match=r"whether Ruled has sample.*no_such_thing"):
        hasattr(Ruled(), "sample")
    with pytest.raises(poe.PoeError, match=r"whether Chunked has log_prob.*no_such_thing"):
        hasattr(poe.Chunked(Faulty(), 3), "log_prob")
    assert not is_normalized(Ruled())


def test_a_method_of_the_object_counts_and_one_of_the_class_is_bound() -> None:
    expert = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(1))
    assert not is_normalized(expert)
    assert not hasattr(expert, "log_prob")
    with pytest.raises(AttributeError, match="FromLogDensity has no log_prob, since its normal"):
        _ = expert.log_prob
    with pytest.raises(AttributeError, match="FromLogDensity has no exact sample"):
        _ = expert.sample
    with pytest.raises(AttributeError, match="no attribute 'log_probe'"):
        _ = expert.log_probe
    expert.log_prob = expert.forward  # type: ignore[method-assign]
    assert is_normalized(expert)
    line = experts.Gaussian([0.0], scale=[1.0])
    found = log_prob_of(line)
    assert found is not None
    assert torch.equal(found(torch.ones(1, 1)), line.log_prob(torch.ones(1, 1)))


# What asking costs.


def chain(length: int) -> experts.FactorGraph:
    scopes = torch.stack([torch.arange(length - 1), torch.arange(1, length)], 1)
    values = torch.randn(length - 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return experts.FactorGraph.from_tables(poe.Binary(length), [(scopes, values)])


def star(length: int) -> experts.FactorGraph:
    scopes = torch.stack([torch.zeros(length - 1).long(), torch.arange(1, length)], 1)
    return experts.FactorGraph.from_tables(
        poe.Binary(length), [(scopes, torch.zeros(length - 1, 2, 2))]
    )


def steps_of(work: Callable[[], object]) -> int:
    """How many lines of Python and calls of C it takes."""
    count = 0

    def follow(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return follow

    sys.settrace(follow)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("make", [chain, star])
def test_twice_the_sites_are_twice_the_work(make: Callable[[int], experts.FactorGraph]) -> None:
    def order(graph: experts.FactorGraph) -> list[Step]:
        found = graph.elimination_order()
        assert found is not None
        return found

    short, long = make(100), make(200)
    assert steps_of(lambda: order(long)) < 2.3 * steps_of(lambda: order(short))
    tables = [graph.factors() for graph in (short, long)]
    assert steps_of(lambda: eliminate(order(long), tables[1])) < 2.3 * steps_of(
        lambda: eliminate(order(short), tables[0])
    )


def smallest_first(scopes: Sequence[tuple[int, ...]]) -> list[Step]:
    """The same, by the least of all at each step."""
    around: dict[int, set[int]] = {}
    for scope in scopes:
        for element in scope:
            around.setdefault(element, set()).update(scope)
    order = []
    while around:
        element = min(around, key=lambda e: (len(around[e]), e))
        others = around.pop(element) - {element}
        for other in others:
            around[other] = (around[other] | others) - {element}
        order.append(Step(element, tuple(sorted(others))))
    return order


@pytest.mark.parametrize("seed", range(20))
def test_the_heap_finds_the_smallest_table_first(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scopes = [tuple(torch.randperm(9, generator=g)[: 1 + seed % 3].tolist()) for _ in range(12)]
    assert elimination_order(scopes, 2) == smallest_first(scopes)


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_over_a_random_graph_is_that_of_all_states(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    space, tables = poe.Categorical((5,), 3), []
    for _ in range(7):
        scope = tuple(torch.randperm(5, generator=g)[:2].sort().values.tolist())
        tables.append(Table(scope, torch.randn(3, 3, generator=g).double()))
    order = elimination_order([table.scope for table in tables], 3)
    assert order is not None
    graph = experts.FactorGraph(space, tables)
    free = 5 - len(order)
    states = torch.cartesian_prod(*[torch.arange(3)] * 5)
    expected = graph(states).logsumexp(0)
    got = eliminate(order, tables)[0] + free * torch.tensor(3.0).log()
    torch.testing.assert_close(got, expected)


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[object]:
    calls: list[object] = []
    original = getattr(module, name)

    def count(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, name, count)
    return calls


def test_the_order_of_a_graph_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, factor_graph, "elimination_order")
    graph = chain(12)
    for _ in range(3):
        assert hasattr(graph, "sample")
        assert can_sample_exactly(poe.Chunked(graph, 3))
    graph.sample(3, generator=torch.Generator().manual_seed(0))
    before = exact_log_partition(graph)
    graph.tables[0].values.add_(1.0)  # the order depends on the structure alone
    after = exact_log_partition(graph)
    assert before is not None
    assert after is not None
    torch.testing.assert_close(after, before + 11.0)
    assert len(calls) == 1


def test_another_structure_has_another_order() -> None:
    graph, other = chain(6), star(6)
    assert graph.elimination_order() == chain(6).elimination_order()
    twin = copy.deepcopy(graph)
    graph.load_state_dict(other.state_dict())
    assert graph.elimination_order() == other.elimination_order()
    torch.testing.assert_close(exact_log_partition(graph), exact_log_partition(other))
    assert twin.elimination_order() == chain(6).elimination_order()
    double = twin.double()
    states = torch.cartesian_prod(*[torch.arange(2.0)] * 6).double()
    torch.testing.assert_close(exact_log_partition(double), double(states).logsumexp(0))


def test_the_order_of_spins_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, ising, "best_order")
    magnet = experts.Ising.grid((3, 4), coupling=0.4)
    for _ in range(3):
        assert hasattr(magnet, "sample")
    before = exact_log_partition(magnet)
    magnet.sample(2, generator=torch.Generator().manual_seed(0))
    magnet.couplings.mul_(2.0)
    after = exact_log_partition(magnet)
    assert before is not None
    assert after is not None
    assert after > before + 1
    assert len(calls) == 1
