"""Compositions of concepts as densities.

Each concept comes in as p(x | y) / p(x), what a picture says of its label, and p(x) once:

    p(x) * prod_i p(x | y_i) / p(x)

which is p(x | y_1, ..., y_k) where the labels are independent given x. The plain product
prod_i p(x | y_i) is another density: it has p(x) to the power k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data import FACTORS, labels_of
from energy import Concept, JointEnergy, PictureEnergy, Presence, combination
from torch import Tensor
from weights import WEIGHTS, read

import experts
import poe
from experts.noise import ANY


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

    def here(self, cell: Tensor) -> poe.Expert:
        """p(x | an object is in that cell) / p(x)."""
        return experts.DensityRatio(self.presence).given(cell)


def load(folder: Path = WEIGHTS) -> Concepts:
    """The shipped weights."""
    picture = PictureEnergy()
    picture.load_state_dict(read("picture", folder))
    attributes = {
        name: Concept(picture, labels_of(name)).with_own_state(read(name, folder))
        for name in FACTORS
    }
    joint = JointEnergy()
    joint.load_state_dict(read("joint", folder))
    presence = Presence(picture).with_own_state(read("presence", folder))
    for module in (picture, joint, presence, *attributes.values()):
        module.eval().requires_grad_(False)
    return Concepts(picture, attributes, presence, joint)


def all_of(concepts: Concepts, labels: Tensor) -> poe.Product:
    """AND: p(x) * prod_i p(x | y_i) / p(x), with six labels for each chain (n, 6)."""
    columns = zip(FACTORS, labels.unbind(-1), strict=True)
    told = {name: concepts.says(name, column) for name, column in columns}
    return poe.Product(pictures=concepts.prior, **told)


def plain_product(concepts: Concepts, labels: Tensor) -> poe.Product:
    """prod_i p(x | y_i): the same with p(x) to the power six, evaluated once."""
    return all_of(concepts, labels) * concepts.prior ** (len(FACTORS) - 1)


def joint(concepts: Concepts, labels: Tensor) -> poe.Expert:
    """The one model that was told all six labels in training."""
    return concepts.joint.given(combination(labels))


def any_of(*said: poe.Expert) -> poe.Mixture:
    """OR of ratios p(x | A) / p(x): times p(x), the mixture of the p(x | A) with equal weights.

    Each p(x) * ratio has the normaliser of p(x), so nothing is to be estimated: relative to p(x)
    the ratios are normalised, which ``log_partitions`` says. For a product of ratios that holds
    where its labels are independent.
    """
    return poe.Mixture(said, log_partitions=[0.0] * len(said))


def objects_at(concepts: Concepts, cells: Tensor) -> poe.Product:
    """A chain of k places (n, k): p(x) * prod_j p(x | an object is in cell j) / p(x)."""
    told = {f"place {j + 1}": concepts.here(column) for j, column in enumerate(cells.T)}
    return poe.Product(pictures=concepts.prior, **told)
