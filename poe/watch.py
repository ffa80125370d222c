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

    At equilibrium it stops growing; a chain that escapes to infinity doubles it at least.
    """

    start: Tensor
    totals: Tensor

    @classmethod
    def around(cls, position: Tensor) -> Spread:
        """From the mean of the chains at ``position``, before the first step."""
        totals = torch.zeros(64, dtype=torch.float64, device=position.device)
        return cls(position.mean(0), totals)

    def plus(self, visited: Tensor, num_steps: int) -> Spread:
        """With some more steps, of positions ``(steps, chains, *event)``, ``num_steps`` before."""
        steps = range(num_steps + 1, num_steps + 1 + len(visited))
        doublings = torch.tensor([step.bit_length() - 1 for step in steps], device=visited.device)
        moved = (visited - self.start).flatten(1)
        squares = torch.linalg.vector_norm(moved, dim=1, dtype=torch.float64).square()
        means = squares / visited.shape[1]
        return self._replace(totals=self.totals.index_add(0, doublings, means))

    def means(self, num_steps: int) -> Tensor:
        """The mean over each doubling that is at least half done."""
        last = num_steps.bit_length() - 1
        counts = [2**k for k in range(last)] + [num_steps - 2**last + 1]
        if counts[-1] < 2 ** (last - 1):
            counts.pop()
        return self.totals[: len(counts)] / torch.tensor(counts).to(self.totals)
