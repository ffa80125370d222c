"""AND, OR and NOT in the plane agree with quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.examples.conftest import Ran, Run

pytestmark = pytest.mark.example


def test_draws_agree_with_quadrature(run: Run) -> None:
    ran = run("compose_2d", "--fast")
    moments_agree(ran)
    draws_lie_on_the_density(ran)


def moments_agree(ran: Ran) -> None:
    table = {name: rest for name, *rest in ran.rows(
        r"(a|b|AND|OR|NOT) +(-?[\d.]+) +([\d.]+) +([\d.]+) +(.+)")}  # fmt: skip
    assert list(table) == ["a", "b", "AND", "OR", "NOT"], ran.printed
    for name, (_, z_exact, z_mala, guarantee) in table.items():
        # The largest of five standard normals: beyond 4 once in three thousand tables of five.
        assert float(z_exact) < 4.0, name
        assert float(z_mala) < 4.0, name
        assert guarantee == "asymptotically exact"
    # The ring's own formula; the bar and the mixture are normalised. Printed to three decimals.
    ring = math.log((2 * math.pi) ** 1.5 * 2.0 * 0.35)
    for name, log_partition in (("a", ring), ("b", 0.0), ("OR", 0.0)):
        assert float(table[name][0]) == pytest.approx(log_partition, abs=0.001)


def draws_lie_on_the_density(ran: Ran) -> None:
    axes = np.array(ran.figure.axes).reshape(3, 5)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["density", "exact draws", "MALA draws"]
    for above, exact, mala in axes.T:
        (image,) = above.images
        density, (left, right, *_) = np.asarray(image.get_array()), image.get_extent()
        assert density.max() == pytest.approx(1.0)
        for axis in (exact, mala):
            points = np.asarray(axis.collections[0].get_offsets())
            cells = ((points - left) / (right - left) * len(density)).astype(int)
            inside = (cells >= 0).all(1) & (cells < len(density)).all(1)
            # E_p[p] > E_uniform[p] for any density but the uniform one.
            there = density[cells[inside, 1], cells[inside, 0]]
            assert there.mean() > 3 * density.mean()
