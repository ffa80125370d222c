"""Draws as plots need them: flat, finite, each with its weight, and evenly thinned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.space import Space
from poe.diagnostics import normalized_weights
from poe.draws import Draws


class Positions(NamedTuple):
    """n finite draws x ``(n, *event)`` with weights ``(n,)`` that sum to 1; how many others."""

    x: Tensor
    weights: Tensor
    num_left_out: int

    @property
    def note(self) -> str:
        """What was left out, in words; empty where nothing was."""
        return f"{self.num_left_out} draws that are not finite left out" * bool(self.num_left_out)


def positions_of(draws: Draws) -> Positions:
    """All chains together. Draws of weight zero have no say, and do not count as left out.

    Raises PoeError where no draw is finite.
    """
    if not isinstance(draws, Draws):
        raise PoeError(
            f"expected poe.Draws, got {type(draws).__name__}: pass what poe.sample returned, or "
            "wrap a tensor (chains, draws, *event) by poe.Draws(samples, log_density, guarantee)"
        )
    log_weights = draws.log_weights
    weights = normalized_weights(
        torch.zeros_like(draws.log_density) if log_weights is None else log_weights
    ).flatten()
    x = draws.samples.detach().flatten(0, 1)
    is_finite = x.isfinite().reshape(len(x), -1).all(1)
    keep = is_finite & (weights > 0)
    if not bool(keep.any()):
        raise PoeError("expected draws that are finite, got none: nothing can be drawn of them")
    kept = weights[keep]
    return Positions(x[keep], kept / kept.sum(), int((~is_finite & (weights > 0)).sum()))


def positions_in(space: Space, draws: Draws) -> Positions:
    """The same; raises PoeError where they are not draws of that space."""
    positions = positions_of(draws)
    space.require(positions.x)
    return positions


def evenly(weights: Tensor, count: int) -> Tensor:
    """Indices of at most ``count`` of n draws, evenly spaced along the sum of their weights.

    Draw i is chosen ⌊m Wᵢ⌋ or ⌈m Wᵢ⌉ times, and no random number is needed.

    >>> evenly(torch.tensor([0.25, 0.25, 0.5, 0.0]), 4)
    tensor([0, 1, 2, 2])
    """
    count = min(count, len(weights))
    sums = weights.double().cumsum(0)
    marks = (torch.arange(count, device=sums.device) + 0.5) / count * sums[-1]
    return torch.searchsorted(sums, marks).clamp(max=len(weights) - 1)


def require_order(draws: Draws, what: str) -> None:
    """Raise PoeError for weighted draws, which come in no order."""
    if isinstance(draws, Draws) and draws.log_weights is not None:
        raise PoeError(
            f"expected chains, whose draws come one after another, for {what}, got weighted "
            "draws, which have no order: use plot.pairs or plot.contributions"
        )
