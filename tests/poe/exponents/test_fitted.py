"""What all three fits have in common: never worse than the best expert, and honest errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from experts import Bernoulli, Gaussian
from poe.exponents import (
    FittedExponents,
    fit_exponents_by_likelihood,
    fit_exponents_by_log_score,
    fit_exponents_by_score_matching,
)
from poe.normalizers.enumeration import states

Fit = Callable[..., FittedExponents]
METHODS = (
    fit_exponents_by_likelihood,
    fit_exponents_by_log_score,
    fit_exponents_by_score_matching,
)
BY_LOG_SCORE = METHODS[:2]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quietly(fit: Fit, product: poe.Product, x: Tensor, seed: int) -> FittedExponents:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        return fit(product, x, generator=seeded(seed))


def held_out(x: Tensor, seed: int) -> Tensor:
    return x[torch.randperm(len(x), generator=seeded(seed))[: max(1, len(x) // 5)]]


def two_gaussians() -> poe.Product:
    return poe.Product(
        a=Gaussian(torch.tensor([-1.0, 0.0]), scale=1.0), b=Gaussian([3.0, 0.0], scale=2.0)
    )


def agree(z: Tensor) -> bool:
    """Whether 40 errors over their standard errors ``(40, k)`` are like draws of N(0, 1)."""
    # The mean of 40 squares has a standard error of (2 / 40)^1/2, in its logarithm 0.22.
    is_spread = z.square().mean(0).log().abs() < 4 * (2 / 40) ** 0.5
    return bool(is_spread.all() and (z.mean(0).abs() < 4 / 40**0.5).all())


@pytest.mark.law
@pytest.mark.parametrize("fit", [fit_exponents_by_likelihood, fit_exponents_by_score_matching])
def test_standard_errors_are_the_spread_of_the_weights(fit: Fit) -> None:
    product, truth = two_gaussians(), torch.tensor([0.5, 2.0])
    powers = (expert ** float(w) for expert, w in zip(product.experts, truth, strict=True))
    source = poe.simplify(poe.Product(*powers)).expert
    fits = [fit(product, source.sample(500, generator=seeded(i)), generator=seeded(i))
            for i in range(40)]  # fmt: skip
    assert agree(torch.stack([(f.weights - truth) / f.std_error for f in fits]))


@pytest.mark.law
def test_standard_errors_by_enumeration() -> None:
    g, truth = seeded(0), torch.tensor([0.5, 1.5]).double()
    field, pairs = torch.randn(6, generator=g), torch.randn(6, 6, generator=g) / 2
    product = poe.Product(
        poe.FromLogDensity(lambda x: x @ field, space=poe.Binary(6)),
        poe.FromLogDensity(lambda x: ((x @ pairs) * x).sum(-1), space=poe.Binary(6)),
    )
    table = states(poe.Binary(6))
    probability = torch.softmax(product.contributions(table).double() @ truth, 0)
    fits = []
    for i in range(40):
        rows = torch.multinomial(probability, 2000, True, generator=seeded(i))
        fits.append(fit_exponents_by_log_score(product, table[rows], generator=seeded(i)))
    assert agree(torch.stack([(f.weights - truth) / f.std_error for f in fits]))


@pytest.mark.law
@pytest.mark.parametrize("fit", BY_LOG_SCORE)
@pytest.mark.parametrize("num_points", [2, 5, 30])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_the_best_expert(fit: Fit, num_points: int, seed: int) -> None:
    truth = Gaussian([0.0, 0.0], scale=1.0)
    product = poe.Product(truth, harmful=Gaussian([9.0, -9.0], scale=0.5),
                          broad=Gaussian([1.0, 0.0], scale=3.0))  # fmt: skip
    x = truth.sample(num_points, generator=seeded(seed))
    found = quietly(fit, product, x, seed)
    outside = held_out(x, seed)
    alone = max(float(expert.log_prob(outside).mean()) for expert in product.experts)
    log_score = float(poe.simplify(found.product).expert.log_prob(outside).mean())
    assert log_score >= alone - 1e-5  # float32
    assert found.loss == pytest.approx(-log_score, abs=1e-5)
    torch.testing.assert_close(-found.alone.max(), min(
        expert.log_prob(outside).mean() for expert in product.experts).double())  # fmt: skip


@pytest.mark.parametrize("fit", BY_LOG_SCORE)
def test_never_worse_on_a_discrete_space(fit: Fit) -> None:
    g = seeded(1)
    likely = Bernoulli(torch.randn(8, generator=g))
    product = poe.Product(likely, Bernoulli(torch.randn(8, generator=g)))
    for seed in range(3):
        x = likely.sample(30, generator=seeded(seed))
        found = quietly(fit, product, x, seed)
        outside = held_out(x, seed)
        alone = max(float(expert.log_prob(outside).mean()) for expert in product.experts)
        log_z = poe.log_partition(found.product).value
        assert float(found.product(outside).mean() - log_z) >= alone - 1e-5


@pytest.mark.law
@pytest.mark.parametrize("fit", METHODS)
def test_falling_back_is_said(fit: Fit) -> None:
    product = poe.Product(good=Gaussian([0.0], scale=1.0), bad=Gaussian([5.0], scale=1.0))
    with pytest.warns(poe.TrustWarning, match="good alone"):
        found = [fit(product, torch.randn(3, 1, generator=seeded(i)), generator=seeded(i))
                 for i in range(10)]  # fmt: skip
    lost = [f for f in found if not f.is_learned]
    assert lost
    assert all(f.product.names == (f.best_alone,) for f in lost)
    assert "alone)" in str(lost[0])


@pytest.mark.parametrize("fit", METHODS)
def test_the_better_product_is_taken(fit: Fit) -> None:
    x = Gaussian([2.0], scale=1.0).sample(500, generator=seeded(0))
    product = poe.Product(a=Gaussian([0.0], scale=1.0), b=Gaussian([4.0], scale=1.0))
    found = fit(product, x, generator=seeded(0))
    assert found.is_learned
    assert found.loss < found.alone.min()
    assert str(found).splitlines()[1].startswith("a ")


@pytest.mark.parametrize("fit", METHODS)
def test_bad_input_is_refused(fit: Fit) -> None:
    with pytest.raises(poe.ShapeError, match="n >= 2"):
        fit(two_gaussians(), torch.zeros(1, 2))
    with pytest.raises(poe.NonFiniteError, match="under a"):
        fit(two_gaussians(), torch.full((10, 2), torch.nan))


@pytest.mark.law
def test_the_same_seed_gives_the_same_bits() -> None:
    x = torch.randn(50, 2, generator=seeded(0))
    for fit in METHODS:
        one, other = (quietly(fit, two_gaussians(), x, 3) for _ in range(2))
        assert torch.equal(one.weights, other.weights)
        assert one.loss == other.loss
