"""Many modes are found in their proportions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_many_modes_are_found_in_their_proportions(run: Run) -> None:
    ran = run("many_modes", "--fast")
    row = r"(MALA, from one mode|poe.sample|poe.smc) +([\d.]+) +[\d.]+   asymptotically exact.*"
    found = {name: float(value) for name, value in ran.rows(row)}
    assert list(found) == ["MALA, from one mode", "poe.sample", "poe.smc"], ran.printed
    assert found["MALA, from one mode"] > 0.5  # what the others are there for
    # 100 independent draws have a mean total variation of 0.1 here; the fast run is worth more.
    assert found["poe.sample"] < 0.1
    assert found["poe.smc"] < 0.1
    ((value, error),) = ran.rows(r"log Z by poe.smc: (\S+) \+- (\S+) .*")
    assert abs(float(value)) < 4 * float(error)
    below = ran.figure.axes[3:]
    for axis, distance in zip(below, found.values(), strict=True):
        masses = np.array([bar.get_height() for bar in axis.patches[:8]])
        assert masses.sum() == pytest.approx(1)
        truth = np.arange(1, 9) / 36
        assert 0.5 * np.abs(masses - truth).sum() == pytest.approx(distance, abs=0.001)
