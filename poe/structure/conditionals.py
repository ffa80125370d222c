"""How the elements of a binary event go together: what block Gibbs draws from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from poe.density.capabilities import Conditionals, LogOdds, conditionals
from poe.density.expert import Product, Tempered, experts_in

MAX_COPIES = 64
"""The most copies of hidden units that an integer power is written out to."""


@conditionals.register
def _(expert: Product) -> Conditionals | None:
    """Log-odds add and edges unite; each factor has its own hidden units. None if one is None."""
    found = [conditionals(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    return _together(known) if len(known) == len(found) else None


@conditionals.register
def _(expert: Tempered) -> Conditionals | None:
    """p^w: log-odds times w; with hidden units w independent copies of them, if w is a count.

    (Σ_z p(x, z))^w = Σ p(x, z₁) ⋯ p(x, z_w). An exponent that is learned may cease to be a count.
    """
    inner = conditionals(expert.expert)
    if inner is None or expert.exponent.is_meta:
        return None
    weight = float(expert.exponent.detach())
    if weight == 0:
        return Conditionals(inner.edges[:, :0], 0, lambda x, uniforms: torch.zeros_like)
    if inner.num_hidden == 0:
        return inner._replace(given=_scaled(inner, weight))
    is_count = weight.is_integer() and 0 < weight <= MAX_COPIES
    if not is_count or isinstance(expert.exponent, nn.Parameter):
        return None
    return _together([inner] * int(weight))


def colours(edges: Tensor, num_elements: int) -> list[Tensor]:
    """A greedy colouring: sets of elements of which no two are joined, by their indices.

    Elements take the first colour that none of their neighbours has, in order. On a grid that
    gives two.

    Shapes: edges ``(2, m)``; each set ``(k,)``, on the device of the edges.

    >>> colours(torch.tensor([[0, 1, 2], [1, 2, 3]]), 5)  # a path, and one element by itself
    [tensor([0, 2, 4]), tensor([1, 3])]
    """
    neighbours: list[set[int]] = [set() for _ in range(num_elements)]
    for first, second in edges.T.tolist() if edges.numel() else []:
        neighbours[first].add(second)
        neighbours[second].add(first)
    colour_of: list[int] = []
    for element in range(num_elements):
        taken = {colour_of[other] for other in neighbours[element] if other < element}
        colour_of.append(next(c for c in range(len(taken) + 1) if c not in taken))
    groups: list[list[int]] = [[] for _ in range(max(colour_of, default=-1) + 1)]
    for element, colour in enumerate(colour_of):
        groups[colour].append(element)
    return [torch.tensor(group, device=edges.device) for group in groups]


def _together(parts: Sequence[Conditionals]) -> Conditionals:
    """Those of a product: the uniforms are dealt out in order, and the log-odds added."""
    counts = [part.num_hidden for part in parts]

    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        dealt = zip(parts, uniforms.split(counts, 1), strict=True)
        drawn = [part.given(x, own) for part, own in dealt]
        return lambda x: reduce(torch.add, [log_odds(x) for log_odds in drawn])

    return Conditionals(torch.cat([part.edges for part in parts], 1), sum(counts), given)


def _scaled(inner: Conditionals, weight: float) -> Callable[[Tensor, Tensor], LogOdds]:
    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        log_odds = inner.given(x, uniforms)
        return lambda x: weight * log_odds(x)

    return given
