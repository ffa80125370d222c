"""Stretched intervals hold their level on what they have not seen, in each group."""

from __future__ import annotations

import numpy as np
import pytest

from examples.restoration.conformal import Interval, stretches

pytestmark = pytest.mark.example

LEVEL = 0.8


def intervals(rng: np.random.Generator, rows: int) -> Interval:
    """Ends at one standard deviation: far too wide in group 0, too narrow in group 1."""
    shape = (rows, 50)
    group = rng.integers(0, 2, shape)
    truth = rng.standard_normal(shape) * np.where(group == 0, 0.2, 3.0) + 1.0
    return Interval(np.zeros(shape), np.full(shape, 2.0), group, truth)


def test_each_group_is_covered_at_its_level() -> None:
    rng = np.random.default_rng(0)
    kept, fresh = intervals(rng, 200), intervals(rng, 200)
    factors = stretches([(kept, np.ones(kept.low.shape, bool))], LEVEL, 2)
    low, high = fresh.stretched(factors)
    inside = (low <= fresh.truth) & (fresh.truth <= high)
    for k in range(2):
        found = inside[fresh.group == k]
        # Both the factor and the share are estimates, of as many pixels each.
        error = (2 * LEVEL * (1 - LEVEL) / len(found)) ** 0.5
        assert abs(found.mean() - LEVEL) < 4 * error
        before = (np.abs(fresh.truth - 1) <= 1)[fresh.group == k].mean()
        assert abs(before - LEVEL) > 20 * error


def test_pixels_that_do_not_count_tell_nothing() -> None:
    one = Interval(
        *(np.full((1, 3), end) for end in (-1.0, 1.0)),
        np.zeros((1, 3), int),
        np.array([[0.5, 0.7, 9.0]]),
    )
    counts = np.array([[True, True, False]])
    assert stretches([(one, counts)], 0.5, 2) == pytest.approx([0.7, 1.0])
