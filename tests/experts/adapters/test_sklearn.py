"""scikit-learn's densities as experts: the same values, gradients, draws, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity

import experts
import poe
from experts.tables.kernel_density import LOG_KERNELS

COVARIANCES = ["full", "tied", "diag", "spherical"]


def table(n: int = 60, d: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)) * [1.0, 3.0, 0.5][:d] + 2.0


def at(n: int, d: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return 2 + 2 * torch.randn(n, d, generator=g, dtype=torch.float64)


def fit_mixture(covariance_type: str, **settings: Any) -> GaussianMixture:
    return GaussianMixture(3, covariance_type=covariance_type, random_state=0, **settings).fit(
        table()
    )


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_kernel_density_is_that_of_sklearn(kernel: str, d: int) -> None:
    weights = np.random.default_rng(1).uniform(size=60)
    model = KernelDensity(bandwidth=0.8, kernel=kernel).fit(table(d=d), sample_weight=weights)
    expert, x = poe.as_expert(model), at(50, d)
    theirs = torch.from_numpy(model.score_samples(x.numpy()))
    inside = theirs > -np.inf
    # sklearn's normaliser of the cosine kernel lacks −(2/π)² ... in even dimensions.
    constant = np.log(2 / np.pi) - np.log(2 / np.pi - 4 / np.pi**2)
    shift = constant if kernel == "cosine" and d == 2 else 0.0
    assert torch.equal(expert(x) > -torch.inf, inside)
    assert inside.any()
    torch.testing.assert_close(expert.log_prob(x)[inside], theirs[inside] + shift)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_kernel_density_is_normalised(kernel: str, d: int) -> None:
    """The mean of a bump's density over its own draws of a wider one, by importance."""
    expert = experts.KernelDensity(torch.zeros(1, d, dtype=torch.float64), 0.5, kernel)
    wide = experts.KernelDensity(torch.zeros(1, d, dtype=torch.float64), 1.0, "exponential")
    x = wide.sample(40_000, generator=torch.Generator().manual_seed(0))
    ratio = (expert.log_prob(x) - wide.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(x) ** 0.5


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_draws_have_the_moments_of_the_bump(kernel: str, d: int) -> None:
    """E r² and E r⁴ by one-dimensional quadrature of r^(d−1) K(r)."""
    expert = experts.KernelDensity(torch.full((1, d), 3.0).double(), 0.5, kernel)
    x = (expert.sample(40_000, generator=torch.Generator().manual_seed(0)) - 3) / 0.5
    r = torch.linspace(0, 60.0 if kernel in ("gaussian", "exponential") else 1.0, 200_001).double()
    density = r ** (d - 1) * LOG_KERNELS[kernel](r).exp()
    for power in (2, 4):
        values = x.norm(dim=1) ** power
        expected = (density * r**power).sum() / density.sum()
        assert abs(values.mean() - expected) < 4 * values.std() / len(x) ** 0.5
    assert (x.mean(0).abs() < 4 * x.std(0) / len(x) ** 0.5).all()


@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_kernel_density_has_a_score_also_where_it_is_zero(kernel: str) -> None:
    expert = experts.KernelDensity([[0.0], [1.0]], 0.5, kernel)
    assert expert.score(torch.tensor([[0.2], [9.0], [0.0]])).isfinite().all()


def test_kernel_density_is_saved_and_loaded(tmp_path: Any) -> None:
    model = KernelDensity(bandwidth="scott", kernel="linear").fit(table())
    poe.save(poe.as_expert(model), tmp_path)
    assert torch.equal(poe.load(tmp_path)(at(9, 2)), poe.as_expert(model)(at(9, 2)))


def test_kernel_density_refuses_what_it_cannot_be() -> None:
    with pytest.raises(poe.ShapeError, match=r"points of shape \(n, d\), got \(2,\)"):
        experts.KernelDensity([0.0, 1.0], 1.0)
    with pytest.raises(poe.PoeError, match=r"expected a kernel among gaussian, .* got 'box'"):
        experts.KernelDensity([[0.0]], 1.0, "box")
    with pytest.raises(poe.PoeError, match="bandwidth must be positive, got 0"):
        experts.KernelDensity([[0.0]], 0.0)
    with pytest.raises(poe.ShapeError, match=r"weights of shape \(1,\), got \(2,\)"):
        experts.KernelDensity([[0.0]], 1.0, weights=[1.0, 2.0])
    with pytest.raises(poe.PoeError, match="weights must be 0 or above, got -1"):
        experts.KernelDensity([[0.0]], 1.0, weights=[-1.0])


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_mixture_is_one_of_gaussians_with_the_same_density(covariance_type: str) -> None:
    model = fit_mixture(covariance_type)
    expert, x = poe.as_expert(model), at(50, 2)
    assert isinstance(expert, poe.Mixture)
    assert all(isinstance(part, experts.Gaussian) for part in expert.experts)
    torch.testing.assert_close(expert.log_prob(x), torch.from_numpy(model.score_samples(x.numpy())))


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_its_gradient_is_exact(covariance_type: str) -> None:
    model = fit_mixture(covariance_type)
    x = at(9, 2)
    responsibilities = torch.from_numpy(model.predict_proba(x.numpy()))
    full = experts.adapters.sklearn.gaussian_mixture(model)
    precisions = torch.stack([part.precision for part in full.experts])
    pulls = torch.from_numpy(model.means_)[None] - x[:, None]
    expected = torch.einsum("nk,kij,nkj->ni", responsibilities, precisions, pulls)
    torch.testing.assert_close(full.score(x), expected)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_products_with_gaussians_stay_in_closed_form(covariance_type: str) -> None:
    expert = poe.as_expert(fit_mixture(covariance_type))
    for prior in (experts.Gaussian([0.0, 0.0], scale=2.0), expert):
        found = poe.log_partition(expert * prior)
        assert found.std_error == 0
        draws = poe.sample(expert * prior, 100, generator=torch.Generator().manual_seed(0))
        assert draws.guarantee == "exact"


def test_a_mixture_is_saved_and_loaded(tmp_path: Any) -> None:
    expert = poe.as_expert(fit_mixture("full"))
    poe.save(expert, tmp_path)
    assert torch.equal(poe.load(tmp_path)(at(9, 2)), expert(at(9, 2)))


@pytest.mark.parametrize("model", [KernelDensity(), GaussianMixture()], ids=str)
def test_what_is_not_fitted_is_refused(model: object) -> None:
    with pytest.raises(poe.AdaptationError, match=r"expected a fitted .*call fit\(X\) first"):
        poe.as_expert(model)


def test_other_metrics_and_estimators_are_refused() -> None:
    with pytest.raises(poe.AdaptationError, match="metric 'euclidean', got 'manhattan'"):
        poe.as_expert(KernelDensity(metric="manhattan").fit(table()))
    with pytest.raises(poe.AdaptationError, match="score_samples is a bound and no density"):
        poe.as_expert(BayesianGaussianMixture(n_components=2, random_state=0).fit(table()))
    with pytest.raises(
        poe.AdaptationError, match="a KernelDensity or a GaussianMixture, got KMeans"
    ):
        poe.as_expert(KMeans())
