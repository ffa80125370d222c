"""Where runs on counts start."""

from __future__ import annotations

import pytest
import torch

import poe
from poe.density.capabilities import tails
from poe.structure.proper import is_proper
from poe.testing import check_expert
from poe.tuning.counts import AnyCounts, few_counts


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_a_broad_start_is_normalised_and_drawn_as_it_says(shape: tuple[int, ...]) -> None:
    expert = AnyCounts(poe.Count(shape), torch.zeros(()))
    x = expert.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (40_000, *shape)
    assert expert.space.contains(x).all()
    for k in (1, 10, 100):  # P(n >= k) = 1 / (k + 1)
        p = 1 / (k + 1)
        share = (x >= k).double().mean(0)
        assert ((share - p).abs() < 4.5 * (p * (1 - p) / 40_000) ** 0.5).all()
    check_expert(expert, x[:8])


def test_its_sum_is_1_and_its_tails_are_those_of_a_power() -> None:
    expert = AnyCounts(poe.Count(1), torch.zeros((), dtype=torch.float64))
    n = torch.arange(100_000.0, dtype=torch.float64)[:, None]
    assert float(expert(n).logsumexp(0).exp()) == pytest.approx(1 - 1 / 100_001, rel=1e-9)
    assert tails(expert).tolist() == [[0.0, 0.0, 2.0]]  # type: ignore[union-attr]
    assert is_proper(expert)
    assert is_proper(expert**0.6) is True
    assert is_proper(expert**0.4) is False


def test_chains_start_at_small_counts() -> None:
    expert = few_counts(poe.Count((2, 3)), torch.zeros(()))
    assert expert.sample(5, generator=torch.Generator().manual_seed(0)).shape == (5, 2, 3)
    assert expert.space == poe.Count((2, 3))
