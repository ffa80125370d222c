"""From what is chosen to the composition: its factors, its formula, and how it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import poe
from poe.density.capabilities import check_proper
from poe.studio.digits import DIGITS
from poe.studio.garments import GARMENTS
from poe.studio.offer import Choice, Family, Recipe
from poe.studio.plane import PLANE

FAMILIES = (DIGITS, PLANE, GARMENTS)


class Composition(NamedTuple):
    """A product of chosen experts, and how it is sampled."""

    product: poe.Product
    choices: tuple[Choice, ...]
    family: Family

    @property
    def recipe(self) -> Recipe:
        """How it is sampled."""
        return self.family.recipe(self.product, self.choices)

    @property
    def formula(self) -> str:
        """As `formula` writes it."""
        return formula(self.choices)


def compose(choices: Sequence[Choice]) -> Composition:
    """The product of the chosen experts, each to its exponent; those of exponent 0 have no say.

    Raises PoeError where none is left, SpaceMismatchError where they live on different spaces,
    ImproperError where it is known that the product has infinite mass.

    >>> found = compose([Choice("ring"), Choice("bar", 0.5)])
    >>> found.product.names, found.formula
    (('ring', 'bar'), 'ring · bar^0.5')
    """
    choices = tuple(one for one in choices if one.exponent != 0)
    if not choices:
        raise poe.PoeError("expected at least one expert with an exponent other than 0: choose one")
    factors: dict[str, poe.Expert] = {}
    involved = []
    for family in FAMILIES:
        names = {offer.name for offer in family.offers()}
        own = [one for one in choices if one.name in names]
        if own:
            factors |= family.factors(own)
            involved.append(family)
    product = poe.Product(**factors)
    check_proper(product)
    return Composition(product, choices, involved[0])


def formula(choices: Sequence[Choice]) -> str:
    """What is multiplied, and what it is divided by.

    >>> formula([Choice("digits-class", 1.0, "7"), Choice("digits-prior", -2.0)])
    'class 7 / prior^2'
    """
    above = [_power(str(one), one.exponent) for one in choices if one.exponent > 0]
    below = [_power(str(one), -one.exponent) for one in choices if one.exponent < 0]
    below_line = f" / {_grouped(below)}" if below else ""
    return (" · ".join(above) or "1") + below_line


def _grouped(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' · '.join(parts)})"


def _power(name: str, exponent: float) -> str:
    return name if exponent == 1 else f"{name}^{exponent:g}"


class Preset(NamedTuple):
    """Choices to begin with, and how many draws of a chain they are worth waiting for."""

    choices: tuple[Choice, ...]
    num_draws: int


PRESETS = {
    "thick, right-slanted 7": Preset(
        (
            Choice("digits-class", 1.0, "7"),
            Choice("digits-slant", 1.0, "right"),
            Choice("digits-thickness", 1.0, "thick"),
            Choice("digits-prior", -2.0),
        ),
        20,
    ),
    "ring AND bar": Preset((Choice("ring"), Choice("bar")), 100),
    "ring AND NOT stain": Preset((Choice("ring"), Choice("stain", -2.0)), 100),
    "garments": Preset((Choice("fashion-energy"),), 50),
}
"""By what they make; the page opens with the first."""
