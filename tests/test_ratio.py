"""Log-ratios, where the normaliser cancels and infinities do not."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import Gaussian


def saying(*values: float) -> poe.Expert:
    """At x = i the log-density is values[i]."""
    table = torch.tensor(values)
    return poe.FromLogDensity(lambda x: table[x[:, 0].long()], space=poe.Real(1))


def points(*indices: int) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.float32)[:, None]


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
