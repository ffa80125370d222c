"""What a run keeps count of on its way: what befell each chain, and how far the chains spread."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from poe.samplers.kernel import Info


class Tally(NamedTuple):
    """How often it happened, each ``(chains,)``.

    >>> yes, no = torch.tensor([True, False]), torch.tensor([False, False])
    >>> info = Info(torch.ones(2), yes, no, no, no)
    >>> Tally.none(2).plus(Tally.of([info, info])).accepted
    tensor([2, 0])
    """

    accepted: Tensor
    outside: Tensor
    undefined: Tensor
    divergent: Tensor

    @classmethod
    def none(cls, num_chains: int, device: torch.device | str = "cpu") -> Tally:
        """Nothing yet."""
        zeros = torch.zeros(num_chains, dtype=torch.int64, device=device)
        return cls(*[zeros] * len(cls._fields))

    @classmethod
    def of(cls, infos: list[Info]) -> Tally:
        """The counts of some steps."""
        happened = [
            (info.is_accepted, info.is_outside, info.is_undefined, info.is_divergent)
            for info in infos
        ]
        return cls(*(torch.stack(flags).sum(0) for flags in zip(*happened, strict=True)))

    def plus(self, others: Self) -> Tally:
        """Both together."""
        return Tally(*(one + other for one, other in zip(self, others, strict=True)))


class Spread(NamedTuple):
    """Mean squared distance from the start, over the steps of each doubling [2ᵏ, 2ᵏ⁺¹).

    At equilibrium it stops growing, and chains come back; one that escapes to infinity doubles it
    at least. ``lowest`` is the least of the steps of each doubling.
    """

    start: Tensor
    totals: Tensor
    lowest: Tensor

    @classmethod
    def around(cls, position: Tensor) -> Spread:
        """From the mean of the chains at ``position``, before the first step."""
        totals = torch.zeros(64, dtype=torch.float64, device=position.device)
        floats = position if position.is_floating_point() else position.float()
        return cls(floats.mean(0), totals, torch.full_like(totals, torch.inf))

    def plus(self, visited: Tensor, num_steps: int) -> Spread:
        """With some more steps, of positions ``(steps, chains, *event)``, ``num_steps`` before."""
        steps = range(num_steps + 1, num_steps + 1 + len(visited))
        doublings = torch.tensor([step.bit_length() - 1 for step in steps], device=visited.device)
        moved = (visited - self.start).flatten(1)
        squares = torch.linalg.vector_norm(moved, dim=1, dtype=torch.float64).square()
        means = squares / visited.shape[1]
        return self._replace(
            totals=self.totals.index_add(0, doublings, means),
            lowest=self.lowest.scatter_reduce(0, doublings, means, "amin"),
        )

    def means(self, num_steps: int) -> Tensor:
        """The mean over each doubling that is at least half done."""
        last = num_steps.bit_length() - 1
        counts = [2**k for k in range(last)] + [num_steps - 2**last + 1]
        if counts[-1] < 2 ** (last - 1):
            counts.pop()
        return self.totals[: len(counts)] / torch.tensor(counts).to(self.totals)

    def is_growing(self, num_steps: int) -> bool:
        """Whether it grew over the last three doublings, and no step of the last went back.

        A mean over few steps of few chains may grow by chance, but chains at equilibrium come back.
        """
        means = self.means(num_steps)
        if len(means) < 3:
            return False
        before, between, last = means[-3:].tolist()
        has_grown = 0 < before * 1.3 < between and between * 1.3 < last
        return has_grown and self.lowest[len(means) - 1].item() > between

    def is_lost(self, num_steps: int, eps: float) -> bool:
        """Whether chains are so far out that rounding freezes them, or not at a finite place.

        The first mean that is positive is that of a step; what is a hundredth of its rounding away
        from that many steps no longer moves.
        """
        means = self.means(num_steps).tolist()
        first = next((mean for mean in means if mean != 0), 0.0)
        return not means[-1] <= first * (0.01 / eps) ** 2
