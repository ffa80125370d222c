"""Chains that stand still, and chains that are far from the others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.core.doubt import Kind
from poe.diagnostics import MAX_DISTANCE, distance_from_others, longest_stay
from poe.diagnostics.convergence import _upper_quartile_of_others


def normals(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def log_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(2).sum(2)


def test_the_longest_stay_may_be_anywhere() -> None:
    x = torch.arange(10.0).repeat(4, 1)
    x[1, :4] = 0.0  # at the start
    x[2, 7:] = 7.0  # at the end
    x[3] = 0.0  # always
    assert longest_stay(x[..., None], torch.zeros(4, 10)).tolist() == [1, 4, 3, 10]


def test_a_stay_needs_the_same_place_and_log_density() -> None:
    x = torch.zeros(2, 6, 2)
    x[0, :, 1] = torch.arange(6.0)
    value = torch.zeros(2, 6)
    value[1] = torch.arange(6.0)
    assert longest_stay(x, value).tolist() == [1, 1]


def test_chains_of_one_law_are_near_each_other() -> None:
    for x in (normals(100, 50, 30), normals(50, 100, 1), normals(20, 100, 1) / normals(20, 100, 1)):
        assert distance_from_others(x, log_density(x)).max() < 5


def test_the_distance_is_in_robust_sds() -> None:
    x = 7.0 * normals(10, 1000, 2)
    x[4, :, 1] += 7.0 * 40
    distance = distance_from_others(x, torch.zeros(10, 1000))
    assert 36 < distance[4] < 42  # the quartile's own error is about 5 %
    assert distance[torch.arange(10) != 4].max() < 1


def test_a_quarter_of_the_chains_may_be_far() -> None:
    x = normals(9, 200, 3)
    x[7:] += 1000.0 * torch.arange(1.0, 3.0)[:, None, None]
    is_far = distance_from_others(x, log_density(x)) > MAX_DISTANCE
    assert is_far.tolist() == [False] * 7 + [True] * 2


def test_modes_of_some_mass_are_not_called_far() -> None:
    x = 0.1 * normals(12, 100, 1)
    x[:4] += 50.0
    assert distance_from_others(x, torch.zeros(12, 100)).max() < MAX_DISTANCE


@pytest.mark.parametrize("chains", [3, 4, 5])
def test_one_of_few_chains_is_found(chains: int) -> None:
    for far in range(chains):
        x = normals(chains, 100, 2)
        x[far] += 15
        distance = distance_from_others(x, torch.zeros(chains, 100))
        assert (distance > MAX_DISTANCE).nonzero().tolist() == [[far]]


def test_only_a_low_log_density_is_far() -> None:
    x, value = normals(9, 100, 1), normals(9, 100)
    value[1] -= 100
    value[2] += 100
    is_far = distance_from_others(x, value) > MAX_DISTANCE
    assert is_far.nonzero().tolist() == [[1]]


def test_log_densities_are_compared_by_the_nat_at_least() -> None:
    x, value = normals(5, 100, 1), 0.01 * normals(5, 100)
    value[1] -= 5
    assert 4.9 < distance_from_others(x, value)[1] < 5.1


@pytest.mark.parametrize(("value", "first"), [(torch.nan, 99), (torch.inf, 10)])
def test_an_exploded_chain_is_infinitely_far(value: float, first: int) -> None:
    x = normals(5, 100, 2)
    x[3, first:, 0] = value
    distance = distance_from_others(x, log_density(x))
    assert distance.isinf().tolist() == [False, False, False, True, False]


def test_a_component_that_hardly_varies_says_nothing() -> None:
    x = torch.zeros(5, 100, 1)
    x[0] = 1.0
    assert distance_from_others(x, torch.zeros(5, 100)).tolist() == [0.0] * 5


@pytest.mark.parametrize("chains", [3, 4, 5, 6, 9])
def test_the_quartile_of_the_others_leaves_the_chain_itself_out(chains: int) -> None:
    values = normals(chains, 3)
    values[1, 0] = values[0, 0]
    place = math.ceil(0.75 * (chains - 1))
    expected = torch.stack(
        [torch.cat([values[:i], values[i + 1 :]]).sort(0).values[place - 1] for i in range(chains)]
    )
    torch.testing.assert_close(_upper_quartile_of_others(values), expected)


def test_of_two_chains_none_is_far() -> None:
    x = normals(2, 100, 1)
    x[0] += 1000
    assert distance_from_others(x, log_density(x)).tolist() == [0.0, 0.0]


def autoregressive(chains: int, draws: int, rho: float, seed: int) -> Tensor:
    """Exact AR(1) chains with autocorrelation time (1 + ρ) / (1 − ρ)."""
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(chains, generator=g)]
    for _ in range(draws - 1):
        noise = torch.randn(chains, generator=g)
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * noise)
    return torch.stack(x, 1)


@pytest.mark.parametrize("seed", range(5))
def test_many_short_chains_that_mix_agree(seed: int) -> None:
    x = autoregressive(256, 78, 1 / 3, seed)
    assert poe.diagnostics.r_hat(x) > 1.01  # by what each short chain is off
    assert poe.diagnostics.nested_r_hat(x) < 1.01
    assert poe.Draws(x[..., None], x, "asymptotically exact").is_trusted


@pytest.mark.parametrize("num_apart", [2, 8, 128])
def test_a_few_of_many_short_chains_that_stay_apart_are_seen(num_apart: int) -> None:
    x = autoregressive(256, 78, 1 / 3, 0)
    x[:num_apart] += 5
    draws = poe.Draws(x[..., None], x, "asymptotically exact")
    assert Kind.NOT_CONVERGED in {doubt.kind for doubt in draws.verdict.doubts}


def test_of_long_chains_the_nested_r_hat_is_that_of_the_chains() -> None:
    x = autoregressive(4, 1000, 0.5, 0)
    assert poe.diagnostics.nested_r_hat(x) == poe.diagnostics.r_hat(x)


def test_a_drift_that_all_short_chains_share_is_seen() -> None:
    x = autoregressive(256, 78, 1 / 3, 0) + torch.linspace(0, 2, 78)
    assert poe.diagnostics.nested_r_hat(x) > 1.1
