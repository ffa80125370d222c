"""What the command line says by its exit code, and the error that stands for bad input."""

from __future__ import annotations

from enum import IntEnum

from poe.core.errors import PoeError


class ExitCode(IntEnum):
    """One for each way that a command can end."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    DOUBTFUL = 3
    INTERRUPTED = 130


MEANING = """\
exit codes: 0 done; 1 refused or failed (an improper product, a log-density that is NaN); 2 wrong
usage, or a file that cannot be read; 3 done, and there is a reason not to trust the result, which
is named in it; 130 interrupted by Ctrl-C."""
"""As the help of each command has it."""


class BadInput(PoeError):
    """An argument, or a file that it names, is not understood; exit code 2."""
