"""The linear Gaussian conditional, against torch's normal."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import poe
from experts import Gaussian, LinearGaussian

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


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["weight", "bias", "scale"])
def test_numbers_that_are_not_finite_are_refused(name: str, wrong: float) -> None:
    numbers = {"weight": [[2.0]], "bias": [0.0], "scale": [1.0]}
    numbers[name] = [[wrong]] if name == "weight" else [wrong]
    with pytest.raises(poe.PoeError, match=f"{name} must be finite, got {wrong:g}"):
        LinearGaussian(**numbers)


def test_numbers_of_several_dtypes_become_those_of_the_weight() -> None:
    step = LinearGaussian(torch.ones(1, 1, dtype=torch.float64), [1], 0.1 * torch.ones(1))
    assert {step.weight.dtype, step.bias.dtype, step.scale.dtype} == {torch.float64}
    exact = LinearGaussian(torch.ones(1, 1, dtype=torch.float64), [0.1], [0.1])
    assert exact.bias.item() == exact.scale.item() == 0.1


def test_draws_carry_a_gradient_by_rsample_alone() -> None:
    step = LinearGaussian(nn.Parameter(WEIGHT), [0.5, -1.0, 0.0], [0.5, 1.0, 0.3])
    x = torch.ones(4, 2)
    drawn = step.sample(x, 4, generator=torch.Generator().manual_seed(0))
    assert not drawn.requires_grad
    again = step.rsample(x, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.detach(), drawn)
    (slope,) = torch.autograd.grad(again.sum(), step.weight)
    torch.testing.assert_close(slope, torch.full((3, 2), 4.0))


def test_parameters_stay_parameters() -> None:
    step = LinearGaussian(nn.Parameter(torch.ones(1, 1)), bias=[0.0], scale=[1.0])
    assert [name for name, _ in step.named_parameters()] == ["weight"]
    assert step.sample(torch.ones(2, 1), 2).requires_grad is False


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.ShapeError, match=r"weight of shape \(d_y, d_x\)"):
        LinearGaussian(WEIGHT, bias=[0.0], scale=[1.0])
    with pytest.raises(poe.PoeError, match="scale must be positive, got"):
        LinearGaussian([[1.0]], bias=[0.0], scale=[0.0])
    with pytest.raises(poe.ShapeError, match=r"condition of shape \(n, 1\)"):
        LinearGaussian([[1.0]], bias=[0.0], scale=[1.0]).given(0)(torch.zeros(1, 1))


def test_exact_marginal_is_the_integral_over_a_gaussian() -> None:
    step = LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])
    prior = Gaussian([0.3], scale=[1.5])
    y = torch.tensor([-2.0, 0.0, 4.0])
    x = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
    values = [prior.double()(x[:, None]) + Normal(2 * x + 1, 0.5).log_prob(at) for at in y]
    expected = torch.stack([torch.trapezoid(value.exp(), x).log() for value in values])
    found = step.exact_marginal(Gaussian([0.3], scale=[1.5]))
    assert found is not None
    torch.testing.assert_close(found(y[:, None]).double(), expected, atol=1e-5, rtol=1e-5)


def test_exact_marginal_has_all_covariances() -> None:
    step = LinearGaussian(WEIGHT, bias=[0.5, -1.0, 0.0], scale=[0.5, 1.0, 0.3])
    prior = Gaussian([1.0, -1.0], covariance=[[1.0, 0.4], [0.4, 2.0]])
    found = step.exact_marginal(prior * prior)  # which comes to one of half the covariance
    assert isinstance(found, Gaussian)
    expected = WEIGHT @ prior.covariance @ WEIGHT.T / 2 + torch.diag(step.scale**2)
    torch.testing.assert_close(found.covariance, expected)
    torch.testing.assert_close(found.loc, WEIGHT @ prior.loc + step.bias)


def test_exact_marginal_learns_and_is_none_for_another_prior() -> None:
    step = LinearGaussian(nn.Parameter(torch.ones(1, 1)), bias=[0.0], scale=[1.0])
    found = step.exact_marginal(Gaussian([2.0], scale=[1.0]))
    assert found is not None
    found(torch.ones(1, 1)).sum().backward()  # log N(1; 2w, w² + 1) at w = 1
    torch.testing.assert_close(step.weight.grad, torch.tensor([[-1.25]]))
    assert step.exact_marginal(Gaussian([0.0], 1.0) | Gaussian([1.0], 1.0)) is None
