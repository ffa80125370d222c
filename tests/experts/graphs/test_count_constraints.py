"""Constraints on bits: against enumeration."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import experts
import poe
from poe.normalizers.enumeration import log_sum, states
from poe.structure.twists import twists

NUM_DRAWS = 40_000
CONSTRAINTS: dict[str, tuple[experts.Constraint, int]] = {
    "at most 2 of 5": (experts.graphs.at_most(2, 5), 1 + 5 + 10),
    "at least 4 of 5": (experts.graphs.at_least(4, 5), 5 + 1),
    "exactly 2 of 2 x 3": (experts.graphs.exactly(2, (2, 3)), 15),
    "none of 3": (experts.graphs.at_most(0, 3), 1),
    "even of 6": (experts.graphs.parity(6), 2**5),
    "odd of 6": (experts.graphs.parity(6, odd=True), 2**5),
    "0 or 3 of 4": (experts.Constraint(4, [True, False, False, True, False]), 5),
}


@pytest.mark.parametrize(("constraint", "count"), CONSTRAINTS.values(), ids=CONSTRAINTS.keys())
def test_log_z_is_that_of_the_states_inside(constraint: experts.Constraint, count: int) -> None:
    values = constraint(states(constraint.space))
    assert int((values == 0).sum()) == count
    assert int((values == -torch.inf).sum()) == len(values) - count
    found = poe.log_partition(constraint)
    assert found.method == "closed form"
    torch.testing.assert_close(found.value, torch.tensor(math.log(count)))
    torch.testing.assert_close(log_sum(constraint), found.value)


@pytest.mark.parametrize(("constraint", "count"), CONSTRAINTS.values(), ids=CONSTRAINTS.keys())
def test_draws_are_uniform_over_the_states_inside(
    constraint: experts.Constraint, count: int
) -> None:
    x = constraint.sample(NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    n = constraint.num_elements
    place = (x.reshape(len(x), n).long() * 2 ** torch.arange(n - 1, -1, -1)).sum(1)
    found = torch.bincount(place, minlength=2**n).double() / NUM_DRAWS
    truth = (constraint(states(constraint.space)) == 0).double() / count
    std_error = (truth * (1 - truth) / NUM_DRAWS).sqrt()
    assert ((found - truth).abs() <= 4 * std_error).all()


def test_products_allow_what_all_allow() -> None:
    product = (
        experts.graphs.parity(6)
        * experts.graphs.at_most(3, 6) ** 0.5
        * experts.graphs.at_least(1, 6)
    )
    simple = poe.simplify(product).expert
    assert repr(simple) == "Constraint(Binary(6), ones: 2)"
    torch.testing.assert_close(poe.log_partition(product).value, torch.tensor(math.log(15)))


def test_products_without_a_state_or_with_other_exponents_stay_as_they_are() -> None:
    for product in (
        experts.graphs.exactly(1, 4) * experts.graphs.exactly(2, 4),
        experts.graphs.at_most(1, 4) / experts.graphs.at_most(2, 4),
        experts.graphs.at_most(1, 4) ** torch.nn.Parameter(torch.tensor(1.0))
        * experts.graphs.parity(4),
    ):
        assert isinstance(poe.simplify(product).expert, poe.Product)


def test_large_ones_stay_exact() -> None:
    n = 1000
    found = poe.log_partition(experts.graphs.parity(n)).value
    torch.testing.assert_close(found, torch.tensor((n - 1) * math.log(2)), rtol=1e-6, atol=0)
    x = experts.graphs.at_most(10, n).sample(100, generator=torch.Generator().manual_seed(0))
    assert x.sum(1).max() <= 10


def test_what_is_no_bit_is_outside_and_has_no_log_prob() -> None:
    constraint = experts.graphs.at_most(2, 3)
    assert constraint(torch.tensor([[0.5, 0.5, 0.0]])).item() == -math.inf
    with pytest.raises(poe.PoeError, match=r"got -1.0 in event 1: .*spins s are \(s \+ 1\) / 2"):
        constraint.log_prob(torch.tensor([[0.0, 1.0, 0.0], [-1.0, 1.0, 1.0]]))


def test_a_gradient_exists_and_is_zero() -> None:
    assert (
        torch.autograd.grad(
            experts.graphs.parity(3)(x := torch.zeros(2, 3, requires_grad=True)).sum(), x
        )[0]
        .eq(0)
        .all()
    )


@pytest.mark.parametrize(("constraint", "count"), CONSTRAINTS.values(), ids=CONSTRAINTS.keys())
def test_its_twist_is_open_exactly_where_some_continuation_is_inside(
    constraint: experts.Constraint, count: int
) -> None:
    x = states(constraint.space).reshape(2**constraint.num_elements, -1).long()
    inside = constraint(states(constraint.space)) == 0
    (twist,) = twists(constraint)
    state = twist.begin(len(x))  # type: ignore[operator]
    for place, values in enumerate(x.T):
        ratios = twist.log_next(state, place)  # type: ignore[operator]
        for row in range(len(x)):
            for value in (0, 1):
                prefix = torch.cat([x[row, :place], torch.tensor([value])])
                is_open = inside[(x[:, : place + 1] == prefix).all(1)].any()
                assert (ratios[row, value] == 0) == is_open
        state = twist.append(state, place, values)  # type: ignore[operator]


def test_saved_and_loaded(tmp_path: Path) -> None:
    constraint = experts.graphs.at_most(2, (2, 2)).double()
    poe.save(constraint, tmp_path / "c")
    loaded = poe.load(tmp_path / "c")
    assert repr(loaded) == repr(constraint)
    assert torch.equal(loaded.log_prob(torch.eye(4).reshape(4, 2, 2)[:2]), constraint.log_prob(
        torch.eye(4).reshape(4, 2, 2)[:2]
    ))  # fmt: skip


def test_bad_counts_are_refused_in_words() -> None:
    with pytest.raises(poe.PoeError, match="between 0 and 4 for Binary\\(4\\), got 5"):
        experts.graphs.at_most(5, 4)
    with pytest.raises(poe.PoeError, match="between 0 and 4"):
        experts.graphs.exactly(-1, 4)
    with pytest.raises(poe.PoeError, match="contradict"):
        experts.Constraint(2, [False, False, False])
    with pytest.raises(poe.PoeError, match=r"shape \(3,\)"):
        experts.Constraint(2, [True])
