"""The moves of one level of sequential Monte Carlo: adapted, and gone on with until they mix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from poe.samplers.kernel import Info, Kernel
from poe.samplers.path import Level, Parts, stack_parts
from poe.samplers.questions import (
    Learned,
    Setting,
    filled,
    log_odds_per_step,
    max_scale,
    missing,
    target_acceptance,
)

MAX_TRIALS = 30
"""So many steps of a level may be spent on finding a step size that moves the chains at all."""
PLATEAU = 1.5
"""Chains have mixed where twice the steps took them less than this much further."""


@dataclass
class Tally:
    """What a run counts, for each island: ``(islands,)``; acceptance at the latest level."""

    num_islands: int
    outside: Tensor | int = 0
    undefined: Tensor | int = 0
    acceptance: list[Tensor] = field(default_factory=list)
    num_steps: int = 0
    num_evaluations: int = 0
    """Of positions, over all chains."""
    before_level: tuple[int, int] = (0, 0)
    """Steps and evaluations before the latest level."""

    def start_level(self) -> None:
        """Count the acceptance afresh."""
        self.acceptance, self.before_level = [], (self.num_steps, self.num_evaluations)

    def count_start(self, is_outside: Tensor, is_undefined: Tensor) -> None:
        """Add particles at which a weight is 0, or is none: both ``(islands, n)``."""
        self.outside = self.outside + is_outside.sum(1)
        self.undefined = self.undefined + is_undefined.sum(1)

    def count(self, info: Info) -> None:
        """Add one step of all chains."""
        split = (self.num_islands, -1)
        self.count_start(info.is_outside.reshape(split), info.is_undefined.reshape(split))
        self.acceptance.append(info.is_accepted.double().reshape(split).mean(1))
        self.num_steps += 1


class Moved(NamedTuple):
    """Every kept position, chain by chain; the kernel as it was used last, and its scale."""

    parts: Parts
    kernel: Kernel
    scale: float


def move_chains(
    level: Level,
    kernel: Kernel,
    parts: Parts,
    scale: float | None,
    *,
    num_moves: int,
    max_thinning: int,
    tally: Tally,
    generator: torch.Generator,
) -> Moved:
    """Move the chains at a level and keep ``num_moves`` positions of each, evenly spaced.

    A scale left out begins at ``scale``, that of the level before, and follows the acceptance a,
    pooled over all chains: log h ← log h + a − a*. Steps at less than half of a* only serve to find
    it. Then chains go on, 2, 4, … ``max_thinning`` steps a move, until the second half of the way
    takes them no further from where they began.
    """
    began, steps, thinning = parts.position, 0, 1
    state = kernel.init(level.known(parts), parts.position)
    moved: list[Parts] = []
    adaptation = _Adaptation(kernel, scale)
    while True:
        while len(moved) < num_moves * thinning:
            state, info = adaptation.kernel.step(level, state, generator=generator)
            parts = level.follow_or_evaluate(parts, info.is_accepted, state.position)
            tally.count(info)
            steps += 1
            if adaptation.accepts(info) or steps > len(moved) + MAX_TRIALS:
                moved.append(parts)
        if thinning * 2 > max_thinning or has_mixed(began, [part.position for part in moved]):
            break
        thinning *= 2
    tally.num_evaluations += level.num_evaluations + log_odds_per_step(kernel) * steps * len(began)
    kept = stack_parts(moved[thinning - 1 :: thinning])
    return Moved(kept, adaptation.kernel, adaptation.scale)


class _Adaptation:
    """A kernel whose scale, where it was left out, follows the pooled acceptance."""

    def __init__(self, kernel: Kernel, scale: float | None) -> None:
        self.is_tuned = Setting.SCALE in missing(kernel)
        largest = max_scale(kernel)
        first = largest if math.isfinite(largest) else 1.0
        self.template, self.scale = kernel, first if scale is None else scale

    @property
    def kernel(self) -> Kernel:
        """With its present scale."""
        return filled(self.template, Learned(scale=self.scale))

    def accepts(self, info: Info) -> bool:
        """Adapt to a step; whether it moved enough chains to count as one."""
        if not self.is_tuned:
            return True
        acceptance = info.acceptance_probability.mean().item()
        wanted = target_acceptance(self.template)
        self.scale = min(self.scale * math.exp(acceptance - wanted), max_scale(self.template))
        return acceptance >= 0.5 * wanted


def has_mixed(began: Tensor, positions: list[Tensor]) -> bool:
    """Whether the second half of the way took the chains no further from where they began.

    With D(n) the mean square distance after n steps, in standard deviations of each component,
    D(n) / D(n/2) is 2 for chains that diffuse, and 1 + ρ^(n/2) for an autocorrelation of ρ a step:
    1 where they move about freely in what they can reach, were it only one mode of several.

    >>> g = torch.Generator().manual_seed(0)
    >>> walk = torch.randn(8, 500, 1, generator=g).cumsum(0)
    >>> has_mixed(torch.zeros(500, 1), list(walk)), has_mixed(walk[0], list(walk.diff(dim=0)))
    (False, True)
    """
    if len(positions) < 2:
        return False
    if not began.is_floating_point():
        began = began.to(torch.get_default_dtype())
    variance = began.var(0)
    scale = torch.where(variance > 0, variance, torch.ones_like(variance))
    near, far = (
        ((position - began).square() / scale).mean().item()
        for position in (positions[len(positions) // 2 - 1], positions[-1])
    )
    return 0.0 < far <= PLATEAU * near
