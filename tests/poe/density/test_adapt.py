"""Adaptations: lossless ones work, the others are refused with the remedy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributions as D, nn
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

import poe
from poe.core.randomness import borrowed
from tests.seeds import seeded

t = torch.tensor
two, real = torch.ones(2), poe.Real(())
positive, unit, count = poe.Positive(()), poe.Interval(()), poe.Count(())
pair = D.MixtureSameFamily(D.Categorical(two), D.Normal(t([0.0, 3.0]), 1.0))

DISTRIBUTIONS: dict[str, tuple[D.Distribution, poe.Space]] = {
    "Bernoulli": (D.Bernoulli(0.3), poe.Binary(())),
    "Beta": (D.Beta(2.0, 3.0), unit),
    "Binomial": (D.Binomial(5, t(0.3)), poe.Categorical((), 6)),
    "Categorical": (D.Categorical(logits=t([0.0, 1.0, 2.0])), poe.Categorical((), 3)),
    "Cauchy": (D.Cauchy(0.5, 2.0), real),
    "Chi2": (D.Chi2(3.0), positive),
    "ContinuousBernoulli": (D.ContinuousBernoulli(t(0.3)), unit),
    "Dirichlet": (D.Dirichlet(t([1.0, 2.0, 3.0])), poe.Simplex(3)),
    "Exponential": (D.Exponential(2.0), positive),
    "FisherSnedecor": (D.FisherSnedecor(3.0, 4.0), positive),
    "Gamma": (D.Gamma(2.0, 3.0), positive),
    "GeneralizedPareto": (D.GeneralizedPareto(t(0.0), t(1.0), t(0.2)), positive),
    "GeneralizedPareto, bounded": (
        D.GeneralizedPareto(t(0.0), t(1.0), t(-0.25)),
        poe.Interval((), 0, 4),
    ),
    "Geometric": (D.Geometric(t(0.3)), count),
    "Gumbel": (D.Gumbel(t(0.5), t(2.0)), real),
    "HalfCauchy": (D.HalfCauchy(2.0), positive),
    "HalfNormal": (D.HalfNormal(2.0), positive),
    "Independent": (D.Independent(D.Normal(torch.zeros(2), 1.0), 1), poe.Real(2)),
    "InverseGamma": (D.InverseGamma(t(2.0), t(3.0)), positive),
    "Kumaraswamy": (D.Kumaraswamy(t(2.0), t(3.0)), unit),
    "Laplace": (D.Laplace(0.5, 2.0), real),
    "LogNormal": (D.LogNormal(0.0, 1.0), positive),
    "LogisticNormal": (D.LogisticNormal(torch.zeros(2), two), poe.Simplex(3)),
    "LowRankMultivariateNormal": (
        D.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), two),
        poe.Real(2),
    ),
    "MixtureSameFamily": (pair, real),
    "MultivariateNormal": (
        D.MultivariateNormal(torch.zeros(2), precision_matrix=2 * torch.eye(2)),
        poe.Real(2),
    ),
    "NegativeBinomial": (D.NegativeBinomial(t(3.0), t(0.4)), count),
    "Normal": (D.Normal(0.3, 2.0), real),
    "Poisson": (D.Poisson(2.0), count),
    "RelaxedBernoulli": (D.RelaxedBernoulli(t(0.5), 0.3), unit),
    "RelaxedOneHotCategorical": (
        D.RelaxedOneHotCategorical(t(0.5), t([1.0, 2.0, 1.0])),
        poe.Simplex(3),
    ),
    "StudentT": (D.StudentT(3.0, 0.5, 2.0), real),
    "TransformedDistribution": (
        D.TransformedDistribution(D.Normal(0.0, 1.0), [D.AffineTransform(1.0, 2.0)]),
        real,
    ),
    "Uniform": (D.Uniform(-1.0, 2.0), poe.Interval((), -1, 2)),
    "VonMises": (D.VonMises(0.5, 2.0), poe.Interval((), -torch.pi, torch.pi)),
    "Weibull": (D.Weibull(t(2.0), t(3.0)), positive),
    "Wishart": (D.Wishart(4.0, torch.eye(2)), poe.PositiveDefinite(2)),
}
NESTED: dict[str, tuple[D.Distribution, poe.Space]] = {
    "Independent of mixtures": (
        D.Independent(
            D.MixtureSameFamily(
                D.Categorical(torch.ones(2, 2)), D.Normal(t([[0.0, 3.0], [1.0, -1.0]]), 1.0)
            ),
            1,
        ),
        poe.Real(2),
    ),
    "mixture of Independents": (
        D.MixtureSameFamily(
            D.Categorical(two), D.Independent(D.Normal(t([[0.0, 3.0], [1.0, -1.0]]), 1.0), 1)
        ),
        poe.Real(2),
    ),
    "transformed mixture": (D.TransformedDistribution(pair, [D.ExpTransform()]), positive),
    "transformed, composed": (
        D.TransformedDistribution(
            D.Normal(0.0, 1.0),
            [D.ComposeTransform([D.AffineTransform(1.0, 2.0), D.TanhTransform()])],
        ),
        poe.Interval((), -1, 1),
    ),
    "Independent of transformed": (
        D.Independent(
            D.TransformedDistribution(D.Normal(torch.zeros(2), 1.0), [D.SigmoidTransform()]), 1
        ),
        poe.Interval(2),
    ),
    "moved exponential": (
        D.TransformedDistribution(D.Exponential(1.0), [D.AffineTransform(1.0, 2.0)]),
        real,
    ),
    "mixture of moved gammas": (
        D.MixtureSameFamily(
            D.Categorical(two),
            D.TransformedDistribution(
                D.Gamma(2 * two, 1.0, validate_args=False), [D.AffineTransform(t([0.0, 3.0]), 1.0)]
            ),
        ),
        real,
    ),
}
REFUSED: dict[str, tuple[D.Distribution, str]] = {
    "LKJCholesky": (D.LKJCholesky(2, 1.0), "got CorrCholesky.*poe.FromLogDensity"),
    "Multinomial": (D.Multinomial(4, torch.ones(3)), "got Multinomial.*poe.FromLogDensity"),
    "OneHotCategorical": (
        D.OneHotCategorical(torch.ones(3)),
        "one-hot vectors are no space here: torch.distributions.Categorical",
    ),
    "OneHotCategoricalStraightThrough": (
        D.OneHotCategoricalStraightThrough(torch.ones(3)),
        "cannot adapt OneHotCategoricalStraightThrough, whose one-hot vectors",
    ),
    "Pareto": (D.Pareto(1.0, 2.0), r"cannot adapt Pareto: .*got GreaterThanEq\(lower_bound=1.0\)"),
    "GeneralizedPareto": (
        D.GeneralizedPareto(t(1.0), t(1.0), t(0.2)),
        r"cannot adapt GeneralizedPareto: .*Interval\(lower_bound=1.0, upper_bound=inf\)",
    ),
    "ExpRelaxedCategorical": (
        ExpRelaxedCategorical(t(0.5), torch.ones(3)),
        "a density on a surface: take torch.distributions.RelaxedOneHotCategorical",
    ),
    "Uniform": (
        D.Independent(D.Uniform(torch.zeros(2), t([1.0, 2.0])), 1),
        r"same bound for every element, got \[1.0, 2.0\]; use poe.Transformed",
    ),
    "Distribution": (
        D.Distribution(validate_args=False),
        r"Distribution does not say what its support is; use poe.FromLogDensity",
    ),
}
ALL = DISTRIBUTIONS | NESTED


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outside(space: poe.Space) -> list[Tensor]:
    """Points of the right shape that are not in the space."""
    match space:
        case poe.Positive():
            return [torch.full(space.event_shape, -1.0)]
        case poe.Interval():
            ends = (space.low - 0.5, space.high + 0.5)
            return [torch.full(space.event_shape, end) for end in ends]
        case poe.Simplex():
            return [torch.ones(space.k), t([2.0, -1.0, 0.0])]
        case poe.PositiveDefinite():
            return [-torch.eye(space.k)]
        case poe.Binary() | poe.Count():
            return [t(0.5), t(-1.0)]
        case poe.Categorical():
            return [t(space.k), t(-1)]
    return []


def test_every_class_that_torch_ships_is_here() -> None:
    shipped = {
        name
        for name in D.__all__
        if isinstance(getattr(D, name), type) and issubclass(getattr(D, name), D.Distribution)
    }
    abstract = {"ExponentialFamily"}  # for subclasses
    assert shipped - abstract == (DISTRIBUTIONS.keys() | REFUSED.keys()) & shipped


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_distribution_is_adapted_without_loss(name: str) -> None:
    distribution, space = ALL[name]
    expert = poe.as_expert(distribution)
    x = expert.sample(20, generator=rng())
    assert expert.space == space
    assert x.shape == (20, *distribution.event_shape)
    assert space.contains(x).all()
    theirs = distribution.log_prob(x)
    known = ~theirs.isnan()  # torch's own of a mixture is NaN where that of a component is
    torch.testing.assert_close(expert.log_prob(x)[known], theirs[known])
    assert known.any()
    with borrowed(rng()):
        assert torch.equal(x, distribution.sample((20,)))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_in_double_precision_after_it_was_moved_there(name: str) -> None:
    single = poe.as_expert(ALL[name][0])
    double = copy.deepcopy(single).to(torch.float64)
    x = double.sample(20, generator=rng())
    value = double.log_prob(x)
    assert value.dtype == torch.float64
    assert x.dtype in (torch.float64, torch.int64)
    known = value.isfinite()
    assert known.any()
    rounded = single.log_prob(x.float() if x.is_floating_point() else x)
    torch.testing.assert_close(rounded[known].double(), value[known], rtol=1e-4, atol=1e-4)
    if not single.space.is_discrete:
        assert double.score(x).dtype == torch.float64


def test_generalised_pareto_in_double_precision() -> None:
    one = torch.ones((), dtype=torch.float64)
    expert = poe.as_expert(D.GeneralizedPareto(0 * one, 2 * one, t(0.3, dtype=torch.float64)))
    # -log 2 - (1 + 1 / 0.3) log(1 + 0.3 / 2)
    assert expert.log_prob(one).item() == pytest.approx(-1.2987822641856326, rel=1e-14)
    exponential = poe.as_expert(D.GeneralizedPareto(0 * one, 2 * one, 0 * one))
    assert exponential.log_prob(one).item() == pytest.approx(-math.log(2) - 0.5, rel=1e-14)


@pytest.mark.parametrize("name", [n for n, (_, space) in ALL.items() if outside(space)])
def test_outside_of_its_space_is_minus_infinity(name: str) -> None:
    distribution, space = ALL[name]
    expert = poe.as_expert(distribution)
    for x in outside(space):
        assert expert(x).item() == -torch.inf, x


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_a_saved_distribution_is_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    expert = poe.as_expert(ALL[name][0])
    poe.save(expert, tmp_path)
    loaded, x = poe.load(tmp_path), expert.sample(5, generator=rng())
    assert loaded.space == expert.space
    assert torch.equal(loaded(x), expert(x))
    assert torch.equal(loaded.sample(5, generator=rng()), x)


@pytest.mark.parametrize("name", ["moved exponential", "mixture of moved gammas"])
def test_what_the_base_excludes_is_minus_infinity(name: str) -> None:
    """Where torch alone evaluates the base's formula outside of its support."""
    expert = poe.as_expert(NESTED[name][0])
    assert expert(t([-1.0, -0.5])).tolist() == [-torch.inf] * 2
    assert expert(t(torch.nan)).isnan()
    grid = torch.linspace(-5, 60, 65_001)
    assert abs(torch.trapezoid(expert(grid).exp(), grid) - 1) < 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_space_is_refused(name: str) -> None:
    distribution, words = REFUSED[name]
    with pytest.raises(poe.AdaptationError, match=words):
        poe.as_expert(distribution)


@pytest.mark.parametrize("name", ["Bernoulli", "Poisson", "Binomial", "Categorical"])
def test_discrete_distributions_take_integers_and_floats(name: str) -> None:
    expert = poe.as_expert(DISTRIBUTIONS[name][0])
    x = torch.tensor([0, 1])
    assert torch.equal(expert(x), expert(x.float()))


@pytest.mark.parametrize(
    ("distribution", "x"),
    [
        (D.Gamma(2.0, 3.0), -1.0),
        (D.Uniform(0.0, 1.0), 1.5),
        (D.Beta(2.0, 2.0), -0.1),
        (D.Bernoulli(0.3), 0.5),
        (D.Poisson(2.0), -1.0),
        (D.LogNormal(0.0, 1.0), -2.0),
    ],
    ids=str,
)
def test_off_the_support_is_minus_infinity(distribution: D.Distribution, x: float) -> None:
    assert poe.as_expert(distribution)(torch.tensor(x)).item() == -torch.inf


def test_nan_stays_nan() -> None:
    assert poe.as_expert(D.Gamma(2.0, 3.0))(torch.tensor(torch.nan)).isnan()


def test_sampling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    expert = poe.as_expert(D.Gamma(2.0, 3.0))
    first = expert.sample(3, generator=torch.Generator().manual_seed(0))
    second = expert.sample(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(expert.sample(3), expert.sample(3))


def leaf(value: Tensor, kind: str) -> Tensor:
    match kind:
        case "nn.Parameter":
            return nn.Parameter(value)
        case "leaf":
            return value.clone().requires_grad_()
    return nn.Parameter(value.log()).exp()  # computed from another


LEARNED: dict[str, Callable[[Tensor], D.Distribution]] = {
    "Normal": lambda scale: D.Normal(torch.zeros(()), scale),
    "Gamma, of a number": lambda scale: D.Gamma(2.0, scale),
    "Independent": lambda scale: D.Independent(D.Normal(torch.zeros(2), scale * two), 1),
    "TransformedDistribution": lambda scale: D.TransformedDistribution(
        D.Normal(0.0, 1.0), [D.AffineTransform(0.0, scale)]
    ),
    "MixtureSameFamily": lambda scale: D.MixtureSameFamily(
        D.Categorical(two), D.Normal(t([0.0, 3.0]), scale * two)
    ),
}


@pytest.mark.parametrize("kind", ["nn.Parameter", "leaf", "computed"])
@pytest.mark.parametrize("name", LEARNED)
def test_what_requires_a_gradient_is_a_parameter_and_learns(
    name: str, kind: str, tmp_path: Path
) -> None:
    expert = poe.as_expert(LEARNED[name](leaf(t(2.0), kind)))
    assert len(list(expert.parameters())) == 1
    x = expert.sample(3, generator=rng())
    before = expert(x).detach()
    optimizer = torch.optim.SGD(expert.parameters(), lr=0.1)
    for _ in range(2):  # a second pass: no graph is left over from before
        optimizer.zero_grad()
        (-expert(x).sum()).backward()
        optimizer.step()
    assert not torch.equal(expert(x), before)
    assert copy.deepcopy(expert).to(torch.float64)(x.double()).dtype == torch.float64
    poe.save(expert, tmp_path)
    assert [p.requires_grad for p in poe.load(tmp_path).parameters()] == [True]


def test_a_parameter_stays_the_one_it_is() -> None:
    loc = nn.Parameter(t(0.5))
    expert = poe.as_expert(D.Normal(loc, 1.0))
    expert(t([1.0])).sum().backward()
    assert loc.grad is not None
    assert next(expert.parameters()) is loc
    assert [name for name, _ in expert.named_buffers()] == ["parts.scale"]


def test_an_expert_is_itself() -> None:
    expert = poe.as_expert(D.Normal(0.0, 1.0))
    assert poe.as_expert(expert) is expert


def test_batch_of_distributions_is_refused() -> None:
    with pytest.raises(poe.AdaptationError, match=r"batch of shape \(3,\).*Independent"):
        poe.as_expert(D.Normal(torch.zeros(3), 1.0))


@pytest.mark.parametrize(
    "source", [nn.Tanh(), lambda x: x, torch.sum], ids=["module", "lambda", "built in"]
)
def test_functions_are_refused_with_the_remedy(source: object) -> None:
    with pytest.raises(poe.AdaptationError, match=r"poe.FromLogDensity.*poe.FromEnergy"):
        poe.as_expert(source)


def test_anything_else_is_refused() -> None:
    with pytest.raises(poe.AdaptationError, match="cannot adapt int; known are"):
        poe.as_expert(3)


def test_unusual_constructor_is_refused() -> None:
    class Odd(D.Normal):
        def __init__(self, setting: str) -> None:
            super().__init__(torch.tensor(0.0), torch.tensor(1.0))

    with pytest.raises(poe.AdaptationError, match="cannot tell how Odd is constructed"):
        poe.as_expert(Odd("a"))


def test_other_families_can_register() -> None:
    class Mine:
        pass

    poe.as_expert.register(Mine, lambda source: poe.as_expert(D.Normal(0.0, 1.0)))

    assert isinstance(poe.as_expert(Mine()), poe.Expert)


def test_from_energy_and_from_log_density_differ_in_sign() -> None:
    def square(x: Tensor) -> Tensor:
        return x.square().sum(-1)

    x = torch.ones(1, 2)
    assert poe.FromEnergy(square, space=poe.Real(2))(x).item() == -2
    assert poe.FromLogDensity(square, space=poe.Real(2))(x).item() == 2


@seeded()
def test_module_given_as_a_function_is_part_of_the_expert() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    expert = poe.FromEnergy(net, space=poe.Real(2))
    assert len(list(expert.parameters())) == 2
    assert expert.to("meta")(torch.zeros(3, 2, device="meta")).shape == (3,)


@pytest.mark.parametrize("kind", [poe.FromEnergy, poe.FromLogDensity])
def test_function_and_space_are_checked(kind: type[poe.FromEnergy]) -> None:
    with pytest.raises(poe.AdaptationError, match=r"expected space=poe.Real"):
        kind(torch.sum, space=2)  # type: ignore[arg-type]
    with pytest.raises(poe.AdaptationError, match="expected a function of x"):
        kind(3, space=poe.Real(1))  # type: ignore[arg-type]
    with pytest.raises(poe.AdaptationError, match="got the class Linear"):
        poe.FromEnergy(torch.nn.Linear, space=poe.Real(1))
    with pytest.raises(poe.DtypeError, match="expected the energy to return a tensor, got tuple"):
        poe.FromEnergy(lambda x: (x.sum(-1),), space=poe.Real(1))(torch.zeros(2, 1))
    with pytest.raises(poe.AdaptationError, match="needs no adaptation"):
        kind(poe.as_expert(D.Normal(0.0, 1.0)), space=poe.Real(()))


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_scalar_events_are_sampled_by_the_chosen_kernel() -> None:
    product = poe.as_expert(D.Normal(0.0, 1.0)) * poe.as_expert(D.Laplace(0.0, 1.0))
    draws = poe.sample(product, 40, warmup=20, generator=rng(), progress=False)
    assert draws.samples.shape == (4, 10)
    assert draws.guarantee == "asymptotically exact"
