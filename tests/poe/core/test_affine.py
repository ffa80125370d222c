"""Affine maps: inverses, gradients, determinants; and the fit of one to positions and scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe.core.affine import NOTICEABLE, fit_moments
from poe.samplers import Affine, Dense, Diagonal, LowRank, fit_affine

F64 = torch.float64
EVENTS = [(), (1,), (6,), (2, 3)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(d: int, k: int, g: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(d, k, generator=g, dtype=F64)).Q


def diagonal(d: int) -> Diagonal:
    return Diagonal(torch.linspace(-1, 2, d, dtype=F64), torch.linspace(0.1, 3, d, dtype=F64))


def dense(d: int) -> Dense:
    factor = torch.randn(d, d, generator=seeded(), dtype=F64).tril()
    factor.diagonal().abs_().add_(0.5)
    return Dense(torch.linspace(-1, 2, d, dtype=F64), factor)


def low_rank(d: int) -> LowRank:
    k = max(1, d // 2)
    stretch = torch.linspace(0.2, 5, k, dtype=F64)
    return LowRank(diagonal(d).loc, diagonal(d).scale, orthonormal(d, k, seeded()), stretch)


MAPS: list[Callable[[int], Affine]] = [diagonal, dense, low_rank]


def density(x: Tensor) -> Tensor:
    """Neither even nor Gaussian."""
    flat = x.reshape(len(x), -1)
    return -(flat - 0.3).square().square().sum(-1) + flat.sin().sum(-1)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("make", MAPS)
def test_to_u_undoes_to_x(make: Callable[[int], Affine], event: tuple[int, ...]) -> None:
    affine = make(math.prod(event))
    u = torch.randn(7, *event, generator=seeded(1), dtype=F64)
    x = affine.to_x(u)
    assert x.shape == affine.to_u(x).shape == u.shape
    torch.testing.assert_close(affine.to_u(x), u)
    torch.testing.assert_close(affine.to_x(affine.to_u(u)), u)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("make", MAPS)
def test_the_pulled_score_is_the_gradient_in_u(
    make: Callable[[int], Affine], event: tuple[int, ...]
) -> None:
    affine = make(math.prod(event))
    u = torch.randn(7, *event, generator=seeded(1), dtype=F64, requires_grad=True)
    x = affine.to_x(u)
    [of_u] = torch.autograd.grad(density(x).sum(), u, retain_graph=True)
    [of_x] = torch.autograd.grad(density(x).sum(), x)
    torch.testing.assert_close(affine.pull_score(of_x), of_u)
    torch.testing.assert_close(affine.push_score(of_u), of_x)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("make", MAPS)
def test_the_determinant_is_the_jacobians(
    make: Callable[[int], Affine], event: tuple[int, ...]
) -> None:
    affine, d = make(math.prod(event)), math.prod(event)
    jacobian = torch.autograd.functional.jacobian(
        lambda u: affine.to_x(u.reshape(1, *event)).reshape(d), torch.zeros(d, dtype=F64)
    )
    expected = torch.linalg.slogdet(jacobian).logabsdet  # type: ignore[no-untyped-call]
    torch.testing.assert_close(affine.log_abs_det(), expected)


def covariance_of(to_x: Callable[[Tensor], Tensor], d: int) -> Tensor:
    """L Lᵀ, from what a map does to the unit vectors."""
    columns = to_x(torch.eye(d, dtype=F64)) - to_x(torch.zeros(1, d, dtype=F64))
    return columns.mT @ columns


def gaussian(d: int) -> tuple[Tensor, Tensor]:
    """A mean and a covariance of condition number 10⁴."""
    rotation = orthonormal(d, d, seeded(2))
    return torch.linspace(-3, 5, d, dtype=F64), (rotation * torch.logspace(-2, 2, d)) @ rotation.mT


def score_of(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    return -torch.linalg.solve(covariance, (x - mean).mT).mT


@pytest.mark.parametrize("num_positions", [10, 40, 4000])
@pytest.mark.parametrize("away", [0.0, 100.0])
def test_a_gaussian_is_found_from_any_positions(num_positions: int, away: float) -> None:
    """Not draws of it: uniform ones, all on one side. The ridge leaves a relative 10⁻³ d / n."""
    d = 5
    mean, covariance = gaussian(d)
    x = away + torch.rand(num_positions, d, generator=seeded(), dtype=F64)
    affine = fit_affine(x, score_of(x, mean, covariance))
    assert isinstance(affine, Dense)
    whitened = torch.linalg.solve(covariance, covariance_of(affine.to_x, d))
    eigenvalues = torch.linalg.eigvals(whitened).real
    # With C = D R D (D the standard deviations), R has eigenvalues down to r: the ridge is worth
    # at most 10⁻³ d / (n r) of either covariance, and half of that each in their geometric mean.
    smallest = min(
        torch.linalg.eigvalsh(torch.corrcoef(part.mT)).min()
        for part in (x, score_of(x, mean, covariance))
    )
    ridge = 1e-3 * d / num_positions / smallest
    assert (eigenvalues.log().abs() < 1.1 * ridge + 1e-9).all()
    error = affine.to_u(mean[None]).norm() / affine.to_u(x).norm(dim=-1).mean()
    assert error < 1.1 * ridge + 1e-9


def test_a_gaussian_of_many_dimensions_is_found_up_to_its_stretched_directions() -> None:
    """d = 600, more than a dense map takes: scales of a hundredfold, three directions stretched."""
    d, g = 600, seeded()
    scale = torch.logspace(-1, 1, d, dtype=F64)
    directions = orthonormal(d, 3, g)
    stretch = torch.tensor([10.0, 5.0, 0.1], dtype=F64)
    mean = torch.linspace(-3, 5, d, dtype=F64)
    truth = LowRank(mean, scale, directions, stretch)
    x = truth.to_x(torch.randn(2000, d, generator=g, dtype=F64))
    affine = fit_affine(x, truth.push_score(-truth.to_u(x)))
    assert isinstance(affine, LowRank)
    assert affine.directions.shape == (d, 3)
    torch.testing.assert_close(affine.directions.mT @ affine.directions, torch.eye(3, dtype=F64))
    # Seen through the fitted map, the target is close to N(0, I), where it was far from it.
    whitened = torch.linalg.eigvalsh(covariance_of(lambda u: affine.to_u(truth.to_x(u)), d))
    unstretched = Diagonal(mean, scale)
    before = torch.linalg.eigvalsh(covariance_of(lambda u: unstretched.to_u(truth.to_x(u)), d))
    assert before[-1] / before[0] > 9_000
    assert ((whitened > 1 / NOTICEABLE) & (whitened < NOTICEABLE)).all()
    # The scores tell the mean better than the mean of 2000 draws does, with 600 standard errors².
    assert affine.to_u(mean[None]).square().sum() * 2000 < d


def test_with_nothing_to_correct_a_map_of_many_dimensions_is_a_diagonal() -> None:
    d, g = 600, seeded()
    mean, scale = torch.linspace(-3, 5, d, dtype=F64), torch.logspace(-2, 2, d, dtype=F64)
    x = mean + scale * torch.randn(40, d, generator=g, dtype=F64)
    affine = fit_affine(x, -(x - mean) / scale**2)
    assert isinstance(affine, LowRank)
    assert affine.directions.shape == (d, 0)
    torch.testing.assert_close(affine.scale, scale)  # exact: each component by itself is Gaussian
    torch.testing.assert_close(affine.loc, mean)


@pytest.mark.parametrize("num_positions", [2, 3, 5, 9])
def test_few_positions_find_the_scales_of_independent_components(num_positions: int) -> None:
    """Fewer than 2 d of them: no dense map, and from two of them no direction at all."""
    d = 6
    mean, scale = torch.linspace(-3, 5, d, dtype=F64), torch.logspace(-2, 2, d, dtype=F64)
    x = mean + scale * torch.randn(num_positions, d, generator=seeded(), dtype=F64)
    affine = fit_affine(x, -(x - mean) / scale**2)
    assert isinstance(affine, LowRank)
    torch.testing.assert_close(affine.scale, scale)
    torch.testing.assert_close(affine.loc, mean)
    assert affine.directions.shape[1] <= (num_positions - 1) // 2


def test_without_scores_the_moments_of_the_positions() -> None:
    mean, covariance = gaussian(4)
    factor = torch.linalg.cholesky(covariance)
    x = mean + torch.randn(50, 4, generator=seeded(), dtype=F64) @ factor.mT
    affine = fit_affine(x)
    assert isinstance(affine, Dense)
    torch.testing.assert_close(affine.loc, x.mean(0))
    # The ridge is 10⁻³ d / n of each variance.
    ridge = 1e-3 * 4 / 50 * x.var(0).diag()
    torch.testing.assert_close(covariance_of(affine.to_x, 4), torch.cov(x.mT) + ridge)
    few = fit_affine(x[:7])
    assert isinstance(few, Diagonal)
    torch.testing.assert_close(few.loc, x[:7].mean(0))
    torch.testing.assert_close(few.scale, x[:7].std(0))
    torch.testing.assert_close(fit_moments(x).scale, x.std(0))


@pytest.mark.parametrize("num_positions", [3, 50])
@pytest.mark.parametrize("has_score", [True, False])
def test_a_constant_component_keeps_the_map_finite(num_positions: int, has_score: bool) -> None:
    x = torch.randn(num_positions, 3, generator=seeded(), dtype=F64)
    x[:, 1] = 4.0
    affine = fit_affine(x, -x if has_score else None)
    assert affine.log_abs_det().isfinite()
    u = affine.to_u(x)
    assert u.isfinite().all()
    torch.testing.assert_close(affine.to_x(u), x)
    assert fit_moments(x).scale[1] == 1


@pytest.mark.parametrize("score", [0.0, 3.0])
def test_positions_that_are_all_the_same_keep_their_scale(score: float) -> None:
    """One point tells no scale: that of N(·, I), through the score there."""
    x = torch.full((20, 3), 2.0, dtype=F64)
    affine = fit_affine(x, torch.full_like(x, score))
    torch.testing.assert_close(covariance_of(affine.to_x, 3), torch.eye(3, dtype=F64))
    torch.testing.assert_close(affine.loc, x[0] + score)


@pytest.mark.parametrize("event", EVENTS)
def test_events_of_any_shape_are_fitted_as_flat_ones(event: tuple[int, ...]) -> None:
    d = math.prod(event)
    x = torch.randn(30, d, generator=seeded(), dtype=F64).cumsum(-1)
    score = -x + 0.1 * x.sin()
    flat, shaped = fit_affine(x, score), fit_affine(x.view(30, *event), score.view(30, *event))
    assert type(flat) is type(shaped)
    assert all(map(torch.equal, vars(flat).values(), vars(shaped).values()))
    assert shaped.to_u(x.view(30, *event)).shape == (30, *event)


def test_the_map_has_the_dtype_of_the_positions() -> None:
    x = torch.randn(30, 3, generator=seeded())
    for affine in (fit_affine(x), fit_affine(x, -x), fit_affine(x[:4], -x[:4])):
        assert all(part.dtype == torch.float32 for part in vars(affine).values())


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(poe.ShapeError, match=r"\(5, 2\), got \(5, 3\)"):
        fit_affine(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(poe.PoeError, match=r"at least 2 positions.*got 1"):
        fit_affine(torch.zeros(1, 2))
