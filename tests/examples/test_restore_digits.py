"""Digits are restored through a decoder."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_digits_are_restored_through_a_decoder(run: Run) -> None:
    ran = run("restore_digits", "--fast")
    row = r"(.+?) +([\d.]+) +([\d.]+) \([\d.]+\) +([\d.]+) +([\d.]+) +([\d.]+)   (.+)"
    found = {task: rest for task, *rest in ran.rows(row)}
    assert len(found) == 5, ran.printed
    for task, (seen, ours, *_, peers) in found.items():
        others = [float(value.split(" (")[0].split(" ")[-1]) for value in peers.split("), ")]
        assert float(ours) > float(seen), task
        if task != "salt and pepper":  # there four fifths are known, and the product is too unsure
            assert float(ours) > max(others), task
    assert set(ran.titles()) >= {"ink", "as seen", "product", "80 % width"}
    for title, image in zip(ran.titles(), ran.images(), strict=True):
        assert np.isfinite(image).all(), title
