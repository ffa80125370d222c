"""Mixtures, moved densities, factors read through a map, bridges, links."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions as D, nn

import experts
import poe
from experts import Gaussian
from tests.seeds import seeded

X = torch.tensor([[0.0], [1.5], [-2.0]], dtype=torch.float64)


def gaussian(loc: float, scale: float = 1.0) -> Gaussian:
    return Gaussian(torch.tensor([loc], dtype=torch.float64), scale=scale)


def unnormalised() -> poe.Expert:
    return poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(1))


# Mixture


def test_mixture_is_the_weighted_sum_of_densities() -> None:
    a, b = gaussian(0.0), gaussian(3.0)
    mixture = poe.Mixture([a, b], [0.2, 0.8])
    expected = (0.2 * a(X).exp() + 0.8 * b(X).exp()).log()
    torch.testing.assert_close(mixture(X), expected)
    torch.testing.assert_close(mixture.log_prob(X), expected)


def test_or_counts_every_component_the_same() -> None:
    a, b, c = gaussian(0.0), gaussian(3.0), gaussian(5.0)
    for mixture in ((a | b) | c, a | (b | c)):
        torch.testing.assert_close(mixture.weights, torch.full((3,), 1 / 3, dtype=torch.float64))
        assert len(mixture.experts) == 3


def test_mixture_refuses_unnormalised_components() -> None:
    for build in (
        lambda: poe.Mixture([gaussian(0.0), unnormalised()]),
        lambda: gaussian(0.0) | unnormalised(),
    ):
        with pytest.raises(poe.NormalizationError, match=r"log_partitions=.*poe.log_partition"):
            build()


def test_mixture_takes_estimated_log_partitions() -> None:
    log_z = poe.log_partition(unnormalised()).value.item()
    mixture = poe.Mixture([gaussian(0.0), unnormalised()], log_partitions=[None, log_z])
    expected = (0.5 * gaussian(0.0)(X).exp() + 0.5 * (unnormalised()(X) - log_z).exp()).log()
    torch.testing.assert_close(mixture(X), expected)
    assert not hasattr(mixture, "log_prob")
    assert abs(poe.log_partition(mixture).value.item()) < 1e-8


def test_mixture_of_closed_form_products() -> None:
    mixture = gaussian(0.0) * gaussian(1.0) | gaussian(5.0) ** 2
    assert (
        abs(poe.log_partition(poe.FromLogDensity(mixture.forward, space=poe.Real(1))).value) < 1e-8
    )


def test_mixture_samples_its_components_in_proportion() -> None:
    mixture = poe.Mixture([gaussian(-50.0), gaussian(0.0), gaussian(50.0)], [0.2, 0.0, 0.8])
    n = 4000
    draws = mixture.sample(n, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (n, 1)
    share = (draws > 25).double().mean().item()
    assert abs(share - 0.8) < 4 * math.sqrt(0.2 * 0.8 / n)
    assert not ((draws > -25) & (draws < 25)).any()
    # Draws of one component are not bunched together: neighbours are independent.
    high = (draws[:, 0] > 0).double()
    repeats = (high[1:] == high[:-1]).double().mean().item()
    assert abs(repeats - 0.68) < 4 * math.sqrt(0.68 * 0.32 / n)


@pytest.mark.parametrize("weights", [[0.5, 0.6], [-0.5, 1.5], [torch.nan, 0.5]])
def test_mixture_weights_are_probabilities(weights: list[float]) -> None:
    with pytest.raises(poe.PoeError, match=r"weights >= 0 that sum to 1.*w / w.sum"):
        poe.Mixture([gaussian(0.0), gaussian(1.0)], weights)


def test_mixture_sizes_and_spaces_must_agree() -> None:
    with pytest.raises(poe.ShapeError, match=r"weights of shape \(2,\), got \(1,\)"):
        poe.Mixture([gaussian(0.0), gaussian(1.0)], [1.0])
    with pytest.raises(poe.ShapeError, match="expected 1 log partitions, got 2"):
        poe.Mixture([gaussian(0.0)], log_partitions=[0.0, 0.0])
    with pytest.raises(poe.SpaceMismatchError, match="experts of a mixture share one space"):
        poe.Mixture([gaussian(0.0), Gaussian([0.0, 0.0], scale=1.0)])
    with pytest.raises(poe.PoeError, match="at least one component"):
        poe.Mixture([])


def test_mixture_outside_every_support_is_minus_infinity() -> None:
    mixture = poe.as_expert(D.Uniform(0.0, 1.0)) | poe.as_expert(D.Beta(2.0, 2.0))
    assert mixture(torch.tensor([2.0])).item() == -torch.inf


# Transformed


def test_transformed_matches_torch() -> None:
    moves = [D.AffineTransform(1.0, -3.0), D.TanhTransform()]
    expert = poe.Transformed(poe.as_expert(D.Normal(0.2, 0.5)), D.ComposeTransform(moves))
    expected = D.TransformedDistribution(D.Normal(0.2, 0.5), moves)
    y = torch.tensor([-0.5, 0.1, 0.9])
    torch.testing.assert_close(expert.log_prob(y), expected.log_prob(y))
    assert expert.space == poe.Interval((), -1, 1)


@seeded()
def test_transformed_sums_the_jacobian_over_the_event() -> None:
    base = Gaussian([0.0, 1.0], scale=1.0)
    expert = poe.Transformed(base, D.AffineTransform(torch.ones(2), torch.tensor([2.0, 4.0])))
    expected = Gaussian([1.0, 5.0], scale=[2.0, 4.0])
    y = torch.randn(5, 2)
    torch.testing.assert_close(expert(y), expected(y))


def test_transformed_with_joined_dimensions() -> None:
    expert = poe.Transformed(Gaussian([0.0, 0.0], scale=1.0), D.StickBreakingTransform())
    assert expert.space == poe.Simplex(3)
    y = torch.tensor([0.2, 0.3, 0.5])
    expected = D.LogisticNormal(torch.zeros(2), torch.ones(2)).log_prob(y)
    torch.testing.assert_close(expert(y), expected)


def test_transformed_outside_its_space_is_minus_infinity_but_nan_stays() -> None:
    expert = poe.Transformed(gaussian(0.0), D.ExpTransform())
    value = expert(torch.tensor([[-1.0], [torch.nan], [1.0]], dtype=torch.float64))
    assert value[0] == -torch.inf
    assert value[1].isnan()
    assert value[2].isfinite()


def test_transformed_of_an_unnormalised_expert_has_no_log_prob() -> None:
    expert = poe.Transformed(unnormalised(), D.ExpTransform())
    assert not hasattr(expert, "log_prob")
    assert not hasattr(expert, "sample")
    torch.testing.assert_close(
        poe.log_partition(expert).value, poe.log_partition(unnormalised()).value
    )


def test_transformed_sample_lies_in_its_space() -> None:
    expert = poe.Transformed(gaussian(0.0), D.ExpTransform())
    draws = expert.sample(100, generator=torch.Generator().manual_seed(0))
    assert expert.space.contains(draws).all()


def test_learned_bijection_is_part_of_the_expert() -> None:
    scale = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    expert = poe.Transformed(gaussian(0.0), D.AffineTransform(0.0, scale))
    expert(X).sum().backward()
    assert scale.grad is not None
    assert any(parameter is scale for parameter in expert.parameters())


@seeded()
def test_transformed_refuses_what_is_no_bijection() -> None:
    with pytest.raises(poe.PoeError, match=r"got AbsTransform.*expert.at\(map\)"):
        poe.Transformed(gaussian(0.0), D.AbsTransform())
    with pytest.raises(poe.PoeError, match="got Linear"):
        poe.Transformed(gaussian(0.0), nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(poe.PoeError, match="continuous space"):
        poe.Transformed(poe.as_expert(D.Bernoulli(0.5)), D.ExpTransform())
    with pytest.raises(poe.ShapeError, match=r"event shape \(1,\), got Real\(2\)"):
        poe.Transformed(gaussian(0.0), D.ExpTransform(), space=poe.Real(2))


# At


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, 2 * z], -1)


def test_at_reads_through_a_map_without_a_jacobian() -> None:
    expert = Gaussian([1.0, 2.0], scale=1.0)
    z = torch.tensor([[0.0], [1.0]])
    read = expert.at(Decoder())
    assert read.space == poe.Real(1)
    torch.testing.assert_close(read(z), expert(torch.cat([z, 2 * z], -1)))


@seeded()
def test_at_takes_a_space_or_says_that_it_needs_one() -> None:
    expert = gaussian(0.0).to(torch.float32)
    assert expert.at(nn.Linear(3, 1), poe.Real(3)).space == poe.Real(3)
    with pytest.raises(poe.PoeError, match=r"expert.at\(generator, poe.Real"):
        expert.at(nn.Linear(3, 1))
    with pytest.raises(poe.PoeError, match=r"expected an nn.Module G, got"):
        expert.at(torch.sin)  # type: ignore[arg-type]


def test_at_refuses_a_map_to_another_space() -> None:
    with pytest.raises(poe.ShapeError, match=r"for Real\(1\), got \(2, 2\)"):
        gaussian(0.0).at(Decoder())(torch.zeros(2, 1))


# Bridges


def test_dequantized_keeps_the_normaliser() -> None:
    expert = poe.Dequantized(poe.as_expert(D.Categorical(torch.tensor([0.2, 0.3, 0.5]))))
    assert expert.space == poe.Interval((), 0, 3)
    y = torch.tensor([0.0, 0.9, 2.5, 3.0, 3.5, -0.1])
    expected = torch.tensor([0.2, 0.2, 0.5, 0.5, 0.0, 0.0]).log()
    torch.testing.assert_close(expert.log_prob(y), expected)
    hidden = poe.FromLogDensity(expert.forward, space=expert.space)
    assert abs(poe.log_partition(hidden).value.item()) < 1e-6


def test_dequantized_samples_fill_their_cells() -> None:
    expert = poe.Dequantized(poe.as_expert(D.Bernoulli(0.7)))
    draws = expert.sample(4000, generator=torch.Generator().manual_seed(0))
    assert abs(draws.floor().mean().item() - 0.7) < 4 * math.sqrt(0.21 / 4000)
    assert abs(draws.frac().mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / 4000)


def test_dequantized_is_constant_in_a_cell_and_needs_a_discrete_space() -> None:
    expert = poe.Dequantized(poe.as_expert(D.Bernoulli(0.7)))
    assert torch.equal(expert.score(torch.tensor([0.5, 1.5])), torch.zeros(2))
    with pytest.raises(poe.PoeError, match=r"got Real"):
        poe.Dequantized(gaussian(0.0))


def test_bridges_join_discrete_and_continuous_experts() -> None:
    coin = poe.as_expert(D.Independent(D.Bernoulli(torch.tensor([0.3, 0.6])), 1))
    flat = poe.as_expert(D.Independent(D.Uniform(torch.zeros(2), 2.0), 1))
    y = torch.tensor([[0.5, 1.5]])
    torch.testing.assert_close((poe.Dequantized(coin) * flat)(y), coin(y.floor()) + flat(y))


def test_relaxed_agrees_at_the_corners() -> None:
    expert = poe.FromLogDensity(lambda x: (x * x.roll(1, -1)).sum(-1), space=poe.Binary(2))
    relaxed = poe.Relaxed(expert)
    corners = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(relaxed(corners), expert(corners))
    assert relaxed(torch.tensor([[0.5, 1.1]])).item() == -torch.inf
    assert relaxed.score(torch.tensor([[0.5, 0.5]])).abs().sum() > 0
    assert not hasattr(relaxed, "log_prob")
    with pytest.raises(poe.PoeError, match="Binary space"):
        poe.Relaxed(gaussian(0.0))


# Links


@pytest.mark.parametrize(
    ("link", "density"),
    [
        (poe.link.exponential, torch.exp),
        (poe.link.square, torch.square),
        (poe.link.absolute, torch.abs),
        (poe.link.softplus, nn.functional.softplus),
    ],
)
def test_link_makes_the_stated_density(link: object, density: object) -> None:
    f = torch.linspace(-30, 8, 200, dtype=torch.float64)[:, None]
    expert = link(nn.Flatten(0), poe.Real(1))  # type: ignore[operator]
    torch.testing.assert_close(expert(f), density(f[:, 0]).log(), rtol=1e-9, atol=1e-9)  # type: ignore[operator]


def test_links_survive_extreme_outputs() -> None:
    f = torch.tensor([[-1e4], [-200.0], [1e30]])
    for link in (poe.link.square, poe.link.softplus):
        expert = link(nn.Flatten(0), poe.Real(1))
        assert expert(f).isfinite().all()
        assert expert.score(f).isfinite().all()


def test_square_of_zero_is_excluded() -> None:
    assert poe.link.square(nn.Flatten(0), poe.Real(1))(torch.zeros(1, 1)).item() == -torch.inf


def mixture(*means: float, scale: float = 1.0) -> poe.Mixture:
    weights = torch.arange(1.0, len(means) + 1)
    return poe.Mixture([Gaussian([mean], scale=scale) for mean in means], weights / weights.sum())


def test_a_product_of_mixtures_is_a_mixture_with_its_log_partition() -> None:
    product = mixture(-2.0, 0.0, 3.0) * mixture(1.0, -1.0, scale=0.5) * Gaussian([0.5], scale=2.0)
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, poe.Mixture)
    assert [type(component) for component in simple.experts] == [Gaussian] * 6
    x = torch.linspace(-4, 4, 9)[:, None]
    torch.testing.assert_close(simple(x) + log_constant, product(x))
    opaque = poe.FromLogDensity(product.forward, space=product.space)
    found = poe.log_partition(product)
    assert found.method == "closed form"
    torch.testing.assert_close(found.value, poe.log_partition(opaque).value.float())
    torch.testing.assert_close(product.log_prob(x), product(x) - found.value)
    draws = poe.sample(product, 40_000, generator=torch.Generator().manual_seed(0))
    assert draws.guarantee == "exact"
    axis = torch.linspace(-12, 12, 20_001)[:, None]
    mass = product.log_prob(axis).exp() * (axis[1] - axis[0])
    mean = (mass * axis[:, 0]).sum()
    error = draws.samples.std() / draws.samples.numel() ** 0.5
    assert (draws.samples.mean() - mean).abs() < 4 * error


def test_far_components_of_a_product_of_mixtures_are_not_lost() -> None:
    far = mixture(0.0, 30.0)
    product, x = far * far, torch.tensor([[0.0], [15.0], [30.0]])
    simple, log_constant = poe.simplify(product)  # between them e^-225, no number in float32
    assert isinstance(simple, poe.Mixture)
    torch.testing.assert_close(simple(x) + log_constant, product(x))
    further = mixture(0.0, 80.0)  # e^-1600, no number at all
    assert isinstance(poe.simplify(further * further).expert, poe.Product)


def test_mixtures_stay_as_they_are_where_a_product_has_no_closed_form() -> None:
    quartic = poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(1))
    estimated = poe.Mixture([Gaussian([0.0], 1.0) ** 2], log_partitions=[0.3])
    for product in (
        mixture(0.0, 1.0) * quartic,
        mixture(0.0, 1.0) * estimated,
        mixture(0.0, 1.0) ** 0.5 * Gaussian([0.0], 1.0),
        mixture(0.0, 1.0) / Gaussian([0.0], 0.1),
        mixture(*torch.arange(33.0).tolist()) * mixture(*torch.arange(32.0).tolist()),
    ):
        simple, log_constant = poe.simplify(product)
        assert isinstance(simple, poe.Product)
        x = torch.ones(2, 1)
        torch.testing.assert_close(simple(x) + log_constant, product(x))


def test_mixtures_of_other_families_and_of_powers_multiply_too() -> None:
    components = [experts.Gamma([2.0], [1.0]) ** 2, experts.Gamma([5.0], [2.0])]
    gammas = poe.Mixture(components, [0.3, 0.7])
    product = gammas * experts.Gamma([3.0], [0.5])
    opaque = poe.FromLogDensity(product.forward, space=product.space)
    assert poe.log_partition(product).method == "closed form"
    torch.testing.assert_close(
        poe.log_partition(product).value,
        poe.log_partition(opaque).value.float(),
    )
