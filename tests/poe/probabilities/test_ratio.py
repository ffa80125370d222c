"""Log-ratios, where the normaliser cancels and infinities do not."""

from __future__ import annotations

import math

import pytest
import torch

import poe
from experts import Gaussian
from tests.seeds import seeded


def saying(*values: float) -> poe.Expert:
    """At x = i the log-density is values[i]."""
    table = torch.tensor(values)
    return poe.FromLogDensity(lambda x: table[x[:, 0].long()], space=poe.Real(1))


def points(*indices: int) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.float32)[:, None]


@seeded()
def test_log_ratio_is_the_difference() -> None:
    target = Gaussian([0.0], scale=1.0) * Gaussian([2.0], scale=0.5)
    x, x_prime = torch.randn(5, 1), torch.randn(5, 1)
    torch.testing.assert_close(poe.log_ratio(target, x, x_prime), target(x) - target(x_prime))


def test_one_excluded_point_is_legal() -> None:
    target = saying(0.0, -torch.inf)
    ratio = poe.log_ratio(target, points(0, 1, 0), points(0, 0, 1))
    assert ratio.tolist() == [0.0, -torch.inf, torch.inf]


def test_two_excluded_points_have_no_ratio() -> None:
    with pytest.raises(poe.NonFiniteError, match="1 of 2 pairs have log-density -inf at both"):
        poe.log_ratio(saying(0.0, -torch.inf), points(0, 1), points(0, 1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_log_density_is_reported(value: float) -> None:
    with pytest.raises(poe.NonFiniteError, match="1 of 2 log-densities at x are NaN"):
        poe.log_ratio(saying(0.0, value), points(0, 1), points(0, 0))
    with pytest.raises(poe.NonFiniteError, match=r"at x_prime are NaN.*contributions\(x_prime\)"):
        poe.log_ratio(saying(0.0, value), points(0, 0), points(0, 1))


def test_nan_in_x_is_reported() -> None:
    with pytest.raises(poe.NonFiniteError, match="1 of 1 log-densities"):
        poe.log_ratio(Gaussian([0.0], scale=1.0), torch.full((1, 1), torch.nan), torch.zeros(1, 1))


def test_nothing_broadcasts() -> None:
    with pytest.raises(poe.ShapeError, match=r"got \(3, 1\) and \(1, 1\); use expand_as"):
        poe.log_ratio(Gaussian([0.0], scale=1.0), torch.zeros(3, 1), torch.zeros(1, 1))


A, B = Gaussian([0.0, 1.0], scale=1.0), Gaussian([2.0, 0.0], scale=0.5)


@pytest.mark.parametrize("rows_at_once", [None, 1, 4, 100])
def test_contributions_sum_to_the_log_ratio(rows_at_once: int | None) -> None:
    product = poe.Product(a=A, b=B**0.5, c=A**-0.25)
    g = torch.Generator().manual_seed(0)
    x, x_prime = torch.randn(2, 3, 5, 2, generator=g)
    found = poe.log_ratio_contributions(product, x, x_prime, rows_at_once=rows_at_once)
    assert found.shape == (3, 5, 3)
    torch.testing.assert_close(found[..., 1], 0.5 * (B(x) - B(x_prime)))
    torch.testing.assert_close(found.sum(-1), poe.log_ratio(product, x, x_prime))


def test_rows_at_once_bounds_what_is_evaluated_together() -> None:
    seen = []
    watched = poe.FromLogDensity(
        lambda x: seen.append(len(x)) or -x.square().sum(-1), space=poe.Real(2)
    )
    x = torch.ones(10, 2)
    poe.log_ratio_contributions(poe.Product(A, watched), x, x, rows_at_once=4)
    assert seen == [4, 4, 2, 4, 4, 2]


def test_contributions_of_an_excluded_point() -> None:
    """At 0 both have a density, at 1 the first one vetoes; there 0 / 0 is the veto alone."""
    first, second = saying(1.0, -torch.inf), saying(3.0, -torch.inf)
    found = poe.log_ratio_contributions(first / second, points(1, 0), points(0, 1))
    assert found[:, 0].tolist() == [-torch.inf, torch.inf]
    assert (
        found.sum(-1).tolist() == poe.log_ratio(first / second, points(1, 0), points(0, 1)).tolist()
    )
    with pytest.raises(poe.NonFiniteError, match="1 of 1 pairs have log-density -inf"):
        poe.log_ratio_contributions(first * second, points(1), points(1))


def test_contributions_need_a_product_and_a_positive_number_of_rows() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(poe.PoeError, match="product to be a Product, got experts"):
        poe.log_ratio_contributions(A, x, x)  # type: ignore[arg-type]
    with pytest.raises(poe.PoeError, match="rows_at_once >= 1, got 0"):
        poe.log_ratio_contributions(A * B, x, x, rows_at_once=0)
    with pytest.raises(poe.ShapeError, match="use expand_as"):
        poe.log_ratio_contributions(A * B, x, torch.zeros(2, 2))


def quartic(factor: float) -> poe.Expert:
    return poe.FromLogDensity(lambda x: math.log(factor) - (x**4).sum(-1), space=poe.Real(1))


def test_log_prob_ratio_of_exact_targets_has_no_error() -> None:
    p, q = A**2, poe.Mixture([A, B])
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    found = poe.log_prob_ratio(p, q, x)
    narrow = Gaussian([0.0, 1.0], scale=0.5**0.5)
    torch.testing.assert_close(found.value, narrow(x) - q(x))
    assert found.std_error.tolist() == [0.0] * 4


def test_log_prob_ratio_knows_no_constants() -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    found = poe.log_prob_ratio(quartic(1000.0), quartic(0.01), x)
    assert bool((found.value.abs() <= 4 * found.std_error + 1e-9).all())


def test_log_prob_ratio_has_the_errors_of_both_normalisers_and_a_shared_one_once() -> None:
    def with_error(std_error: float) -> poe.Normalized:
        found = poe.log_partition(A)
        return poe.normalize(A, found._replace(std_error=torch.tensor(std_error)))

    p, q, x = with_error(0.3), with_error(0.4), torch.zeros(2, 2)
    assert poe.log_prob_ratio(p, q, x).std_error.tolist() == pytest.approx([0.5, 0.5])
    assert poe.log_prob_ratio(p, p, x).std_error.tolist() == [0.0, 0.0]
    # In the half of the mixture that is p, half of p's error cancels.
    half = poe.Mixture([p, A])
    assert poe.log_prob_ratio(p, half, x).std_error.tolist() == pytest.approx([0.15, 0.15])


def test_log_prob_ratio_outside_both_does_not_exist() -> None:
    interval = torch.distributions.Uniform(torch.zeros(1), torch.ones(1))
    uniform = poe.as_expert(torch.distributions.Independent(interval, 1))
    with pytest.raises(poe.NonFiniteError, match="at both densities"):
        poe.log_prob_ratio(uniform, poe.normalize(uniform), torch.full((1, 1), 2.0))
