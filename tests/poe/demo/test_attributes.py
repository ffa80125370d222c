"""Slant and thickness of drawn shapes whose shear and width are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from poe.demo.attributes import (
    ALL_COMBINATIONS,
    HELD_OUT,
    SLANT_EDGES,
    THICKNESS_EDGES,
    TRAINING_COMBINATIONS,
    UPSAMPLING,
    Combination,
    Measured,
    ink_mask,
    measure,
    slant,
    thickness,
)

SIZE, FINE = 16, 32


def draw_bar(lean: float, width: float) -> NDArray[np.floating]:
    """Ink (16, 16) of an upright bar whose top is moved to the right by ``lean`` times height."""
    down, across = (np.mgrid[: SIZE * FINE, : SIZE * FINE] + 0.5) / FINE - SIZE / 2
    ink = (np.abs(across + lean * down) < width / 2) & (np.abs(down) < 6)
    return np.asarray(ink.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3)))


def draw_frame(width: int, size: int = 48) -> NDArray[np.bool_]:
    """A square frame (1, 64, 64) on the fine grid: a stroke without ends, ``width`` cells wide."""
    mask = np.zeros((1, SIZE * UPSAMPLING, SIZE * UPSAMPLING), dtype=bool)
    mask[:, 8 : 8 + size, 8 : 8 + size] = True
    mask[:, 8 + width : 8 + size - width, 8 + width : 8 + size - width] = False
    return mask


@pytest.mark.parametrize("lean", [-0.5, -0.2, 0.0, 0.12, 0.3, 0.5])
@pytest.mark.parametrize("width", [1.5, 2.0, 3.0])
def test_slant_of_a_bar_is_its_shear_and_positive_to_the_right(lean: float, width: float) -> None:
    # The edge of the ink is known to a quarter of a pixel in a bar twelve pixels high.
    tolerance = 1 / UPSAMPLING / 12
    assert measure(draw_bar(lean, width)[None]).slant[0] == pytest.approx(lean, abs=tolerance)


def test_slant_of_a_mask_is_the_ratio_of_its_moments() -> None:
    mask = np.random.default_rng(0).random((3, 20, 30)) < 0.2
    for one, found in zip(mask, slant(mask), strict=True):
        (down, across), _ = np.cov(np.stack(np.nonzero(one)))
        assert found == pytest.approx(-across / down)


def test_a_mirrored_image_leans_the_other_way() -> None:
    image = draw_bar(0.3, 2.0)
    found = measure(np.stack([image, image[:, ::-1], image[::-1], image[::-1, ::-1]])).slant
    assert found == pytest.approx(found[0] * np.array([1, -1, -1, 1]))


@pytest.mark.parametrize("width", [4, 8, 12])
def test_thickness_of_a_stroke_without_ends_is_its_width(width: int) -> None:
    # Each corner of the skeleton may be cut by a width: four in 4 * (48 - width) cells.
    tolerance = width / (48 - width)
    found = thickness(draw_frame(width))[0] * UPSAMPLING
    assert found == pytest.approx(width, rel=tolerance)


def test_a_wider_bar_is_thicker() -> None:
    found = measure(np.stack([draw_bar(0.3, width) for width in (1.3, 2.1, 4.0)]))
    assert list(found.thickness_index()) == [0, 1, 2]


def test_the_fine_grid_keeps_place_and_area() -> None:
    mask = ink_mask(draw_bar(0.0, 4.0)[None])[0]
    assert mask.shape == (SIZE * UPSAMPLING, SIZE * UPSAMPLING)
    assert np.array_equal(mask, mask[::-1])
    assert np.array_equal(mask, mask[:, ::-1])
    # Every edge of a bar of 4 by 12 pixels is known to one cell of the fine grid.
    assert 14 * 46 <= mask.sum() <= 18 * 50


def test_an_image_without_ink_measures_zero() -> None:
    found = measure(np.zeros((2, SIZE, SIZE)))
    assert np.array_equal(found.slant, np.zeros(2))
    assert np.array_equal(found.thickness, np.zeros(2))


@pytest.mark.parametrize("lean", [-0.3, 0.12, 0.5])
@pytest.mark.parametrize("width", [1.3, 4.0])
def test_twice_the_noise_of_the_experts_changes_no_label_of_a_clear_case(
    lean: float, width: float
) -> None:
    image = draw_bar(lean, width)
    clean = measure(image[None])
    noise = np.random.default_rng(0).standard_normal((100, SIZE, SIZE))
    noised = measure(image + 0.2 * noise)
    assert np.array_equal(noised.slant_index(), clean.slant_index().repeat(100))
    assert np.array_equal(noised.thickness_index(), clean.thickness_index().repeat(100))


def test_a_value_on_an_edge_belongs_above_it() -> None:
    def around(edges: tuple[float, ...]) -> NDArray[np.floating]:
        return np.array([value for edge in edges for value in (np.nextafter(edge, -9), edge)])

    found = Measured(around(SLANT_EDGES), around(THICKNESS_EDGES))
    assert list(found.slant_index()) == [0, 1, 1, 2]
    assert list(found.thickness_index()) == [0, 1, 1, 2]


def test_at_least_six_combinations_are_held_out_of_training() -> None:
    assert len(set(HELD_OUT)) == len(HELD_OUT) >= 6
    assert not set(HELD_OUT) & set(TRAINING_COMBINATIONS)
    assert set(HELD_OUT) | set(TRAINING_COMBINATIONS) == set(ALL_COMBINATIONS)
    assert len(ALL_COMBINATIONS) == len(set(ALL_COMBINATIONS)) == 10 * 3 * 3


def test_every_value_of_an_attribute_stays_in_training_with_each_of_another() -> None:
    """A held-out combination is new, and its three pairs are not."""
    for one in HELD_OUT:
        for left_free in range(3):
            pair = [value for place, value in enumerate(one) if place != left_free]
            assert any(
                [value for place, value in enumerate(other) if place != left_free] == pair
                for other in TRAINING_COMBINATIONS
            )


def test_a_combination_reads_as_words() -> None:
    assert str(Combination(7, 2, 2)) == "thick right 7"
    assert str(Combination(digit=0, slant=1, thickness=0)) == "thin upright 0"
