"""A grid of nearest neighbours in two interleaved halves, as a checkerboard has them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.density.capabilities import SpinPairs


class Lattice(NamedTuple):
    """Nearest neighbours on a grid, all of one coupling.

    - ``coupling``; ``wraps``: whether the last row is joined to the first, and the last column.
    """

    coupling: float
    wraps: tuple[bool, bool]

    def degrees(self, shape: tuple[int, int]) -> Tensor:
        """How many neighbours each site has: ``(rows, cols)``."""
        ones = torch.ones((1, *shape), dtype=torch.uint8)
        even, odd = halves(ones)
        counts = (self.counts(odd, True), self.counts(even, False))
        return whole(*counts)[0]

    def counts(self, other: Tensor, is_even: bool) -> Tensor:
        """How many neighbours of each site of one half are 1.

        Shapes: ``other``, the half of the neighbours, and the result ``(chains, rows, cols / 2)``.
        """
        k = other.clone()  # the neighbour beside a site, at the same place of the other half
        k[:, 1:] += other[:, :-1]
        k[:, :-1] += other[:, 1:]
        if self.wraps[0]:
            k[:, 0] += other[:, -1]
            k[:, -1] += other[:, 0]
        own, source = _row_pairs(k), _row_pairs(other)
        before, after = (0, 1) if is_even else (1, 0)
        own[:, :, before, :, 1:] += source[:, :, before, :, :-1]
        own[:, :, after, :, :-1] += source[:, :, after, :, 1:]
        if self.wraps[1]:
            own[:, :, before, :, 0] += source[:, :, before, :, -1]
            own[:, :, after, :, -1] += source[:, :, after, :, 0]
        return k


def lattice(pairs: SpinPairs, shape: torch.Size) -> Lattice | None:
    """The grid of even sides and one coupling that the pairs are, or None.

    >>> from poe.density.capabilities import spin_pairs
    >>> lattice(spin_pairs(experts.Ising.grid((4, 6), coupling=0.25)), torch.Size((4, 6)))
    Lattice(coupling=0.25, wraps=(False, False))
    """
    if len(shape) != 2 or any(side % 2 or side < 4 for side in shape) or pairs.edges.is_meta:
        return None
    low, high = pairs.edges.sort(0).values
    numbers, where = (low * shape.numel() + high).unique(return_inverse=True)
    sums = pairs.couplings.new_zeros(len(numbers)).index_add(0, where, pairs.couplings)
    if len(sums) == 0 or bool((sums != sums[0]).any()):
        return None
    for wraps in ((False, False), (True, False), (False, True), (True, True)):
        if torch.equal(numbers, _numbers(shape, wraps).to(numbers.device)):
            return Lattice(sums[0].item(), wraps)
    return None


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The sites where row + column is even, and the others.

    Shapes: ``(chains, rows, cols)`` to twice ``(chains, rows, cols / 2)``.
    """
    blocks = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    even = torch.stack([blocks[:, :, 0, :, 0], blocks[:, :, 1, :, 1]], 2)
    odd = torch.stack([blocks[:, :, 0, :, 1], blocks[:, :, 1, :, 0]], 2)
    return even.flatten(1, 2), odd.flatten(1, 2)


def whole(even: Tensor, odd: Tensor) -> Tensor:
    """The grid of both halves.

    >>> x = torch.rand(2, 4, 6)
    >>> torch.equal(whole(*halves(x)), x)
    True
    """
    e, o = (half.unflatten(1, (-1, 2)) for half in (even, odd))
    first = torch.stack([e[:, :, 0], o[:, :, 0]], -1)
    second = torch.stack([o[:, :, 1], e[:, :, 1]], -1)
    return torch.stack([first, second], 2).flatten(3).flatten(1, 2)


def _row_pairs(half: Tensor) -> Tensor:
    return half.unflatten(1, (-1, 2))[:, :, :, None]


def _numbers(shape: torch.Size, wraps: tuple[bool, bool]) -> Tensor:
    """Which pairs of sites are neighbours, each by one number, ascending."""
    sites = torch.arange(shape.numel()).reshape(shape)
    numbers = []
    for axis in (0, 1):
        kept = shape[axis] if wraps[axis] else shape[axis] - 1
        ends = torch.stack([sites, sites.roll(-1, axis)]).narrow(axis + 1, 0, kept).flatten(1)
        low, high = ends.sort(0).values
        numbers.append(low * shape.numel() + high)
    return torch.cat(numbers).sort().values
