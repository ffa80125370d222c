"""The marginal over draws of z: which density it is, and what it says of ∫ p(z) p(x | z) dz."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Gaussian, LinearGaussian
from poe.density.capabilities import exact_log_partition, is_normalized
from poe.density.closed_forms import is_source

WEIGHT = torch.tensor([[2.0, 0.5], [0.0, -1.0], [1.0, 1.0]])
BIAS, SCALE = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.5, 1.0, 0.3])
PRIOR = Gaussian([1.0, -1.0], covariance=[[1.0, 0.4], [0.4, 2.0]])
STEP = LinearGaussian(WEIGHT, BIAS, SCALE)
LINE = Gaussian([0.0], scale=[1.0])
WIDE = LinearGaussian([[2.0]], bias=[1.0], scale=[1.0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marginal(count: int = 5) -> poe.Marginal:
    return poe.Marginal(PRIOR, STEP, PRIOR.sample(count, generator=seeded()))


def as_mixture(p: poe.Marginal) -> poe.Mixture:
    """The same density, a component for each draw of z."""
    assert isinstance(p.conditional, LinearGaussian)
    weight, bias, scale = p.conditional.weight, p.conditional.bias, p.conditional.scale
    return poe.Mixture([Gaussian(weight @ z + bias, scale=scale) for z in p.draws])


def truth(prior: Gaussian, step: LinearGaussian) -> Gaussian:
    exact = step.exact_marginal(prior)
    assert isinstance(exact, Gaussian)
    return exact


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
def test_it_is_a_mixture_over_the_draws(batch: tuple[int, ...]) -> None:
    p = marginal()
    x = torch.randn(*batch, 3, generator=seeded())
    torch.testing.assert_close(p(x), as_mixture(p)(x))


def test_latent_numbers_of_any_shape_condition() -> None:
    class Power(poe.Conditional):
        """y ~ N(trace of z, 1), for matrices z."""

        is_normalized = True
        space = poe.Real(1)

        def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
            trace = condition.diagonal(dim1=-2, dim2=-1).sum(-1)
            return -0.5 * (x[:, 0] - trace).square() - 0.5 * math.log(2 * math.pi)

    prior = Gaussian(torch.zeros(2, 2), scale=1.0)
    p = poe.Marginal(prior, Power(), torch.stack([torch.eye(2), torch.zeros(2, 2)]))
    expected = poe.Mixture([Gaussian([2.0], scale=1.0), Gaussian([0.0], scale=1.0)])
    x = torch.randn(4, 1, generator=seeded())
    torch.testing.assert_close(p(x), expected(x))
    assert p.posterior(x[0])(prior.sample(3)).shape == (3,)


@pytest.mark.law
def test_mean_of_the_estimate_is_the_integral() -> None:
    count = 20_000
    p = poe.Marginal(LINE, WIDE, LINE.sample(count, generator=seeded()))
    x = torch.tensor([[-3.0], [0.0], [1.0], [4.0]])
    some = as_mixture(poe.Marginal(LINE, WIDE, p.draws[:1000]))
    values = torch.stack([component(x).exp() for component in some.experts])
    error = values.std(0) / math.sqrt(count)
    exact = truth(LINE, WIDE)(x).exp()
    assert bool(((p(x).exp() - exact).abs() < 4 * error).all())


def test_estimate_is_low_on_average_and_rises_with_the_draws() -> None:
    """E log p̂ of 1, 4 and 16 draws, below each other and below log p, by 4 standard errors."""
    x, g, repeats = torch.tensor([[5.0]]), seeded(), 1000
    values = [
        torch.stack(
            [poe.Marginal(LINE, WIDE, LINE.sample(k, generator=g))(x)[0] for _ in range(repeats)]
        )
        for k in (1, 4, 16)
    ]
    means = [v.mean() for v in values] + [truth(LINE, WIDE)(x)[0]]
    errors = [v.std() / math.sqrt(repeats) for v in values] + [torch.zeros(())]
    for k in range(3):
        assert means[k + 1] - means[k] > 4 * torch.hypot(errors[k], errors[k + 1])


def test_parameters_of_the_conditional_learn() -> None:
    weight = nn.Parameter(WEIGHT.clone())
    draws = PRIOR.sample(5, generator=seeded())
    x = torch.randn(4, 3, generator=seeded(1))
    p = poe.Marginal(PRIOR, LinearGaussian(weight, BIAS, SCALE), draws)
    (got,) = torch.autograd.grad(p(x).sum(), weight)
    (expected,) = torch.autograd.grad(as_mixture(p)(x).sum(), weight)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_sample_is_of_the_mixture_over_the_draws() -> None:
    n, draws = 20_000, torch.tensor([[-6.0], [0.0], [6.0]])
    x = poe.Marginal(LINE, WIDE, draws).sample(n, generator=seeded())[:, 0]
    centers = 2 * draws[:, 0] + 1  # 12 standard deviations apart, so each x tells its z
    nearest = (x[:, None] - centers).abs().argmin(1)
    shares = torch.bincount(nearest, minlength=3) / n
    assert bool(((shares - 1 / 3).abs() < 4 * math.sqrt(2 / 9 / n)).all())
    for k in range(3):
        own = x[nearest == k]
        assert abs(own.mean() - centers[k]) < 4 / math.sqrt(len(own))
        assert abs(own.var() - 1) < 4 * math.sqrt(2 / len(own))


def test_sample_joint_is_of_the_prior_and_the_integral() -> None:
    n = 20_000
    z, x = marginal().sample_joint(n, generator=seeded())
    spread = PRIOR.covariance
    exact = truth(PRIOR, STEP)
    for found, known in ((z, PRIOR), (x, exact)):
        variance = known.covariance.diagonal()
        assert bool(((found.mean(0) - known.loc).abs() < 4 * (variance / n).sqrt()).all())
        error = ((variance.outer(variance) + known.covariance.square()) / n).sqrt()
        assert bool(((found.T.cov() - known.covariance).abs() < 4 * error).all())
    cross = torch.cat([z, x], 1).T.cov()[:2, 2:]
    expected = spread @ WEIGHT.mT
    scale = spread.diagonal().outer(exact.covariance.diagonal())
    assert bool(((cross - expected).abs() < 4 * ((scale + expected.square()) / n).sqrt()).all())


def test_posterior_has_the_log_density_of_x_as_its_log_partition() -> None:
    p = poe.Marginal(LINE, WIDE, torch.zeros(1, 1))
    x = torch.tensor([2.5])
    posterior, expected = p.posterior(x), truth(LINE, WIDE)(x)
    closed = poe.log_partition(posterior)
    assert closed.is_exact
    torch.testing.assert_close(closed.value, expected)
    found = poe.log_partition(posterior, method=poe.normalizers.Quadrature())
    assert abs(found.value - expected) < 1e-5 + 2 * found.std_error
    z = torch.randn(2, 3, 1, generator=seeded())
    conjugate = Gaussian([2 * 1.5 / 5], scale=[1 / math.sqrt(5)])  # precision 1 + 2², mean 2(x−1)/5
    torch.testing.assert_close(posterior(z) - expected, conjugate(z), rtol=1e-4, atol=1e-5)


def test_log_prob_is_refused_in_words_and_so_by_what_is_built() -> None:
    p = marginal()
    with pytest.raises(AttributeError, match=r"use poe\.log_density_bounds"):
        p.log_prob(torch.zeros(1, 3))
    assert not hasattr(p, "log_prob")
    assert not is_normalized(p)
    assert not hasattr(poe.Chain(p, LinearGaussian(torch.ones(1, 3), [0.0], [1.0])), "log_prob")
    with pytest.raises(poe.NormalizationError, match="Marginal has no log_prob"):
        poe.Mixture([p, Gaussian(torch.zeros(3), scale=1.0)])


def test_normalised_it_is_the_mixture_over_the_draws() -> None:
    p, other = marginal(), Gaussian(torch.zeros(3), scale=1.0)
    assert is_source(p)
    assert exact_log_partition(p) == 0
    x = torch.randn(4, 3, generator=seeded())
    torch.testing.assert_close(poe.normalize(p).log_prob(x), as_mixture(p)(x))
    expected = poe.Mixture([as_mixture(p), other])
    torch.testing.assert_close(poe.any_of(p, other).log_prob(x), expected(x))


def test_log_partition_of_a_product_is_that_of_the_mixture_over_the_draws() -> None:
    p = poe.Marginal(LINE, WIDE, LINE.sample(5, generator=seeded()))
    other = Gaussian([1.0], scale=0.5)
    found = poe.log_partition(p * other)
    assert abs(found.value - poe.log_partition(as_mixture(p) * other).value) < 1e-5


def test_ratios_that_claim_an_error_are_refused() -> None:
    p, other = marginal(), Gaussian(torch.zeros(3), scale=1.0)
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    torch.testing.assert_close(poe.log_ratio(p * other, x, y), (p * other)(x) - (p * other)(y))
    for ask in (
        lambda: poe.log_prob_ratio(p, other, x),
        lambda: poe.log_density_error(p * other, x),
        lambda: poe.log_density_error(poe.any_of(p, other), x),
    ):
        with pytest.raises(poe.NormalizationError, match=r"use poe\.log_density_bounds"):
            ask()


@pytest.mark.law
def test_poe_sample_draws_from_it_and_from_a_product_with_it() -> None:
    p = poe.Marginal(LINE, WIDE, LINE.sample(3, generator=seeded()))
    assert poe.sample(p, 100, generator=seeded()).guarantee == "exact"
    product, exact = p * LINE, poe.simplify(as_mixture(p) * LINE).expert
    draws = poe.sample(product, 4000, generator=seeded())
    assert draws.guarantee == "asymptotically exact"
    centers = torch.cat([c.loc for c in exact.experts])  # type: ignore[union-attr]
    summary = draws.summary()
    mean = exact.weights.to(centers) @ centers  # type: ignore[operator]
    assert abs(draws.samples.mean() - mean) < 4 * float(torch.as_tensor(summary.mcse).max())


class Unnormalized(LinearGaussian):
    is_normalized = False


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (
            (PRIOR, PRIOR, torch.zeros(1, 2)),
            poe.PoeError,
            r"expected a poe.Conditional p\(x \| z\)",
        ),
        ((1.0, STEP, torch.zeros(1, 2)), poe.OperatorError, "expected an Expert"),
        (
            (
                poe.FromEnergy(lambda z: z.pow(4).sum(-1), space=poe.Real(2)),
                STEP,
                torch.zeros(1, 2),
            ),
            poe.NormalizationError,
            r"a normalised prior p\(z\), got FromEnergy",
        ),
        (
            (PRIOR, Unnormalized(WEIGHT, BIAS, SCALE), torch.zeros(1, 2)),
            poe.NormalizationError,
            r"a normalised conditional p\(x \| z\), got Unnormalized",
        ),
        ((PRIOR, STEP, torch.zeros(2)), poe.ShapeError, r"shape \(K, \*event\) with K >= 1, got"),
        (
            (PRIOR, STEP, torch.zeros(0, 2)),
            poe.ShapeError,
            r"shape \(K, \*event\) with K >= 1, got",
        ),
        ((PRIOR, STEP, torch.zeros(4, 3)), poe.ShapeError, "expected x of shape"),
    ],
    ids=["expert", "number", "free prior", "free conditional", "one draw", "none", "wrong event"],
)
def test_parts_that_do_not_fit_are_refused(
    arguments: tuple[poe.Expert, poe.Conditional, Tensor], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        poe.Marginal(*arguments)


def test_posterior_is_of_one_x() -> None:
    with pytest.raises(poe.ShapeError, match=r"expected one x of shape \(3,\), got \(2, 3\)"):
        marginal().posterior(torch.zeros(2, 3))


def test_without_samplers_there_are_no_draws() -> None:
    class Silent(poe.Conditional):
        is_normalized = True
        space = poe.Real(1)

        def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
            return Gaussian([0.0], scale=1.0)(x - condition)

    p = poe.Marginal(LINE, Silent(), torch.zeros(1, 1))
    assert not hasattr(p, "sample")
    assert not is_source(p)
    with pytest.raises(poe.NormalizationError, match="Gaussian and Silent"):
        p.sample_joint(3)


def test_repr_says_that_it_is_bounded() -> None:
    assert "5 draws of z, bounds by poe.log_density_bounds" in repr(marginal())


def test_saved_and_loaded(tmp_path: Path) -> None:
    p, x = marginal(), torch.ones(2, 3)
    poe.save(p * Gaussian(torch.zeros(3), scale=1.0), tmp_path)
    loaded = poe.load(tmp_path)
    assert torch.equal(loaded.experts[0].draws, p.draws)
    assert torch.equal(loaded.experts[0](x), p(x))
