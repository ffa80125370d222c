"""Log-odds of compositions against enumeration, and colourings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Bernoulli
from poe.density.capabilities import Conditionals, LogOdds, conditionals
from poe.normalizers.enumeration import states
from poe.structure.conditionals import colours


class Pairs(poe.Expert):
    """x'Jx / 2 for symmetric J without a diagonal: log-odds J x."""

    def __init__(self, coupling: Tensor) -> None:
        super().__init__()
        self.space = poe.Binary(len(coupling))
        self.coupling = coupling

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.einsum("...i,ij,...j->...", x, self.coupling, x)


class Copied(poe.Expert):
    """One hidden unit z with p(x, z) ∝ exp(z a'x), so that p̃(x) = 1 + exp(a'x)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.space = poe.Binary(len(weight))
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x @ self.weight)


@conditionals.register
def _(expert: Pairs) -> Conditionals:
    edges = expert.coupling.triu().nonzero().T
    return Conditionals(edges, 0, lambda x, uniforms: lambda x: x @ expert.coupling)


@conditionals.register
def _(expert: Copied) -> Conditionals:
    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        z = (uniforms[:, 0] < (x @ expert.weight).sigmoid()).to(x)
        return lambda x: z[:, None] * expert.weight

    return Conditionals(torch.empty((2, 0), dtype=torch.int64), 1, given)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COUPLING = f64(0, 1.2, 0, 1.2, 0, -0.7, 0, -0.7, 0).reshape(3, 3)
pairs, field, copied = Pairs(COUPLING), Bernoulli(f64(0.5, -1, 2)), Copied(f64(0.7, -1.5, 1.0))
WITHOUT_HIDDEN = {
    "field": field,
    "product": pairs * field,
    "powers": pairs**0.3 * field**-2 / pairs**1.5,
    "power of a product": poe.Tempered(pairs * field, -0.5),
    "no say": pairs**0 * field,
}


def enumerated(expert: poe.Expert) -> tuple[Tensor, Tensor]:
    """All states, and the log-odds of every element there: ``(n, d)`` twice."""
    x = states(expert.space).double()
    columns = []
    for i in range(x.shape[1]):
        one, zero = x.clone(), x.clone()
        one[:, i], zero[:, i] = 1, 0
        columns.append(expert(one) - expert(zero))
    return x, torch.stack(columns, 1)


@pytest.mark.parametrize("name", WITHOUT_HIDDEN)
def test_log_odds_against_enumeration(name: str) -> None:
    expert = WITHOUT_HIDDEN[name]
    found = conditionals(expert)
    assert found is not None
    assert found.num_hidden == 0
    x, log_odds = enumerated(expert)
    torch.testing.assert_close(found.given(x, x[:, :0])(x), log_odds, rtol=0, atol=1e-12)


def test_edges_unite_and_those_of_no_say_go() -> None:
    assert edges_of(pairs * field) == {(0, 1), (1, 2)}
    ends = torch.zeros(3, 3, dtype=torch.float64)
    ends[0, 2] = ends[2, 0] = 1.0
    assert edges_of(pairs * Pairs(ends)) == {(0, 1), (1, 2), (0, 2)}
    assert edges_of(pairs**0) == set()


def edges_of(expert: poe.Expert) -> set[tuple[int, int]]:
    found = conditionals(expert)
    assert found is not None
    assert found.edges.dtype == torch.int64
    return {(int(i), int(j)) for i, j in found.edges.T}


def test_a_count_as_exponent_is_so_many_copies_of_hidden_units() -> None:
    """p(x)³ = Σ p(x, z₁) p(x, z₂) p(x, z₃): each z has its own uniform."""
    found = conditionals(copied**3 * field)
    assert found is not None
    assert found.num_hidden == 3
    x, uniforms = torch.zeros(1, 3, dtype=torch.float64), f64(0.1, 0.9, 0.2)[None]
    # At x = 0 each z is 1 with probability 1/2: by these uniforms two of the three.
    torch.testing.assert_close(
        found.given(x, uniforms)(x), (2 * copied.weight + field.logits)[None], rtol=0, atol=0
    )


@pytest.mark.parametrize("weight", [0.5, -1.0, 1000.0, nn.Parameter(torch.tensor(2.0))])
def test_other_exponents_of_hidden_units_are_not_known(weight: float | Tensor) -> None:
    assert conditionals(copied**weight) is None
    assert conditionals(poe.Product(copied**weight, field)) is None
    assert conditionals(field**weight) is not None


def test_a_factor_that_is_not_known_makes_the_product_so() -> None:
    unknown = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(3))
    assert conditionals(unknown) is None
    assert conditionals(unknown * field) is None
    assert conditionals(unknown**2) is None


@pytest.mark.parametrize(
    ("edges", "size", "count"),
    [
        ([], 4, 1),
        ([(0, 1), (1, 2), (2, 3)], 5, 2),
        ([(0, 1), (1, 2), (2, 0)], 3, 3),
        ([(3, 0), (0, 3), (0, 3)], 4, 2),
        ([(i, j) for i in range(5) for j in range(i)], 5, 5),
        ([], 0, 0),
    ],
)
def test_no_edge_has_both_ends_of_one_colour(
    edges: list[tuple[int, int]], size: int, count: int
) -> None:
    groups = colours(torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T, size)
    assert len(groups) == count
    assert sorted(i for group in groups for i in group.tolist()) == list(range(size))
    colour_of = {i: c for c, group in enumerate(groups) for i in group.tolist()}
    assert all(colour_of[i] != colour_of[j] for i, j in edges)


def test_a_grid_has_two_colours() -> None:
    rows, columns = 5, 6
    places = torch.arange(rows * columns).reshape(rows, columns)
    right = torch.stack([places[:, :-1].flatten(), places[:, 1:].flatten()])
    down = torch.stack([places[:-1].flatten(), places[1:].flatten()])
    assert len(colours(torch.cat([right, down], 1), rows * columns)) == 2
