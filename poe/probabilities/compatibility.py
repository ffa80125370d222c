"""``poe.compatibility``: which experts can agree, and which cannot, before anything is sampled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, texts, together, warn
from poe.core.errors import PoeError
from poe.density.checks import unique_names
from poe.density.conditional import require_one
from poe.density.expert import Expert, Product, experts_in, require_expert, shared_space
from poe.probabilities.normalize import Estimator, estimator_or_default
from poe.probabilities.overlap import find_integrals

CONTRADICTION = 0.01
"""Densities contradict each other where the cosine between them is below this."""


@dataclass(frozen=True, eq=False)
class Compatibility:
    """How far n normalised experts q_i agree; prints as tables with plain words below them.

    Errors are 0 where all integrals are exact, and count those that were estimated as independent.
    NaN is what could not be had. Divergences need no normaliser, and grow with the dimension, as do
    all differences in it.

    Args:
        names: The experts, in the order of all that follows.
        log_overlap: log ∫ q_i q_j, ``(n, n)``.
        log_overlap_error: Its standard error, ``(n, n)``.
        divergence: The Cauchy-Schwarz divergence D(q, r) = −log( ∫ q r / √(∫ q² ∫ r²) ), minus the
            log of the cosine between the two, ``(n, n)``: 0 where they are equal, +inf where
            nowhere both are positive.
        divergence_error: Its standard error, ``(n, n)``.
        mutual_log_overlap: log ∫ ∏ q_i, ``()``.
        mutual_log_overlap_error: Its standard error, ``()``.
        mutual_divergence: −log( ∫ ∏ q_i / ∏ (∫ q_i^n)^(1/n) ), ``()``, >= 0 by Hölder's inequality;
            for two experts D itself.
        mutual_divergence_error: Its standard error, ``()``.
        missing: Why something could not be had, in words.
        doubts: Which integrals are not to be trusted; ``remarks`` are their words.
    """

    names: tuple[str, ...]
    log_overlap: Tensor
    log_overlap_error: Tensor
    divergence: Tensor
    divergence_error: Tensor
    mutual_log_overlap: Tensor
    mutual_log_overlap_error: Tensor
    mutual_divergence: Tensor
    mutual_divergence_error: Tensor
    missing: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts)

    @property
    def contradictions(self) -> tuple[tuple[str, str], ...]:
        """The pairs whose cosine exp(−D) is below 0.01, the worst first."""
        pairs = itertools.combinations(range(len(self.names)), 2)
        cosine = (-self.divergence).exp()
        bad = [(i, j) for i, j in pairs if bool(cosine[i, j] < CONTRADICTION)]
        bad.sort(key=lambda pair: -self.divergence[pair].item())
        return tuple((self.names[i], self.names[j]) for i, j in bad)

    @property
    def words(self) -> tuple[str, ...]:
        """What stands out, in words."""
        found = [self._contradiction(one, other) for one, other in self.contradictions]
        is_apart = bool((-self.mutual_divergence).exp() < CONTRADICTION)
        if not found and is_apart and len(self.names) > 2:
            found = ["no pair contradicts each other, but all of them together do"]
        if not found and not self.divergence.isnan().any():
            found = ["no two of them contradict each other"]
        return (*found, *self.missing, *self.remarks)

    def _contradiction(self, one: str, other: str) -> str:
        divergence = self.divergence[self.names.index(one), self.names.index(other)]
        if divergence == torch.inf:
            return f"{one} and {other} exclude each other: nowhere are both densities positive"
        return (
            f"{one} and {other} contradict each other: the cosine between their densities is "
            f"{(-divergence).exp().item():.2g}; their product lies where neither is at home"
        )

    def __str__(self) -> str:
        lines = _table("log overlap", self.names, self.log_overlap, self.log_overlap_error)
        lines += _table("divergence", self.names, self.divergence, self.divergence_error)
        overlap = _number(self.mutual_log_overlap, self.mutual_log_overlap_error)
        divergence = _number(self.mutual_divergence, self.mutual_divergence_error)
        lines.append(f"all together: log overlap {overlap}, divergence {divergence}")
        return "\n".join([*lines, *(f"! {text}" for text in self.words)])

    __repr__ = __str__


@checked
def compatibility(
    *experts: Expert,
    estimator: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> Compatibility:
    """How far experts agree, two by two and all together, before anything is sampled.

    The integrals of n experts, n (n + 1) / 2 of pairs and 2 n + 1 others, are found by
    ``estimator`` or by ``poe.log_partition``; where that has no method, by exact draws of one
    expert. Warns (TrustWarning) of those not to be trusted. An integral that is infinite or cannot
    be had is NaN, and ``missing`` says why.

    Args:
        *experts: Two or more, or one product for its factors and their names.
        estimator: How the log of an integral is found, expert to ``poe.LogPartition``; by default
            ``poe.log_partition``.
        generator: The source of randomness of the default; a fresh one by default.

    Returns:
        Overlaps and divergences, with their errors.

    Raises:
        PoeError: For fewer than two experts and for batches of densities.
        SpaceMismatchError: For experts on different spaces.

    References:
        The divergence of two: Jenssen, Principe, Erdogmus & Eltoft (2006), The Cauchy-Schwarz
        divergence and Parzen windowing: connections to graph theory and Mercer kernels, eq. 4,
        Journal of the Franklin Institute 343.

    Example:
        >>> def at(place):
        ...     return experts.Gaussian([place], scale=[1.0])
        >>> found = compatibility(poe.Product(left=at(-1.0), middle=at(0.0), right=at(6.0)))
        >>> found.contradictions
        (('left', 'right'), ('middle', 'right'))
        >>> found.divergence[0]  # a quarter of the squared distance
        tensor([ 0.0000,  0.2500, 12.2500], dtype=torch.float64)
    """
    names, factors = _named(experts)
    indices = tuple(range(len(names)))
    pairs = [(i, j) for i in indices for j in indices]
    keys = [*((i,) for i in indices), *pairs, *((i,) * len(names) for i in indices), indices]
    find = estimator_or_default(estimator, generator)
    integrals = find_integrals(names, factors, keys, find, generator)
    warn(together("integrals are not to be trusted", integrals.doubts))
    overlap = [integrals.sum(((i, j), 1), ((i,), -1), ((j,), -1)) for i, j in pairs]
    divergence = [integrals.sum(((i, j), -1), ((i, i), 0.5), ((j, j), 0.5)) for i, j in pairs]
    mutual = integrals.sum((indices, 1), *(((i,), -1) for i in indices))
    powers = (((i,) * len(names), 1 / len(names)) for i in indices)
    return Compatibility(
        names,
        *_matrices(overlap),
        *_matrices(divergence),
        *mutual,
        *integrals.sum((indices, -1), *powers),
        missing=integrals.missing,
        doubts=integrals.doubts,
    )


def _named(given: Sequence[Expert]) -> tuple[tuple[str, ...], list[Expert]]:
    """The experts with a name each: the factors of a product where there is nothing else."""
    experts = [require_expert(expert) for expert in given]
    names = unique_names([type(expert).__name__ for expert in experts])
    if len(experts) == 1 and isinstance(experts[0], Product):
        names, experts = experts[0].names, experts_in(experts[0].experts)
    if len(experts) < 2:
        raise PoeError(f"expected two experts or more, or a product of them, got {len(experts)}")
    for expert in experts:
        require_one(expert, "compare them one condition at a time")
    shared_space(names, experts, "comparison")
    return names, experts


def _matrices(entries: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Values and errors, each `(n, n)`."""
    size = math.isqrt(len(entries))
    values, errors = (
        torch.stack(column).reshape(size, size) for column in zip(*entries, strict=True)
    )
    return values, errors


def _table(title: str, names: Sequence[str], values: Tensor, errors: Tensor) -> list[str]:
    cells = [
        [_number(v, e) for v, e in zip(*rows, strict=True)]
        for rows in zip(values, errors, strict=True)
    ]
    width = max(len(title), *map(len, names))
    columns = [2 + max(len(name), *(len(row[j]) for row in cells)) for j, name in enumerate(names)]
    head = "".join(f"{name:>{w}}" for name, w in zip(names, columns, strict=True))
    rows = (
        f"{name:<{width}}" + "".join(f"{cell:>{w}}" for cell, w in zip(row, columns, strict=True))
        for name, row in zip(names, cells, strict=True)
    )
    return [f"{title:<{width}}{head}", *rows]


def _number(value: Tensor, error: Tensor) -> str:
    return f"{value.item():.3f}" + (f" ± {error.item():.2g}" if error > 0 else "")
