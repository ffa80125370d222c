"""Where runs on counts start."""

from __future__ import annotations

import pytest
import torch

import poe
from poe.structure.proper import is_proper
from poe.testing import check_expert
from poe.tuning.counts import FEW_SIZES, SIZES, counts_of_sizes


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_a_broad_start_is_normalised_and_drawn_as_it_says(shape: tuple[int, ...]) -> None:
    space = poe.Count(shape)
    expert = counts_of_sizes(space, torch.zeros(()), FEW_SIZES)
    x = expert.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (40_000, *shape)
    assert space.contains(x).all()
    for k in (1, 10, 100):  # P(n >= k) = q^k
        p = sum((size / (1 + size)) ** k for size in FEW_SIZES) / len(FEW_SIZES)
        share = (x >= k).double().mean(0)
        assert ((share - p).abs() < 4.5 * (p * (1 - p) / 40_000) ** 0.5).all()
    check_expert(expert, x[:8])


def test_its_sum_is_1_and_it_reaches_far() -> None:
    expert = counts_of_sizes(poe.Count(1), torch.zeros((), dtype=torch.float64))
    n = torch.arange(3_000_000.0, dtype=torch.float64)[:, None]
    beyond = (SIZES[-1] / (1 + SIZES[-1])) ** 3_000_000 / len(SIZES)
    beyond += (SIZES[-2] / (1 + SIZES[-2])) ** 3_000_000 / len(SIZES)
    assert float(expert(n).logsumexp(0).exp()) == pytest.approx(1 - beyond, rel=1e-6)
    assert is_proper(expert)


def test_elements_of_one_event_are_of_one_size() -> None:
    expert = counts_of_sizes(poe.Count(50), torch.zeros(()))
    mean = expert.sample(4000, generator=torch.Generator().manual_seed(0)).mean(1)
    for size in SIZES:  # a twelfth of the events each, but for the next ones' tails
        share = ((mean > size / 2) & (mean < 2 * size)).double().mean()
        assert abs(share - 1 / 12) < 0.03
