"""Adaptations: lossless ones work, the others are refused with the remedy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as D

import poe

DISTRIBUTIONS: dict[str, tuple[D.Distribution, poe.Space]] = {
    "Normal": (D.Normal(0.3, 2.0), poe.Real(())),
    "Independent": (D.Independent(D.Normal(torch.zeros(2), 1.0), 1), poe.Real(2)),
    "MultivariateNormal": (
        D.MultivariateNormal(torch.zeros(2), precision_matrix=2 * torch.eye(2)),
        poe.Real(2),
    ),
    "LogNormal": (D.LogNormal(0.0, 1.0), poe.Positive(())),
    "Gamma": (D.Gamma(2.0, 3.0), poe.Positive(())),
    "Beta": (D.Beta(2.0, 3.0), poe.Interval(())),
    "Uniform": (D.Uniform(-1.0, 2.0), poe.Interval((), -1, 2)),
    "VonMises": (D.VonMises(0.5, 2.0), poe.Interval((), -torch.pi, torch.pi)),
    "Dirichlet": (D.Dirichlet(torch.ones(3)), poe.Simplex(3)),
    "Wishart": (D.Wishart(4.0, torch.eye(2)), poe.PositiveDefinite(2)),
    "Bernoulli": (D.Bernoulli(0.3), poe.Binary(())),
    "Categorical": (D.Categorical(logits=torch.tensor([0.0, 1.0, 2.0])), poe.Categorical((), 3)),
    "Binomial": (D.Binomial(5, torch.tensor(0.3)), poe.Categorical((), 6)),
    "Poisson": (D.Poisson(2.0), poe.Count(())),
    "TransformedDistribution": (
        D.TransformedDistribution(D.Normal(0.0, 1.0), [D.AffineTransform(1.0, 2.0)]),
        poe.Real(()),
    ),
    "MixtureSameFamily": (
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Normal(torch.tensor([0.0, 3.0]), 1.0)),
        poe.Real(()),
    ),
    "RelaxedBernoulli": (D.RelaxedBernoulli(torch.tensor(0.5), 0.3), poe.Interval(())),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.filterwarnings("ignore:Singular sample")
def test_distribution_is_adapted_without_loss(name: str) -> None:
    distribution, space = DISTRIBUTIONS[name]
    expert = poe.as_expert(distribution)
    x = expert.sample(5, generator=torch.Generator().manual_seed(0))
    assert expert.space == space
    assert x.shape == (5, *distribution.event_shape)
    torch.testing.assert_close(expert.log_prob(x), distribution.log_prob(x))


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


def test_parameters_move_and_learn() -> None:
    loc = nn.Parameter(torch.tensor(0.5))
    expert = poe.as_expert(D.Normal(loc, 1.0))
    expert(torch.tensor([1.0])).sum().backward()
    assert loc.grad is not None
    assert expert.to(torch.float64)(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_an_expert_is_itself() -> None:
    expert = poe.as_expert(D.Normal(0.0, 1.0))
    assert poe.as_expert(expert) is expert


def test_batch_of_distributions_is_refused() -> None:
    with pytest.raises(poe.AdaptationError, match=r"batch of shape \(3,\).*Independent"):
        poe.as_expert(D.Normal(torch.zeros(3), 1.0))


@pytest.mark.parametrize("source", [nn.Linear(2, 1), lambda x: x, torch.sum], ids=str)
def test_functions_are_refused_with_the_remedy(source: object) -> None:
    with pytest.raises(poe.AdaptationError, match=r"poe.FromLogDensity.*poe.FromEnergy"):
        poe.as_expert(source)


def test_anything_else_is_refused() -> None:
    with pytest.raises(poe.AdaptationError, match="cannot adapt int; known are"):
        poe.as_expert(3)


@pytest.mark.parametrize(
    "distribution",
    [D.OneHotCategorical(torch.ones(3)), D.LKJCholesky(2, 1.0), D.Pareto(1.0, 2.0)],
    ids=str,
)
def test_support_without_a_space_is_refused(distribution: D.Distribution) -> None:
    with pytest.raises(poe.PoeError, match="FromLogDensity"):
        poe.as_expert(distribution)


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
    with pytest.raises(poe.AdaptationError, match="needs no adaptation"):
        kind(poe.as_expert(D.Normal(0.0, 1.0)), space=poe.Real(()))
