"""A table of a TOML file that knows where it stands, so that every error names file and key."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poe.cli.terminal import BadInput
from poe.core.errors import PoeError

MAX_DEPTH = 50
"""Of tables within tables: more than anybody writes, and than Python follows."""


class CompositionError(BadInput):
    """A composition file says something that cannot be built; the message names file and key."""


@dataclass(frozen=True)
class Table:
    """The ``values`` under one key of a file; ``key`` is the path to it, as TOML writes it.

    >>> table = Table(Path("a.toml"), "experts.a", {"bias": "two"})
    >>> table.number("bias", 1.0)
    Traceback (most recent call last):
    poe.cli.toml_table.CompositionError: a.toml: experts.a.bias: expected a finite number, got 'two'
    """

    file: Path
    key: str
    values: dict[str, Any]
    depth: int = 0

    def error(self, key: str, text: str) -> CompositionError:
        """What is wrong under a key of this table (of the table itself, where it is empty)."""
        path = ".".join(part for part in (self.key, key) if part)
        line = " ".join(text.split())
        return CompositionError(": ".join(part for part in (str(self.file), path, line) if part))

    @contextmanager
    def blame(self, key: str = "") -> Iterator[None]:
        """Say where it was, of what goes wrong in building what stands under a key."""
        try:
            yield
        except CompositionError:
            raise
        except (PoeError, ValueError, TypeError) as error:
            raise self.error(key, str(error)) from error
        except Exception as error:  # of a constructor elsewhere, which may raise anything
            raise self.error(key, f"{type(error).__name__}: {error}") from error

    def table(self, key: str) -> Table:
        """The table under a key, which must hold something."""
        inner = self.values.get(key)
        if not isinstance(inner, dict) or not inner:
            raise self.error(key, f"expected a table that is not empty, got {inner!r}")
        if self.depth == MAX_DEPTH:
            raise self.error(key, f"expected at most {MAX_DEPTH} tables inside tables, got more")
        name = ".".join(part for part in (self.key, key) if part)
        return Table(self.file, name, inner, self.depth + 1)

    def tables(self) -> dict[str, Table]:
        """All that the table holds, which must be tables."""
        return {name: self.table(name) for name in self.values}

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.values.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise self.error(key, f"expected a finite number, got {value!r}")
        return float(value)

    def text(self, key: str) -> str:
        """A string."""
        value = self.values[key]
        if not isinstance(value, str):
            raise self.error(key, f"expected a string, got {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """true or false; false where it is left out."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, got {value!r}")
        return value

    def require_only(self, known: Collection[str]) -> None:
        """Refuse a key that means nothing here."""
        for key in self.values:
            if key not in known:
                raise self.error(key, f"unknown key; expected one of {', '.join(known)}")
