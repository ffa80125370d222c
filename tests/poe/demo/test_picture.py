"""The picture is written whole, with a panel or without."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from poe.demo.attributes import Combination
from poe.demo.picture import Strip, draw, strip

COLUMNS = (Combination(7, 2, 2), Combination(0, 1, 0))


def test_a_frame_is_right_where_all_attributes_hold() -> None:
    held = np.array([[True, True, True], [True, False, True]])
    assert strip("row", torch.zeros(2, 16, 16), held).is_right.tolist() == [True, False]
    assert strip("row", torch.zeros(2, 16, 16)).is_right is None


@pytest.mark.parametrize("in_panel", [0, 2])
def test_it_is_drawn_with_and_without_a_panel(in_panel: int, tmp_path: Path) -> None:
    images = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    row = strip("all three", images, np.ones((2, 3), dtype=bool))
    short = Strip("one of two", images[:1])
    draw(tmp_path / "demo.png", COLUMNS, [row, short], [row] * in_panel)
    assert os.listdir(tmp_path) == ["demo.png"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
