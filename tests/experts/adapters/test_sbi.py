"""sbi's estimators: the whole of them, with the standardisation that they learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from tests.seeds import seeded

pytest.importorskip("sbi")

from sbi.neural_nets.net_builders.flow import build_maf, build_zuko_maf
from sbi.neural_nets.net_builders.mdn import build_mdn

BUILDERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "nflows": build_maf,
    "zuko": build_zuko_maf,
}
pytestmark = pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")


@seeded()
def data() -> tuple[Tensor, Tensor]:
    """Parameters and observations, of means and scales far from 0 and 1."""
    return 20 + 5 * torch.randn(100, 2), 7 + 100 * torch.randn(100, 3)


@pytest.fixture(params=BUILDERS)
def estimator(request: pytest.FixtureRequest) -> nn.Module:
    with seeded():
        return BUILDERS[request.param](*data()).eval()


def test_it_is_the_estimators_own_density_of_raw_conditions(estimator: Any) -> None:
    theta, y = data()
    conditional = poe.as_expert(estimator)
    assert conditional.space == poe.Real(2)
    with torch.no_grad():
        one = estimator.log_prob(theta[None, :5], y[:1].expand(5, 3))[0]
        each = estimator.log_prob(theta[None, :5], y[:5])[0]
    torch.testing.assert_close(conditional.given(y[0])(theta[:5]), one)
    torch.testing.assert_close(conditional.given(y[:5]).log_prob(theta[:5]), each)


def test_its_draws_have_its_moments(estimator: Any) -> None:
    _, y = data()
    expert = poe.as_expert(estimator).given(y[0])
    x = expert.sample(4000, generator=torch.Generator().manual_seed(0))
    low, high = x.amin(0) - 10, x.amax(0) + 10
    side = [torch.linspace(a, b, 100) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    grid = torch.cartesian_prod(*side)
    cell = math.prod(float(s[1] - s[0]) for s in side)
    mass = expert.log_prob(grid).detach().exp() * cell
    assert abs(mass.sum() - 1) < 0.01
    mean = mass @ grid
    assert ((x.mean(0) - mean).abs() / (x.std(0) / 4000**0.5)).max() < 4


def test_times_a_prior_it_is_sampled() -> None:
    theta, y = data()
    with seeded():
        estimator = build_maf(theta, y).eval()
    target = poe.as_expert(estimator).given(y[0]) * experts.Gaussian([20.0, 20.0], 5.0)
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(target, 100, warmup=20, generator=g, progress=False)
    assert draws.samples.mean() > 10


def test_what_has_no_normalised_density_is_refused() -> None:
    with seeded():
        mixture = build_mdn(*data())
    with pytest.raises(poe.AdaptationError, match=r"got MixtureDensityEstimator: train one by NPE"):
        poe.as_expert(mixture)


def test_a_posterior_is_refused_with_the_remedy() -> None:
    from sbi.inference.posteriors import DirectPosterior

    with seeded():
        estimator = build_maf(*data()).eval()
        prior = torch.distributions.MultivariateNormal(torch.full((2,), 20.0), 25 * torch.eye(2))
        posterior = DirectPosterior(estimator, prior)
    with pytest.raises(poe.AdaptationError, match=r"DirectPosterior built on it.*posterior_est"):
        poe.as_expert(posterior)


def test_training_mode_is_refused_where_it_matters() -> None:
    with seeded():
        estimator = build_maf(*data(), dropout_probability=0.5).train()
    with pytest.raises(poe.AdaptationError, match="evaluation mode"):
        poe.as_expert(estimator)
