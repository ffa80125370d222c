"""Exponential families: densities as in torch and scipy, draws, products in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, distributions as D, nn

import experts
import poe
from experts.families.continuous import FAMILIES
from experts.families.exponential_family import Member, Samplable

F64 = torch.float64
G = Callable[[], torch.Generator]


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


SCALE = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
LOGITS = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.1, -0.2]], dtype=F64)
CASES: dict[str, tuple[Samplable, D.Distribution]] = {
    "Exponential": (
        experts.Exponential(f64(0.5, 3.0)),
        D.Independent(D.Exponential(f64(0.5, 3.0)), 1),
    ),
    "Gamma": (
        experts.Gamma(f64(0.7, 1.0, 4.0), f64(1.5, 0.2, 3.0)),
        D.Independent(D.Gamma(f64(0.7, 1.0, 4.0), f64(1.5, 0.2, 3.0)), 1),
    ),
    "Gamma, a scalar": (
        experts.Gamma(torch.tensor(2.0, dtype=F64), 0.3),
        D.Gamma(2.0, f64(0.3)[0]),
    ),
    "Beta": (
        experts.Beta(f64(0.7, 1.0, 4.0), f64(1.5, 1.0, 3.0)),
        D.Independent(D.Beta(f64(0.7, 1.0, 4.0), f64(1.5, 1.0, 3.0)), 1),
    ),
    "Dirichlet": (experts.Dirichlet(f64(0.7, 1.0, 4.0)), D.Dirichlet(f64(0.7, 1.0, 4.0))),
    "Bernoulli": (
        experts.Bernoulli(f64(-2.0, 0.0, 1.0)),
        D.Independent(D.Bernoulli(logits=f64(-2.0, 0.0, 1.0)), 1),
    ),
    "Categorical": (
        experts.Categorical(LOGITS),
        D.Independent(D.Categorical(logits=LOGITS), 1),
    ),
    "Poisson": (experts.Poisson(f64(0.3, 7.0)), D.Independent(D.Poisson(f64(0.3, 7.0)), 1)),
    "Wishart": (experts.Wishart(4.5, SCALE), D.Wishart(f64(4.5)[0], SCALE)),
}
VON_MISES = experts.VonMises(f64(0.3, -3.0), f64(0.5, 4.0))
MEMBERS: dict[str, Samplable] = {
    **{name: member for name, (member, _) in CASES.items()},
    "VonMises": VON_MISES,
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_every_family_is_tried() -> None:
    assert {type(member) for member in MEMBERS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_density_is_that_of_torch(name: str) -> None:
    member, distribution = CASES[name]
    x = member.sample(50, generator=generator())
    torch.testing.assert_close(member.log_prob(x), distribution.log_prob(x), rtol=1e-10, atol=1e-10)
    assert member(x).dtype == F64


def test_von_mises_is_that_of_scipy() -> None:
    x = VON_MISES.sample(50, generator=generator())  # torch's own Bessel function has seven digits
    truth = stats.vonmises([0.5, 4.0], loc=[0.3, -3.0]).logpdf(x.numpy()).sum(-1)
    torch.testing.assert_close(VON_MISES(x), torch.from_numpy(truth), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(VON_MISES.loc, f64(0.3, -3.0))
    torch.testing.assert_close(VON_MISES.concentration, f64(0.5, 4.0))


@pytest.mark.parametrize("name", MEMBERS)
def test_draws_have_the_mean_statistics(name: str) -> None:
    """E T = ∇A ties the sampler to the log partition."""
    member = MEMBERS[name]
    x = member.sample(40_000, generator=generator())
    assert bool(member.space.contains(x).all())
    statistics = member.statistics(x)
    error = statistics.std(0) / len(x) ** 0.5
    z = (statistics.mean(0) - member.mean_statistics()) / error.clamp(min=1e-300)
    assert z.abs().max() < 4.5, z  # of up to six numbers
    assert torch.equal(x, member.sample(40_000, generator=generator()))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_product_is_a_member_with_its_log_partition(name: str) -> None:
    one = MEMBERS[name]
    draws = one.sample(2, generator=generator())
    # Natural parameters of another member: between these and those of a broader one.
    other = one.with_natural(one.natural * 0.6)
    weights = (0.7, 0.3) if name == "Poisson" else (0.7, 1.1)
    product = poe.Product(one=one ** weights[0], other=other ** weights[1])
    simple, log_constant = poe.simplify(product)
    assert type(simple) is type(one)
    torch.testing.assert_close(product(draws), simple(draws) + log_constant, rtol=1e-12, atol=1e-11)
    found = poe.log_partition(product)
    assert found.method == "closed form"
    torch.testing.assert_close(found.value, log_constant)
    torch.testing.assert_close(product.log_prob(draws), simple(draws))


@pytest.mark.parametrize(
    "product",
    [
        experts.Gamma(f64(2.5), 1.5) ** 0.7 * experts.Gamma(f64(1.4), 0.3),
        experts.Beta(f64(2.5), 1.5) ** 2 / experts.Beta(f64(1.4), 1.2),
        experts.Exponential(f64(2.0)) ** 3 / experts.Exponential(f64(1.5)),
        experts.VonMises(f64(0.5), 2.0) * experts.VonMises(f64(-2.0), 1.0) ** 0.5,
        experts.Bernoulli(f64(0.5, -1.0)) ** 2 / experts.Bernoulli(f64(1.0, 1.0)),
        experts.Categorical(LOGITS) / experts.Categorical(LOGITS.flip(0)) ** 2,
    ],
    ids=["Gamma", "Beta", "Exponential", "VonMises", "Bernoulli", "Categorical"],
)
def test_log_partition_agrees_with_quadrature_and_enumeration(product: poe.Product) -> None:
    opaque = poe.FromLogDensity(product.forward, space=product.space)
    found = poe.log_partition(opaque)
    assert found.method in ("quadrature", "enumeration")
    torch.testing.assert_close(poe.log_partition(product).value, found.value, rtol=1e-6, atol=1e-6)


def test_what_differs_is_not_merged() -> None:
    gamma = experts.Gamma([2.0], [1.0])
    weibull = poe.as_expert(D.Independent(D.Weibull(torch.ones(1), torch.ones(1)), 1))
    assert isinstance(poe.simplify(gamma * weibull).expert, poe.Product)
    merged = poe.simplify(gamma * weibull * gamma).expert
    assert [type(factor) for _, factor in merged._factors()] == [
        experts.Gamma,
        poe.FromDistribution,
    ]


def test_exponentials_are_merged_with_gammas() -> None:
    gamma, exponential = experts.Gamma(f64(2.0), [1.5]), experts.Exponential(f64(3.0))
    product = gamma**2 / exponential**0.5
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, experts.Gamma)
    torch.testing.assert_close(simple.rate, f64(1.5))
    x = torch.linspace(0.1, 5.0, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(simple(x) + log_constant, product(x))
    opaque = poe.FromLogDensity(product.forward, space=product.space)
    torch.testing.assert_close(
        poe.log_partition(product).value, poe.log_partition(opaque).value, rtol=1e-6, atol=1e-6
    )
    assert isinstance(poe.simplify(exponential**2 * exponential).expert, experts.Exponential)
    learned = experts.Exponential(f64(1.0)).with_natural(torch.nn.Parameter(-f64(1.0)))
    poe.log_partition(gamma * learned).value.backward()
    assert learned.natural.grad is not None


def test_poisson_is_closed_for_exponents_that_sum_to_one() -> None:
    a, b = experts.Poisson(f64(1.0)), experts.Poisson(f64(4.0))
    torch.testing.assert_close(poe.simplify(a**0.5 * b**0.5).expert.rate, f64(2.0))  # type: ignore[union-attr]
    assert isinstance(poe.simplify(a * b).expert, poe.Product)
    assert isinstance(poe.simplify(a**2 / b).expert, experts.Poisson)


def test_improper_products_are_refused_by_name() -> None:
    narrow, broad = experts.Gamma([2.0], [3.0]), experts.Gamma([2.0], [1.0])
    with pytest.raises(poe.ImproperError, match=r"product of Gamma.*look at style \*\* -4"):
        poe.sample(poe.Product(prior=narrow, style=broad**-4.0), 10, progress=False)
    mended = poe.Product(prior=narrow, style=broad**-4.0, more=experts.Gamma([9.0], [2.0]))
    assert isinstance(poe.simplify(mended).expert, experts.Gamma)


@pytest.mark.parametrize("name", MEMBERS)
def test_is_saved_moved_and_printed(name: str, tmp_path: Path) -> None:
    member = MEMBERS[name]
    poe.save(member, tmp_path / "member")
    loaded = poe.load(tmp_path / "member")
    assert type(loaded) is type(member)
    assert repr(loaded) == repr(member)
    assert torch.equal(loaded.state_dict()["natural"], member.natural)
    x = member.sample(3, generator=generator())
    copy = poe.load(tmp_path / "member").to("meta")
    assert copy(x.to("meta")).is_meta


def test_outside_is_excluded_and_the_edge_has_its_limit() -> None:
    gamma, beta = experts.Gamma([2.0], [1.0]), experts.Beta([1.0], [3.0])
    assert gamma(torch.tensor([-1.0])) == -torch.inf
    assert beta(torch.tensor([1.5])) == -torch.inf
    torch.testing.assert_close(beta(torch.tensor([0.0])), torch.tensor(3.0).log())
    assert beta(torch.tensor([1.0])) == -torch.inf
    assert gamma(torch.tensor([math.nan])).isnan()
    assert experts.Poisson([1.0])(torch.tensor([0.5])) == -torch.inf
    assert experts.Categorical([0.0, 0.0])(torch.tensor(2)) == -torch.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: experts.Gamma([1.0], [-1.0]), "rate must be positive, got -1"),
        (lambda: experts.Beta([0.0], [1.0]), "concentration1 must be positive, got 0"),
        (lambda: experts.Gamma([1.0, 2.0], [1.0, 2.0, 3.0]), r"one shape.*\(2,\).*\(3,\)"),
        (lambda: experts.Bernoulli([math.inf]), "logits must be finite, got inf"),
        (lambda: experts.Categorical(0.0), "logits of shape"),
        (lambda: experts.Dirichlet([[1.0, 2.0]]), r"shape \(k,\), got \(1, 2\)"),
        (lambda: experts.Wishart(1.0, torch.eye(2)), "more than 1 degrees of freedom, got 1.0"),
        (lambda: experts.Wishart(4.0, -torch.eye(2)), "positive definite"),
        (lambda: experts.Wishart(4.0, torch.ones(2, 3)), r"\(k, k\), got \(2, 3\)"),
        (lambda: experts.VonMises([0.0], [0.0]), "concentration must be positive, got 0"),
        (lambda: experts.Poisson(nn.Parameter(torch.ones(1))), "with_natural"),
        (lambda: experts.Gamma([1.0], [1.0]).with_natural(torch.ones(1, 2)), "no finite integral"),
    ],
)
def test_bad_parameters_are_refused(build: Callable[[], Member], message: str) -> None:
    with pytest.raises(poe.PoeError, match=message):
        build()


def test_natural_parameters_can_be_learned() -> None:
    x = experts.Gamma(f64(3.0), f64(2.0)).sample(20_000, generator=generator())
    member = experts.Gamma(f64(1.0), f64(1.0)).with_natural(nn.Parameter(f64(0.0, -1.0)[None]))
    optimizer = torch.optim.LBFGS(member.parameters(), max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -member.log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    # At the maximum of the likelihood the mean statistics are those of the data.
    torch.testing.assert_close(
        member.mean_statistics(), member.statistics(x).mean(0).detach(), rtol=1e-4, atol=1e-4
    )


def test_log_partition_has_a_gradient_in_learned_exponents() -> None:
    """d log Z / dw = E log p, under the product."""
    weight = nn.Parameter(torch.tensor(0.6, dtype=F64))
    a, b = experts.Gamma(f64(2.5), 1.5), experts.Gamma(f64(1.4), 0.3)
    product = a * b**weight
    value = poe.log_partition(product).value
    (slope,) = torch.autograd.grad(value, weight)
    with torch.no_grad():
        values = b(product.sample(40_000, generator=generator()))
    assert (slope - values.mean()).abs() < 4 * values.std() / len(values) ** 0.5
    assert product.sample(3).requires_grad is False


def _log_partition(natural: Tensor) -> Tensor:
    return (-2 / natural).log().sum()


def laplace(rate: float, space: poe.Space | None = None) -> experts.ExponentialFamily:
    return experts.ExponentialFamily(
        None, torch.abs, torch.tensor([-rate]), _log_partition, space=space or poe.Real(1)
    )


def test_a_family_of_ones_own() -> None:
    product = laplace(1.0) * laplace(3.0) ** 0.5
    x = torch.randn(5, 1, generator=generator())
    torch.testing.assert_close(laplace(3.0)(x), D.Laplace(0.0, 1 / 3).log_prob(x)[:, 0])
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, experts.ExponentialFamily)
    torch.testing.assert_close(product(x), simple(x) + log_constant)
    with pytest.raises(poe.ImproperError, match="no finite integral"):
        laplace(-1.0)
    other = experts.ExponentialFamily(
        None, torch.abs, -torch.ones(1), lambda n: (-2 / n).log().sum(), space=poe.Real(1)
    )
    assert isinstance(poe.simplify(laplace(1.0) * other).expert, poe.Product)


def test_a_base_measure_of_ones_own_counts() -> None:
    def log_base(x: Tensor) -> Tensor:
        return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)

    def normal(mean: float) -> experts.ExponentialFamily:
        natural, space = torch.tensor([mean]), poe.Real(1)
        return experts.ExponentialFamily(log_base, itself, natural, half_square, space=space)

    x = torch.randn(5, 1, generator=generator())
    torch.testing.assert_close(normal(2.0)(x), D.Normal(2.0, 1.0).log_prob(x)[:, 0])
    assert isinstance(poe.simplify(normal(2.0) * normal(1.0)).expert, poe.Product)


def itself(x: Tensor) -> Tensor:
    return x


def half_square(natural: Tensor) -> Tensor:
    return 0.5 * natural.square().sum()
