"""The moves of one level of sequential Monte Carlo: some to learn from, others to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from poe.samplers.kernel import Info, Kernel, started, stepped
from poe.samplers.path import Level, Parts, stack_parts
from poe.samplers.questions import (
    Learned,
    filled,
    log_odds_per_step,
    max_scale,
    target_acceptance,
)

MAX_TRIALS = 30
"""So many steps of a level may be spent on finding its step size."""
CLOSE = 0.1
"""An acceptance rate so near to the one that is wanted needs no further search."""
GAIN = 2.0
"""How much a log-scale changes for a difference of acceptance rates."""
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


class Mutated(NamedTuple):
    """Every kept position, chain by chain; and the kernel, with nothing left out."""

    parts: Parts
    kernel: Kernel


def learn_scale(
    level: Level,
    kernel: Kernel,
    parts: Parts,
    scale: float | None,
    *,
    tally: Tally,
    generator: torch.Generator,
) -> float:
    """The scale at which the kernel accepts as often as it should at this level.

    It begins at ``scale``, that of the level before, and follows the acceptance a, pooled over all
    chains, log h ← log h + 2 (a − a*), until a is close to a*, or the largest scale is accepted
    more often. All of these moves are thrown away.
    """
    if scale is None:
        largest = max_scale(kernel)
        scale = largest if math.isfinite(largest) else 1.0
    state = started(kernel_at_scale(kernel, scale), level.known(parts), parts.position)
    num_steps, is_found = 0, False
    while not is_found and num_steps < MAX_TRIALS:
        tuned, before = kernel_at_scale(kernel, scale), scale
        state, info = stepped(tuned, level, state, generator=generator)
        acceptance = info.acceptance_probability.mean().item()
        scale = followed(kernel, scale, acceptance)
        is_found = is_as_wanted(kernel, before, acceptance)
        num_steps += 1
    tally.num_steps += num_steps
    tally.num_evaluations += level.take_count() + _log_odds(kernel, parts, num_steps)
    return scale


def is_as_wanted(kernel: Kernel, scale: float, acceptance: float) -> bool:
    """Whether chains that accept so often at that scale need no other one."""
    wanted, largest = target_acceptance(kernel), max_scale(kernel)
    return abs(acceptance - wanted) < CLOSE or (scale == largest and acceptance > wanted)


def followed(kernel: Kernel, scale: float, acceptance: float) -> float:
    """The scale after one step towards the acceptance that is wanted."""
    change = math.exp(GAIN * (acceptance - target_acceptance(kernel)))
    return min(scale * change, max_scale(kernel))


def kernel_at_scale(kernel: Kernel, scale: float) -> Kernel:
    """The kernel with its scale, where that was left out."""
    return filled(kernel, Learned(scale=scale))


def move_chains(
    level: Level,
    kernel: Kernel,
    parts: Parts,
    *,
    num_moves: int,
    max_thinning: int,
    tally: Tally,
    generator: torch.Generator,
) -> Mutated:
    """Move the chains by a kernel with nothing left out, and keep ``num_moves`` positions of each.

    They are evenly spaced, 1, 2, 4, … ``max_thinning`` steps apart: as many as it takes the chains
    of all *other* islands to mix (`others_have_mixed`). So what is kept of an island owes nothing
    to where its own chains went, and its weights stay unbiased.
    """
    began, num_islands = parts.position, tally.num_islands
    state = started(kernel, level.known(parts), began)
    moved: list[Parts] = []
    thinning = torch.full((num_islands,), max_thinning, device=began.device)
    is_settled, every = torch.zeros_like(thinning, dtype=torch.bool), 1
    while True:
        while len(moved) < num_moves * every:
            state, info = stepped(kernel, level, state, generator=generator)
            parts = level.follow_or_evaluate(parts, info.is_accepted, state.position)
            tally.count(info)
            moved.append(parts)
        near, far = moved[len(moved) // 2 - 1].position, moved[-1].position
        has_mixed = others_have_mixed(began, near, far, num_islands)
        is_last = 2 * every > max_thinning or len(moved) < 2
        thinning = torch.where(~is_settled & (has_mixed | is_last), every, thinning)
        is_settled |= has_mixed | is_last
        if bool(is_settled.all()):
            break
        every *= 2
    tally.num_evaluations += level.take_count() + _log_odds(kernel, parts, len(moved))
    return Mutated(_thinned(moved, thinning, num_moves), kernel)


def _log_odds(kernel: Kernel, parts: Parts, num_steps: int) -> int:
    """The evaluations that some steps of all chains took by asking for log-odds."""
    return log_odds_per_step(kernel) * num_steps * len(parts.position)


def _thinned(moved: list[Parts], thinning: Tensor, num_moves: int) -> Parts:
    """Of each island every so many positions, ``thinning`` of them: ``num_moves`` of each chain."""
    each = thinning.repeat_interleave(len(moved[0].position) // len(thinning))
    first, *others = thinning.unique().tolist()
    kept = []
    for move in range(1, num_moves + 1):
        position = moved[move * first - 1]
        for every in others:
            position = moved[move * every - 1].where(each == every, position)
        kept.append(position)
    return stack_parts(kept)


def others_have_mixed(began: Tensor, near: Tensor, far: Tensor, num_islands: int) -> Tensor:
    """Of each island, whether the chains of all others went no further in the second half.

    With D(n) the mean square distance from where they began after n steps, in standard deviations
    of each component, D(n) / D(n/2) is 2 for chains that diffuse, and 1 + ρ^(n/2) for an
    autocorrelation of ρ a step: 1 where they move about freely in what they can reach, were it only
    one mode of several.

    Shapes: ``(islands * chains, *event)`` at the start, half-way and now; returns ``(islands,)``.

    >>> g = torch.Generator().manual_seed(0)
    >>> walk = torch.randn(8, 500, 1, generator=g).cumsum(0)
    >>> others_have_mixed(torch.zeros(500, 1), walk[3], walk[7], 2)
    tensor([False, False])
    >>> steps = walk.diff(dim=0)
    >>> others_have_mixed(walk[0], steps[2], steps[6], 2)
    tensor([True, True])
    """
    rows = [x.reshape(num_islands, -1, began[0].numel()).double() for x in (began, near, far)]
    start = rows[0] - rows[0].mean((0, 1))
    count = (num_islands - 1) * start.shape[1]
    variance = _of_others(start.square()) / count - (_of_others(start) / count).square()
    # Rounding of a square root is what a component that does not vary may seem to.
    scale = torch.where(variance > 1e-12 * _of_others(start.square()) / count, variance, 1.0)
    near_by, far_off = ((_of_others((x - rows[0]).square()) / scale).sum(1) for x in rows[1:])
    return (far_off > 0) & (far_off <= PLATEAU * near_by)


def _of_others(values: Tensor) -> Tensor:
    """The sums over all chains of the other islands: ``(islands, n, d) -> (islands, d)``."""
    own = values.sum(1)
    return own.sum(0) - own
