"""The linear Gaussian conditional, against torch's normal."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import poe
from experts import LinearGaussian

WEIGHT = torch.tensor([[2.0, 0.5], [0.0, -1.0], [1.0, 1.0]])


def test_density_and_draws_are_those_of_a_normal() -> None:
    step = LinearGaussian(WEIGHT, bias=[0.5, -1.0, 0.0], scale=[0.5, 1.0, 0.3])
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 2, generator=g), torch.randn(4, 3, generator=g)
    mean = x @ WEIGHT.T + torch.tensor([0.5, -1.0, 0.0])
    expected = Normal(mean, torch.tensor([0.5, 1.0, 0.3])).log_prob(y).sum(-1)
    torch.testing.assert_close(step.given(x).log_prob(y), expected)
    n = 10_000
    draws = step.sample(x[:1].expand(n, 2), n, generator=g)
    error = torch.tensor([0.5, 1.0, 0.3]) / n**0.5
    assert bool(((draws.mean(0) - mean[0]).abs() < 4 * error).all())
    assert bool(((draws.std(0) - step.scale).abs() < 4 * error).all())


def test_parameters_stay_parameters() -> None:
    step = LinearGaussian(nn.Parameter(torch.ones(1, 1)), bias=[0.0], scale=[1.0])
    assert [name for name, _ in step.named_parameters()] == ["weight"]
    assert step.sample(torch.ones(2, 1), 2).requires_grad is False


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.ShapeError, match=r"weight of shape \(d_y, d_x\)"):
        LinearGaussian(WEIGHT, bias=[0.0], scale=[1.0])
    with pytest.raises(poe.PoeError, match="positive scale"):
        LinearGaussian([[1.0]], bias=[0.0], scale=[0.0])
    with pytest.raises(poe.ShapeError, match=r"condition of shape \(n, 1\)"):
        LinearGaussian([[1.0]], bias=[0.0], scale=[1.0]).given(0)(torch.zeros(1, 1))
