"""Texts by agreement are those of the global product, by enumeration."""

from __future__ import annotations

import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_texts_by_agreement_are_those_of_the_global_product(run: Run) -> None:
    ran = run("text_by_agreement", "--fast")
    apart = dict(ran.rows(r"total variation, (.+): ([\d.]+)"))
    assert float(apart["SMC, foreseen"]) < 0.05, ran.printed  # some .03 of 20,000 draws' own noise
    assert float(apart["token by token"]) > 0.5
    log_z = ran.table(r"enumerated|SMC, .+?", r" +(-?[\d.]+) \+- ([\d.]+) .*")
    exact, _ = log_z.pop("enumerated")
    assert len(log_z) == 2
    for found, error in log_z.values():
        assert abs(found - exact) < 4 * error + 0.002  # printed to three decimals
    texts = ran.rows(r"(?:token by token|SMC, look-ahead|SMC, foreseen) +([abc]+)\.")
    assert len(texts) == 12
    assert all("cab" in text for text in texts)
    bars, texts_below = ran.figure.axes
    shares = {box.get_label(): sum(bar.get_height() for bar in box) for box in bars.containers}
    assert shares == pytest.approx({"token by token": 1.0, "SMC, foreseen": 1.0})
    assert len(texts_below.texts) == 6
