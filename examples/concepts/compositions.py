"""Compositions of concepts as densities.

Each concept comes in as p(x | y) / p(x), what a picture says of its label, and p(x) once:

    p(x) * prod_i p(x | y_i) / p(x)

which is p(x | y_1, ..., y_k) where the labels are independent given x. The plain product
prod_i p(x | y_i) is another density: it has p(x) to the power k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

import experts
import poe
from examples.concepts.data import FACTORS, labels_of
from examples.concepts.energy import (
    KINDS,
    Concept,
    JointEnergy,
    PictureEnergy,
    Presence,
    combination,
)
from examples.concepts.weights import WEIGHTS, read
from experts.noised import ANY


@dataclass(frozen=True)
class Concepts:
    """The energy of pictures, the six attributes by name, presence, and one model of everything."""

    picture: PictureEnergy
    attributes: dict[str, Concept]
    presence: Presence
    joint: JointEnergy

    @property
    def prior(self) -> poe.Expert:
        """p(x)."""
        return self.picture.given(ANY)

    def says(self, attribute: str, label: str | Tensor) -> poe.Expert:
        """p(x | label) / p(x); a tensor has one label for each chain."""
        return experts.DensityRatio(self.attributes[attribute]).given(label)

    def says_another(self, attribute: str, label: str) -> poe.Mixture:
        """p(x | not that label) / p(x): the mixture of the other labels by their frequencies."""
        concept = self.attributes[attribute]
        others = [other for other in concept.labels if other != label]
        weights = concept.frequency[[concept.index(other) for other in others]]
        return any_of(*(self.says(attribute, other) for other in others), weights=weights)

    def here(self, cell: Tensor) -> poe.Expert:
        """p(x | an object is in that cell) / p(x)."""
        return experts.DensityRatio(self.presence).given(cell)


def load(folder: Path = WEIGHTS) -> Concepts:
    """The shipped weights."""
    picture = PictureEnergy()
    picture.load_state_dict(read("picture", folder))
    attributes = {
        name: KINDS[name](picture, labels_of(name)).with_own_state(read(name, folder))
        for name in FACTORS
    }
    joint = JointEnergy()
    joint.load_state_dict(read("joint", folder))
    presence = Presence(picture).with_own_state(read("presence", folder))
    for module in (picture, joint, presence, *attributes.values()):
        module.eval().requires_grad_(False)
    return Concepts(picture, attributes, presence, joint)


def all_of(concepts: Concepts, labels: Tensor) -> poe.Product:
    """AND of six labels for each chain (n, 6), as a ratio to p(x): prod_i p(x | y_i) / p(x)."""
    columns = zip(FACTORS, labels.unbind(-1), strict=True)
    return poe.Product(**{name: concepts.says(name, column) for name, column in columns})


def objects_at(concepts: Concepts, cells: Tensor) -> poe.Product:
    """Objects at k places (n, k), as a ratio to p(x): prod_j p(x | an object in cell j) / p(x)."""
    return poe.Product(*map(concepts.here, cells.unbind(-1)))


def any_of(*said: poe.Expert, weights: Tensor | None = None) -> poe.Mixture:
    """OR of ratios p(x | A) / p(x): times p(x), the mixture of the p(x | A), by default equally.

    Each p(x) * ratio has the normaliser of p(x), so nothing is to be estimated: relative to p(x)
    the ratios are normalised, which ``log_partitions`` says. For a product of ratios that holds
    where its labels are independent.
    """
    if weights is not None:
        weights = weights / weights.sum()
    return poe.Mixture(said, weights, log_partitions=[0.0] * len(said))


class Target(NamedTuple):
    """A density to draw from; what guides the chains down to it at higher levels of noise; and the
    exponent of p(x) in both, by which the variance of their noise is divided.
    """

    density: poe.Expert
    guide: poe.Expert
    power: float = 1.0


LOUDNESS = 12.0
"""The exponent of what is said while guiding: noise hides labels, and a product of what is said of
noised pictures says less than what would be said of the noised product. The target has 1."""


def times_prior(concepts: Concepts, said: poe.Expert, loudness: float = LOUDNESS) -> Target:
    """p(x) times what is said of x."""
    return Target(concepts.prior * said, concepts.prior * said**loudness)


def plain_product(concepts: Concepts, labels: Tensor) -> Target:
    """prod_i p(x | y_i): p(x) to the power six, evaluated once, times all ratios."""
    power = len(FACTORS)
    density = concepts.prior**power * all_of(concepts, labels)
    return Target(density, density, float(power))


def one_model(concepts: Concepts, labels: Tensor) -> Target:
    """The one model that was told all six labels in training."""
    density = concepts.joint.given(combination(labels))
    return Target(density, density)


def any_picture(concepts: Concepts) -> Target:
    """p(x)."""
    return Target(concepts.prior, concepts.prior)
