"""Bounds on log-densities: they hold as often as they say, and go through the algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Normal

import poe
from experts import Bernoulli, Gaussian, LinearGaussian
from poe.core.doubt import Doubt, Kind
from poe.density.normalized import LogPartition
from poe.normalizers import AIS, MBAR, ImportanceSampling
from poe.normalizers.problem import Method
from poe.normalizers.sides import WIDE
from poe.probabilities.density_bounds import has_exact_log_density
from tests.seeds import seeded

LINE, STEP = Gaussian([0.0], scale=[1.0]), LinearGaussian([[2.0]], bias=[1.0], scale=[1.0])
OTHER = Gaussian([1.0], scale=[2.0])
X = torch.tensor([[-3.0], [0.5], [2.0]])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MARGINAL = poe.Marginal(LINE, STEP, LINE.sample(8, generator=rng()))
EXACT = Gaussian([1.0], scale=[math.sqrt(5.0)])


def rough(
    target: poe.Expert, start: poe.Expert | None, generator: torch.Generator, report: object
) -> LogPartition:
    """log Z between 1 below and 2 above the truth, held to be so in 19 of 20 cases."""
    value = poe.log_partition(target).value
    return LogPartition(
        value, torch.ones(()), value - 1, value + 2, "rough", confidence=0.95, rests_on="a guess"
    )


def rough_bounds(expert: poe.Expert, x: Tensor = X) -> poe.LogDensityBounds:
    return poe.log_density_bounds(expert, x, method=rough)


def assert_between(
    found: poe.LogDensityBounds, middle: Tensor, below: Tensor | float, above: Tensor | float
) -> None:
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(found.lower, middle - below, **close)
    torch.testing.assert_close(found.upper, middle + above, **close)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
@pytest.mark.parametrize("expert", [LINE, LINE**2 * OTHER, LINE | OTHER, poe.normalize(LINE**2)])
def test_both_are_the_log_density_where_that_is_exact(
    expert: poe.Expert, batch: tuple[int, ...]
) -> None:
    x = torch.randn(*batch, 1, generator=rng())
    found = poe.log_density_bounds(expert, x)
    assert found.lower.shape == batch
    torch.testing.assert_close(found.lower, expert(x))
    torch.testing.assert_close(found.upper, expert(x))
    assert found[2:] == (1.0, "", ())
    assert found.is_trusted
    assert has_exact_log_density(expert)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (0,)])
def test_closed_form_is_taken_where_there_is_one(batch: tuple[int, ...]) -> None:
    x = torch.randn(*batch, 1, generator=rng())
    found = poe.log_density_bounds(MARGINAL, x)
    torch.testing.assert_close(found.lower, EXACT(x))
    assert torch.equal(found.lower, found.upper)
    assert found[2:] == (1.0, "", ())


def most_misses(n: int, confidence: float) -> float:
    """Of n bounds, four standard errors beyond what their confidence leaves."""
    return n * (1 - confidence) + 4 * math.sqrt(n * confidence * (1 - confidence))


@pytest.mark.law
@pytest.mark.parametrize("method", [MBAR(512), AIS(512)])
def test_they_enclose_the_closed_form_as_often_as_they_say(method: Method) -> None:
    n = 12
    weight = torch.randn(4, 2, generator=rng(3))
    prior, step = Gaussian(torch.zeros(2), 1.0), LinearGaussian(weight, [0.0] * 4, [0.5] * 4)
    p = poe.Marginal(prior, step, torch.zeros(1, 2))
    x = p.sample_joint(n, generator=rng())[1]
    exact = step.exact_marginal(prior)
    assert exact is not None
    found = poe.log_density_bounds(p, x, method=method, generator=rng())
    misses = (found.lower > exact(x)) | (found.upper < exact(x))
    assert found.confidence == 0.95
    assert int(misses.sum()) <= most_misses(n, 0.95)
    assert bool((found.upper - found.lower < 1).all())  # so that holding says something
    assert "upper bound rests on" in found.rests_on


class Bent(poe.Conditional):
    """x ~ N((z, sin 3z), 0.3²)."""

    is_normalized = True
    space = poe.Real(2)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        curve = torch.cat([condition, (3 * condition).sin()], -1)
        return Normal(curve, 0.3).log_prob(x).sum(-1)

    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        curve = torch.cat([condition, (3 * condition).sin()], -1)
        return curve + 0.3 * torch.randn(curve.shape, generator=generator)


BENT = poe.Marginal(Gaussian([-1.0], 0.5) | Gaussian([1.0], 0.5), Bent(), torch.zeros(1, 1))


def by_trapezoids(p: poe.Marginal, x: Tensor) -> Tensor:
    z = torch.linspace(-6.0, 6.0, 6001)
    values = torch.stack([p.posterior(row)(z[:, None]) for row in x]).double()
    return torch.trapezoid(values.exp(), z.double()).log().float()


@pytest.mark.law
@pytest.mark.parametrize("method", [MBAR(512), AIS(512)])
def test_they_enclose_an_integral_without_closed_form(method: Method) -> None:
    n = 12
    x = BENT.sample_joint(n, generator=rng())[1]
    found = poe.log_density_bounds(BENT, x, method=method, generator=rng())
    exact = by_trapezoids(BENT, x)
    misses = (found.lower > exact) | (found.upper < exact)
    assert int(misses.sum()) <= most_misses(n, found.confidence)
    assert bool((found.upper - found.lower < WIDE).all())


def test_few_latent_dimensions_are_integrated_without_a_method() -> None:
    x = BENT.sample_joint(100, generator=rng())[1]
    found = poe.log_density_bounds(BENT, x)
    exact = by_trapezoids(BENT, x)
    slack = 1e-5 * (1 + exact.abs())  # rounding of float32
    assert bool((found.lower <= exact + slack).all() & (found.upper >= exact - slack).all())
    assert bool((found.upper - found.lower < 1e-3).all())
    assert found.rests_on == "both bounds rest on no needle being missed"


def test_binary_latents_are_summed() -> None:
    prior = Bernoulli([-1.0, 2.0])
    step = LinearGaussian([[1.0, 2.0]], bias=[0.0], scale=[0.5])
    p = poe.Marginal(prior, step, torch.zeros(1, 2))
    z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    expected = poe.Mixture([Gaussian([m], 0.5) for m in (0.0, 2.0, 1.0, 3.0)], prior(z).exp())(X)
    found = poe.log_density_bounds(p, X)
    torch.testing.assert_close(found.lower, expected)
    assert torch.equal(found.lower, found.upper)
    assert found.confidence == 1.0


@pytest.mark.parametrize(
    ("weight", "below", "above"), [(2.0, 2.0, 4.0), (-0.5, 1.0, 0.5), (0.0, 0.0, 0.0)]
)
def test_powers_scale_and_negative_ones_swap(weight: float, below: float, above: float) -> None:
    found = rough_bounds(MARGINAL**weight)
    assert_between(found, weight * EXACT(X), below, above)
    assert found[2:] == (0.95, "a guess", ())


def test_products_add_and_so_do_their_doubts() -> None:
    found = rough_bounds(MARGINAL**2 * OTHER / MARGINAL)
    assert_between(found, EXACT(X) + OTHER(X), 2 + 2, 4 + 1)
    assert found.confidence == pytest.approx(0.9)
    assert found.rests_on == "a guess"
    assert rough_bounds(MARGINAL * OTHER).confidence == pytest.approx(0.95)


def test_what_one_expert_excludes_stays_excluded() -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x[:, 0] < 0, -torch.inf, 0.0), space=poe.Real(1)
    )
    product = half * MARGINAL / half
    found = rough_bounds(product)
    assert_between(found, torch.where(X[:, 0] < 0, -torch.inf, EXACT(X)), 1.0, 2.0)


def test_mixtures_add_densities() -> None:
    mixture = poe.any_of(MARGINAL, OTHER, weights=[0.25, 0.75])
    own, other = EXACT(X) + math.log(0.25), OTHER(X) + math.log(0.75)
    found = rough_bounds(mixture)
    torch.testing.assert_close(found.lower, torch.logaddexp(own - 1, other))
    torch.testing.assert_close(found.upper, torch.logaddexp(own + 2, other))
    assert found.confidence == pytest.approx(0.95)
    with pytest.raises(poe.NormalizationError, match=r"bare numbers.*poe.any_of"):
        rough_bounds(poe.Mixture([MARGINAL, OTHER], log_partitions=[0.0, None]))


def test_mixtures_of_components_with_their_own_constants() -> None:
    """Components whose log-density is not normalised though log_prob is."""
    chain = poe.Chain(LINE**2, STEP)
    mixture = poe.Mixture([chain, Gaussian([0.0, 0.0], 1.0)])
    x = torch.randn(4, 2, generator=rng())
    torch.testing.assert_close(poe.log_density_bounds(mixture, x).lower, mixture(x))


def test_an_estimated_normaliser_counts_by_its_own_bounds() -> None:
    found = LogPartition(
        torch.tensor(0.5), torch.tensor(0.1), torch.tensor(0.2), torch.tensor(0.9), "rough",
        ess=100.0, confidence=0.95, rests_on="luck", doubts=(Doubt(Kind.FEW, "few draws"),),
    )  # fmt: skip
    normalized = poe.Normalized(OTHER**2, found)
    assert not has_exact_log_density(normalized)
    got = poe.log_density_bounds(normalized, X)
    assert_between(got, (OTHER**2)(X) - 0.5, 0.4, 0.3)
    assert got[2:4] == (pytest.approx(0.95), "luck")
    assert got.remarks == ("few draws",)
    assert not got.is_trusted
    both = rough_bounds(normalized * MARGINAL)
    assert_between(both, (OTHER**2)(X) - 0.5 + EXACT(X), 1.4, 2.3)
    assert both[2:4] == (pytest.approx(0.9), "luck; a guess")


@seeded()
def test_maps_carry_them_along() -> None:
    moved = poe.Transformed(MARGINAL, AffineTransform(1.0, 4.0))
    assert_between(rough_bounds(moved), EXACT((X - 1) / 4) - math.log(4), 1, 2)
    layer = torch.nn.Linear(3, 1)
    z = torch.randn(5, 3, generator=rng())
    found = rough_bounds(MARGINAL.at(layer, poe.Real(3)), z)
    assert_between(found, EXACT(layer(z)).detach(), 1, 2)
    assert_between(rough_bounds(poe.Chunked(MARGINAL, 2)), EXACT(X), 1, 2)


@seeded()
def test_they_are_detached() -> None:
    found = poe.log_density_bounds(LINE.at(torch.nn.Linear(3, 1), poe.Real(3)), torch.zeros(2, 3))
    assert not found.lower.requires_grad
    assert not found.upper.requires_grad


class Whole(poe.Expert):
    """Something unknown of its part."""

    def __init__(self, part: poe.Expert) -> None:
        super().__init__()
        self.space, self.part = part.space, part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x).square()


def test_where_they_say_nothing_of_the_whole_they_are_refused() -> None:
    with pytest.raises(poe.PoeError, match="a part of Whole is only bounded"):
        poe.log_density_bounds(Whole(MARGINAL), X)
    torch.testing.assert_close(poe.log_density_bounds(Whole(LINE), X).upper, LINE(X).square())
    with pytest.raises(poe.PoeError, match="before it is normalised"):
        poe.log_density_bounds(poe.normalize(MARGINAL * OTHER), X)
    assert_between(rough_bounds(poe.normalize(MARGINAL)), EXACT(X), 1, 2)  # both have log Z = 0


def test_same_seed_same_bounds_and_no_global_generator() -> None:
    before = torch.get_rng_state()
    first, second, other = (
        poe.log_density_bounds(MARGINAL, X[:1], method=MBAR(128), generator=rng(k))
        for k in (0, 0, 1)
    )
    assert torch.equal(first.lower, second.lower)
    assert torch.equal(first.upper, second.upper)
    assert not torch.equal(first.lower, other.lower)
    assert torch.equal(before, torch.get_rng_state())


def test_doubts_name_the_x() -> None:
    sharp = poe.Marginal(LINE, LinearGaussian([[1.0]], [0.0], [1e-3]), torch.zeros(1, 1))
    x = torch.tensor([[0.0], [3.0]])
    with pytest.warns(poe.TrustWarning, match=r"x 0: .*; and \d+ more in `remarks`") as caught:
        found = poe.log_density_bounds(sharp, x, method=ImportanceSampling(64), generator=rng())
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not found.is_trusted
    assert {remark[:4] for remark in found.remarks} == {"x 0:", "x 1:"}


def test_what_is_no_expert_is_refused() -> None:
    with pytest.raises(poe.OperatorError, match="expected expert to be an Expert"):
        poe.log_density_bounds(1.0, X)  # type: ignore[arg-type]
    with pytest.raises(poe.ShapeError):
        poe.log_density_bounds(MARGINAL, torch.zeros(2, 3))
