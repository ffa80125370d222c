"""Exponents by score matching: against Gaussians, and Hutchinson's probes against their error."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import poe
from experts import Bernoulli, Gaussian
from poe.exponents import fit_exponents_by_score_matching as fit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_gaussians() -> poe.Product:
    return poe.Product(
        a=Gaussian(torch.tensor([-1.0, 0.0]), scale=1.0), b=Gaussian([3.0, 0.0], scale=2.0)
    )


def test_the_fitted_product_is_the_gaussian_of_the_data() -> None:
    product, truth = two_gaussians(), torch.tensor([0.5, 2.0], dtype=torch.float64)
    made = poe.simplify(
        poe.Product(*(e ** float(w) for e, w in zip(product.experts, truth, strict=True)))
    ).expert
    # 40 independent fits: their mean lies within four standard errors of the truth.
    fits = [fit(product, made.sample(2000, generator=seeded(i)), generator=seeded(i)).weights
            for i in range(40)]  # fmt: skip
    weights = torch.stack(fits)
    error = weights.std(0) / 40**0.5
    assert ((weights.mean(0) - truth).abs() < 4 * error).all()
    assert (error < 0.02).all()


def hyvarinen(expert: poe.Expert, x: torch.Tensor) -> float:
    """E[1/2 |s|² + div s], the divergence by central differences of the score, in float64."""
    expert, x, step = copy.deepcopy(expert).double(), x.double(), 1e-4
    divergence = sum(
        (expert.score(x + step * e) - expert.score(x - step * e))[:, i] / (2 * step)
        for i, e in enumerate(torch.eye(x.shape[1], dtype=torch.float64))
    )
    return float((0.5 * expert.score(x).square().sum(1) + divergence).mean())


@pytest.mark.parametrize("num_points", [2, 5, 20, 500])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_the_best_expert(num_points: int, seed: int) -> None:
    truth = Gaussian([0.0, 0.0], scale=1.0)
    product = poe.Product(truth, harmful=Gaussian([9.0, -9.0], scale=0.5),
                          broad=Gaussian([1.0, 0.0], scale=3.0))  # fmt: skip
    x = truth.sample(num_points, generator=seeded(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        found = fit(product, x, generator=seeded(seed))
    assert found.loss <= found.alone.min()
    assert found.is_learned or found.weights.sum() == 1
    held_out = x[torch.randperm(num_points, generator=seeded(seed))[: max(1, num_points // 5)]]
    alone = min(hyvarinen(expert, held_out) for expert in product.experts)
    assert hyvarinen(found.product, held_out) <= alone + 1e-6 * abs(alone)  # central differences


def test_falling_back_is_said() -> None:
    product = poe.Product(good=Gaussian([0.0], scale=1.0), bad=Gaussian([5.0], scale=1.0))
    with pytest.warns(poe.TrustWarning):
        found = [fit(product, torch.randn(3, 1, generator=seeded(i)), generator=seeded(i))
                 for i in range(10)]  # fmt: skip
    lost = [f for f in found if not f.is_learned]
    assert lost
    assert all(f.product.names == (f.best_alone,) for f in lost)


def test_hutchinson_agrees_with_the_closed_form_in_many_dimensions() -> None:
    # Gaussians have a diagonal Jacobian, for which random signs are exact.
    truth = Gaussian(torch.zeros(40), scale=1.0)
    product = poe.Product(wide=Gaussian(torch.zeros(40), scale=2.0))
    x = truth.sample(1000, generator=seeded(0))
    found = fit(product, x, generator=seeded(1))
    order = torch.randperm(1000, generator=seeded(1))[200:]
    expected = 4 * 40 / x[order].double().square().sum(1).mean()
    torch.testing.assert_close(found.weights[0], expected, rtol=1e-5, atol=0)


def test_bad_input_is_refused() -> None:
    product = two_gaussians()
    with pytest.raises(poe.ShapeError, match="n >= 2"):
        fit(product, torch.zeros(1, 2))
    with pytest.raises(poe.NonFiniteError, match="under a"):
        fit(product, torch.full((10, 2), torch.nan))
    with pytest.raises(poe.PoeError, match="expected a product on Real"):
        fit(poe.Product(Bernoulli([0.0])), torch.zeros(4, 1))


def test_random_signs_are_right_on_average_where_they_are_not_exact() -> None:
    # A correlated Gaussian: what the probes add off the diagonal has mean 0.
    g = seeded(0)
    half = torch.randn(40, 40, generator=g) / 40**0.5
    truth = Gaussian(torch.zeros(40), covariance=half @ half.mT + torch.eye(40))
    x = truth.sample(400, generator=g)
    fits = [fit(poe.Product(truth**0.5), x, generator=seeded(i)).weights for i in range(30)]
    order = [torch.randperm(400, generator=seeded(i))[80:] for i in range(30)]
    trace = torch.linalg.inv(half @ half.mT + torch.eye(40)).trace()
    exact = torch.stack([2 * trace / truth.score(x[o]).square().sum(1).mean() for o in order])
    error = torch.stack(fits)[:, 0] - exact
    assert error.std() > 1e-5  # the probes do matter
    assert error.mean().abs() < 4 * error.std() / 30**0.5
