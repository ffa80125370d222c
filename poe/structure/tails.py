"""How fast a density falls off towards the ends of its space, as far as that is known."""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.space import (
    Count,
    Interval,
    Positive,
    Simplex,
    Space,
)
from poe.density.capabilities import tails
from poe.density.expert import Product, Tempered, experts_in

MAX_NUMBERS = 2**25
"""Nor are tails of more numbers than these (256 MiB)."""


class Ends(NamedTuple):
    """Where the elements of x can go: n of them, each to every one of ``places``.

    ``limit`` ``(len(places) * n,)``: the density is integrable where it falls off faster than this.
    On Count the places are one, by x log x, x and log x: the first that differs from its limit
    decides.
    """

    places: tuple[str, ...]
    limit: Tensor


@singledispatch
def ends(space: Space) -> Ends | None:
    """The ends of a space other than Real; None where there are none, or none that are known."""
    return None


@ends.register
def _(space: Positive) -> Ends:
    ones = torch.ones(space.event_shape.numel(), dtype=torch.float64)
    return Ends(("0", "infinity"), torch.cat([-ones, 0 * ones]))


@ends.register
def _(space: Interval) -> Ends:
    ones = torch.ones(2 * space.event_shape.numel(), dtype=torch.float64)
    return Ends((f"{space.low:g}", f"{space.high:g}"), -ones)


@ends.register
def _(space: Count) -> Ends:
    ones = torch.ones(space.event_shape.numel(), dtype=torch.float64)
    return Ends(("infinity",) * 3, torch.cat([0 * ones, 0 * ones, ones]))


@ends.register
def _(space: Simplex) -> Ends:
    return Ends(("0",), -torch.ones(space.k, dtype=torch.float64))


@tails.register
def _(expert: Tempered) -> Tensor | None:
    inner, exponent = tails(expert.expert), expert.exponent.item()
    if inner is None or (exponent < 0 and len(inner) > 1):  # a maximum over k is no minimum
        return None
    return exponent * inner


@tails.register
def _(expert: Product) -> Tensor | None:
    found = [tails(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    return all_sums(known) if len(known) == len(found) else None


def all_sums(parts: list[Tensor]) -> Tensor | None:
    """One of each part, added up in all ways: ``(kᵢ, *shape)`` to ``(Π kᵢ, *shape)``.

    None where they are too many.

    >>> all_sums([torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [20.0]])]).T
    tensor([[10., 20., 11., 21.]])
    """
    total = parts[0]
    for part in parts[1:]:
        if len(total) * part.numel() > MAX_NUMBERS:
            return None
        total = (total[:, None] + part).flatten(0, 1)
    return total


def name_direction(u: Tensor, shape: torch.Size) -> str:
    """In words, where x goes along u, with events of that shape flattened.

    >>> name_direction(torch.tensor([0.6, -0.8]), torch.Size((2,)))
    'in the direction [0.6, -0.8]'
    >>> name_direction(torch.eye(12)[7], torch.Size((3, 4)))
    'in a direction mostly of x[1, 3]'
    """
    if len(u) == 1:
        return "towards infinity"
    if len(shape) == 1 and len(u) <= 6:
        return f"in the direction [{', '.join(f'{part:.2g}' for part in u.tolist())}]"
    largest = u.abs().argsort(descending=True)[:3]
    kept = [index for index in largest.tolist() if abs(u[index]) > 0.3 * abs(u[largest[0]])]
    return f"in a direction mostly of {', '.join(_element(index, shape) for index in kept)}"


def name_end(index: int, space: Space) -> str:
    """In words, which of the ``ends`` of a space that is.

    >>> name_end(3, poe.Positive(2))
    'where x[1] goes to infinity'
    """
    found, size = ends(space), space.event_shape.numel()
    assert found is not None
    element = "x" if size == 1 else _element(index % size, space.event_shape)
    return f"where {element} goes to {found.places[index // size]}"


def _element(index: int, shape: torch.Size) -> str:
    place = torch.unravel_index(torch.tensor(index), shape)
    return f"x[{', '.join(str(int(i)) for i in place)}]"
