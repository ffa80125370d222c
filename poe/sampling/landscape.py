"""Where a density has mass: particles and climbs from a broad start, and the modes they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, fit_moments
from poe.density.expert import Expert
from poe.samplers.kernel import Kernel
from poe.samplers.preconditioned import Gaussians
from poe.tuning.modes import DRAWS, Mode, apart, climb, is_in, log_mass, shaped

MAX_MODES = 64
LEAST = 1e-3
"""A mode of less of the mass than this is none."""
SCATTERED = 64
"""Climbs of each round from afar, by no weights."""
ROUNDS = 4
"""Of such climbs, while they find new modes."""
WIDER = 1.5
"""How much farther than the modes so far the next round begins."""
RARE = 0.1
"""Chains are in a mode less often than its mass says where it is by this factor."""
SEPARATE = 0.6
"""The share of the modes' variance that lies between chains from which on these are apart."""


@dataclass
class Landscape:
    """The modes of a density that climbs have come to, those of little mass left out.

    - ``modes``: the heaviest first;
    - ``is_open``: whether the last round of climbs still found a new one;
    - ``num_evaluations``: what it took.

    - ``own``: what chains that are in one place learned of it, None where they are in several.

    Climbs go by the map ``affine``.
    """

    density: Expert
    affine: Affine
    generator: torch.Generator
    budget: int
    own: Mode | None = None
    modes: list[Mode] = field(default_factory=list)
    is_open: bool = False
    num_evaluations: int = 0

    def know(self, own: Mode) -> None:
        """That chains are in one place."""
        self.own = own
        self.num_evaluations += DRAWS

    def explore(self, u: Tensor, scattered: Tensor) -> None:
        """Climb from positions, and in rounds from ever farther away while that finds modes.

        Shapes: u ``(n, *event)``; scattered ``(k, *event)``, broad and of no weights.
        """
        self._climb(torch.cat([u, scattered]))
        spread = scattered.reshape(len(scattered), -1).std(0)
        for _ in range(ROUNDS):
            if len(self.modes) < 2 or self.num_evaluations > self.budget:
                break
            before = len(self.modes)
            self._climb(self._afar(spread, scattered))
            self.is_open = len(self.modes) > before
            if not self.is_open:
                break
        self.is_open |= self.num_evaluations > self.budget and len(self.modes) > 1

    def _afar(self, spread: Tensor, like: Tensor) -> Tensor:
        centres = torch.stack([mode.centre for mode in self.modes])
        sd = torch.hypot(WIDER * centres.std(0), spread)
        normal = torch.empty_like(like).normal_(generator=self.generator)
        flat = centres.mean(0) + sd * normal.reshape(len(like), -1)
        return flat.reshape(like.shape)

    def _climb(self, u: Tensor) -> None:
        """Add the modes that climbs from u come to."""
        climbed = climb(self.density, u, self.affine)
        known = [mode.centre.reshape(1, *u.shape[1:]) for mode in self.modes]
        top = torch.cat([*known, climbed.top[climbed.has_arrived]])
        self.num_evaluations += climbed.num_evaluations + len(top)
        if not len(top):
            return
        with torch.no_grad():
            value = self.density.log_density(top)
        groups, cost = apart(self.density, top, value)
        self.num_evaluations += cost
        new = [rows[0] for rows in groups if bool((rows >= len(known)).all())]
        for row in new[: MAX_MODES - len(known)]:
            if self.num_evaluations > self.budget:
                break
            self._add(top[row])
        self._leave_out_the_light()

    def _add(self, top: Tensor) -> None:
        factor, cost = shaped(self.density, top, self.affine)
        mass = log_mass(self.density, top.flatten(), factor, self.generator)
        self.num_evaluations += cost
        self.modes.append(Mode(top.flatten(), factor, mass))

    def _leave_out_the_light(self) -> None:
        known = self.modes if self.own is None else [self.own, *self.modes]
        heaviest = max((mode.log_mass for mode in known), default=-math.inf)
        kept = [m for m in self.modes if m.log_mass > heaviest + math.log(LEAST)]
        self.modes = sorted(kept, key=lambda mode: -mode.log_mass)


def unfollowed(land: Landscape, visited: Tensor) -> tuple[list[Mode], str]:
    """Modes that chains do not come to as their mass says, with those that they are in; and how.

    Shapes: visited ``(steps, chains, *event)``. None at all where chains come to every mode.
    """
    if land.own is None:
        return land.modes, "chains settled in different modes"
    if len(land.modes) > 1:
        among = occupied(places(land.modes, visited), len(land.modes))
        if among.apart > SEPARATE:
            return land.modes, "chains stay in different modes"
    known = [land.own, *land.modes]
    share = contained(known, visited)
    mass = torch.tensor([mode.log_mass for mode in known], dtype=torch.float64).softmax(0)
    is_missed = (share < RARE * mass)[1:].tolist()
    missed = [mode for mode, is_so in zip(land.modes, is_missed, strict=True) if is_so]
    return [land.own, *missed], "mass was found where no chain was"


def own_mode(density: Expert, affine: Affine, like: Tensor, generator: torch.Generator) -> Mode:
    """What chains that are in one place learned of it, as a mode.

    Shapes: like ``(n, *event)``.
    """
    d = like[0].numel()
    origin = torch.zeros_like(like[:1])
    loc = affine.to_x(origin)
    eye = torch.eye(d, dtype=like.dtype, device=like.device).reshape(d, *like.shape[1:])
    rows = (affine.to_x(eye) - loc).reshape(d, d)
    factor = torch.linalg.cholesky(rows.mT @ rows)
    loc = loc.flatten()
    return Mode(loc, factor, log_mass(density, loc, factor, generator))


def gaussians(modes: Sequence[Mode]) -> Gaussians:
    """The modes' Gaussians."""
    return Gaussians(
        torch.stack([mode.centre for mode in modes]), torch.stack([mode.factor for mode in modes])
    )


def places(modes: Sequence[Mode], position: Tensor) -> Tensor:
    """The nearest mode that each position is in, −1 where it is in none.

    Shapes: position ``(*batch, *event)`` by its first two dimensions; returns those.
    """
    batch = position.shape[:2]
    u = gaussians(modes).to_u(position.flatten(0, 1))
    distance = u.square().sum(2).masked_fill(~is_in(u), torch.inf)
    nearest, label = distance.min(0)
    return label.masked_fill(nearest == torch.inf, -1).reshape(batch)


def contained(modes: Sequence[Mode], position: Tensor) -> Tensor:
    """The share of the positions that are in each mode, of those in any: ``(modes,)``."""
    is_there = is_in(gaussians(modes).to_u(position.flatten(0, 1))).double()
    return is_there.mean(1) / is_there.amax(0).mean().clamp(min=1e-9)


class Occupied(NamedTuple):
    """Which share of the chains' time is in each mode ``(modes,)``, and how far they are apart.

    - ``apart``: of the variance of the modes' indicators the share that lies between chains.
    """

    share: Tensor
    apart: float


def occupied(label: Tensor, num_modes: int) -> Occupied:
    """How chains are in modes, from each position's mode ``(steps, chains)``; −1 counts for none.

    >>> label = torch.tensor([[0, 1, 0], [0, 1, 1]])
    >>> share, apart = occupied(label, 2)
    >>> share, round(apart, 2)
    (tensor([0.5000, 0.5000], dtype=torch.float64), 0.67)
    """
    is_there = torch.stack([label == k for k in range(num_modes)]).double()  # modes, steps, chains
    total = is_there.sum((1, 2)).clamp(min=0)
    share = total / total.sum().clamp(min=1)
    of_chain = is_there.sum(1) / is_there.sum((0, 1)).clamp(min=1)
    is_known = is_there.sum((0, 1)) > 0
    between = (of_chain[:, is_known] - share[:, None]).square().sum(0).mean()
    variance = (share * (1 - share)).sum()
    return Occupied(share, (between / variance).item() if variance > 0 else 0.0)


def moved(
    density: Expert, kernel: Kernel, u: Tensor, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Where chains from there come in some steps: ``(steps, chains, *event)``."""
    state, visited = kernel.init(density, u), []
    for _ in range(num_steps):
        state, _ = kernel.step(density, state, generator=generator)
        visited.append(state.position)
    return torch.stack(visited)


def map_of(affine: Affine | None, u: Tensor) -> Affine:
    """What climbs go by: the chains' map, or the spread of positions where there is none."""
    return fit_moments(u) if affine is None else affine
