"""What the command line says and asks: exit codes, output, arguments."""

from __future__ import annotations

import argparse
import json
import math
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

from torch import Tensor

from poe.core.arguments import MOST
from poe.core.errors import PoeError

MEANING = """\
exit codes: 0 done; 1 refused or failed (an improper product, a log-density that is NaN); 2 wrong
usage, or a file that cannot be read; 3 done, and there is a reason not to trust the result, which
is named in it; 130 interrupted by Ctrl-C."""
"""As the help of each command has it."""
NON_FINITE = """\
In JSON a number that is not finite is null (NaN) or one of the strings "inf" and "-inf"."""
COMPOSITION = "a TOML file that names experts and their exponents"


class ExitCode(IntEnum):
    """One for each way that a command can end."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    DOUBTFUL = 3
    INTERRUPTED = 130


class BadInput(PoeError):
    """An argument, or a file that it names, is not understood; exit code 2."""


def print_json(facts: dict[str, Any]) -> None:
    """One object, on stdout."""
    print(json.dumps(plain(facts), allow_nan=False, indent=1, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Tensors as numbers and lists of them; NaN as None and infinities as strings.

    >>> import torch
    >>> plain({"x": torch.tensor([1.0, float("inf"), float("nan")])})
    {'x': [1.0, 'inf', None]}
    """
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def note(command: str, text: str) -> None:
    """A line for who watches, on stderr."""
    print(f"python -m poe {command}: {text}", file=sys.stderr)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns, the first to the left and the others to the right.

    >>> print(table(["", "x"], [["a", "1"], ["bc", "23"]]))
         x
    a    1
    bc  23
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


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
    command.add_argument("--seed", type=seed, default=0, help="of the random numbers (default 0)")


def add_quiet(command: argparse.ArgumentParser) -> None:
    """Whether somebody watches."""
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = _whole(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 1 to {MOST}, got {shortened(text)}"
        )
    return number


def seed(text: str) -> int:
    """A whole number of 64 bits, with a sign or without."""
    number = _whole(text)
    if not -(2**63) <= number < 2**64:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of 64 bits, got {shortened(text)}"
        )
    return number


def finite(text: str) -> float:
    """A number, and neither NaN nor infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {shortened(text)}")
    return number


def port(text: str) -> int:
    """The number of a port; 0 lets the system choose one."""
    number = _whole(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {shortened(text)}")
    return number


def shortened(text: str, most: int = 60) -> str:
    """What was typed, as far as it helps to see it again."""
    return repr(text) if len(text) <= most else f"{text[:most]!r}..."


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a whole number, got {shortened(text)}"
        ) from error
