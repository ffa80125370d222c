"""Boltzmann machines learn digits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_rbms_learn_digits(run: Run) -> None:
    ran = run("rbm_digits", "--fast")
    found = ran.rows(r"(independent pixels|RBM, \d+ hidden units) +(-[\d.]+) +(exact|[\d.]+).*")
    assert [name for name, *_ in found] == [
        "independent pixels", "RBM, 14 hidden units", "RBM, 100 hidden units",
    ]  # fmt: skip
    pixels, _, large = (float(score) for _, score, _ in found)
    assert large > pixels + 1.0
    assert float(found[2][2]) < 0.1
    ((lower, upper),) = ran.rows(r"bounds on its log Z: (\S+) to (\S+)")
    assert 0 <= float(upper) - float(lower) < 1.0
    *walls, curve = ran.figure.axes
    assert [np.asarray(axis.images[0].get_array()).shape for axis in walls] == [(89, 89)] * 3
    for line in curve.lines:
        first, *_, last = line.get_ydata()
        assert last > first + 1  # nats, exact
