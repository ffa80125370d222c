"""The report: its table, its verdicts and its file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from poe.demo.evaluate import COLUMNS
from poe.demo.report import Report, Row, show

RATES = {name: index / 8 for index, name in enumerate(COLUMNS)}


def make() -> Report:
    return Report(
        rows=[Row("class alone", 5, RATES), Row("conjunction", 1234, dict.fromkeys(RATES, 1.0))],
        figures={"acceptance rate": 0.57449, "guarantee": "asymptotically exact"},
        contributions={"digit": 268.61, "prior": -190.94},
        goals={
            "rate": (0.85, ">=", 0.85),
            "low rate": (0.8499, ">=", 0.85),
            "seconds": (180.0, "<=", 180.0),
            "slow": (180.1, "<=", 180.0),
            "unknown": (float("nan"), ">=", 0.5),
        },
    )


def verdicts(report: Report) -> dict[str, str]:
    lines = report.text().splitlines()[-len(report.goals) :]
    return {line.split(":")[0]: line.split(": ")[-1] for line in lines}


def test_a_goal_is_reached_on_its_side_of_the_line_and_on_it() -> None:
    assert verdicts(make()) == {
        "rate": "reached",
        "low rate": "NOT reached",
        "seconds": "reached",
        "slow": "NOT reached",
        "unknown": "NOT reached",
    }
    assert "seconds: 180 (goal <= 180): reached" in make().text()


def test_the_table_has_a_line_for_each_row_and_a_column_for_each_rate() -> None:
    head, *lines = make().table().splitlines()
    assert head.split() == ["n", *" ".join(COLUMNS).split()]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert lines[0].startswith("class alone ")
    assert lines[0].split()[2:] == ["5", *(f"{100 * rate:.1f}%" for rate in RATES.values())]
    assert lines[1].split()[1:] == ["1234", *["100.0%"] * len(COLUMNS)]


def test_figures_and_contributions_are_printed() -> None:
    text = make().text()
    assert "acceptance rate: 0.574\n" in text
    assert "guarantee: asymptotically exact\n" in text
    assert "digit +268.6, prior -190.9" in text
    assert show(0.123456) == "0.123"


def test_the_file_is_what_was_printed(tmp_path: Path) -> None:
    make().write(tmp_path / "demo.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads((tmp_path / "demo.json").read_text(), parse_constant=refuse)
    assert read["rows"][0] == {"name": "class alone", "num_samples": 5, "rates": RATES}
    assert read["figures"] == make().figures
    assert read["contributions"] == make().contributions
    assert read["goals"]["slow"] == [180.1, "<=", 180.0]
    assert read["goals"]["unknown"] == [None, ">=", 0.5]


def test_the_file_is_complete_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo.json"
    make().write(path)
    assert os.listdir(tmp_path) == ["demo.json"]
    before = path.read_text()

    def fail(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        Report([], {}, {}).write(path)
    assert path.read_text() == before
