"""What is chosen is what is multiplied, and what makes no density is refused in words."""

from __future__ import annotations

import pytest
import torch

import experts
import poe
from poe.studio import digits
from poe.studio.model import FAMILIES, PRESETS, compose, formula
from poe.studio.offer import Choice

CLASS = Choice("digits-class", 1.0, "7")
SLANT = Choice("digits-slant", 1.0, "right")
THICKNESS = Choice("digits-thickness", 1.0, "thick")


def prior(exponent: float) -> Choice:
    return Choice("digits-prior", exponent)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return experts.load("digits-slant").given("right").sample(2, generator=generator)


@pytest.mark.parametrize(
    "choices",
    [
        (CLASS, SLANT, THICKNESS, prior(-2.0)),
        (CLASS, SLANT._replace(exponent=2.5), prior(-1.0)),
        (CLASS, SLANT._replace(exponent=-0.5)),
        (THICKNESS, prior(0.5)),
        (SLANT._replace(exponent=0.3), THICKNESS, prior(-0.8)),
    ],
    ids=formula,
)
def test_digits_are_the_formula_however_they_are_evaluated(choices: tuple[Choice, ...]) -> None:
    """Ratios are a cheaper way to the same density."""
    x = images()
    said = torch.zeros(len(x))
    for one in choices:
        expert = experts.load(one.name)
        given = expert.given(one.label) if one.label else expert
        said = said + one.exponent * given(x)
    found = compose(choices).product
    torch.testing.assert_close(found(x), said, rtol=1e-4, atol=2e-3)


def test_by_bayes_rule_every_attribute_is_one_ratio() -> None:
    """So that three experts and their prior are as cheap as they can be."""
    found = compose([CLASS, SLANT, THICKNESS, prior(-2.0)]).product
    assert found.names == ("class 7", "slant right / prior", "thickness thick / prior")


def test_the_guide_is_the_demos_where_the_choice_is_the_demos() -> None:
    choices = (CLASS, SLANT, THICKNESS, prior(-2.0))
    chosen = digits.Combination(digit=7, slant=2, thickness=2)
    expected = digits.conjunction.compose(digits.load(), [chosen] * 2, exponents=digits.GUIDE)
    x = images()
    torch.testing.assert_close(digits.guide(choices, 2)(x), expected(x))
    assert digits.ladder(choices).noise_levels == pytest.approx(
        [level / digits.GUIDE.density**0.5 for level in digits.LADDER] + [digits.NOISE_LEVEL]
    )


def test_plane_experts_are_raised_to_their_exponents() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = compose([Choice("ring", 2.0), Choice("bar", 0.5)]).product
    from poe.studio.plane import build

    expected = torch.stack([2 * build("ring")(x), 0.5 * build("bar")(x)], -1)
    torch.testing.assert_close(found.contributions(x), expected)


def test_an_exponent_of_zero_has_no_say() -> None:
    assert compose([Choice("ring"), Choice("fashion-energy", 0.0)]).product.names == ("ring",)


@pytest.mark.parametrize(
    ("choices", "kind", "words"),
    [
        ([], poe.PoeError, "choose one"),
        ([Choice("ring", 0.0)], poe.PoeError, "choose one"),
        ([Choice("ring"), Choice("fashion-energy")], poe.SpaceMismatchError, r"Real\(2\).*28"),
        ([CLASS, Choice("bar")], poe.SpaceMismatchError, "class 7 lives on"),
        ([Choice("bar", -1.0)], poe.ImproperError, "bar"),
        ([Choice("ring"), Choice("bar", -2.0)], poe.ImproperError, r"bar \*\* -2 takes away more"),
        ([CLASS, prior(-2.0)], poe.ImproperError, "add up to more than 0.* got -1 "),
        ([CLASS, SLANT, prior(-2.0)], poe.ImproperError, "raise an exponent"),
        ([Choice("fashion-energy", -1.0)], poe.ImproperError, "positive exponent"),
    ],
)
def test_what_makes_no_density_is_refused(
    choices: list[Choice], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        compose(choices)


def test_presets_are_offered_and_make_densities() -> None:
    offered = {offer.name: offer.labels for family in FAMILIES for offer in family.offers()}
    for preset in PRESETS.values():
        compose(preset.choices)
        for one in preset.choices:
            assert (one.label in offered[one.name]) == bool(offered[one.name])


def test_shipped_digits_and_garments_are_on_offer() -> None:
    offered = {offer.name for family in FAMILIES for offer in family.offers()}
    assert offered >= {*digits.ATTRIBUTES, digits.PRIOR, "fashion-energy"}
    assert offered & set(experts.available()) == offered - {"ring", "bar", "spots", "stain"}
