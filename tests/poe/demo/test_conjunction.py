"""The composition is its formula, term by term."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.demo.attributes import Combination
from poe.demo.conjunction import (
    GUIDE,
    LADDER,
    LEAPFROG_STEP_SIZE,
    LEAPFROG_STEPS,
    NOISE_LEVEL,
    PRIOR_EXPONENT,
    STEP_SIZE,
    Experts,
    Exponents,
    Schedule,
    compose,
    evidence,
    load_experts,
    sample,
)

WANTED = (Combination(7, 2, 2), Combination(0, 1, 0), Combination(3, 0, 1))
SUBSETS = [
    subset
    for size in (1, 2, 3)
    for subset in itertools.combinations(("digit", "slant", "thickness"), size)
]


@pytest.fixture(scope="module")
def parts() -> Experts:
    return load_experts()


@pytest.fixture(scope="module")
def images(parts: Experts) -> Tensor:
    digits = torch.tensor([one.digit for one in WANTED])
    generator = torch.Generator().manual_seed(0)
    return parts.digit.given(digits).sample(3, generator=generator)


def marginal(part: experts.NoisyConditional, x: Tensor) -> Tensor:
    """log p(x): the label "any", or all labels alike."""
    if "any" in part.labels:
        return part.given("any")(x)
    each = torch.stack([part.given(label)(x) for label in range(len(part.labels))])
    return each.logsumexp(0) - math.log(len(part.labels))


def by_hand(
    parts: Experts, subset: tuple[str, ...], k: float, loud: Exponents, x: Tensor
) -> dict[str, Tensor]:
    """Every term for every image, from single labels."""
    order = [name for name in ("digit", "thickness", "slant") if name in subset]
    terms = {}
    for name in order:
        part, exponent = getattr(parts, name), getattr(loud, name)
        each = torch.stack([part.given(getattr(one, name))(x[i]) for i, one in enumerate(WANTED)])
        prior = marginal(part, x)
        if name == order[0]:
            terms[name] = exponent * each
            if exponent != loud.density:
                terms[f"prior of {name}"] = (loud.density - exponent) * prior
            continue
        terms[name] = exponent * (each - prior)
        if k != 2:
            terms[f"prior of {name}"] = exponent * (1 - k / 2) * prior
    return terms


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize(
    ("k", "exponents"),
    [
        (2.0, Exponents(1, 1, 1, 1)),
        (0.7, Exponents(1.5, 3, 0.6, 1)),
        (2.0, Exponents(3, 5, 4, 2)),
        (0.0, Exponents(1, 2, 1, 1.2)),
    ],
)
def test_compose_is_the_formula_term_by_term(
    parts: Experts, images: Tensor, subset: tuple[str, ...], k: float, exponents: Exponents
) -> None:
    product = compose(parts, WANTED, subset, k, exponents)
    terms = by_hand(parts, subset, k, exponents, images)
    assert product.names == tuple(terms)
    expected = torch.stack(list(terms.values()), -1)
    torch.testing.assert_close(product.contributions(images), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(product(images), expected.sum(-1), rtol=1e-4, atol=2e-3)


def test_the_order_of_the_attributes_does_not_matter(parts: Experts, images: Tensor) -> None:
    one = compose(parts, WANTED, ("slant", "digit"))
    other = compose(parts, WANTED, ("digit", "slant"))
    assert torch.equal(one(images), other(images))


def test_all_three_are_divided_by_the_shipped_prior(parts: Experts, images: Tensor) -> None:
    """p(x|class) p(x|slant) p(x|thickness) / p(x)^k, for Bayes' k = 2 and any other."""
    digit, slant, thickness = torch.tensor(WANTED).unbind(-1)
    given = parts.digit.given(digit) * parts.slant.given(slant) * parts.thickness.given(thickness)
    for k in (2.0, 1.3):
        expected = given(images) - k * parts.prior(images)
        found = compose(parts, WANTED, prior_exponent=k)(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)


def test_by_default_every_attribute_speaks_once(parts: Experts, images: Tensor) -> None:
    names = ("digit", "slant", "thickness")
    plain = compose(parts, WANTED, names, PRIOR_EXPONENT, Exponents(1, 1, 1, 1))
    assert torch.equal(compose(parts, WANTED)(images), plain(images))


def test_a_batch_of_combinations_is_each_alone(parts: Experts, images: Tensor) -> None:
    together = compose(parts, WANTED).contributions(images)
    alone = [compose(parts, [one]).contributions(images[i, None]) for i, one in enumerate(WANTED)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-3)
    other = compose(parts, WANTED[::-1]).contributions(images)
    # Another wish changes every attribute's term, and no prior.
    changed = ((other - together).abs() > 0.01).all(0) | ((other - together).abs() > 0.01)[0]
    names = compose(parts, WANTED).names
    assert changed.tolist() == [not name.startswith("prior") for name in names]


def test_at_another_noise_level_every_term_moves(parts: Experts, images: Tensor) -> None:
    product = compose(parts, WANTED, prior_exponent=1.3, exponents=Exponents(1.5, 2, 0.5, 1.1))
    moved = compose(parts.at_noise_level(0.3), WANTED, prior_exponent=1.3,
                    exponents=Exponents(1.5, 2, 0.5, 1.1))  # fmt: skip
    expected = experts.noised.at_noise_level(product, 0.3)
    assert isinstance(expected, poe.Product)
    values = expected.contributions(images)
    torch.testing.assert_close(moved.contributions(images), values, rtol=1e-5, atol=1e-3)
    assert (values - product.contributions(images)).abs().amax(0).min() > 0.01


def test_the_shipped_experts_stand_at_the_end_of_the_ladder(parts: Experts) -> None:
    for part in (parts.digit, parts.slant, parts.thickness):
        assert part.noise_level.item() == pytest.approx(NOISE_LEVEL)
    assert list(LADDER) == sorted(LADDER, reverse=True)
    assert LADDER[-1] > NOISE_LEVEL


def test_evidence_is_the_ratio_of_each_label_to_the_prior(parts: Experts, images: Tensor) -> None:
    said = evidence(parts, images)
    assert said.slant.shape == said.thickness.shape == (3, 3)
    for one in (Combination(1, 0, 2), Combination(4, 2, 1)):
        expected = (
            parts.slant.given(one.slant)(images)
            - marginal(parts.slant, images)
            + parts.thickness.given(one.thickness)(images)
            - marginal(parts.thickness, images)
        )
        torch.testing.assert_close(said.of(one), expected, rtol=1e-4, atol=1e-3)


def test_a_schedule_counts_its_gradients() -> None:
    schedule = Schedule(trajectories_per_level=3, warmup=7, draws=11)
    assert schedule.gradients == 3 * LEAPFROG_STEPS * len(LADDER) + 7 + 11


def test_a_schedule_counts_every_evaluation_of_the_class_expert(
    parts: Experts, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    density = experts.PixelMixture.log_density_at

    def counted(self: experts.PixelMixture, *arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return density(self, *arguments)

    monkeypatch.setattr(experts.PixelMixture, "log_density_at", counted)
    schedule, generator = Schedule(1, 2, 3), torch.Generator().manual_seed(0)
    sample(parts, WANTED, ("digit", "slant", "thickness"), images, schedule, generator)
    # Each level and the target also start from a density of their own, and the target is tried,
    # and watched along rays: as often however long the run is.
    trials = 260
    assert schedule.evaluations < calls <= schedule.evaluations + 2 * (len(LADDER) + 1) + 2 + trials


def test_five_leapfrog_steps_turn_the_noise_half_around() -> None:
    """On N(0, 1) a step of size h turns (x, p) by 2 arcsin(h / 2) (Neal 2011, section 2.3)."""
    angle = LEAPFROG_STEPS * 2 * math.asin(LEAPFROG_STEP_SIZE / 2)
    assert angle == pytest.approx(math.pi, rel=0.03)


def test_chains_start_with_the_noise_of_the_first_level(
    parts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images have noise 0.1 already: variances add up to the level's."""
    seen: dict[str, Tensor] = {}

    def record(target: poe.Expert, num_samples: int, *, initial: Tensor, **rest: object) -> None:
        seen["start"] = initial
        assert num_samples == 5 * len(initial)

    monkeypatch.setattr(poe, "sample", record)
    combinations, clean = [WANTED[0]] * 200, torch.zeros(200, 16, 16)
    generator = torch.Generator().manual_seed(0)
    sample(parts, combinations, ("digit", "slant"), clean, Schedule(1, 2, 5), generator)
    squares = seen["start"].flatten().square()
    first = LADDER[0] ** 2 / GUIDE.density
    z = (squares.mean() - (first - 0.01)) / (squares.std() / len(squares) ** 0.5)
    assert z.abs() < 4, z


def test_the_ladder_has_its_own_kernels_and_ends_in_langevin(
    parts: Experts, images: Tensor
) -> None:
    generator = torch.Generator().manual_seed(0)
    schedule = Schedule(trajectories_per_level=1, warmup=1, draws=2)
    target, draws = sample(parts, WANTED, ("digit", "slant"), images, schedule, generator)
    assert draws.guarantee == "asymptotically exact"
    assert draws.samples.shape == (3, 2, 16, 16)
    kernel = draws.kernel
    assert isinstance(kernel, poe.samplers.AnnealedLangevin)
    used = [kernel.kernel_at(level) for level in range(len(LADDER) + 1)]
    assert [type(one) for one in used] == [poe.samplers.HMC] * len(LADDER) + [poe.samplers.MALA]
    assert used[-1] == poe.samplers.MALA(STEP_SIZE * NOISE_LEVEL**2)
    torch.testing.assert_close(draws.log_density[:, -1], target(draws.samples[:, -1]))
