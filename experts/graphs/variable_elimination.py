"""Exact sums over all states of a factor graph: its elements are summed out one after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

MAX_WORK = 2**26
"""The most table entries that a sum goes over: some seconds."""


class Table(NamedTuple):
    """Log-values ``(k,) * len(scope)`` of the elements ``scope``, in increasing order."""

    scope: tuple[int, ...]
    values: Tensor


class Step(NamedTuple):
    """An element to be summed out, and the others that its tables span, in increasing order."""

    element: int
    others: tuple[int, ...]


def elimination_order(scopes: Sequence[tuple[int, ...]], num_values: int) -> list[Step] | None:
    """At each step the element whose table is the smallest; None where it is too much work.

    Elements in no scope do not occur; of two tables alike that of the first element comes first.
    Found by a heap, so that a chain costs n log n.

    Args:
        scopes: The elements of each table.
        num_values: k, of each element.

    Returns:
        The steps, or None where the sum goes over more than 2^26 entries.

    References:
        Koller & Friedman (2009), Probabilistic graphical models, MIT Press, section 9.4.3
        (min-degree).

    Example:
        >>> elimination_order([(0, 1), (1, 2)], 2)
        [Step(element=0, others=(1,)), Step(element=1, others=(2,)), Step(element=2, others=())]
    """
    neighbours: dict[int, set[int]] = {}
    for scope in scopes:
        for element in scope:
            neighbours.setdefault(element, set()).update(scope)
    smallest = [(len(around), element) for element, around in neighbours.items()]
    heapify(smallest)
    order, work = [], 0.0
    while smallest:
        size, element = heappop(smallest)
        if size != len(neighbours.get(element, ())):
            continue  # gone, or its table has changed since and stands elsewhere in the heap
        others = neighbours.pop(element) - {element}
        work += math.exp(min(700.0, (len(others) + 1) * math.log(num_values)))
        if work > MAX_WORK:
            return None
        for other in others:
            neighbours[other] |= others
            neighbours[other].discard(element)
            heappush(smallest, (len(neighbours[other]), other))
        order.append(Step(element, tuple(sorted(others))))
    return order


def eliminate(order: Sequence[Step], tables: Sequence[Table]) -> tuple[Tensor, list[Table]]:
    """log Σ exp Σ tables, and of each step the table before its sum.

    Args:
        order: The steps, as of ``elimination_order``.
        tables: At least one, all of one k.

    Returns:
        The sum ``()``, and of each step the table over (others, element): the element comes last.

    References:
        Zhang & Poole (1996), Exploiting causal independence in Bayesian network inference,
        doi:10.1613/jair.305.

    Example:
        >>> pair = Table((0, 1), torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
        >>> eliminate(elimination_order([(0, 1)], 2), [pair])[0].exp()  # 3 of 4 states
        tensor(3.)
    """
    turn = {step.element: number for number, step in enumerate(order)}
    waiting: list[list[Table]] = [[] for _ in order]  # of each step, the tables it joins
    passed = []

    def wait(table: Table) -> None:
        waiting[min(turn[element] for element in table.scope)].append(table)

    for table in tables:
        wait(table)
    constant = tables[0].values.new_zeros(())
    for (element, others), mine in zip(order, waiting, strict=True):
        joined = sum(_aligned(table, others, element) for table in mine)
        assert isinstance(joined, Tensor)
        passed.append(Table((*others, element), joined))
        summed = _log_sum(joined)
        if others:
            wait(Table(others, summed))
        else:
            constant = constant + summed
    return constant, passed


def draw_backwards(passed: Sequence[Table], gumbel: Tensor) -> Tensor:
    """Exact draws: elements in reverse order, each given those summed out after it.

    Args:
        passed: The tables of each step, as of ``eliminate``.
        gumbel: Standard Gumbel numbers, ``(num_samples, numel, k)``; elements in no table are drawn
            alike.

    Returns:
        Indices, ``(num_samples, numel)``.
    """
    x = gumbel.argmax(-1)
    for scope, values in reversed(passed):
        *others, element = scope
        log_weights = values[tuple(x[:, other] for other in others)]
        x[:, element] = (log_weights + gumbel[:, element]).argmax(-1)
    return x


def _aligned(table: Table, others: tuple[int, ...], element: int) -> Tensor:
    """The table with its element last, and a dimension of 1 for each other that it lacks."""
    place = table.scope.index(element)
    values = table.values.movedim(place, -1)
    k = values.shape[-1]
    own = set(table.scope)
    return values.reshape([k if other in own else 1 for other in others] + [k])


def _log_sum(values: Tensor) -> Tensor:
    """Over the last dimension, −inf where all are."""
    return torch.logsumexp(values, -1)
