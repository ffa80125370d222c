"""The command line, and one small run of the main job from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poe.cli import chosen, main, parser
from poe.demo import plan
from poe.demo.attributes import HELD_OUT, Combination
from poe.demo.conjunction import Schedule
from poe.demo.evaluate import COLUMNS as RATES
from poe.demo.plan import COLUMNS

ROOT = Path(__file__).resolve().parents[3]
ONE = ["--digit", "7", "--slant", "right", "--thickness", "thick"]


def test_help_shows_how_to_ask_for_another_combination(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"python -m poe demo {' '.join(ONE)}" in printed
    for choice in ("0,1,2,3,4,5,6,7,8,9", "left,upright,right", "thin,medium,thick"):
        assert choice in printed


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_part_of_a_combination_is_refused(missing: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *ONE[:missing], *ONE[missing + 2 :]])
    assert stopped.value.code == 2
    assert "give --digit, --slant and --thickness together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--digit", "10"), ("--slant", "up"), ("--thickness", "bold")]
)
def test_an_unknown_value_is_refused_with_the_known_ones(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *ONE, option, value])
    assert stopped.value.code == 2
    assert f"invalid choice: '{value}' (choose from" in capsys.readouterr().err


def test_a_combination_is_read_from_its_words() -> None:
    top = parser()
    words = ["demo", "--digit", "4", "--slant", "left", "--thickness", "medium"]
    assert chosen(top.parse_args(words), top) == Combination(digit=4, slant=0, thickness=1)
    assert chosen(top.parse_args(["demo"]), top) is None


HELP = """
import runpy, sys
for words in (["--help"], ["demo", "--help"]):
    sys.argv = ["poe", *words]
    try:
        runpy.run_module("poe", run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"experts", "nflows", "skimage", "matplotlib", "arviz"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""


@pytest.mark.process
def test_the_module_is_a_command_that_helps_without_loading_a_model() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: python -m poe [-h]" in result.stdout
    assert "usage: python -m poe demo [-h]" in result.stdout


def run_fast(folder: Path, *arguments: str) -> dict[str, Any]:
    assert main(["demo", "--fast", "--output", str(folder), *arguments]) == 0
    report: dict[str, Any] = json.loads((folder / "demo.json").read_text())
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one small run of everything wrote."""
    where = tmp_path_factory.mktemp("demo") / "made by the demo"
    run_fast(where)
    return where


@pytest.mark.example
def test_a_run_writes_its_picture_and_a_table_of_everything_asked(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "demo.png"]
    assert (folder / "demo.png").stat().st_size > 20_000
    report = json.loads((folder / "demo.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    kinds = ("class alone", "slant alone", "thickness alone")
    pairs = ("class AND slant", "class AND thickness", "slant AND thickness")
    groups = ("training combinations", "held out")
    methods = [f"{method}, {group}" for method in ("rejection", "conjunction") for group in groups]
    assert set(rows) == {*kinds, *pairs, *methods}
    for row in rows.values():
        assert row["num_samples"] > 0
        assert set(row["rates"]) == set(RATES)
        assert all(0 <= rate <= 1 for rate in row["rates"].values())
    assert report["figures"]["guarantee"] == "asymptotically exact"
    assert 0 < report["figures"]["acceptance rate at the target"] < 1
    assert {"digit", "slant", "thickness"} == set(report["contributions"])
    assert {"all three, training combinations", "all three, held out"} < set(report["goals"])


@pytest.fixture
def _still_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--fast`` of one combination seen and one held out, and hardly any steps at the target."""
    few = {"training": COLUMNS[:1], "held_out": HELD_OUT[:1], "columns": COLUMNS[:1]}
    tiny = replace(plan.FAST, **few, schedule=Schedule(1, 1, 2), pool=4)
    monkeypatch.setattr(plan, "FAST", tiny)


@pytest.mark.example
@pytest.mark.usefixtures("_still_smaller")
def test_the_same_seed_gives_the_same_report_up_to_time_and_memory(tmp_path: Path) -> None:
    first, second = (run_fast(tmp_path / name) for name in ("a", "b"))
    assert second["rows"] == first["rows"]
    assert second["contributions"] == first["contributions"]
    rate = "acceptance rate at the target"
    assert second["figures"][rate] == first["figures"][rate]


@pytest.mark.example
@pytest.mark.usefixtures("_still_smaller")
def test_one_combination_alone(tmp_path: Path) -> None:
    report = run_fast(tmp_path, *ONE, "--seed", "1", "--prior-exponent", "1.5")
    assert Combination(7, 2, 2) in HELD_OUT
    conjunctions = [row["name"] for row in report["rows"] if row["name"].startswith("conj")]
    assert conjunctions == ["conjunction, held out"]
    assert (tmp_path / "demo.png").is_file()
