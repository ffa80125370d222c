"""Digits are recognised by energies, once log Z is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_digits_are_recognised_by_energies_once_log_z_is_known(run: Run) -> None:
    ran = run("recognise_by_energy", "--fast")
    cells = r" +([\d.]+)% +([\d.]+) +([\d.]+)% +([\d.]+)%"
    names = (
        "energies|Boltzmann machines|the same|independent|logistic|network|machines x|the product"
    )
    table = ran.table(f"(?:{names}).*?", f"{cells}{cells}")
    assert len(table) == 9, ran.printed
    # Learned from 100, where the machines' log Z differ most; and from 1,000: -log p of 597 digits
    # has a standard error of some 0.04 nats.
    wrong, nats = 0, 5
    without, energies = table["energies, log Z left out"], table["Boltzmann machines"]
    spread = 100 * math.sqrt(2 * 0.2 * 0.8 / 597)
    assert energies[wrong] + 3 * spread < without[wrong]
    assert table["the same, learned exponent"][nats] < energies[nats]
    assert table["the product, learned exponents"][nats] < table["machines x network"][nats]
    assert len(ran.rows(r".*the product is right [+-][\d.]+% \+- [\d.]+% more often.*")) == 2
    for below in ran.figure.axes[5:]:  # the shares of the digits, by how sure a model is
        assert np.sum([bar.get_height() for bar in below.patches]) == pytest.approx(1)
