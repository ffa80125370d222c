"""Weighted particles on their way from one density to another, in islands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, fit_affine
from poe.core.errors import NonFiniteError, PoeError
from poe.core.transport import Transport
from poe.density.capabilities import check_proper
from poe.density.closed_forms import exact_sample, require_source
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.diagnostics.varying_scale import has_varying_scale
from poe.particles.mutation import (
    Tally,
    followed,
    is_as_wanted,
    kernel_at_scale,
    learn_scale,
    move_chains,
)
from poe.particles.resampling import num_strips, snake_order, systematic_resample
from poe.samplers.guarded import Raised, pulled
from poe.samplers.kernel import Kernel, require_inside
from poe.samplers.path import GeometricPath, Level, Parts, geometric_path, starts_by_score
from poe.samplers.questions import Learned, Setting, at_level, can_restart, filled, fit_map, missing

MAX_LEVELS = 1000
NUM_BISECTIONS = 40
SOME_MISFIT = 0.05
"""Of an affine map at a level; further levels will have more of it."""
ENOUGH_TO_FIT = 1000
"""So many particles, or 10 for each dimension if that is more, to fit a preconditioner to."""

Report = Callable[[float, float], None]
"""Called after each level with its temperature and its acceptance rate."""


class Schedule(NamedTuple):
    """How many particles there are, how the levels are chosen and how they move at each."""

    num_islands: int
    num_chains: int
    """In each island."""
    num_moves: int
    max_thinning: int
    conditional_ess: float
    temperatures: tuple[float, ...] | None


class Passed(NamedTuple):
    """A level that the particles were at: all that its weights are made of."""

    temperature: float
    tilt: Tensor
    """d/dt log γ_t of its particles: ``(islands, n)``."""
    kernel: Kernel | None
    """That moved them there; None at the start."""


class Particles:
    """The particles on their way, and the log of every island's Ẑ."""

    def __init__(
        self,
        target: Expert,
        start: Expert,
        schedule: Schedule,
        generator: torch.Generator,
        raised: Raised | None = None,
        where_scale_varies: Kernel | None = None,
    ) -> None:
        """``where_scale_varies`` moves from the level on at which the particles' scores do."""
        self.target, self.schedule, self.generator = target, schedule, generator
        self.raised = Raised() if raised is None else raised
        self.coordinates = Coordinates(target.space)
        self.position, self.log_z = self._begin(start)
        self.tally = Tally(schedule.num_islands)
        self.where_scale_varies, self.has_varying_scale = where_scale_varies, False
        self.kernel: Kernel | None = None
        self.scale: float | None = None
        self.num_levels = 0
        self.passed: list[Passed] = []
        """The levels of the latest path, from t = 0 to 1."""

    def _begin(self, start: Expert) -> tuple[Tensor, Tensor]:
        """All the particles, drawn from the start, and log Z₀ of every island."""
        check_proper(start)
        log_z = require_source(start)
        islands, chains, moves = self.schedule[:3]
        u = exact_sample(self.coordinates.pull(start), islands * chains * moves, self.generator)
        log_zs = torch.full((islands,), log_z.item(), dtype=torch.float64, device=u.device)
        return u, log_zs

    def follow(self, start: Expert, end: Expert, kernel: Kernel, report: Report) -> None:
        """Take the particles from one density to the next.

        Args:
            start: Where they are, at t = 0.
            end: Where they go, at t = 1.
            kernel: What moves them.
            report: Called with each level's temperature and acceptance rate.

        Raises:
            PoeError: For a kernel that cannot begin anew at each level.
        """
        for temperature, acceptance in self.levels(start, end, kernel):
            report(temperature, acceptance)

    def levels(self, start: Expert, end: Expert, kernel: Kernel) -> Iterator[tuple[float, float]]:
        """The same, level by level, as it is asked for: temperature and acceptance rate of each."""
        if not can_restart(kernel):
            raise PoeError(
                "expected a local kernel, which can begin anew at each level, got "
                f"{type(kernel).__name__}: use MetropolisHastings, MALA or HMC"
            )
        # Where the coordinates have a Jacobian, both are new objects: no factor is shared.
        first, last = (pulled(each, self.coordinates, self.raised) for each in (start, end))
        path = geometric_path(first, last, self.raised)
        by_score = starts_by_score(kernel, path, self.position[: self.schedule.num_chains])
        parts, temperature = path.evaluate(self.position, by_score), 0.0
        self.tally.num_evaluations += len(self.position)
        self.passed = []
        while temperature < 1.0:
            tilt = self._tilt(path, parts)
            self.passed.append(Passed(temperature, tilt, self.kernel))
            following = self._next(tilt, temperature)
            log_weights = (following - temperature) * tilt
            self.log_z += torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])
            temperature = following
            parts = self._move(path, temperature, parts, log_weights, kernel)
            yield temperature, torch.stack(self.tally.acceptance).mean().item()
        self.passed.append(Passed(1.0, self._tilt(path, parts), self.kernel))
        self.position, self.log_density = parts.position, path.log_density(parts, 1.0)

    def _tilt(self, path: GeometricPath, parts: Parts) -> Tensor:
        """d/dt log γ_t as ``(islands, n)``; −inf, and counted, where it or a score is undefined."""
        tilt = path.tilt(parts).reshape(self.schedule.num_islands, -1)
        is_known = parts.score.isfinite().reshape(2, tilt.numel(), -1).all(2).all(0)
        is_lost = ~is_known.reshape(tilt.shape)
        is_undefined = tilt.isnan() | (tilt == torch.inf) | (is_lost & (tilt > -torch.inf))
        self.tally.count_start(tilt == -torch.inf, is_undefined)
        tilt = tilt.masked_fill(is_undefined, -torch.inf)
        if bool((tilt == -torch.inf).all()):
            raise NonFiniteError(
                f"expected a particle inside the support of {type(self.target).__name__}, got none "
                f"of {tilt.numel()}: give a start that covers it, by `start=`, or more samples"
            )
        return tilt

    def _next(self, tilt: Tensor, temperature: float) -> float:
        self.num_levels += 1
        if self.num_levels > MAX_LEVELS:
            raise PoeError(
                f"expected at most {MAX_LEVELS} levels, got no further than t = {temperature:.3g}: "
                "start nearer to the target, or accept a smaller `conditional_ess`"
            )
        given = self.schedule.temperatures
        if given is not None:
            return next(t for t in given if t > temperature)
        return next_temperature(tilt, temperature, self.schedule.conditional_ess)

    def _move(
        self,
        path: GeometricPath,
        temperature: float,
        parts: Parts,
        log_weights: Tensor,
        kernel: Kernel,
    ) -> Parts:
        """Resample the chains and move them: the particles of the next level."""
        chosen = parts.at(self._resample(parts, log_weights))
        kernel = at_level(kernel, path.at(temperature))
        level, tally, generator = Level(path, temperature), self.tally, self.generator
        if Setting.AFFINE in missing(kernel):
            position, score = self._few(path, temperature, parts, log_weights)
            kernel = self._suited(kernel, position, score)
            affine = fit_map(kernel, level, position, score)
            if not _is_usable(affine, level, chosen):  # what bends may bend too far
                affine = fit_affine(position, score)
            kernel = filled(kernel, Learned(affine=affine))
        if Setting.SCALE in missing(kernel):
            self.scale = self._learned_scale(level, kernel, chosen)
            kernel = kernel_at_scale(kernel, self.scale)
        tally.start_level()
        moved = move_chains(
            level,
            kernel,
            chosen,
            num_moves=self.schedule.num_moves,
            max_thinning=self.schedule.max_thinning,
            tally=tally,
            generator=generator,
        )
        require_inside(kernel, path.at(temperature).space, moved.parts.position)
        self.kernel = moved.kernel
        return moved.parts

    def _learned_scale(self, level: Level, kernel: Kernel, chosen: Parts) -> float:
        """What the level before, which is like this one, taught; else by moves thrown away."""
        scale, before = self.scale, self.tally.acceptance
        # Given temperatures may be far apart, and the last level's positions are the draws.
        is_alike = self.schedule.temperatures is None and level.temperature != 1.0
        if scale is not None and before and is_alike:
            acceptance = torch.stack(before).mean().item()
            if is_as_wanted(kernel, scale, acceptance):
                return followed(kernel, scale, acceptance)
        return learn_scale(level, kernel, chosen, scale, tally=self.tally, generator=self.generator)

    def _resample(self, parts: Parts, log_weights: Tensor) -> Tensor:
        """The rows of the chosen chains: ``(islands * chains,)``."""
        islands, n = log_weights.shape
        is_dead = (log_weights == -torch.inf).all(1)
        # An island without weight counts as Ẑ = 0 for good; its chains only fill the batch.
        source = torch.where(
            is_dead, (~is_dead).int().argmax(), torch.arange(islands).to(is_dead.device)
        )
        chains = self.schedule.num_chains
        order = snake_order(parts.position, islands, num_strips(chains))[source]
        chosen = systematic_resample(
            log_weights[source].gather(1, order), chains, generator=self.generator
        )
        return (order.gather(1, chosen) + n * source[:, None]).flatten()

    def _few(
        self, path: GeometricPath, temperature: float, parts: Parts, log_weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Some of the weighted particles, as draws, and their scores if there are."""
        pooled = log_weights.reshape(1, -1)
        enough = max(ENOUGH_TO_FIT, 10 * parts.position[0].numel())
        num_rows = min(enough, pooled.shape[1])
        rows = systematic_resample(pooled, num_rows, generator=self.generator)
        weighted = parts.at(rows[0])
        score = path.score(weighted, temperature) if weighted.has_score else None
        return weighted.position, score

    def _suited(self, kernel: Kernel, position: Tensor, score: Tensor | None) -> Kernel:
        """The kernel for particles like these, looked at on levels 1, 2, 4, 8 and so on."""
        is_time = self.num_levels.bit_count() == 1
        if self.where_scale_varies is None or score is None:
            return kernel
        if is_time and not self.has_varying_scale:
            self.has_varying_scale = has_varying_scale(position, score, min_misfit=SOME_MISFIT)
            self.scale = None if self.has_varying_scale else self.scale
        return self.where_scale_varies if self.has_varying_scale else kernel


def _is_usable(affine: Affine | Transport, level: Level, chosen: Parts) -> bool:
    """Whether a map that bends has a density with a score at all of some particles."""
    if not isinstance(affine, Transport):
        return True
    u = affine.to_u(chosen.position)
    value, score = affine.whitened(level.known(chosen)).log_density_and_score(u)
    return bool(value.isfinite().all()) and bool(score.isfinite().all())


def next_temperature(tilt: Tensor, temperature: float, conditional_ess: float) -> float:
    """The t' at which the conditional ESS of exp((t' − t) tilt), a fraction of n, is as given.

    CESS = (Σ w)² / Σ w² for particles of equal weight, n those whose tilt is not −inf. By
    bisection.

    Args:
        tilt: d/dt log γ_t of the particles, of any shape.
        temperature: t.
        conditional_ess: Between 0 and 1.

    Returns:
        t'; 1 where even the whole step keeps more.

    References:
        Zhou, Johansen & Aston (2016), Towards automatic model comparison: an adaptive sequential
        Monte Carlo approach, eq. 3.16, arXiv:1303.3123.

    Example:
        >>> tilt = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).double()
        >>> t = next_temperature(3.0 * tilt, 0.0, 0.8)  # exp(−(3 t)²) = 0.8
        >>> abs(t - 0.157) < 0.01
        True
    """
    inside = tilt[tilt > -torch.inf].double()
    inside = inside - inside.max()

    def ess(step: float) -> float:
        weights = (step * inside).exp()
        return (weights.mean().square() / weights.square().mean()).item()

    low, high = 0.0, 1.0 - temperature
    if ess(high) >= conditional_ess:
        return 1.0
    for _ in range(NUM_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if ess(middle) >= conditional_ess else (low, middle)
    return temperature + high
