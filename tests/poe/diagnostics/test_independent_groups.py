"""Bounds from independent groups: Student's quantile, and how often they hold from a few."""

from __future__ import annotations

import math

import pytest
import torch

from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean, t_quantile


@pytest.mark.parametrize("groups", [*range(2, 51), 1000, 20_000])
def test_the_quantile_is_students(groups: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(groups) == pytest.approx(stats.t.ppf(0.975, groups - 1), rel=1e-9)


@pytest.mark.parametrize("groups", [2, 3, 4, 16])
def test_bounds_hold_as_often_as_they_say(groups: int) -> None:
    runs, sd = 100_000, 1e-3  # so small that the logarithm is linear
    g = torch.Generator().manual_seed(groups)
    values = 1 + sd * torch.randn(runs, groups, generator=g, dtype=torch.float64)
    reach = t_quantile(groups) * values.std(1) / math.sqrt(groups)
    share = ((values.mean(1) - 1).abs() < reach).double().mean().item()
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)
    error = standard_error_of_log_mean(values[0].log())
    torch.testing.assert_close(
        error, values[0].std() / log_mean(values[0].log()).exp() / groups**0.5
    )
