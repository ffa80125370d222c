"""Ladders of densities between a reference and the target, and averages along them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from poe.density.expert import Expert
from poe.diagnostics.independent_groups import log_mean
from poe.diagnostics.weights import kish_ess
from poe.normalizers.mbar import Normalizers, mbar
from poe.normalizers.sides import Sides
from poe.particles.fitted import FittedTransport
from poe.particles.islands import Particles, Passed, Schedule
from poe.particles.summits import Cloud
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.hmc import SplitHMC
from poe.samplers.kernel import Kernel
from poe.samplers.preconditioned import Preconditioned
from poe.structure.discrete import structure_of
from poe.tuning.choice import FEW_POSITIONS, choose_for_particles
from poe.tuning.start import first_answered

NUM_ISLANDS = 16
"""So many give a standard error of 15 degrees of freedom."""

NUM_MOVES = 8

Report = Callable[[float, float], None]
MAX_NUMBERS = 2**24
"""Of log-densities that are held at once; beyond, draws of each level are left out evenly."""


class Levels(NamedTuple):
    """What the particles of every level say: enough for all estimators along a path.

    - ``passed``: the levels from t = 0 to 1;
    - ``position`` ``(islands, n, *event)``: the particles at the target;
    - ``log_z`` ``(islands,)``: log of each island's Ẑ.
    """

    passed: list[Passed]
    position: Tensor
    log_z: Tensor
    log_start: float
    """log Z of the density at t = 0."""
    num_evaluations: int
    num_undefined: int
    num_moves: int
    """Of each chain at a level, all kept."""

    @property
    def cloud(self) -> Cloud:
        """The particles at the target."""
        num_chains = self.position.shape[:2].numel() // self.num_moves
        return Cloud(self.position, self.log_z, num_chains)

    @property
    def temperatures(self) -> Tensor:
        """``(levels,)``, in float64."""
        return torch.tensor([p.temperature for p in self.passed], dtype=torch.float64)

    @property
    def tilts(self) -> Tensor:
        """d/dt log γ_t of the particles of each level: ``(levels, islands, n)``."""
        return torch.stack([p.tilt for p in self.passed])


def schedule(num_samples: int, conditional_ess: float = 0.8) -> Schedule:
    """At least so many particles a level, in 16 islands."""
    chains = -(-num_samples // (NUM_ISLANDS * NUM_MOVES))
    return Schedule(NUM_ISLANDS, chains, NUM_MOVES, 2, conditional_ess, None)


def walk(
    target: Expert,
    start: Expert,
    schedule: Schedule,
    generator: torch.Generator,
    report: Report,
    raised: Raised | None = None,
) -> Levels:
    """Particles from ``start`` to ``target`` by the default kernel for what the target offers.

    Errors of the target at some positions are kept in ``raised``.
    """
    particles = Particles(target, start, schedule, generator, raised)
    log_start = particles.log_z[0].item()
    asked = Guarded(target, particles.raised)
    some = cycle(particles.position.split(FEW_POSITIONS))  # the first may all raise an error
    u = first_answered(asked, lambda: next(some))
    choice = choose_for_particles(structure_of(target), asked, u)
    particles.follow(start, target, _bent(choice.kernel, start), report)
    islands = schedule.num_islands
    position = particles.position
    return Levels(
        particles.passed,
        position.reshape(islands, -1, *position.shape[1:]),
        particles.log_z,
        log_start,
        particles.tally.num_evaluations,
        int(torch.as_tensor(particles.tally.undefined).sum()),
        schedule.num_moves,
    )


def _bent(kernel: Kernel, start: Expert) -> Kernel:
    """Around a start that a map bends to the target, in the coordinates of that map."""
    if isinstance(start, FittedTransport):
        return Preconditioned(SplitHMC(), start.transport)
    return kernel


def sides(levels: Levels) -> Sides:
    """Σ log mean exp(Δt U) over levels forward, and −Σ log mean exp(−Δt U) backward.

    U = d/dt log γ_t at the particles of the level that a step begins at. Where a part of the start
    is outside the target's support, the way back ends at what is inside: its share is added.
    """
    steps = levels.temperatures.diff()[:, None, None].to(levels.tilts.device)
    back = log_mean(-steps * levels.tilts[1:])
    share_inside = (levels.tilts[0] > -torch.inf).double().mean()
    return Sides(levels.log_z, levels.log_start - back.sum(0) + share_inside.log())


def all_levels(levels: Levels, max_numbers: int = MAX_NUMBERS) -> Normalizers:
    """The multistate Bennett acceptance ratio of all levels: log γ_t(x) = log γ_0(x) + t U(x)."""
    count = len(levels.passed)
    stride = max(1, math.ceil(levels.tilts.numel() * count / max_numbers))
    tilts = levels.tilts[:, :, ::stride]
    groups, each = tilts.shape[1:]
    flat = tilts.permute(1, 0, 2).reshape(groups, count * each)
    t = levels.temperatures.to(flat.device)[:, None, None]
    log_densities = (t * flat).masked_fill(t == 0, 0.0)  # where U is −inf too
    return mbar(log_densities, torch.full((count,), each, device=flat.device))


def weakest_ess(levels: Levels) -> float:
    """The smallest effective sample size of the weights of one step."""
    steps = levels.temperatures.diff().to(levels.tilts.device)
    pairs = zip(steps, levels.tilts[:-1], strict=True)
    return min(kish_ess(step * tilt).item() for step, tilt in pairs)


def integrals(levels: Levels, stride: int = 1) -> Tensor:
    """∫ E_t U dt of each group: ``(groups,)``, by every so many levels.

    The trapezoidal rule corrected by the derivatives, which are variances: d/dt E_t U = Var_t U.
    """
    count = len(levels.passed)
    kept = sorted({*range(0, count, stride), count - 1})
    t, tilts = levels.temperatures[kept].to(levels.tilts.device), levels.tilts[kept]
    mean, variance = tilts.mean(2), tilts.var(2)
    h = t.diff()[:, None]
    trapezoid = 0.5 * h * (mean[1:] + mean[:-1])
    return (trapezoid - h.square() / 12 * variance.diff(dim=0)).sum(0)
