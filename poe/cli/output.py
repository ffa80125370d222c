"""What goes to stdout: JSON that any reader takes, or text; everything else is on stderr."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from torch import Tensor

NON_FINITE = """\
In JSON a number that is not finite is null (NaN) or one of the strings "inf" and "-inf"."""


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
