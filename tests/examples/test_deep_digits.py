"""A deep Boltzmann machine of digits, whose bound is below its log-density."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_deep_digits_are_learned_and_bounded_from_below(run: Run) -> None:
    ran = run("deep_digits", "--fast")
    row = r"(pixels by themselves|RBM|deep Boltzmann machine) +(-[\d.]+) *(-[\d.]+)?"
    found = {name: cells for name, *cells in ran.rows(row)}
    assert list(found) == ["pixels by themselves", "RBM", "deep Boltzmann machine"], ran.printed
    pixels, rbm, deep = (float(exact) for exact, _ in found.values())
    assert pixels + 2 < min(rbm, deep)  # 297 digits of a standard deviation of some 4 nats each
    assert float(found["RBM"][1]) == rbm
    assert deep - 0.2 < float(found["deep Boltzmann machine"][1]) <= deep
    assert "36 draws of the deep Boltzmann machine: exact" in ran.printed
    *walls, curves = ran.figure.axes
    assert [title.split(" ")[0] for title in ran.titles()] == [
        "digits",
        "exact",
        "16",
        "12",
        "mean",
    ]
    assert all(np.isfinite(image).any() for image in ran.images())
    assert len(walls) == len(ran.images()) == 4
    for line in curves.lines:  # RBM and DBM, training and test rows: each learned something
        first, *_, last = line.get_ydata()
        assert last > first
