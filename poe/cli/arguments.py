"""What several commands have in common: their parser's form, the composition, --json."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from poe.cli.exit_code import MEANING

COMPOSITION = "a TOML file that names experts and their exponents"


def new_command(commands: Any, name: str, line: str, description: str) -> argparse.ArgumentParser:
    """A command's parser, its help written as it stands."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=line,
        description=description,
        epilog=MEANING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def add_composition(command: argparse.ArgumentParser) -> None:
    """The file."""
    command.add_argument("composition", type=Path, help=COMPOSITION)


def add_json(command: argparse.ArgumentParser) -> None:
    """Whether the answer is for a program."""
    command.add_argument("--json", action="store_true", help="the answer as JSON, on stdout")


def add_seed(command: argparse.ArgumentParser) -> None:
    """The same seed gives the same bits."""
    command.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")


def add_quiet(command: argparse.ArgumentParser) -> None:
    """Whether somebody watches."""
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text}")
    return number
