"""Intervals stretched until they hold their level on pictures kept apart.

Source: Romano, Patterson & Candès 2019, "Conformalized quantile regression"; in groups, Vovk 2012,
"Conditional validity of inductive conformal predictors".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """Ends of every pixel's interval, the group that it belongs to, and what is to be covered.

    All ``(rows, cols)``; ``group`` counts from 0, and is told by what was seen, not by the truth.
    """

    low: np.ndarray
    high: np.ndarray
    group: np.ndarray
    truth: np.ndarray

    def reach(self) -> np.ndarray:
        """How many half-widths the truth is from the middle: within one, it is covered."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return np.abs(self.truth - middle) / half

    def stretched(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ends, with the half-width of each group's pixels times its factor."""
        middle = (self.low + self.high) / 2
        half = (self.high - self.low) / 2 * factors[self.group]
        return middle - half, middle + half


def stretches(
    kept_apart: Sequence[tuple[Interval, np.ndarray]], level: float, num_groups: int
) -> np.ndarray:
    """The factor of each group that covers the share ``level`` of its pixels: ``(num_groups,)``.

    Each interval comes with which of its pixels count. The order statistic at ``level`` (n + 1) of
    n pixels, so that one pixel more, of a picture like these, is covered with that probability.

    >>> ends = np.zeros((1, 4)) - 1, np.zeros((1, 4)) + 1
    >>> one = Interval(*ends, np.array([[0, 0, 0, 1]]), np.array([[0.1, 0.2, 0.4, 3.0]]))
    >>> stretches([(one, np.ones((1, 4), bool))], 0.5, 2)
    array([0.2, 3. ])
    """
    reach = np.concatenate([one.reach()[counts] for one, counts in kept_apart])
    group = np.concatenate([one.group[counts] for one, counts in kept_apart])
    return np.array([order_statistic(reach[group == k], level) for k in range(num_groups)])


def order_statistic(values: np.ndarray, level: float) -> float:
    """The smallest that is at least ``level`` (n + 1) of n in order; 1 of none."""
    n = len(values)
    if n == 0:
        return 1.0
    return float(np.sort(values)[min(int(np.ceil(level * (n + 1))), n) - 1])
