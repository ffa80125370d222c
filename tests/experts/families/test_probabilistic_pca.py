"""Probabilistic PCA against the full Gaussian that it is, and its fit against its likelihood."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from tests.seeds import seeded


def made(dtype: torch.dtype = torch.float64) -> experts.ProbabilisticPCA:
    g = torch.Generator().manual_seed(0)
    loc, loadings = torch.randn(2, 3, generator=g), torch.randn(2, 3, 2, generator=g)
    return experts.ProbabilisticPCA(loc.to(dtype), loadings.to(dtype), 0.5)


def covariance(expert: experts.ProbabilisticPCA) -> Tensor:
    loadings = expert.loadings.flatten(0, -2)
    return loadings @ loadings.T + expert.scale**2 * torch.eye(len(loadings)).to(loadings)


def test_it_is_the_gaussian_of_that_covariance() -> None:
    expert = made()
    full = experts.Gaussian(expert.loc.flatten(), covariance=covariance(expert))
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(expert.log_prob(x), full(x.flatten(1)))
    torch.testing.assert_close(expert.score(x).flatten(1), full.score(x.flatten(1)))
    assert poe.density.capabilities.is_normalized(expert)


def test_draws_have_its_moments() -> None:
    expert, n = made(), 40_000
    x = expert.sample(n, generator=torch.Generator().manual_seed(2)).flatten(1)
    expected = covariance(expert)
    variance = expected.diagonal()
    z = (x.mean(0) - expert.loc.flatten()) / (variance / n).sqrt()
    assert z.abs().max() < 4
    error = ((expected.square() + variance[:, None] * variance) / n).sqrt()
    assert ((x.T.cov() - expected) / error).abs().max() < 4


def test_draws_carry_a_gradient_by_rsample_alone() -> None:
    expert = experts.ProbabilisticPCA(
        *(torch.nn.Parameter(t) for t in (made().loc, made().loadings)), 0.5
    )
    drawn = expert.sample(5, generator=torch.Generator().manual_seed(0))
    assert not drawn.requires_grad
    x = expert.rsample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x.detach(), drawn)
    (slope,) = torch.autograd.grad(x.sum(), expert.loc)
    torch.testing.assert_close(slope, torch.full_like(slope, 5.0))


def test_the_fit_has_the_largest_likelihood() -> None:
    """At the fit the gradient of the likelihood is zero in location, loadings and scale."""
    rows = made().sample(500, generator=torch.Generator().manual_seed(3))
    fit = experts.ProbabilisticPCA.fit(rows, 2)
    learned = [torch.nn.Parameter(value) for value in (fit.loc, fit.loadings, fit.scale)]
    (-experts.ProbabilisticPCA(*learned)(rows).mean()).backward()
    for value in learned:
        assert value.grad is not None
        torch.testing.assert_close(value.grad, torch.zeros_like(value), rtol=0, atol=1e-9)
    assert fit(rows).mean() > made()(rows).mean()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([0.0], [[1.0, 2.0], [0.0, 1.0]], 1.0), poe.ShapeError, r"\(\*event, k\)"),
        (([0.0], [[1.0]], [1.0, 2.0]), poe.ShapeError, "one scale"),
        (([0.0], [[1.0]], 0.0), poe.PoeError, "scale must be positive, got 0"),
        (([0.0], [[float("nan")]], 1.0), poe.PoeError, "loadings must be finite, got nan"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: tuple[object, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        experts.ProbabilisticPCA(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_rows", "size", "k"), [(3, 2, 1), (6, 3, 1), (20, 5, 3)])
def test_no_other_spread_has_a_larger_likelihood(num_rows: int, size: int, k: int) -> None:
    """Also of few rows, where n and n − 1 are far apart."""
    g = torch.Generator().manual_seed(num_rows)
    rows = torch.randn(num_rows, size, generator=g, dtype=torch.float64)
    fit = experts.ProbabilisticPCA.fit(rows, k)
    for factor in (0.9, ((num_rows - 1) / num_rows) ** 0.5, 0.999, 1.001, 1.1):
        other = experts.ProbabilisticPCA(fit.loc, fit.loadings * factor, fit.scale * factor)
        assert fit(rows).mean() > other(rows).mean()


@pytest.mark.parametrize("rows", [torch.zeros(0, 3), torch.zeros(1, 3), torch.tensor(1.0)])
def test_too_few_rows_are_refused(rows: Tensor) -> None:
    with pytest.raises(poe.ShapeError, match=r"rows of shape \(n, \*event\), at least 2"):
        experts.ProbabilisticPCA.fit(rows, 1)


def test_rows_that_are_not_finite_or_whole_numbers() -> None:
    with pytest.raises(poe.PoeError, match="rows must be finite, got nan"):
        experts.ProbabilisticPCA.fit(torch.tensor([[0.0, torch.nan], [1.0, 1.0]]), 1)
    whole = torch.tensor([[0, 0], [1, 2], [3, 1]])
    assert experts.ProbabilisticPCA.fit(whole, 1).loc.dtype == torch.get_default_dtype()


@seeded()
def test_no_more_components_than_dimensions() -> None:
    with pytest.raises(poe.PoeError, match="expected 1 to 2 components, got 3"):
        experts.ProbabilisticPCA.fit(torch.randn(9, 3), 3)
    with pytest.raises(poe.PoeError, match="num_components must be a whole number"):
        experts.ProbabilisticPCA.fit(torch.randn(9, 3), 1.5)  # type: ignore[arg-type]


def test_rows_without_noise_are_refused() -> None:
    rows = torch.randn(9, 1, generator=torch.Generator().manual_seed(0)).expand(9, 3)
    with pytest.raises(poe.PoeError, match="vary in more than 1 directions"):
        experts.ProbabilisticPCA.fit(rows, 1)
