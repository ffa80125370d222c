"""Where a density has mass: particles and climbs from a broad start, and the modes they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, Dense
from poe.density.closed_forms import exact_sample
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.particles.islands import Particles, Schedule
from poe.particles.resampling import equally_weighted
from poe.samplers.guarded import Counted, Raised
from poe.samplers.hmc import SplitHMC
from poe.samplers.kernel import Density, Kernel, or_nothing
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Gaussians, Preconditioned
from poe.tuning.modes import (
    Mode,
    apart,
    climb,
    is_in,
    is_rough,
    summit,
    weighed,
    without_valley,
)

MAX_MODES = 64
LEAST = 1e-3
"""A mode of less of the mass than this is none."""
SCATTERED = 96, 512
"""The fewest and the most climbs from a broad start; in each round after the first, the fewest."""
EACH_CLIMB = 30
"""So many evaluations for each of them there should be."""
MOST_MORE, FARTHER = 8, 4
"""So many times the first particles go, if that can be paid; from farther out, which is dear."""
ROUNDS = 6
"""Of such climbs, until two in a row find no new mode."""
NEARER = (1.0, 0.5, 0.25)
"""They begin on the broad start, or on the same drawn in by so much, by turns."""
WIDER = 0.75, 1.5
"""How much farther than the modes so far lie the next rounds begin, by turns."""
COPIES, WANDERING, STRIDE = 8, 60, (0.6, 2)
"""Chains from the centre of a mode, their steps, and angle and number of those of a trajectory."""
LOOKS, NEAREST = 3, 2
"""So often is it asked how they stand to so many of the nearest others."""
ALIKE, MET = 4.0, 0.2
"""In nats, for each standard deviation of a Gaussian's log-density; and the share of their time in
which chains must come next to others."""
TESTED = 8
"""So many modes are followed; those that are left are taken for such."""
RARE = 0.1
"""Chains are in a mode less often than its mass says where it is by this factor."""
SEPARATE = 0.6
"""The share of the modes' variance that lies between chains from which on these are apart."""


@dataclass
class Scouts:
    """Particles that sequential Monte Carlo takes from a broad start to the target.

    - ``wider``: from where more go, where the broad start is a factor;
    - ``position``: where they arrived, all alike in weight, ``(particles, *event)``;
    - ``num_evaluations``: what it took.
    """

    target: Expert
    start: Expert
    wider: Expert | None
    has_score: bool
    budget: int
    generator: torch.Generator
    raised: Raised | None
    num_evaluations: int = 0
    position: Tensor = field(init=False)

    def arrive(self, num_chains: int) -> bool:
        """Whether they do within the budget; then more go, for a third of what is left."""
        if (first := self._went(self.start, num_chains, self.budget)) is None:
            return False
        each = self.num_evaluations
        third = (self.budget - each) // 3
        most, farther = (MOST_MORE, self.start) if self.wider is None else (FARTHER, self.wider)
        more = min(most, third // each)
        again = self._went(farther, more * num_chains, each + third) if more > 1 else None
        self.position = first if again is None else self._both(first, again)
        return True

    def _both(self, first: Tensor, again: Tensor) -> Tensor:
        """In any order; those from the same start instead of the first, which are fewer."""
        if self.wider is None:
            return again
        both = torch.cat([first, again])
        return both[torch.randperm(len(both), generator=self.generator, device=both.device)]

    def scattered(self) -> Tensor:
        """Draws of the broad start, of no weights: as many as can be climbed from."""
        left = (self.budget - self.num_evaluations) // EACH_CLIMB
        count = max(SCATTERED[0], min(SCATTERED[1], left))
        starts = [self.start] if self.wider is None else [self.start, self.wider]
        pull = Coordinates(self.target.space).pull
        each = -(-count // len(starts))
        return torch.cat([exact_sample(pull(start), each, self.generator) for start in starts])

    def _went(self, start: Expert, num_chains: int, budget: int) -> Tensor | None:
        """Where eight times as many come, in as many islands, by bold steps; None beyond budget."""
        schedule = Schedule(8, num_chains, 2, 2, conditional_ess=0.3, temperatures=None)
        particles = Particles(self.target, start, schedule, self.generator, self.raised)
        before = self.num_evaluations
        moves = Preconditioned(SplitHMC() if self.has_score else MetropolisHastings())
        for _ in particles.levels(start, self.target, moves):
            self.num_evaluations = before + particles.tally.num_evaluations
            if self.num_evaluations > budget:
                return None
        x, log_z = particles.position, particles.log_z
        by_island = x.unflatten(0, (len(log_z), -1))
        return equally_weighted(by_island, log_z, len(x), self.generator)


@dataclass
class Landscape:
    """The modes of a density that climbs have come to, those of little mass left out.

    - ``modes``: the heaviest first;
    - ``is_open``: whether there may be more: the last round found one, or the budget ended;
    - ``own``: what the chains learned of where they are, as a mode.

    Climbs go by the map ``affine``.
    """

    density: Counted
    affine: Affine
    own: Mode
    generator: torch.Generator
    budget: int
    modes: list[Mode] = field(default_factory=list)
    is_open: bool = False

    def explore(self, u: Tensor, scattered: Tensor) -> None:
        """Climb from positions, and in rounds from ever farther away while that finds modes.

        Shapes: u ``(n, *event)``; scattered ``(k, *event)``, broad and of no weights.
        """
        middle, spread = scattered.mean(0), scattered.reshape(len(scattered), -1).std(0)
        turns = [
            middle + share * (scattered[k :: len(NEARER)] - middle)
            for k, share in enumerate(NEARER)
        ]
        self._climb(torch.cat([u, *turns]))
        num_modes: list[int] = []
        while len(self.modes) > 1 and not self.is_open and self._is_growing(num_modes):
            num_modes.append(len(self.modes))
            wider = WIDER[len(num_modes) % len(WIDER)]
            self._climb(self._afar(wider, spread, scattered[: SCATTERED[0]]))
        self.is_open |= len(num_modes) == ROUNDS and num_modes[-1] > num_modes[-3]

    def _is_growing(self, num_modes: list[int]) -> bool:
        """Whether one of the last two rounds found a mode, and there are rounds left."""
        is_growing = len(num_modes) < 2 or len(self.modes) > num_modes[-2]
        return is_growing and len(num_modes) < ROUNDS

    def _afar(self, wider: float, spread: Tensor, like: Tensor) -> Tensor:
        """As broad as the modes lie, or wider or nearer, and as the broad start beside."""
        centres = torch.stack([mode.centre for mode in self.modes])
        sd = torch.hypot(wider * centres.std(0), wider * spread)
        normal = torch.empty_like(like).normal_(generator=self.generator)
        flat = centres.mean(0) + sd * normal.reshape(len(like), -1)
        return flat.reshape(like.shape)

    def _climb(self, u: Tensor) -> None:
        """Add the modes that climbs from u come to."""
        climbed = climb(self.density, u, self.affine)
        known = self._tops(u)
        top = torch.cat([known, climbed.top[climbed.has_arrived]])
        for rows in apart(self.density, top, self._heights(top)):
            if bool((rows < len(known)).any()):
                continue
            if self.density.num_evaluations > self.budget or len(self.modes) == MAX_MODES:
                self.is_open = True  # its mass is not known
                break
            self._add(top[rows[0]])
        heaviest = max(mode.log_mass for mode in [self.own, *self.modes])
        kept = [mode for mode in self.modes if mode.log_mass > heaviest + math.log(LEAST)]
        self.modes = sorted(kept, key=lambda mode: -mode.log_mass)

    def _add(self, top: Tensor) -> None:
        """The mode of a top that climbs came to, where it is a summit, and none that is known."""
        found = summit(self.density, top, self._width(top))
        if found is None or is_rough(self.density, found[0], found[1].square().sum(1).sqrt()):
            return
        tops = torch.cat([found[0][None], self._tops(found[0][None])])
        rows = torch.arange(1, len(tops))
        same = without_valley(self.density, tops, self._heights(tops), rows, torch.zeros_like(rows))
        if not bool(same.any()):
            self.modes.append(weighed(self.density, *found, self.generator))

    def _tops(self, like: Tensor) -> Tensor:
        """The summits of the modes that are known: ``(k, *event)``."""
        centres = [mode.centre for mode in self.modes]
        return torch.stack(centres).reshape(-1, *like.shape[1:]) if centres else like[:0]

    def _heights(self, top: Tensor) -> Tensor:
        """log p̃ of summits, −inf where it is no number."""
        with torch.no_grad():
            return or_nothing(self.density.log_density(top)) if len(top) else top.new_empty(0)

    def wander(self, mode: Mode, like: Tensor) -> Tensor:
        """Where chains come from the centre of a mode: ``(steps, chains, *event)``.

        They move in the mode's own coordinates, by steps that fit there, since a chain whose steps
        are too long for the place stands still in any.
        """
        kernel = Preconditioned(SplitHMC(*STRIDE), Dense(mode.centre, mode.factor))
        u = mode.centre.reshape(1, *like.shape[2:]).repeat_interleave(COPIES, 0)
        return moved(self.density, kernel, u, WANDERING, self.generator)[-WANDERING // 2 :]

    def comes_to(self, mode: Mode, visited: Tensor) -> bool:
        """Whether chains from a mode come to where others were; not asked of too many modes."""
        is_asked = any(mode is one for one in self.modes[:TESTED])
        return is_asked and leads_to(self.density, self.wander(mode, visited), [visited])

    def _width(self, top: Tensor) -> Tensor:
        """About the standard deviations of a mode: those of the last one, where there was one."""
        if self.modes:
            return self.modes[-1].factor.square().sum(1).sqrt()
        ones, zeros = torch.ones_like(top)[None], torch.zeros_like(top)[None]
        scale = (self.affine.to_x(ones) - self.affine.to_x(zeros)).abs().flatten()
        return scale.clamp(min=torch.finfo(top.dtype).tiny)


def unfollowed(land: Landscape, visited: Tensor) -> tuple[list[Mode], str]:
    """Modes that chains do not come to as their mass says, with those that they are in; and how.

    None where chains come to every mode.

    Shapes: visited ``(steps, chains, *event)``.
    """
    own, modes = land.own, land.modes
    if modes and own.log_mass < modes[0].log_mass + math.log(LEAST):
        return unsettled(land)  # what the chains learned of is next to nothing
    if modes and occupied(places(modes, visited), len(modes)).apart > SEPARATE:
        steps = [land.wander(mode, visited) for mode in modes[:TESTED]]
        if are_several(land.density, steps, len(modes)):
            return modes, "chains stay in different modes"
    known = [own, *modes]
    mass = torch.tensor([mode.log_mass for mode in known], dtype=torch.float64).softmax(0)
    is_rare = (contained(known, visited) < RARE * mass)[1:].tolist()
    rare = [mode for mode, is_so in zip(modes, is_rare, strict=True) if is_so]
    missed = [mode for mode in rare if not land.comes_to(mode, visited)]
    return ([own, *missed] if missed else []), "mass was found where no chain was"


def unsettled(land: Landscape) -> tuple[list[Mode], str]:
    """All modes, for chains that settled in different places; and how it is with these.

    A single mode is none that they are in where it has more mass than all that they learned of, and
    the only one to be in: they stand still elsewhere.
    """
    if len(land.modes) > 1:
        return land.modes, "chains settled in different modes"
    heavy = [mode for mode in land.modes if mode.log_mass > land.own.log_mass]
    return heavy, "chains stand still away from the only mode"


def leads_to(density: Density, own: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether chains from a mode come next to others: to as high a place, with no valley between.

    Then it is no mode apart from where those are. A place much higher than the others' is: a narrow
    mode within a broad one has no valley around it.

    Shapes: own and others ``(steps, chains, *event)``.
    """
    some = own[:: max(1, len(own) // LOOKS)].flatten(0, 1)
    far = torch.cat([other.flatten(0, 1) for other in others])
    distance = torch.cdist(some.reshape(len(some), -1), far.reshape(len(far), -1))
    nearest = distance.topk(min(NEAREST, len(far)), largest=False).indices
    ends = torch.cat([some.repeat_interleave(nearest.shape[1], 0), far[nearest.flatten()]])
    with torch.no_grad():
        height = or_nothing(density.log_density(ends))
    count = len(ends) // 2
    is_level = (height[:count] - height[count:]).abs() < ALIKE * (1 + (ends[0].numel() / 2) ** 0.5)
    is_joined = without_valley(
        density, ends, height, torch.arange(count), torch.arange(count, 2 * count)
    )
    met = (is_level & is_joined).reshape(nearest.shape).any(1)
    return bool(met.double().mean() > MET)


def are_several(density: Density, steps: Sequence[Tensor], num_modes: int) -> bool:
    """Whether not all modes lead to each other, of those whose chains were followed."""
    reached, count = {0}, 0
    while len(reached) > count:
        count, inside = len(reached), [steps[k] for k in sorted(reached)]
        left = [k for k in range(len(steps)) if k not in reached]
        reached |= {k for k in left if leads_to(density, steps[k], inside)}
    return len(reached) < num_modes


def own_mode(density: Density, affine: Affine, like: Tensor, generator: torch.Generator) -> Mode:
    """What chains learned of where they are, as a mode.

    Shapes: like ``(n, *event)``.
    """
    d = like[0].numel()
    loc = affine.to_x(torch.zeros_like(like[:1]))
    eye = torch.eye(d, dtype=like.dtype, device=like.device).reshape(d, *like.shape[1:])
    rows = (affine.to_x(eye) - loc).reshape(d, d)
    return weighed(density, loc[0], torch.linalg.cholesky(rows.mT @ rows), generator)


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
    return (is_there.mean(1) / is_there.amax(0).mean().clamp(min=1e-9)).cpu()


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
    density: Density, kernel: Kernel, u: Tensor, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Where chains from there come in some steps: ``(steps, chains, *event)``."""
    state, visited = kernel.init(density, u), []
    for _ in range(num_steps):
        state, _ = kernel.step(density, state, generator=generator)
        visited.append(state.position)
    return torch.stack(visited)
