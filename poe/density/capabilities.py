"""What a density can answer: every question, with its default; families register themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from poe.core.space import Space
from poe.density.expert import (
    Expert,
    Simplified,
    Wrapper,
    is_normalized,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    simplify,
)
from poe.density.questions import (
    QUESTIONS,
    answer_of,
    asked_of_a_class,
    keeps_default,
    own_question,
    question,
)

__all__ = [
    "MAX_ELEMENTS",
    "QUESTIONS",
    "Conditionals",
    "LabelPairs",
    "LogOdds",
    "Pairs",
    "Simplified",
    "SpinPairs",
    "Term",
    "Wrapper",
    "answer_of",
    "can_sample_exactly",
    "check_proper",
    "combine",
    "conditional_tails",
    "conditionals",
    "distribute",
    "exact_log_partition",
    "in_tractable_parts",
    "is_normalized",
    "is_small",
    "keeps_default",
    "label_pairs",
    "log_density_of_one_hot",
    "log_prob_of",
    "own_question",
    "question",
    "sampler_of",
    "simplify",
    "spin_pairs",
    "tails",
    "widen",
]  # fmt: skip
MAX_ELEMENTS = 1024
"""Tails of events of more elements than these are not worked out."""


class Term(NamedTuple):
    """One factor of a product: log-density `exponent * expert(x)`."""

    name: str
    expert: Expert
    exponent: Tensor


@own_question
def combine(first: Expert, terms: Sequence[Term]) -> Simplified | None:
    """The product of `terms`, all of `first`'s class, as one expert; None where it is none.

    A family registers here that it is closed under products and powers. Raises `ImproperError`,
    naming the experts to blame, where the product has no finite normaliser.
    """
    return None


@own_question
def widen(expert: Expert, families: Set[type[Expert]]) -> Expert:
    """The same density as a member of a larger family, where that is one of `families`.

    >>> widen(experts.Exponential([2.0]), {experts.Gamma}).concentration
    tensor([1.])
    """
    return expert


@own_question
def distribute(factor: Expert, others: Sequence[Expert]) -> Simplified | None:
    """The product of a weighted sum and other experts as a weighted sum of products.

    None where the factor is no sum, or one of those products is not normalised in closed form.
    """
    return None


@own_question
def in_tractable_parts(expert: Expert) -> Expert:
    """The same density as a product with a factor that can be sampled exactly.

    Estimates of log Z start at that factor. The expert as it is, where no such factor is known.

    >>> magnet = experts.Ising.grid((20, 20), coupling=0.4, periodic=True)
    >>> in_tractable_parts(magnet).names
    ('strips', 'between')
    """
    return expert


@question
def exact_log_partition(expert: Expert) -> Tensor | None:
    """log of the integral of p̃ in closed form, or None where there is none.

    An expert with `log_prob` whose own log-density is not normalised registers here, such that
    `expert(x) - exact_log_partition(expert) == expert.log_prob(x)`.
    """
    return torch.zeros(()) if is_normalized(expert) else None


@own_question
def can_sample_exactly(expert: Expert) -> bool:
    """Whether `exact_sample` works for this expert."""
    return sampler_of(expert) is not None


@question
def check_proper(expert: Expert) -> None:
    """Raise `ImproperError` where the expert can be shown to have no finite normaliser.

    Where nothing can be decided this returns in silence; then the density is watched along rays
    (``poe.structure.far_mass``). How it is decided: ``poe.structure.proper.is_proper``.
    """


@question
def tails(expert: Expert) -> Tensor | None:
    """The growth of −log p̃ to leading order, in float64 on the CPU; None where it is not known.

    On Real matrices G ``(k, d, d)``, with events flattened:

        −log p̃(x) = min_k ½ x' G_k x + o(|x|²)

    and elsewhere vectors G ``(k, m)``, one number for each of the m ``ends`` of the space,

        −log p̃(x) = min_k Σ_j G_kj s_j + o(Σ_j s_j)

    where s_j is −log of an element's distance from an end that is finite, and the element x itself
    as it goes to infinity. On Count each of x log x, x and log x of an element has a number,
    ``m = 3 n`` for n elements, x log x of all of them first: what is first not 0 decides. All hold
    uniformly, and inside of the space the density is finite and positive. Families and compositions
    register themselves; k > 1 is for mixtures.

    >>> tails(experts.Gaussian([0.0, 0.0], scale=[1.0, 0.5]))
    tensor([[[1., 0.],
             [0., 4.]]], dtype=torch.float64)
    >>> tails(experts.Gamma([3.0], [2.0]))  # x² at 0, e^(−2 x) at infinity
    tensor([[2., 2.]], dtype=torch.float64)
    """
    return None


@asked_of_a_class
def conditional_tails(conditional: nn.Module) -> Tensor | None:
    """G ``(d, d)`` of p(y | x) as a function of both, z = (x, y) on Real: ½ z' G z + o(|z|²).

    None where it is not known, or is another for each x.
    """
    return None


def is_small(space: Space) -> bool:
    """Whether tails are worked out there."""
    return 0 < space.event_shape.numel() <= MAX_ELEMENTS


LogOdds = Callable[[Tensor], Tensor]
"""x ``(chains, *event)`` to log p(xᵢ = 1 | rest) − log p(xᵢ = 0 | rest) ``(chains, *event)``."""


class Conditionals(NamedTuple):
    """The conditional distributions of a binary event's elements, with hidden units if need be.

    Args:
        edges: ``(2, m)`` int64, pairs of flattened elements whose log-odds depend on each other, in
            any order, repeated or not. Elements that no edge joins may be drawn together.
        num_hidden: How many uniforms a chain ``given`` wants.
        given: (x ``(chains, *event)``, uniforms ``(chains, num_hidden)``) to the log-odds of every
            element, after hidden units, if any, were drawn given x.
    """

    edges: Tensor
    num_hidden: int
    given: Callable[[Tensor, Tensor], LogOdds]


@question
def conditionals(expert: Expert) -> Conditionals | None:
    """How the elements go together, or None where that is not known. Families register here.

    Asked once, when a kernel is built: an exponent that is changed later is not seen.

    >>> field = experts.Bernoulli([0.5, -1.0])
    >>> log_odds = conditionals(field**2 * field).given(torch.zeros(1, 2), torch.zeros(1, 0))
    >>> log_odds(torch.zeros(1, 2))
    tensor([[ 1.5000, -3.0000]])
    """
    return None


class Pairs(NamedTuple):
    """Couplings of pairs of elements, and fields of single ones.

    ``SpinPairs`` and ``LabelPairs`` say what they stand for.

    Args:
        edges: ``(2, m)`` int64, pairs of flattened elements, repeated or not.
        couplings: ``(m,)``.
        fields: ``(n, ...)``, element by element.
    """

    edges: Tensor
    couplings: Tensor
    fields: Tensor

    @property
    def is_attractive(self) -> bool:
        """Whether no pair has a negative coupling."""
        return bool((self.couplings >= 0).all())

    def to_the_power(self, exponent: Tensor) -> Self | None:
        """Those of p^w, couplings and fields times w; None of an exponent without a value."""
        if exponent.is_meta:
            return None
        weight = float(exponent.detach())
        return self._replace(couplings=weight * self.couplings, fields=weight * self.fields)

    @classmethod
    def of_product(cls, parts: Sequence[Self | None]) -> Self | None:
        """All factors' pairs; fields add. None if one factor is None."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        edges, couplings, fields = zip(*known, strict=True)
        return cls(torch.cat(edges, 1), torch.cat(couplings), torch.stack(fields).sum(0))


class Grid(NamedTuple):
    """Nearest neighbours on a grid, all of one coupling.

    - ``coupling``; ``wraps``: whether the last row is joined to the first, and the last column.
    """

    coupling: float
    wraps: tuple[bool, bool]


class SpinPairs(Pairs):
    """log p̃(x) = Σ Jᵢⱼ sᵢ sⱼ + Σ hᵢ sᵢ + constant, with spins s = 2x − 1 of a binary event.

    Args:
        edges: ``(2, m)`` int64, pairs of flattened elements, repeated or not.
        couplings: J, ``(m,)``.
        fields: h, ``(n,)``.
    """

    @property
    def is_attractive_and_aligned(self) -> bool:
        """Whether, beside, no two fields pull in different directions."""
        h = self.fields
        return self.is_attractive and bool((h >= 0).all() | (h <= 0).all())

    def grid(self, shape: torch.Size) -> Grid | None:
        """The grid of even sides and one coupling that the pairs are, or None.

        >>> pairs = spin_pairs(experts.Ising.grid((4, 6), coupling=0.25))
        >>> pairs.grid(torch.Size((4, 6)))
        Grid(coupling=0.25, wraps=(False, False))
        """
        if len(shape) != 2 or any(side % 2 or side < 4 for side in shape) or self.edges.is_meta:
            return None
        low, high = self.edges.sort(0).values
        numbers, where = (low * shape.numel() + high).unique(return_inverse=True)
        sums = self.couplings.new_zeros(len(numbers)).index_add(0, where, self.couplings)
        if len(sums) == 0 or bool((sums != sums[0]).any()):
            return None
        for wraps in ((False, False), (True, False), (False, True), (True, True)):
            if torch.equal(numbers, _neighbours(shape, wraps).to(numbers.device)):
                return Grid(sums[0].item(), wraps)
        return None


def _neighbours(shape: torch.Size, wraps: tuple[bool, bool]) -> Tensor:
    """Which pairs of sites are neighbours, each by one number, ascending."""
    sites = torch.arange(shape.numel()).reshape(shape)
    numbers = []
    for axis in (0, 1):
        kept = shape[axis] if wraps[axis] else shape[axis] - 1
        ends = torch.stack([sites, sites.roll(-1, axis)]).narrow(axis + 1, 0, kept).flatten(1)
        low, high = ends.sort(0).values
        numbers.append(low * shape.numel() + high)
    return torch.cat(numbers).sort().values


@question
def spin_pairs(expert: Expert) -> SpinPairs | None:
    """The couplings and fields of a binary expert, or None if it has other terms.

    Families register here. Asked once, when a kernel is built: an exponent or a coupling that is
    changed later is not seen.

    >>> pair = experts.Ising([[0.0, 0.5], [0.5, 0.0]])
    >>> found = spin_pairs(pair**2 * experts.Bernoulli([0.5, -1.0]))
    >>> found.couplings, found.fields
    (tensor([1.]), tensor([ 0.2500, -0.5000]))
    """
    return None


class LabelPairs(Pairs):
    """log p̃(x) = Σ Jᵢⱼ [xᵢ = xⱼ] + Σ hᵢ(xᵢ) + constant, with x in {0, ..., k − 1}^n.

    Args:
        edges: ``(2, m)`` int64, pairs of flattened elements, repeated or not.
        couplings: J, ``(m,)``.
        fields: h, ``(n, k)``.
    """

    @property
    def is_attractive_and_aligned(self) -> bool:
        """Whether, beside, there is a label that every site's field likes best."""
        is_best = self.fields == self.fields.amax(1, keepdim=True)
        return self.is_attractive and bool(is_best.all(0).any())


@question
def label_pairs(expert: Expert) -> LabelPairs | None:
    """The couplings and fields of an expert on labels, or None if it has other terms.

    Families register here. Asked once, when a kernel is built: an exponent or a coupling that is
    changed later is not seen.

    >>> chain = experts.Potts([[0], [1]], 0.5, 0.0, 2, num_labels=3)
    >>> found = label_pairs(chain**2 * experts.Categorical([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> found.couplings, found.fields
    (tensor([1.]), tensor([[0., 1., 0.],
            [0., 0., 0.]]))
    """
    return None


keeps_default(
    Expert,
    "another form of it is given by those that know one; as it is, it is right",
    simplify,
    combine,
    widen,
    distribute,
    in_tractable_parts,
)
keeps_default(Expert, "follows from log_prob_of and sampler_of", is_normalized, can_sample_exactly)
