"""The Gaussian: densities, draws, products in closed form, improper quotients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions as D, nn

import poe
from experts import Gaussian
from experts.families.gaussian import _not_positive
from poe.density.capabilities import (
    can_sample_exactly,
    check_proper,
    exact_log_partition,
    is_normalized,
    simplify,
)
from poe.density.closed_forms import exact_sample
from tests.seeds import seeded

F64 = torch.float64
COVARIANCE = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
X = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


def loc(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def test_log_prob_matches_torch() -> None:
    expected = D.MultivariateNormal(loc(1.0, 2.0), COVARIANCE).log_prob(X)
    for expert in (
        Gaussian(loc(1.0, 2.0), covariance=COVARIANCE),
        Gaussian(loc(1.0, 2.0), precision=COVARIANCE.inverse()),
    ):
        torch.testing.assert_close(expert.log_prob(X), expected)
        torch.testing.assert_close(expert(X), expected)
        torch.testing.assert_close(expert.covariance, COVARIANCE)
        torch.testing.assert_close(expert.precision, COVARIANCE.inverse())


def test_diagonal_log_prob_matches_torch() -> None:
    expert = Gaussian(loc(1.0, 2.0), scale=[0.5, 3.0])
    expected = D.Normal(loc(1.0, 2.0), loc(0.5, 3.0)).log_prob(X).sum(-1)
    torch.testing.assert_close(expert(X), expected)
    torch.testing.assert_close(expert.covariance, torch.diag(loc(0.25, 9.0)))
    torch.testing.assert_close(expert.precision, torch.diag(loc(4.0, 1 / 9)))


@seeded()
def test_events_of_any_shape_have_a_diagonal_spread() -> None:
    image = Gaussian(torch.zeros(1, 3, 3), scale=2.0)
    assert image.space == poe.Real((1, 3, 3))
    x = torch.randn(4, 1, 3, 3)
    torch.testing.assert_close(image(x), D.Normal(0.0, 2.0).log_prob(x).sum((1, 2, 3)))
    assert Gaussian(0.0, scale=1.0)(torch.zeros(3)).shape == (3,)


@pytest.mark.parametrize(
    "expert",
    [
        Gaussian(loc(1.0, -2.0), scale=[0.5, 3.0]),
        Gaussian(loc(1.0, -2.0), covariance=COVARIANCE),
        Gaussian(loc(1.0, -2.0), covariance=COVARIANCE) * Gaussian(loc(0.0, 0.0), scale=1.0) ** 0.5,
    ],
    ids=["diagonal", "full", "product"],
)
def test_draws_have_the_right_moments(expert: poe.Expert) -> None:
    n = 40_000
    draws = exact_sample(expert, n, torch.Generator().manual_seed(0))
    exact = simplify(expert).expert
    assert isinstance(exact, Gaussian)
    z = (draws.mean(0) - exact.loc) / (exact.covariance.diagonal() / n).sqrt()
    assert z.abs().max() < 4
    centered = draws - exact.loc
    products = centered[:, :, None] * centered[:, None, :]
    z = (products.mean(0) - exact.covariance) / (products.std(0) / math.sqrt(n))
    assert z.abs().max() < 4


def test_draws_come_from_their_own_generator() -> None:
    expert = Gaussian([0.0], scale=1.0)
    before = torch.get_rng_state()
    first = expert.sample(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, expert.sample(3, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(expert.sample(3), expert.sample(3))
    assert torch.equal(before, torch.get_rng_state())


a = Gaussian(loc(1.0, 2.0), scale=[0.5, 3.0])
b = Gaussian(loc(-1.0, 0.0), scale=2.0)
c = Gaussian(loc(0.0, 3.0), covariance=COVARIANCE)

PRODUCTS: dict[str, poe.Expert] = {
    "diagonal": a * b,
    "full": a * c,
    "tempered": a**0.3 * c**2.5,
    "one power": c**0.2,
    "quotient": a / b**0.01,
    "mended": b / a * a,
    "three": poe.Product(a, b, style=c) ** 0.7,
    "same twice": a * a,
    "weight zero": a * b**0,
    "power of a power": poe.Tempered(
        poe.Tempered(c, nn.Parameter(torch.tensor(2.0, dtype=F64))), 0.5
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_simplifies_to_a_gaussian_with_the_same_density(name: str) -> None:
    product = PRODUCTS[name]
    simple, log_constant = simplify(product)
    assert isinstance(simple, Gaussian)
    torch.testing.assert_close(simple(X) + log_constant, product(X))


@pytest.mark.parametrize("name", ["diagonal", "full", "tempered", "quotient", "three"])
def test_closed_form_agrees_with_quadrature(name: str) -> None:
    product = PRODUCTS[name]
    closed = poe.log_partition(product)
    seen = poe.log_partition(poe.FromLogDensity(product.forward, space=product.space))
    assert closed.method == "closed form"
    assert seen.method == "quadrature"
    assert abs(closed.value - seen.value) < 1e-8


def test_product_has_log_prob_and_draws() -> None:
    product = a * c
    torch.testing.assert_close(product.log_prob(X), product(X) - poe.log_partition(product).value)
    assert is_normalized(product)
    assert can_sample_exactly(product)
    assert product.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 2)


def test_closed_form_in_float32_is_as_good_as_float32() -> None:
    """Two sharp experts far apart: log Z is about -2e6, a difference of large numbers."""
    left, right = Gaussian([1000.0], scale=1e-1), Gaussian([1001.0], scale=1e-3)
    exact = D.Normal(loc(1001.0), loc(math.sqrt(1e-2 + 1e-6))).log_prob(loc(1000.0))
    torch.testing.assert_close(
        poe.log_partition(left * right).value.double(), exact[0], rtol=1e-6, atol=0
    )


def test_log_partition_has_a_gradient_for_learned_exponents() -> None:
    weight = nn.Parameter(torch.tensor(0.7, dtype=F64))
    value = poe.log_partition(a * c**weight).value
    (gradient,) = torch.autograd.grad(value, weight)
    step = 1e-5
    values = [poe.log_partition(a * c ** (0.7 + s)).value for s in (step, -step)]
    torch.testing.assert_close(gradient, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_other_factors_stay_beside_the_combined_gaussian() -> None:
    other = poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(2))
    product = a * other**0.5 * b
    simple, log_constant = simplify(product)
    assert isinstance(simple, poe.Product)
    assert len(simple.experts) == 2
    torch.testing.assert_close(simple(X) + log_constant, product(X))
    assert exact_log_partition(product) is None


def test_improper_is_mended_by_any_other_factor() -> None:
    other = poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(2))
    assert poe.log_partition(b / a * other).method == "quadrature"


@pytest.mark.parametrize(
    ("expert", "blamed"),
    [
        (b / a, r"Gaussian_2 \*\* -1 takes"),
        (a / a, r"Gaussian_2 \*\* -1 takes"),
        (a**-1, r"Gaussian \*\* -1 takes"),
        (a**0, r"Gaussian \*\* 0 takes"),
        (a / c**5, r"Gaussian_2 \*\* -5 takes"),
        (poe.Product(b, not_this=a**-0.5), r"not_this \*\* -0\.5 takes"),
    ],
    ids=["broad / sharp", "a / a", "a ** -1", "a ** 0", "full", "named"],
)
def test_improper_quotient_names_the_expert(expert: poe.Expert, blamed: str) -> None:
    assert expert(X).isfinite().all()  # building and evaluating it is fine
    assert not hasattr(expert, "log_prob")
    assert not can_sample_exactly(expert)
    for use in (
        check_proper,
        poe.log_partition,
        lambda e: exact_sample(e, 3),
    ):
        with pytest.raises(poe.ImproperError, match=blamed):
            use(expert)


def test_improper_in_one_direction_only() -> None:
    narrow = Gaussian(loc(0.0, 0.0), covariance=[[1.0, 0.9], [0.9, 1.0]])
    with pytest.raises(poe.ImproperError):
        check_proper(narrow / Gaussian(loc(0.0, 0.0), scale=1.0))
    check_proper(narrow / Gaussian(loc(0.0, 0.0), scale=2.0))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_direction_that_is_named_is_one_of_growth(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for _ in range(20):
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        precision = root @ root.mT - 0.5 * torch.eye(size, dtype=torch.float64)
        away = _not_positive(precision)
        is_positive = bool(torch.linalg.eigvalsh(precision)[0] > 0)
        assert (away is None) is is_positive
        if away is not None:
            assert away @ precision @ away <= 0
    narrow = Gaussian(loc(0.0, 0.0), covariance=[[1.0, 0.9], [0.9, 1.0]])
    with pytest.raises(poe.ImproperError, match=r"in the direction \[-?0\.\d+, -?0\.\d+\], so"):
        check_proper(narrow / Gaussian(loc(0.0, 0.0), scale=1.0))
    diagonal = Gaussian(loc(0.0, 0.0), scale=[1.0, 2.0]) / Gaussian(loc(0.0, 0.0), scale=1.5)
    with pytest.raises(poe.ImproperError, match=r"in the direction \[0, 1\], so"):
        check_proper(diagonal)


def test_draws_carry_a_gradient_by_rsample_alone() -> None:
    """x = m + s ε: of the sum of n draws the slope in m is n, and in s the sum of ε."""
    expert = Gaussian(nn.Parameter(loc(1.0)), scale=nn.Parameter(loc(0.5)))
    drawn = expert.sample(5, generator=torch.Generator().manual_seed(0))
    assert not drawn.requires_grad
    x = expert.rsample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x.detach(), drawn)
    slopes = torch.autograd.grad(x.sum(), [expert.loc, expert.scale])
    torch.testing.assert_close(slopes[0], loc(5.0))
    torch.testing.assert_close(slopes[1], ((drawn - 1) / 0.5).sum(0))


def test_learned_loc_and_scale_stay_learned() -> None:
    expert = Gaussian(nn.Parameter(torch.zeros(2)), scale=nn.Parameter(torch.ones(2)))
    expert(torch.ones(3, 2)).sum().backward()
    assert [name for name, _ in expert.named_parameters()] == ["loc", "scale"]
    assert all(parameter.grad is not None for parameter in expert.parameters())


REFUSED = [
    ({"scale": [1.0, 2.0, 3.0]}, poe.ShapeError, r"scale of shape \(2,\) like loc, got \(3,\)"),
    ({"scale": [1.0, -1.0]}, poe.PoeError, "scale must be positive, got"),
    ({"scale": [1.0, 0.0]}, poe.PoeError, "scale must be positive, got"),
    ({"scale": [1.0, torch.nan]}, poe.PoeError, "scale must be finite, got nan"),
    ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, poe.PoeError, "positive definite covariance"),
    ({"covariance": [[1.0, 0.5], [0.0, 1.0]]}, poe.PoeError, "symmetric"),
    (
        {"precision": [[1.0]]},
        poe.ShapeError,
        r"precision of shape \(d, d\), got \(2,\) and \(1, 1\)",
    ),
    ({}, poe.PoeError, "exactly one of scale, covariance, precision, got none"),
    ({"scale": 1.0, "precision": [[1.0]]}, poe.PoeError, "got scale, precision"),
]


@pytest.mark.parametrize(("spread", "error", "words"), REFUSED, ids=str)
def test_bad_spread_is_refused(
    spread: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Gaussian([0.0, 0.0], **spread)  # type: ignore[arg-type]


def test_bad_loc_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="loc must be finite, got"):
        Gaussian([torch.nan], scale=1.0)
    assert Gaussian([0, 1], scale=1).loc.dtype == torch.float32  # integers become floats


def rotated(condition: float, size: int, seed: int) -> Tensor:
    """A symmetric matrix in float32 with eigenvalues from 1 to the condition, askew."""
    g = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=F64))
    values = torch.logspace(0, math.log10(condition), size, dtype=F64)
    matrix = ((basis * values) @ basis.mT).float()
    return 0.5 * (matrix + matrix.mT)


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e6, 1e7])
@pytest.mark.parametrize("size", [2, 6, 20])
def test_a_precision_of_bad_condition_keeps_what_float32_can(condition: float, size: int) -> None:
    """Within the bound of backward stable arithmetic, d² eps |P| |x|² in the quadratic form.

    An explicit inverse is off by the condition times that.
    """
    for seed in range(5):
        matrix = rotated(condition, size, seed)
        x = torch.ones(1, size)
        expected = D.MultivariateNormal(
            torch.zeros(size, dtype=F64), precision_matrix=matrix.double()
        ).log_prob(x.double())
        found = Gaussian(torch.zeros(size), precision=matrix).log_prob(x)
        bound = size**2 * 2**-23 * matrix.double().norm(p=2).item() * size
        assert (found.double() - expected).abs().item() <= bound


def test_the_factor_of_a_precision_is_that_of_the_covariance() -> None:
    matrix = rotated(100.0, 5, 0).double()
    found = Gaussian(torch.zeros(5, dtype=F64), precision=matrix).scale_tril
    torch.testing.assert_close(found, torch.linalg.cholesky(torch.linalg.inv(matrix)))
