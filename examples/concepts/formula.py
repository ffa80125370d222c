"""Formulas of labels, written with & (AND), | (OR), ~ (NOT) and / (over), read in three ways.

As a density: ``said_by(concepts)``, a ratio to p(x). As a truth: ``holds(labels)``, of the six
labels that a picture shows. As a share: ``ratio(labels)``, the same ratio where each picture's
labels are certain, from which follows how often each part is due.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

import poe
from examples.concepts.compositions import Concepts, any_of
from examples.concepts.data import FACTORS


class Formula:
    """What can be combined: labels, and combinations of them."""

    def said_by(self, concepts: Concepts) -> poe.Expert:
        """p(x | formula) / p(x), as the concepts have it."""
        raise NotImplementedError(f"{type(self).__name__} must implement said_by")

    def holds(self, labels: Tensor) -> Tensor:
        """Whether it is true of each row of six labels: (n, 6) -> (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement holds")

    def ratio(self, labels: Tensor) -> Tensor:
        """p(labels | formula) / p(labels), among the rows, up to a constant: (n, 6) -> (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement ratio")

    def __and__(self, other: Formula) -> And:
        return And(self, other)

    def __or__(self, other: Formula) -> Or:
        return Or(self, other)

    def __truediv__(self, other: Formula) -> Over:
        return Over(self, other)


@dataclass(frozen=True)
class Is(Formula):
    """One label of one attribute."""

    label: str

    @property
    def attribute(self) -> str:
        [name] = [name for name, labels in FACTORS.items() if self.label in labels]
        return name

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return concepts.says(self.attribute, self.label)

    def holds(self, labels: Tensor) -> Tensor:
        column = list(FACTORS).index(self.attribute)
        return labels[:, column] == FACTORS[self.attribute].index(self.label)

    def ratio(self, labels: Tensor) -> Tensor:
        true = self.holds(labels).float()
        return true / true.mean()

    def __invert__(self) -> Not:
        return Not(self)

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Not(Formula):
    """Any other label of the attribute: the mean of their ratios, weighted by their frequencies."""

    part: Is

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return concepts.says_another(self.part.attribute, self.part.label)

    def holds(self, labels: Tensor) -> Tensor:
        return ~self.part.holds(labels)

    def ratio(self, labels: Tensor) -> Tensor:
        true = self.holds(labels).float()
        return true / true.mean()

    def __str__(self) -> str:
        return f"NOT {self.part}"


@dataclass(frozen=True)
class And(Formula):
    """Both: the product of the ratios."""

    left: Formula
    right: Formula

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return self.left.said_by(concepts) * self.right.said_by(concepts)

    def holds(self, labels: Tensor) -> Tensor:
        return self.left.holds(labels) & self.right.holds(labels)

    def ratio(self, labels: Tensor) -> Tensor:
        return self.left.ratio(labels) * self.right.ratio(labels)

    def __str__(self) -> str:
        return f"{bracketed(self.left)} AND {bracketed(self.right)}"


@dataclass(frozen=True)
class Or(Formula):
    """One or the other or both: the mean of the ratios."""

    left: Formula
    right: Formula

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return any_of(self.left.said_by(concepts), self.right.said_by(concepts))

    def holds(self, labels: Tensor) -> Tensor:
        return self.left.holds(labels) | self.right.holds(labels)

    def ratio(self, labels: Tensor) -> Tensor:
        return (self.left.ratio(labels) + self.right.ratio(labels)) / 2

    def __str__(self) -> str:
        return f"{bracketed(self.left)} OR {bracketed(self.right)}"


@dataclass(frozen=True)
class Over(Formula):
    """The one AND NOT the other as Du et al. 2020 have it: the quotient of the ratios.

    Without bound: what makes the other less likely is rewarded for ever.
    """

    left: Formula
    right: Formula

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return self.left.said_by(concepts) / self.right.said_by(concepts)

    def holds(self, labels: Tensor) -> Tensor:
        return self.left.holds(labels) & ~self.right.holds(labels)

    def ratio(self, labels: Tensor) -> Tensor:
        """As if it were AND NOT, as one over a certain ratio is infinite."""
        return self.left.ratio(labels) * (~self.right.holds(labels)).float()

    def __str__(self) -> str:
        return f"{bracketed(self.left)} / {bracketed(self.right)}"


def bracketed(part: Formula) -> str:
    return f"({part})" if isinstance(part, And | Or | Over) else str(part)
