"""Rates at which attributes hold, and how different the samples of one combination are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from poe.demo.attributes import Combination, measure
from poe.demo.evaluate import COLUMNS, diversity, held, pairwise_distance, rates
from poe.demo.judge import Judge
from tests.seeds import seeded


class Says(Judge):
    """A judge with fixed answers."""

    def __init__(self, *answers: int) -> None:
        super().__init__(channels=1)
        self.answers = torch.tensor(answers)

    def classify(self, images: Tensor) -> Tensor:
        return self.answers


def bars() -> Tensor:
    """A thin bar that leans to the right, and a thick one that leans to the left."""
    down, across = torch.meshgrid(*[torch.arange(16) - 7.5] * 2, indexing="ij")
    thin = (across + 0.5 * down).abs() < 0.8
    thick = (across - 0.4 * down).abs() < 2.2
    return torch.stack([thin, thick]).float()


@seeded()
def test_each_attribute_is_held_to_its_own_wish() -> None:
    images = bars()
    assert list(measure(images.numpy()).slant_index()) == [2, 0]
    assert list(measure(images.numpy()).thickness_index()) == [0, 2]
    wanted = [Combination(1, 2, 2), Combination(7, 0, 2)]
    expected = [[True, True, False], [False, True, True]]
    assert held(images, wanted, Says(1, 1)).tolist() == expected
    wanted = [Combination(1, 1, 0), Combination(7, 2, 2)]
    assert held(images, wanted, Says(7, 7)).tolist() == [[False, False, True], [True, False, True]]


def test_rates_count_where_all_of_a_column_hold() -> None:
    every = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=bool)
    found = rates(every[:7])  # without the row in which all three hold
    assert list(found) == list(COLUMNS)
    assert [found[name] for name in ("class", "slant", "thickness")] == [3 / 7] * 3
    pairs = [found[name] for name in ("class+slant", "class+thickness", "slant+thickness")]
    assert pairs == [1 / 7] * 3
    assert found["all three"] == 0
    assert rates(every)["all three"] == 1 / 8
    only = rates(np.array([[True, False, True]]))
    assert {name for name, rate in only.items() if rate} == {
        "class",
        "thickness",
        "class+thickness",
    }


def test_pairwise_distance_is_the_mean_over_pairs() -> None:
    images = torch.zeros(3, 16, 16)
    images[1, 0, 0], images[2, 0, 0], images[2, 3, 4] = 3.0, 3.0, 4.0
    assert pairwise_distance(images) == pytest.approx((3 + 4 + 5) / 3)


def test_real_spread_has_diversity_one_and_copies_have_none() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 16, 16, generator=generator)
    first, second = Combination(2, 0, 0), Combination(5, 1, 1)
    combinations = [first, second] * 3
    real = [math.nan] * 10
    real[2], real[5] = pairwise_distance(x[::2]), pairwise_distance(x[1::2])
    assert diversity(x, combinations, real) == pytest.approx(1.0)
    real[5] /= 3
    assert diversity(x, combinations, real) == pytest.approx((1 + 3) / 2)
    assert diversity(x[:1].expand(6, 16, 16), combinations, real) == 0


def test_a_combination_with_one_sample_does_not_count() -> None:
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    combinations = [Combination(2, 0, 0), Combination(2, 0, 0), Combination(3, 0, 0)]
    real = [pairwise_distance(x[:2])] * 10
    assert diversity(x, combinations, real) == pytest.approx(1.0)
