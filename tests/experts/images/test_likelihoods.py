"""Likelihoods of degraded pictures, against formulas by hand and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

import poe
from experts import Gaussian, GaussianLikelihood, SaltAndPepper
from experts.images import BlockMean, Identity, Mask
from poe.structure.gaussian_factors import Independent

G = torch.Generator().manual_seed(0)
X = torch.rand(3, 4, 4, generator=G, dtype=torch.float64)


def test_gaussian_likelihood_is_a_normal_about_what_the_operator_makes() -> None:
    y = torch.rand(2, 2, generator=G, dtype=torch.float64)
    seen = GaussianLikelihood(BlockMean((4, 4), 2), y, scale=0.3)
    means = torch.nn.functional.avg_pool2d(X, 2)
    torch.testing.assert_close(seen(X), Normal(means, 0.3).log_prob(y).sum((1, 2)))
    score = torch.nn.functional.interpolate((y - means)[:, None], scale_factor=2)[:, 0] / (4 * 0.09)
    torch.testing.assert_close(seen.score(X), score)


def test_posterior_of_a_gaussian_prior_is_the_conjugate_one() -> None:
    prior = Gaussian(torch.full((2,), 0.5), scale=0.5)
    seen = GaussianLikelihood(Mask(torch.tensor([1.0, 0.0])), torch.tensor([1.0, 0.0]), 0.5)
    exact = Gaussian([0.75, 0.5], scale=[0.5 / math.sqrt(2), 0.5])
    x = torch.randn(5, 2, generator=G)
    difference = (prior * seen)(x) - exact(x)
    torch.testing.assert_close(difference, difference[:1].expand(5))


def test_salt_and_pepper_adds_up_to_one_over_grey_values() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 255
    x = torch.tensor([0.5], dtype=torch.float64)  # far from both ends, where no tail is cut off
    for probability in (0.1, 0.7):
        chances = [SaltAndPepper(y[None], probability, scale=0.02)(x).exp() for y in levels]
        assert sum(chances).item() == pytest.approx(1.0, abs=1e-6)


def test_salt_and_pepper_knows_what_was_kept() -> None:
    seen = SaltAndPepper(torch.tensor([0.5, 1.0, 1.0]), 0.3)
    [mixture] = poe.gaussian_factors(seen)
    x = torch.tensor([[0.5, 1.0, 0.2]])
    ones = torch.ones(20_000, 1)
    uniforms = torch.rand(20_000, 3, generator=G)
    weights = mixture.draw(x * ones, uniforms)
    assert isinstance(weights, Independent)
    kept = (weights.precisions > 0).double().mean(0)
    density = 0.7 / math.sqrt(2 * math.pi)
    chance = density / (density + 0.15)
    assert kept[0] == 1
    assert abs(kept[1] - chance) < 4 * (chance * (1 - chance) / 20_000) ** 0.5
    assert kept[2] == 0
    torch.testing.assert_close(weights.precisions.unique(), torch.tensor([0.0, 255.0**2]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.ShapeError, match="as the operator makes it"):
        GaussianLikelihood(Identity((2, 2)), torch.zeros(2), 0.1)
    with pytest.raises(poe.PoeError, match="scale must be positive, got 0"):
        GaussianLikelihood(Identity((2,)), torch.zeros(2), 0.0)
    with pytest.raises(poe.PoeError, match="between 0 and 1"):
        SaltAndPepper(torch.zeros(2), 1.0)


def test_likelihood_of_one_pixel_is_normalised_over_what_is_seen() -> None:
    x = torch.tensor([[0.3]], dtype=torch.float64)
    y = torch.linspace(-3, 3.6, 2001, dtype=torch.float64)
    values = [GaussianLikelihood(Identity((1,)), one[None], 0.4)(x).exp() for one in y]
    assert torch.trapezoid(torch.cat(values), y).item() == pytest.approx(1.0, abs=1e-6)
