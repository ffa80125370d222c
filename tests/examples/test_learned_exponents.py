"""Learned exponents count what is shared once."""

from __future__ import annotations

import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_learned_exponents_count_what_is_shared_once(run: Run) -> None:
    ran = run("learned_exponents", "--fast")
    number = r"(-?[\d.]+)"
    row = rf"learned +{number} \+- {number} +{number} \+- {number} +{number} \+- {number} +{number}"
    found = [float(cell) for cell in ran.rows(rf"{row} .*")[0]]
    weights, errors, score = found[0:6:2], found[1:6:2], found[6]
    assert weights[2] + 4 * errors[2] < 1  # not the third time over, as in the product as it is
    (as_given,) = ran.rows(rf"as they are +1 +1 +1 +{number} .*")
    assert score > float(as_given)
    panels = ["rows of the table", "the product as it is", "with learned exponents"]
    assert ran.titles() == panels
    rows, as_it_is, learned = (
        axis.collections[0].get_offsets()[:, 1].std() for axis in ran.figure.axes[3:]
    )
    # Concave points counted three times over are drawn too close together.
    assert as_it_is < learned
    assert abs(learned - rows) < abs(as_it_is - rows)
