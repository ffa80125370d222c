"""Weighted draws: moments by enumeration, standard errors as the errors really are, Kish's ESS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poe.diagnostics import kish_ess, normalized_weights, weighted_moments


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_integer_weights_are_repetitions() -> None:
    x, counts = normals(2, 3, 2), torch.tensor([[1, 2, 3], [4, 0, 5]])
    moments = weighted_moments(x, counts.log())
    repeated = x.flatten(0, 1).repeat_interleave(counts.flatten(), 0)
    torch.testing.assert_close(moments.mean, repeated.mean(0))
    torch.testing.assert_close(moments.sd, repeated.std(0, correction=0))


def test_a_common_factor_of_the_weights_says_nothing() -> None:
    log_weights = normals(2, 50)
    same = log_weights + 900.0
    torch.testing.assert_close(normalized_weights(same), normalized_weights(log_weights))
    torch.testing.assert_close(kish_ess(same), kish_ess(log_weights))


def test_kish_counts_equal_weights() -> None:
    log_weights = torch.full((2, 10), -torch.inf)
    log_weights[0, :7] = 3.0
    assert kish_ess(log_weights).item() == pytest.approx(7.0)


@pytest.mark.parametrize("chains", [4, 20])
def test_the_standard_error_is_that_of_many_runs(chains: int) -> None:
    """exp(x) as weight moves N(0, 1) to mean 1: errors over mcse have unit variance, 300 runs."""
    ratios = []
    for seed in range(300):
        x = normals(chains, 400 // chains, 1, seed=seed)
        moments = weighted_moments(x, 0.5 * x[..., 0])
        ratios.append((moments.mean - 0.5) / moments.mcse)
    squares = torch.cat(ratios).square()
    assert abs(squares.mean() - 1) < 4 * squares.std() / 300**0.5


def test_draws_of_an_island_may_be_copies() -> None:
    """Twenty islands whose draws are all one: their mean's error is 1 / √20, not 1 / √1000."""
    x = normals(20, 1, 1).expand(20, 50, 1)
    mcse = weighted_moments(x, torch.zeros(20, 50)).mcse
    torch.testing.assert_close(mcse, x[:, 0].std(0) / 20**0.5)


def test_a_draw_of_weight_zero_has_no_say() -> None:
    x, log_weights = normals(2, 3, 1), torch.zeros(2, 3)
    x[0, 0], log_weights[0, 0] = torch.nan, -torch.inf
    mean = weighted_moments(x, log_weights).mean
    torch.testing.assert_close(mean, x.flatten(0, 1)[1:].mean(0))
