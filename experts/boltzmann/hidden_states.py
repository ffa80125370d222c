"""Binary hidden units of which few enough are there to sum over all their states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe import Binary, Expert
from poe.core.randomness import choose
from poe.normalizers.enumeration import (
    MAX_STATES,
    MAX_TABLE,
    log_sum,
    num_states,
    states,
)

STATES_AT_ONCE = 2**12


class HiddenDensity(Expert):
    """log p̃(z) of hidden units on {0, 1}^h, by a function; ``like`` ``(h,)`` has their dtype.

    >>> HiddenDensity(lambda z: z.sum(-1), torch.zeros(2))(torch.ones(1, 2))
    tensor([2.])
    """

    like: Tensor

    def __init__(self, log_density: Callable[[Tensor], Tensor], like: Tensor) -> None:
        super().__init__()
        self.space = Binary(len(like))
        self.register_buffer("like", like)
        self._log_density = log_density

    def forward(self, x: Tensor) -> Tensor:
        return self._log_density(x.to(self.like.dtype))


def is_small(num_hidden: int) -> bool:
    """Whether a table of all states is made, to draw from."""
    return 2**num_hidden <= MAX_TABLE


def hidden_log_partition(density: Expert, like: Tensor) -> Tensor | None:
    """log Σ exp over at most 2^25 states, in the dtype of ``like``; None where they are more."""
    if like.is_meta or num_states(density.space) > MAX_STATES:
        return None
    return log_sum(density).to(like)


def draw_hidden(density: Expert, num_samples: int, generator: torch.Generator) -> Tensor:
    """Independent draws from a table of all states: ``(num_samples, h)``."""
    table = states(density.space).to(generator.device)
    values = torch.cat([density(part) for part in table.split(STATES_AT_ONCE)])
    chosen = choose(values.softmax(0), num_samples, generator=generator)
    return table[chosen]
