"""The replicas of parallel tempering: where they are, what they exchanged, how they travelled."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.samplers.path import Parts


class SwapTally(NamedTuple):
    """Counts over all chains, for each adjacent pair of levels: ``(levels - 1,)``."""

    tried: Tensor
    accepted: Tensor
    probability: Tensor
    """The acceptance probabilities, summed."""

    def plus(self, is_tried: Tensor, is_swapped: Tensor, probability: Tensor) -> SwapTally:
        """With one more step: is_tried ``(pairs,)``, the others ``(pairs, chains)``."""
        return SwapTally(
            self.tried + is_tried * probability.shape[1],
            self.accepted + is_swapped.sum(1),
            self.probability + is_tried * probability.sum(1, dtype=torch.float64),
        )


class TemperingState(NamedTuple):
    """Every replica, in rows: row l · chains + c is chain c at level l, the target's level last."""

    replicas: Any
    """The kernel's state, at ``levels * chains`` rows."""
    parts: Parts
    """What start and target say at each row, position by position."""
    num_steps: Tensor
    """Steps taken, (): its parity says which pairs are tried."""
    tally: SwapTally
    came_from_start: Tensor
    """``(levels * chains,)``: whether the row's position was at the start since it last was at the
    target."""
    num_round_trips: Tensor
    """``(chains,)``: how often a position came to the target all the way from the start."""

    @property
    def num_chains(self) -> int:
        """The number of chains, each of which has a replica at every level."""
        return len(self.num_round_trips)

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``, at the target."""
        position: Tensor = self.replicas.position[-self.num_chains :]
        return position

    @property
    def log_density(self) -> Tensor:
        """``(chains,)``, of the target."""
        log_density: Tensor = self.replicas.log_density[-self.num_chains :]
        return log_density


def swap_rates(state: TemperingState) -> Tensor:
    """The mean acceptance probability of swaps, for each adjacent pair: ``(levels - 1,)``."""
    return state.tally.probability / state.tally.tried


def exchange(is_swapped: Tensor) -> Tensor:
    """From which row each row gets its position: ``(pairs, chains)`` to ``(levels * chains,)``.

    >>> exchange(torch.tensor([[True, False], [False, False]]))  # chain 0, levels 1 and 2
    tensor([2, 1, 0, 3, 4, 5])
    """
    none = torch.zeros_like(is_swapped[:1])
    step = torch.cat([is_swapped, none]).long() - torch.cat([none, is_swapped]).long()
    rows = torch.arange(step.numel(), device=step.device)
    return rows + step.flatten() * step.shape[1]
