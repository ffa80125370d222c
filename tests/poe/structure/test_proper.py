"""Whether a composition is proper: decided before it is used, and never wrongly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.density.capabilities import check_proper
from poe.density.closed_forms import exact_sample
from poe.density.questions import interchangeable
from poe.exponents import fit_exponents_by_score_matching as fit
from poe.structure.proper import is_proper

NUM_RANDOM = 250


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def whole(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def a_gaussian(generator: torch.Generator) -> experts.Gaussian:
    root = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    loc = torch.randn(2, generator=generator, dtype=torch.float64)
    return experts.Gaussian(loc, covariance=root @ root.mT)


def a_density(generator: torch.Generator) -> poe.Expert:
    """A Gaussian, a mixture of Gaussians, one of another scale, or a Student-t."""
    kind = whole(0, 5, generator)
    if kind == 0:
        return poe.as_expert(D.Independent(D.StudentT(f64(2.0, 3.0)), 1))
    count = 1 if kind < 3 else kind - 1
    parts = [a_gaussian(generator) for _ in range(count)]
    mixture = parts[0] if count == 1 else poe.Mixture(parts)
    if kind < 5:
        return mixture
    return poe.Transformed(mixture, D.AffineTransform(f64(1.0, -1.0), f64(0.7, -2.0)))


def a_product(a_factor: Callable[[torch.Generator], poe.Expert], seed: int) -> poe.Product:
    """Of one to four factors, with exponents of both signs."""
    generator = torch.Generator().manual_seed(seed)
    factors = [a_factor(generator) for _ in range(whole(1, 4, generator))]
    exponents = [uniform(-1, 1.5, generator) for _ in factors]
    return poe.Product(*(f**w for f, w in zip(factors, exponents, strict=True)))


def growth_far_out(product: poe.Product) -> tuple[float, float]:
    """The least curvature of −log p̃ over a fan of directions, and how large it could be."""
    angle = torch.linspace(0, math.pi, 5001, dtype=torch.float64)
    u, far = torch.stack([angle.cos(), angle.sin()], 1), 1e6
    said = -2 * product.contributions(far * u) / far**2
    return said.sum(-1).min().item(), said.abs().sum(-1).max().item()


@pytest.mark.law
def test_random_products_on_the_plane_are_decided_as_they_are() -> None:
    # The fan is π / 5000 fine, and a curvature changes by at most its size times that.
    margin, found = 2e-3, {True: 0, False: 0}
    for seed in range(NUM_RANDOM):
        product = a_product(a_density, seed)
        lowest, size = growth_far_out(product)
        if size > 1e-6 and abs(lowest) > margin * size:  # not of a Student-t alone
            assert is_proper(product) is (lowest > 0), (seed, lowest, size)
            found[lowest > 0] += 1
    assert min(found.values()) > NUM_RANDOM / 4  # of each kind many, and all of them decided
    assert sum(found.values()) > NUM_RANDOM * 0.9


def a_density_above_zero(generator: torch.Generator) -> poe.Expert:
    kind = whole(0, 3, generator)
    rate = f64(uniform(0.2, 3, generator))
    if kind == 0:
        return experts.Exponential(rate)
    parts = [experts.Gamma(f64(uniform(0.2, 3, generator)), rate * k) for k in range(1, 3)]
    if kind == 1:
        return poe.as_expert(D.Independent(D.Gamma(rate, rate), 1))
    return parts[0] if kind == 2 else poe.Mixture(parts)


def test_random_products_above_zero_are_decided_as_they_are() -> None:
    found = {True: 0, False: 0}
    for seed in range(NUM_RANDOM):
        product = a_product(a_density_above_zero, seed)
        near, far = f64(1e-300, 1e-250)[:, None], f64(1e6, 2e6)[:, None]
        power = (product(near)[1] - product(near)[0]).item() / (50 * math.log(10))
        rate = (product(far)[0] - product(far)[1]).item() / 1e6
        excess = power + 1, rate
        if min(map(abs, excess)) > 1e-3:  # so slowly do logarithms die out at 1e6
            assert is_proper(product) is (min(excess) > 0), (seed, excess)
            found[min(excess) > 0] += 1
    assert min(found.values()) > NUM_RANDOM / 4
    assert sum(found.values()) > NUM_RANDOM * 0.9


def g(scale: float, loc: float = 0.0) -> experts.Gaussian:
    return experts.Gaussian([loc], scale=[scale])


SHARP, BROAD = g(0.5) | g(1.0), g(2.0) | g(3.0)
FLOW = poe.as_expert(D.Independent(D.Gumbel(torch.zeros(1), 1.0), 1))  # normalised, tails unknown
FREE = poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(1))
DISC = experts.Gaussian([0.0, 0.0], covariance=[[1.0, 0.9], [0.9, 1.0]]) | experts.Gaussian(
    [1.0, 0.0], covariance=[[1.0, 0.8], [0.8, 1.0]]
)
STEP = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
SILENT = poe.Mixture([g(1.0), g(1.0) / g(0.5)], [1.0, 0.0], log_partitions=[0, 0])
FORWARD = "towards infinity"


@pytest.mark.parametrize(
    ("expert", "blamed"),
    [
        (poe.Product(prior=BROAD, style=SHARP**-1), f"integral; style \\*\\* -1 takes.*{FORWARD}"),
        (poe.contrast(g(1.0) | g(2.0), g(1.0), 1.0), r"Gaussian \*\* -1 takes"),
        (g(1.0) / (g(1.5) | g(0.9)) ** 3, r"Mixture \*\* -3 takes"),
        (DISC / experts.Gaussian([0.0, 0.0], 0.9), r"Gaussian \*\* -1 .*direction \[-?0.7"),
        (SHARP**-0.5, r"Mixture \*\* -0.5 alone"),
        (FLOW**-1 / SHARP, r"FromDistribution \*\* -1, Mixture \*\* -1 alone"),
        (FREE**0, r"FromLogDensity \*\* 0 alone"),
        (SHARP * BROAD**-1 * g(0.7) ** -3, r"integral; Mixture_2 \*\* -1, Gaussian \*\* -3 takes"),
        (poe.Mixture([g(1.0), g(1.0) / g(0.5)], log_partitions=[0, 0]), r"Gaussian_2 \*\* -1"),
        (poe.Transformed(BROAD / SHARP, D.AffineTransform(0.0, 2.0)), r"Mixture_2 \*\* -1"),
        (poe.Chunked(BROAD / SHARP, 3), r"Mixture_2 \*\* -1"),
        (poe.Normalized(BROAD / SHARP, poe.log_partition(g(1.0))), r"Mixture_2 \*\* -1"),
        (poe.Chain(BROAD / SHARP, STEP), r"Mixture_2 \*\* -1"),
        (experts.Gamma([2.0], [1.0]) / experts.Exponential([1.5]), "x goes to infinity"),
        (experts.Gamma([0.5], [1.0]) ** 3, r"x goes to 0; look at Gamma \*\* 3"),
        (
            experts.Gamma([0.5, 2.0], [1.0, 3.0])
            / (experts.Gamma([4.0, 1.0], [0.5, 1.0]) | experts.Gamma([3.0, 1.0], [0.5, 1.0])),
            r"Mixture \*\* -1 takes.*x\[0\] goes to 0",
        ),
        (
            experts.Beta([5.0], [2.0]) ** 3
            / (experts.Beta([2.0], [3.0]) | experts.Beta([3.0], [4.0])) ** 2.5,
            r"Mixture \*\* -2.5 takes.*x goes to 1",
        ),
        (experts.Poisson([1.0]) / experts.Poisson([2.0]) ** 2, r"Poisson_2 \*\* -2 takes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_improper_is_refused_and_the_expert_named(expert: poe.Expert, blamed: str) -> None:
    with pytest.raises(poe.ImproperError, match=blamed):
        check_proper(expert)
    assert is_proper(expert) is False


@pytest.mark.parametrize(
    ("expert", "verdict"),
    [
        (SHARP / BROAD, True),
        (g(1.0) / (g(0.9) | g(1.5)), True),  # its broad component is what counts far out
        (poe.contrast(SHARP, BROAD, 4.0), True),
        (poe.contrast(SHARP, SHARP, 0.5), True),
        (SHARP / BROAD / poe.as_expert(D.Independent(D.Cauchy(f64(0.0), 1.0), 1)), True),
        (BROAD / SHARP * g(0.1), True),  # a later factor mends it
        (experts.Gamma([2.0], [3.0]) / experts.Exponential([1.5]), True),
        (experts.Beta([2.0], [3.0]) / poe.as_expert(D.Independent(D.Uniform(f64(0), 1), 1)), True),
        (FLOW, True),
        (SHARP / BROAD * FREE**0, True),
        (SHARP / g(1.0), None),  # which balance
        (SHARP / FREE, None),
        (FREE / SHARP**9, None),
        (FLOW / SHARP, None),
        (FREE, None),
        (SILENT, None),  # its improper component has weight 0
        (SILENT / BROAD, True),
        (g(1.0) / FLOW, None),
        (experts.Bernoulli([0.0, 9.0]) ** -50 / experts.Bernoulli([1.0, 1.0]), None),
        (experts.Categorical([[0.0, 3.0]]) ** -3, None),
    ],
)
def test_what_is_proper_or_not_decided_passes(expert: poe.Expert, verdict: bool | None) -> None:
    check_proper(expert)
    assert is_proper(expert) is verdict


def poisson(*rate: float) -> poe.Expert:
    return experts.Poisson(f64(*rate))


def geometric(*probs: float) -> poe.Expert:
    return poe.as_expert(D.Independent(D.Geometric(f64(*probs)), 1))


def negative_binomial(count: float, *probs: float) -> poe.Expert:
    return poe.as_expert(D.Independent(D.NegativeBinomial(count, f64(*probs)), 1))


@pytest.mark.parametrize(
    ("expert", "verdict"),
    [
        (poisson(3.0) * poisson(5.0), True),
        (poisson(3.0) / geometric(0.5), True),
        (geometric(0.5) / poisson(3.0), False),
        (poisson(3.0) / poisson(5.0), True),  # (3 / 5)^n
        (poisson(5.0) / poisson(3.0), False),
        (poisson(5.0) / poe.as_expert(D.Independent(D.Poisson(f64(3.0)), 1)), False),
        (poisson(3.0) / poisson(3.0), False),  # 1 everywhere
        (geometric(0.5) / geometric(0.3), True),
        (geometric(0.3) / geometric(0.5), False),
        (negative_binomial(4.0, 0.6) ** 0.1, True),
        (negative_binomial(4.0, 0.6) ** -1, False),
        (negative_binomial(0.2, 0.6) ** 3 / geometric(0.4) ** 2.9, True),
        (negative_binomial(0.2, 0.6) ** 3 / geometric(0.4) ** 3.1, False),
        (negative_binomial(0.2, 0.6) ** 3 / geometric(0.4) ** 3, True),  # n^(-2.4)
        (negative_binomial(0.8, 0.6) ** 3 / geometric(0.4) ** 3, False),  # n^(-0.6)
        (negative_binomial(2.0, 0.6) / negative_binomial(4.0, 0.6), True),  # n^(-2)
        (poisson(1.0, 5.0) / poisson(2.0, 3.0), False),
        (poisson(1.0, 2.0) / poisson(2.0, 3.0), True),
        ((poisson(3.0) | geometric(0.5)) / geometric(0.7), False),
        ((poisson(3.0) | geometric(0.5)) / geometric(0.2), True),
        (geometric(0.5) / (poisson(3.0) | geometric(0.2)), True),
        (poisson(3.0) / poe.FromEnergy(lambda x: x.sum(-1), space=poe.Count(1)), None),
    ],
)
def test_counts_are_decided_by_the_first_order_that_tells(
    expert: poe.Expert, verdict: bool | None
) -> None:
    with pytest.raises(poe.ImproperError, match="infinit") if verdict is False else nullcontext():
        check_proper(expert)
    assert is_proper(expert) is verdict


@pytest.mark.parametrize("n", [1, 2])
def test_each_end_is_met_by_another_component(n: int) -> None:
    # In one dimension that is enough; in more another component would have to do for all ends.
    def gamma(concentration: float, rate: float) -> experts.Gamma:
        return experts.Gamma([concentration] * n, rate)

    target = (gamma(10.0, 9.0) | gamma(1.0, 1.0)) / (gamma(4.0, 0.5) | gamma(1.0, 2.0))
    assert is_proper(target) is (True if n == 1 else None)
    assert is_proper(gamma(10.0, 9.0) / (gamma(4.0, 0.5) | gamma(1.0, 2.0))) is True


class Untouched(experts.Gaussian):
    """Never evaluated."""

    @interchangeable
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("evaluated")


@pytest.mark.parametrize(
    "use",
    [
        lambda e: poe.sample(e, 100, progress=False),
        lambda e: poe.sample(e, 100, kernel=poe.samplers.MALA(0.1), progress=False),
        lambda e: poe.smc(e, 1000, progress=False),
        lambda e: poe.smc(e, 1000, start=g(9.0), progress=False),
        poe.log_partition,
        lambda e: poe.log_partition(e, method=poe.normalizers.AIS()),
        poe.normalize,
        lambda e: poe.normalize(e, poe.log_partition(g(1.0))),
        lambda e: poe.any_of(e, g(1.0)),
        lambda e: exact_sample(e, 10),
    ],
)
def test_it_is_refused_before_any_work(use: Callable[[poe.Expert], object]) -> None:
    parts = [Untouched([float(k)], scale=[1.0 + k]) for k in range(3)]
    target = poe.Product(prior=parts[0] | parts[1], style=(parts[0] | parts[2]) ** -3)
    with pytest.raises(poe.ImproperError, match=r"style \*\* -3 takes"):
        use(target)


def test_learned_exponents_that_run_away_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    product = poe.Product(sharp=SHARP, both=g(0.7) | g(3.0))
    x = (2 * torch.randn(60, 1, generator=generator)).clamp(-1.0, 1.0)  # most lie at an end
    with pytest.warns(poe.TrustWarning, match="both alone"):
        found = fit(product, x, generator=generator)
    assert not found.is_learned


def test_a_product_that_is_shown_to_be_proper_is_not_watched() -> None:
    # Ten steps from one point move outward, which is said of what may be improper.
    arguments = {"kernel": poe.samplers.MALA(0.01), "num_chains": 64, "warmup": 1}
    start = torch.zeros(64, 1)
    for target, is_said in ((SHARP / BROAD, False), (SHARP / FREE**0.001, True)):
        generator = torch.Generator().manual_seed(0)
        with warnings.catch_warnings(record=True):
            draws = poe.sample(
                target, 640, initial=start, generator=generator, progress=False, **arguments
            )
        assert any("may be improper" in remark for remark in draws.remarks) is is_said


def test_meta_and_learned_experts_pass() -> None:
    with torch.device("meta"):
        parts = [experts.Gaussian(torch.zeros(2), torch.ones(2)) for _ in range(2)]
        check_proper(poe.Product(parts[0], parts[1] ** -2))
    weight = torch.nn.Parameter(torch.tensor(-2.0))
    learned = experts.Gaussian(
        torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.ones(1))
    )
    assert is_proper((SHARP | learned) * BROAD**weight) is True
    assert is_proper(BROAD * (SHARP | learned) ** weight) is False


@pytest.mark.parametrize("d", [1, 3])
def test_too_many_components_are_left_open(d: int) -> None:
    def many(scale: float) -> poe.Expert:
        return poe.Mixture([experts.Gaussian(torch.zeros(d), scale + k / 100) for k in range(80)])

    assert is_proper(many(1.0) / many(3.0)) is None
    assert is_proper(experts.Gaussian(torch.zeros(d), 1.0) / many(3.0)) is None
    same = poe.Mixture([experts.Gaussian(torch.full((d,), float(k)), 1.0) for k in range(80)])
    assert is_proper(same / same**0.5) is True
