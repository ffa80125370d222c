"""Words by agreement are those of the product, as rejection says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_words_by_agreement_are_those_of_the_product(run: Run, tmp_path: Path) -> None:
    stems = [c + v + d for c in "bdfhjlmnprst" for v in "aeiou" for d in "klmn"]
    names = [f"{stem}{end}".title() for stem in stems for end in ("er", "o", "ert", "is")]
    words = [f"{stem}{end}" for stem in stems for end in ("er", "ing", "ed", "ish", "le")]
    (tmp_path / "words").write_text("\n".join(names + words))
    ran = run("words_by_agreement", "--fast", "--words", "words")

    number = r"(-?[\d.]+)"
    cells = rf" +{number} \+- {number} +{number} \+- {number} .*"
    table = ran.table("rejection|SMC|SMC and 3 moves", cells)
    assert list(table) == ["rejection", "SMC", "SMC and 3 moves"], ran.printed
    exact = table.pop("rejection")
    for name, found in table.items():
        for place in (0, 2):  # log Z, and the mean length
            error = math.hypot(found[place + 1], exact[place + 1])
            # Printed to two decimals.
            assert abs(found[place] - exact[place]) < 4 * error + 0.02, name
    shown = ran.rows(r"(?:rejection|letter by letter|SMC) +((?:[a-z]+ ?)+)")
    assert len(shown) >= 3, ran.printed
    assert all(w.endswith("er") and "k" in w for line in shown for w in line.split()), ran.printed
