"""Columns brought to one unit, and to normal scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import poe
from experts import Gaussian
from experts.tables import NormalScores, Standardize


def test_standardized_columns_have_mean_0_and_deviation_1() -> None:
    rows = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]], dtype=torch.float64)
    standardized = Standardize.fitted(rows)(rows)
    torch.testing.assert_close(standardized.mean(0), torch.zeros(2).double())
    expected = torch.tensor([1.0, 0.0]).double()  # the second column is constant
    torch.testing.assert_close(standardized.std(0, correction=0), expected)


def test_a_column_constant_up_to_rounding_is_constant() -> None:
    rows = torch.tensor([[0.1], [0.1 + 1e-17], [0.1 + 2e-17]], dtype=torch.float64)
    assert Standardize.fitted(rows).scale.item() == 1.0


def test_normal_scores_of_distinct_values_are_normal_quantiles() -> None:
    rows = torch.tensor([[1.0], [100.0], [10.0], [1000.0]], dtype=torch.float64)
    quantiles = torch.tensor([[1.0], [5.0], [3.0], [7.0]], dtype=torch.float64) / 8
    expected = torch.distributions.Normal(0.0, 1.0).icdf(quantiles)
    torch.testing.assert_close(NormalScores.fitted(rows)(rows), expected)


def test_normal_scores_share_ties_and_go_on_with_slope_1() -> None:
    rows = torch.tensor([[0.0, 7.0], [0.0, 7.0], [5.0, 7.0], [5.0, 7.0]])
    scores = NormalScores.fitted(rows)
    low = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.25)).item()
    x = torch.tensor([[0.0, 7.0], [-3.0, 6.0], [2.5, 9.5], [105.0, 7.0]])
    expected = torch.tensor([[low, 0.0], [low - 3, -1.0], [0.0, 2.5], [100 - low, 0.0]])
    torch.testing.assert_close(scores(x), expected)


def test_saved_with_the_expert_read_through_them(tmp_path: Path) -> None:
    rows = torch.arange(6.0).reshape(3, 2) ** 2
    maps = torch.nn.Sequential(Standardize.fitted(rows), NormalScores.fitted(rows))
    expert = Gaussian([0.0, 0.0], scale=1.0).at(maps, poe.Real(2))
    poe.save(expert, tmp_path / "expert")
    assert torch.equal(poe.load(tmp_path / "expert")(rows), expert(rows))


@pytest.mark.parametrize("kind", [Standardize, NormalScores])
def test_what_is_no_table_is_refused(kind: type[Standardize | NormalScores]) -> None:
    with pytest.raises(poe.ShapeError, match=r"a table of shape \(n, d\)"):
        kind.fitted(torch.zeros(3))
