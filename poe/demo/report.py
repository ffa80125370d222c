"""The demo's table, printed and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from poe.demo.evaluate import COLUMNS
from poe.files.atomic import write_bytes
from poe.files.own import require_own_report

FORMAT = "product-of-experts demo"


@dataclass(frozen=True)
class Row:
    """One way to make digits: how many were made, and the rate at which each attribute holds."""

    name: str
    num_samples: int
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """All that the demo prints."""

    rows: list[Row]
    figures: dict[str, float | str]
    contributions: dict[str, float]
    goals: dict[str, tuple[float, str, float]] = field(default_factory=dict)

    def table(self) -> str:
        """The rates, one line a row, in percent."""
        width = max(len(row.name) for row in self.rows)
        lines = [" " * width + "     n" + "".join(f"{name:>17}" for name in COLUMNS)]
        for row in self.rows:
            cells = "".join(f"{100 * row.rates[name]:>16.1f}%" for name in COLUMNS)
            lines.append(f"{row.name:<{width}}{row.num_samples:>6}{cells}")
        return "\n".join(lines)

    def text(self) -> str:
        """Table, figures, contributions and goals, as printed."""
        said = ", ".join(f"{name} {value:+.1f}" for name, value in self.contributions.items())
        lines = [self.table(), ""]
        lines += [f"{name}: {show(value)}" for name, value in self.figures.items()]
        lines += [f"mean contribution of each expert (nats): {said}", ""]
        for name, (value, sign, goal) in self.goals.items():
            reached = value >= goal if sign == ">=" else value <= goal
            verdict = "reached" if reached else "NOT reached"
            lines.append(f"{name}: {show(value)} (goal {sign} {show(goal)}): {verdict}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the report as JSON, over one of its kind alone; it is complete or absent."""
        require_own_report(path, FORMAT)
        text = (
            json.dumps({"format": FORMAT, **plain(asdict(self))}, indent=2, allow_nan=False) + "\n"
        )
        write_bytes(path, text.encode())


def plain(value: Any) -> Any:
    """The same with None for every number that JSON does not have: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(value: float | str) -> str:
    """A figure with three significant digits."""
    return value if isinstance(value, str) else f"{value:.3g}"
