"""Every example in a help text is run, and help needs no model."""

from __future__ import annotations

import argparse
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from poe.cli import main, parser
from poe.cli.composition import read
from poe.cli.terminal import MEANING, ExitCode

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("demo", "sample", "ratio", "partition", "inspect", "experts")
# A few steps on 256 pixels: the summary says that these draws are not to be trusted.
DOUBTFUL = "digits.toml"


def description(command: str) -> str:
    actions = parser()._subparsers
    assert actions is not None
    [commands] = actions._group_actions
    assert isinstance(commands, argparse._SubParsersAction)
    found: argparse.ArgumentParser = commands.choices[command]
    return found.description or ""


def examples(command: str) -> list[list[str]]:
    """The arguments of each example; what stands three spaces after them is a comment."""
    text = re.sub(r" *\\\n *", " ", description(command))
    lines = re.findall(r"^  python -m poe (.+)$", text, flags=re.MULTILINE)
    return [shlex.split(re.split(r" {3,}", line)[0]) for line in lines]


@pytest.fixture
def _in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the examples are, and where they may leave files."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


@pytest.mark.example
@pytest.mark.usefixtures("_in_a_copy")
@pytest.mark.parametrize(
    "words",
    [words for command in COMMANDS[1:] for words in examples(command)],
    ids=" ".join,
)
def test_an_example_does_what_it_says(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_doubtful = any(word.endswith(DOUBTFUL) for word in words) and words[0] == "sample"
    assert main(words) == (ExitCode.DOUBTFUL if is_doubtful else ExitCode.OK)
    assert capsys.readouterr().out.strip()
    written = [after for before, after in pairwise(words) if before == "--output"]
    assert {path.name for path in tmp_path.iterdir()} == {"examples", *written}


def test_the_demo_has_the_examples_that_its_own_tests_run() -> None:
    # In --fast form, by tests/demo/test_cli.py: as they stand they take minutes.
    assert [parser().parse_args(words).fast for words in examples("demo")] == [False, False, True]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples(command: str) -> None:
    assert len(examples(command)) >= 2
    assert all(words[0] == command for words in examples(command))


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_tells_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert MEANING in printed
    assert description(command).strip() in printed


def test_every_exit_code_has_a_meaning() -> None:
    assert [int(code) for code in re.findall(r"\b(\d+) [a-z]", MEANING)] == list(ExitCode)


def test_the_composition_in_the_help_is_one(tmp_path: Path) -> None:
    text = parser().description
    assert text is not None
    (tmp_path / "shown.toml").write_text("\n".join(re.findall(r"^  (.+)$", text, re.MULTILINE)))
    composition = read(tmp_path / "shown.toml")
    assert list(composition.experts) == ["digit", "not_thick"]
    assert composition.exponents["not_thick"] == -0.5
    assert composition.product().space.event_shape == (16, 16)
