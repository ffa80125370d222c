"""docs/spaces.md says what is so: each row of its tables is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import poe
from tests.seeds import seeded

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "spaces.md").read_text(encoding="utf-8")
BRIDGES, REFUSED = PAGE.split("## What is refused")
CODE = r"`([^`]+)`"


class Flat(poe.Expert):
    def __init__(self, space: poe.Space) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.space.batch_shape(x))


def rows(text: str, first: str) -> list[tuple[str, ...]]:
    """The rows of tables whose first column is code, as the code of the first three columns."""
    lines = [line for line in text.splitlines() if line.startswith(f"| `{first}")]
    return [tuple(re.findall(CODE, line)) for line in lines]


ROWS = rows(BRIDGES, "")
REFUSALS = rows(REFUSED, "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} to {row[1]}")
def test_a_bridge_leads_where_the_page_says(row: tuple[str, str, str]) -> None:
    source, goal, call = (text if i == 2 else f"poe.{text}" for i, text in enumerate(row[:3]))
    expert = Flat(eval(source))
    brought = eval(call, {"poe": poe, "torch": torch, "expert": expert})
    assert brought.space == eval(goal)
    x = torch.full((3, *brought.space.event_shape), 0.5)
    if brought.space.is_discrete:
        x = torch.ones_like(x) if isinstance(brought.space, poe.Binary) else x.long()
    if isinstance(brought.space, poe.Simplex | poe.PositiveDefinite):
        k = brought.space.event_shape[0]
        x = torch.eye(k).expand(3, k, k) if x.ndim == 3 else torch.full_like(x, 1 / k)
    assert brought(x).shape == (3,)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row[0])
@seeded()
def test_a_refusal_says_what_the_page_says(row: tuple[str, str]) -> None:
    names = {"real": Flat(poe.Real((8, 8))), "bits": Flat(poe.Binary((8, 8)))}
    with pytest.raises(poe.PoeError, match=re.escape(row[-1])):
        eval(row[0], {"poe": poe, "torch": torch} | names)


def test_the_tables_were_found() -> None:
    assert len(ROWS) == 25
    assert len(REFUSALS) == 7
