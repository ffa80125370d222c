"""Formulas of labels, written with & (AND), | (OR) and ~ (NOT), each read in three ways.

As a density: ``said_by(concepts)``, a ratio to p(x). As a truth: ``holds(labels)``, of the six
labels that a picture shows. As a share: ``ratio(labels)``, the same ratio where each picture's
labels are certain, from which follows how often each part is due.
"""

from __future__ import annotations

from dataclasses import dataclass

from compositions import Concepts, any_of
from data import FACTORS
from torch import Tensor

import poe


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

    def __invert__(self) -> Not:
        return Not(self)


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

    def __str__(self) -> str:
        return self.label


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
class Not(Formula):
    """Not that: one over the ratio, as Du et al. 2020 have it with exponent 1."""

    part: Formula

    def said_by(self, concepts: Concepts) -> poe.Expert:
        return self.part.said_by(concepts) ** -1.0

    def holds(self, labels: Tensor) -> Tensor:
        return ~self.part.holds(labels)

    def ratio(self, labels: Tensor) -> Tensor:
        """As if what is left were as it was: one over a certain ratio is without bound."""
        return self.holds(labels).float()

    def __str__(self) -> str:
        return f"NOT {bracketed(self.part)}"


def bracketed(part: Formula) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)
