"""Forms min_p u' P u + max_n u' N u: what is proven of them is true, and little is left open."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poe.structure.quadratic_forms import decide


def forms(count: int, d: int, generator: torch.Generator) -> Tensor:
    """Positive definite matrices of differing shapes and sizes."""
    root = torch.randn(count, d, d + 1, generator=generator, dtype=torch.float64)
    size = torch.randn(count, d, 1, generator=generator, dtype=torch.float64).mul(0.7).exp()
    return (root * size) @ (root * size).mT / d


def value(positive: Tensor, negative: Tensor, u: Tensor) -> Tensor:
    """f at each row of u."""
    of = [torch.einsum("ci,kij,cj->kc", u, some, u) for some in (positive, negative)]
    return of[0].amin(0) + of[1].amax(0)


def largest(positive: Tensor, negative: Tensor, *, proven: bool) -> float:
    """The largest multiple of N that is proven positive, or that is not proven negative."""
    low, high = 1e-3, 10.0
    for _ in range(25):
        middle = (low * high) ** 0.5
        verdict = decide(positive, negative * middle)
        is_below = verdict.is_positive if proven else verdict.direction is None
        low, high = (middle, high) if is_below else (low, middle)
    return low


@pytest.mark.parametrize(("d", "most"), [(1, 4), (2, 4), (3, 2), (6, 2)])
def test_all_is_decided_in_two_dimensions_and_of_two_negative_forms(d: int, most: int) -> None:
    generator = torch.Generator().manual_seed(d)
    for count in range(1, most + 1):
        for number in (1, 3):
            positive, negative = forms(number, d, generator), -forms(count, d, generator)
            edges = [largest(positive, negative, proven=proven) for proven in (True, False)]
            assert 0 <= edges[1] / edges[0] - 1 < 1e-3


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_what_is_proven_is_true(d: int, count: int) -> None:
    generator = torch.Generator().manual_seed(10 * d + count)
    num_positive = num_negative = 0
    for _ in range(30):
        positive, negative = forms(2, d, generator), -forms(count, d, generator)
        negative = negative * 10 ** (-3 * torch.rand((), generator=generator, dtype=torch.float64))
        is_positive, u = decide(positive, negative)
        if u is not None:
            torch.testing.assert_close(u.norm(), torch.ones((), dtype=torch.float64))
            assert value(positive, negative, u[None]) < 0
            num_negative += 1
        elif is_positive:
            anywhere = torch.randn(20_000, d, generator=generator, dtype=torch.float64)
            assert value(positive, negative, anywhere).min() > 0
            num_positive += 1
    assert num_positive > 0
    assert num_negative > 0


def test_units_do_not_matter() -> None:
    units = torch.tensor([1e-6, 1.0, 1e5], dtype=torch.float64)
    positive, negative = torch.eye(3)[None].double(), -torch.diag(torch.tensor([0.5, 1.5, 0.5]))
    scaled = [some.double() * units * units[:, None] for some in (positive, negative[None])]
    verdict = decide(*scaled)
    assert verdict.direction is not None
    assert verdict.direction.abs().argmax() == 1
    assert decide(scaled[0], scaled[1] * 0.6).is_positive


def test_what_balances_is_left_open() -> None:
    eye = torch.eye(3, dtype=torch.float64)[None]
    for negative in (-eye, torch.cat([-eye, -eye])):
        verdict = decide(eye, negative)
        assert not verdict.is_positive
        assert verdict.direction is None
