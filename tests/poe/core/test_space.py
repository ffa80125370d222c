"""Spaces: value, membership, shapes, unconstrained coordinates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import poe
from poe.core.space import space_of

g = torch.Generator().manual_seed(0)
CONTINUOUS: dict[str, tuple[poe.Space, Tensor]] = {
    "Real": (poe.Real((2, 3)), torch.randn(4, 2, 3, generator=g)),
    "Real, scalar": (poe.Real(()), torch.randn(4, generator=g)),
    "Interval": (poe.Interval(2, -1, 3), torch.rand(4, 2, generator=g) * 4 - 1),
    "Positive": (poe.Positive(2), torch.rand(4, 2, generator=g) + 0.1),
    "Simplex": (poe.Simplex(3), torch.rand(4, 3, generator=g).softmax(-1)),
    "PositiveDefinite": (poe.PositiveDefinite(2), (torch.eye(2) + 0.3).expand(4, 2, 2)),
}
DISCRETE: dict[str, tuple[poe.Space, Tensor]] = {
    "Binary": (poe.Binary((2, 2)), torch.ones(4, 2, 2)),
    "Categorical": (poe.Categorical((), 3), torch.tensor([0, 1, 2, 2])),
    "Count": (poe.Count(1), torch.tensor([[0], [5], [7], [1]])),
    "Sequence": (poe.Sequence(5, 3), torch.zeros(4, 3, dtype=torch.long)),
}
OUTSIDE = [
    (poe.Real(1), [[torch.inf]]),
    (poe.Interval(1, 0, 1), [[1.5]]),
    (poe.Positive(1), [[0.0]]),
    (poe.Simplex(2), [[0.5, 0.6]]),
    (poe.Simplex(2), [[-0.5, 1.5]]),
    (poe.PositiveDefinite(2), [[[1.0, 2.0], [2.0, 1.0]]]),
    (poe.PositiveDefinite(2), [[[1.0, 0.5], [0.0, 1.0]]]),
    (poe.Binary(1), [[2.0]]),
    (poe.Categorical((1,), 3), [[3]]),
    (poe.Categorical((1,), 3), [[0.5]]),
    (poe.Count(1), [[-1]]),
    (poe.Count(1), [[0.5]]),
    (poe.Sequence(3, 2), [[0, 3]]),
]


def test_spaces_compare_by_value() -> None:
    assert poe.Real(2) == poe.Real((2,)) == poe.Real([2])
    assert len({poe.Real(2), poe.Real((2,)), poe.Binary(2)}) == 2
    assert poe.Real(2) != poe.Positive(2)
    assert poe.Interval(2, 0, 1) != poe.Interval(2, 0, 2)


def test_spaces_read_as_they_are_written() -> None:
    assert str(poe.Real(2)) == "Real(2)"
    assert str(poe.Binary((28, 28))) == "Binary((28, 28))"
    assert str(poe.Interval(2, 0, 0.5)) == "Interval(2, 0, 0.5)"
    assert str(poe.Sequence(5, 3)) == "Sequence(5, 3)"


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_events_of_the_space_are_inside(name: str) -> None:
    space, x = (CONTINUOUS | DISCRETE)[name]
    assert space.batch_shape(x) == (4,)
    assert space.contains(x).tolist() == [True] * 4
    assert space.contains(x[0]).shape == ()
    assert space.is_discrete == (name in DISCRETE)


@pytest.mark.parametrize(("space", "x"), OUTSIDE, ids=str)
def test_other_events_are_outside(space: poe.Space, x: list[object]) -> None:
    assert space.contains(torch.tensor(x)).tolist() == [False]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_unconstrained_coordinates_come_back(name: str) -> None:
    space, x = CONTINUOUS[name]
    x = x.double()
    u = space.to_unconstrained(x)
    assert space.unconstrained().batch_shape(u) == (4,)
    torch.testing.assert_close(space.to_unconstrained.inv(u), x)


@pytest.mark.parametrize("name", ["Interval", "Positive", "PositiveDefinite", "Simplex"])
def test_jacobian_is_that_of_the_base_measure(name: str) -> None:
    """log |det| against autograd, in the coordinates that the base measure counts."""
    space, events = CONTINUOUS[name]
    inverse = space.to_unconstrained.inv
    u = space.to_unconstrained(events[0].double())

    def measured(u: Tensor) -> Tensor:
        x = inverse(u)
        if isinstance(space, poe.Simplex):
            return x[:-1]
        if isinstance(space, poe.PositiveDefinite):
            rows, columns = torch.tril_indices(space.k, space.k)
            return x[rows, columns]
        return x.flatten()

    jacobian = torch.autograd.functional.jacobian(measured, u)
    claimed = inverse.log_abs_det_jacobian(u, inverse(u)).sum()
    torch.testing.assert_close(claimed, torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_spaces_have_no_unconstrained_coordinates(name: str) -> None:
    space = DISCRETE[name][0]
    with pytest.raises(poe.PoeError, match="is discrete"):
        space.unconstrained()
    with pytest.raises(poe.PoeError, match="is discrete"):
        _ = space.to_unconstrained


def test_wrong_shape_says_expected_got_and_remedy() -> None:
    with pytest.raises(poe.ShapeError, match=r"\(\*batch, 2\) for Real\(2\), got \(3,\); put"):
        poe.Real(2).batch_shape(torch.zeros(3))
    with pytest.raises(poe.ShapeError, match=r"got \(\)"):
        poe.Real(2).batch_shape(torch.zeros(()))


def test_integers_are_refused_where_floats_are_expected() -> None:
    with pytest.raises(poe.DtypeError, match=r"expected floating-point x in Real\(2\), .*int64"):
        poe.Real(2).batch_shape(torch.zeros(3, 2, dtype=torch.long))


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(poe.DtypeError, match=r"expected a torch\.Tensor .* got list"):
        poe.Real(1).batch_shape([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [-1, (2, -1), 1.5, "ab", True])
def test_bad_shapes_are_refused(shape: object) -> None:
    with pytest.raises((poe.ShapeError, TypeError)):
        poe.Real(shape)  # type: ignore[arg-type]


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(poe.PoeError, match="expected low < high"):
        poe.Interval(1, 1, 1)
    with pytest.raises(poe.ShapeError, match="k >= 2"):
        poe.Simplex(1)


@pytest.mark.parametrize(
    ("support", "space"),
    [
        (constraints.real, poe.Real(2)),
        (constraints.real_vector, poe.Real(2)),
        (constraints.positive, poe.Positive(2)),
        (constraints.nonnegative, poe.Positive(2)),
        (constraints.unit_interval, poe.Interval(2)),
        (constraints.interval(-1, 2), poe.Interval(2, -1, 2)),
        (constraints.simplex, poe.Simplex(2)),
        (constraints.boolean, poe.Binary(2)),
        (constraints.nonnegative_integer, poe.Count(2)),
        (constraints.integer_interval(0, 4), poe.Categorical(2, 5)),
        (constraints.independent(constraints.positive, 1), poe.Positive(2)),
    ],
    ids=str,
)
def test_space_of_a_support(support: constraints.Constraint, space: poe.Space) -> None:
    assert space_of(support, (2,)) == space


@pytest.mark.parametrize(
    "support",
    [
        constraints.corr_cholesky,
        constraints.greater_than(1),
        constraints.interval(torch.zeros(2), torch.tensor([1.0, 2.0])),
    ],
    ids=str,
)
def test_support_without_a_space_is_refused(support: constraints.Constraint) -> None:
    with pytest.raises(poe.PoeError, match="expected"):
        space_of(support, (2,))


@pytest.mark.parametrize("shape", [None, 2.5, math.nan, torch.tensor(2), object(), True, "ab", -1])
@pytest.mark.parametrize("kind", [poe.Real, poe.Binary, poe.Positive])
def test_what_is_no_shape_is_refused_in_words(kind: Any, shape: Any) -> None:
    with pytest.raises(poe.ShapeError, match="expected a shape of positive integers, got"):
        kind(shape)
