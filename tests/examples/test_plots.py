"""Every plot of real compositions is on one sheet."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

import poe
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_plots_of_real_compositions_are_one_sheet(run: Run, tmp_path: Path) -> None:
    ran = run("plots", "--fast")
    table = ran.rows(r"(\w+) +(line|bits|plane|digits) +(\d+) x (\d+)   \d+ x \d+, (\D+)")
    assert {call for call, *_ in table} == set(poe.plot.__all__) - {"colors"}, ran.printed
    assert {of: guarantee for _, of, _, _, guarantee in table} == {
        "line": "asymptotically exact",
        "bits": "exact",
        "plane": "asymptotically exact",
        "digits": "asymptotically exact",
    }
    sheet = matplotlib.image.imread(tmp_path / "plots.png")[..., :3]
    # Nothing is cut off or drawn over: all the pixels of the plots are there, and ink on each row.
    assert sheet.shape[0] * sheet.shape[1] > sum(int(w) * int(h) for *_, w, h, _ in table)
    assert (sheet < 0.5).any((1, 2)).mean() > 0.5
