"""What the grid of ``poe.plot.images`` holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import poe
from poe import plot


def test_pictures_stand_row_by_row_a_pixel_apart() -> None:
    pictures = torch.arange(5 * 4 * 3).reshape(5, 4, 3) / 60
    (axis,) = plot.images(pictures, rows=2, row_labels=["first", "second"]).axes
    sheet = axis.images[0].get_array()
    assert sheet.shape == (2 * 4 + 1, 3 * 3 + 2)
    for index, picture in enumerate(pictures):
        top, left = 5 * (index // 3), 4 * (index % 3)
        np.testing.assert_allclose(sheet[top : top + 4, left : left + 3], picture, rtol=1e-6)
    assert np.ma.getmaskarray(sheet)[4].all()
    assert np.ma.getmaskarray(sheet)[5:, 8:].all()  # no sixth picture
    assert [text.get_text() for text in axis.get_yticklabels()] == ["first", "second"]
    assert axis.get_xlabel() == "0 to 1"


def test_range_is_told_with_what_lies_beyond() -> None:
    pictures = torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    (axis,) = plot.images(pictures, low=-1.0, high=1.0).axes
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.0, 0.0], [0.5, 1.0]])
    assert axis.get_xlabel() == "−1 to 1; 25.0% of the values lie beyond"


def test_colours_are_drawn_as_such() -> None:
    pictures = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    (axis,) = plot.images(pictures).axes
    sheet = np.asarray(axis.images[0].get_array())
    assert sheet.shape == (11, 13, 3)
    np.testing.assert_allclose(sheet[6:, 7:], pictures[3].movedim(0, -1))
    assert (sheet[5] == 1).all()


@pytest.mark.parametrize("shape", [(4, 4), (2, 2, 4, 4), (1, 4, 1000, 8, 8), (0, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(poe.ShapeError, match=r"expected pictures \(n, h, w\).*draws.samples"):
        plot.images(torch.zeros(shape))


def test_what_cannot_be_is_refused() -> None:
    pictures = torch.zeros(4, 2, 2)
    with pytest.raises(poe.PoeError, match="expected 1 to 4 rows for 4 pictures, got 5"):
        plot.images(pictures, rows=5)
    with pytest.raises(poe.PoeError, match="expected 2 row labels, one a row, got 1"):
        plot.images(pictures, row_labels=["a"])
    with pytest.raises(poe.PoeError, match="expected low < high"):
        plot.images(pictures, low=1.0)
    with pytest.raises(poe.NonFiniteError, match="got 16 values that are not"):
        plot.images(pictures / 0)
