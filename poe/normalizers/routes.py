"""Small runs of particles to a target, each from nearer than the one before, until two agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt
from poe.core.errors import NonFiniteError
from poe.core.space import Count
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert, Mixture
from poe.normalizers.levels import Levels, Report, all_levels, walk
from poe.normalizers.sides import group_doubts
from poe.particles.fitted import fit_density
from poe.particles.islands import Schedule
from poe.particles.resampling import equally_weighted
from poe.particles.settling import Settled, settle
from poe.particles.summits import (
    CLIMBS,
    NONE,
    Found,
    around,
    beyond,
    find_summits,
)
from poe.samplers.guarded import Counted, Guarded, Raised
from poe.samplers.kernel import or_nothing
from poe.tuning.counts import fitted_counts

SCOUTS = Schedule(8, 32, 4, 2, 0.5, None)
"""A small run in bold steps."""
MORE = SCOUTS._replace(num_chains=128)
"""Where they disagree."""
BOLD = Schedule(8, 64, 2, 2, 0.3, None)
"""A look from farther out, whose modes count and not its error."""
DRAWS = 1024
"""Of the scouts, by their weights, to fit a start to."""
SCOUTED_NUMBERS = 2**19
"""Enough of what the scouts say to know log Z roughly."""
MAX_CLIMBS, MANY = 256, 48
"""At once, from all over the broad start; and so many of what they reach are weighed."""
NEW = 8
"""Climbs of which one in so many ends at a summit not known before have not found all of them."""
LEAST, MOST = 0.1, 0.5
"""The share of a start that is around such summits: on a ridge there is no end of them."""
HALF = 0.5
"""A run whose error is so much smaller than that of the one before may have another after it."""
SURE = 0.04
"""A run of such a standard error that agrees with the one before vouches for it and its fit."""
MAX_ROUNDS = 4
"""Of runs from a density fitted to the run before."""
CLOSE = 3.0
"""Runs that differ by fewer standard errors than this agree."""
TOO_HIGH = 2.5
"""Nats of one island above log Z for which it is looked into."""
AHEAD = 2.0
"""One that says more by so many is followed, however little it is sure of: the other one lags."""


class Route(NamedTuple):
    """A run of particles from a start to the target, and what all of its levels say of log Z."""

    start: Expert
    levels: Levels
    log_z: Tensor
    std_error: Tensor

    def above(self, other: Route) -> float:
        """By how many standard errors of both this log Z exceeds the other's."""
        error = torch.hypot(self.std_error, other.std_error)
        return ((self.log_z - other.log_z) / error).item()


class Fitted(NamedTuple):
    """A density fitted to draws, log p̃ / q there, and how often the target was asked for it."""

    density: Expert
    tilts: Tensor
    num_evaluations: int


class Start(NamedTuple):
    """Where a run may begin, and how often the target was asked to know it."""

    density: Expert
    num_evaluations: int


class Scouted(NamedTuple):
    """What small runs found out about a target.

    - ``broad``: the run from where no mode should be missed;
    - ``best``: the run that is to be believed;
    - ``nearer``: where to begin: what fits the particles of that, or where it began itself;
    - ``summits``: what climbing reaches;
    - ``num_evaluations``: of the target, by all runs and climbs;
    - ``doubts``: whether chains from there went on to where no particle was.
    """

    broad: Route
    best: Route
    nearer: Expert
    summits: Found
    num_evaluations: int
    doubts: Sequence[Doubt] = ()


class Scouting(NamedTuple):
    """What all runs to one target have in common."""

    target: Expert
    has_score: bool
    generator: torch.Generator
    report: Report
    raised: Raised

    @property
    def asked(self) -> Guarded:
        """The target, errors at some positions kept."""
        return Guarded(self.target, self.raised)

    def run(self, start: Expert, schedule: Schedule = SCOUTS) -> Route:
        """Particles from a start to the target."""
        levels = walk(self.target, start, schedule, self.generator, self.report, self.raised)
        found = all_levels(levels, SCOUTED_NUMBERS)
        return Route(start, levels, found.log_z[-1] + levels.log_start, found.std_error)

    def fit(self, x: Tensor) -> Fitted:
        """The density under which draws are likeliest."""
        log_density, score = self._at(x)
        counted = Counted(self.asked)
        fitted = fit_density(counted, x, score, self.target.space, self.generator)
        with torch.no_grad():
            tilts = or_nothing((log_density - fitted(x)).double())
        return Fitted(fitted, tilts, len(x) + counted.num_evaluations)

    def draws(self, levels: Levels) -> Tensor:
        """Of the target by particles, equally weighted."""
        return equally_weighted(levels.position, levels.log_z, DRAWS, self.generator)

    def settled(self, levels: Levels) -> Settled | None:
        """Where chains from the particles come to rest, if scales vary there."""
        if not self.has_score:
            return None
        return settle(self.asked, self.draws(levels), self.generator, self.report)

    def fitted_counts(self, levels: Levels) -> Expert:
        """Independent counts like those of particles at the target."""
        x = self.draws(levels)
        return fitted_counts(x, self.target.space, x)

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """log p̃ at positions, and its score where that can be used."""
        if not self.has_score:
            with torch.no_grad():
                return self.asked(x), None
        log_density, score = self.asked.log_density_and_score(x)
        is_usable = bool(score.isfinite().all()) and bool((score != 0).any())
        return log_density, score.to(x.dtype) if is_usable else None

    def summits(self, route: Route, broad: Expert) -> Found:
        """What climbing reaches, from particles and from draws of the broad start.

        Particles are resampled on their way, and end in few of many modes; climbs are not. Where
        these reach summits that the particles missed there are more of them, until none is new.
        Without a score nothing climbs.
        """
        if not self.has_score:
            return NONE
        x = equally_weighted(route.levels.position, route.levels.log_z, CLIMBS, self.generator)
        found = find_summits(self.asked, x, self.generator)
        number = CLIMBS
        while number <= MAX_CLIMBS:
            x = exact_sample(broad, number, self.generator)
            far = find_summits(self.asked, x, self.generator, found.summits, MANY)
            is_all = not far.missed(route.levels.cloud, *route[2:])
            found = found.and_more(far._replace(is_all=is_all))
            if is_all and len(far.summits) * NEW <= number:
                break
            broad = beyond(found.summits, self.target.space)
            number *= 2
        return found


def scouted(scouting: Scouting, broad: Expert, wider: Expert | None) -> Scouted:
    """A run from a broad start, and others from densities fitted to the one before.

    Where the broad start is a factor of the target, what is ``wider`` than that may say more.

    log Ẑ of particles that lag behind their path is too low, and E Ẑ = Z forbids that it be much
    too high by chance. So a run from nearer is believed where it says more than the one before,
    and wants another to agree with it; one that says less has lost something on the way, and the
    start of the one before is kept.
    """
    first = scouting.run(broad)
    cost = first.levels.num_evaluations
    if group_doubts(first.levels.log_z):
        first = scouting.run(broad, MORE)
        cost += first.levels.num_evaluations
    if scouting.target.space.is_discrete:
        # A density of independent elements may favour one mode so much that particles from there
        # never come back to the others: they begin where the scouts did. Counts have no uniform
        # distribution to begin at: what fits is nearer by far.
        is_count = isinstance(scouting.target.space, Count)
        nearer = scouting.fitted_counts(first.levels) if is_count else broad
        return Scouted(first, first, nearer, NONE, cost)
    if wider is not None:
        first, more = _from_wider(scouting, first, wider)
        broad, cost = Mixture([broad, wider], [0.5, 0.5]), cost + more
    summits = scouting.summits(first, broad)
    best, nearer, more = _nearer(scouting, first, summits)
    found = Scouted(first, best, nearer, summits, cost + more + summits.num_evaluations)
    settled = scouting.settled(best.levels)
    return found if settled is None else _with_settled(scouting, found, settled)


def _from_wider(scouting: Scouting, first: Route, wider: Expert) -> tuple[Route, int]:
    """The run from a wider start, where that says more, and what it took."""
    try:
        look = scouting.run(wider, BOLD)
    except NonFiniteError:  # so far out the target is no number
        return first, 0
    cost = look.levels.num_evaluations
    # A mode that few islands find makes all of them unsure; each Ẑ is seldom much above Z.
    if look.above(first) < AHEAD and bool(look.levels.log_z.max() < first.log_z + TOO_HIGH):
        return first, cost
    try:
        run = scouting.run(wider, MORE)
    except NonFiniteError:
        return first, cost
    return first if _says_less(run, first) else run, cost + run.levels.num_evaluations


def _with_settled(scouting: Scouting, found: Scouted, settled: Settled) -> Scouted:
    """What is known once chains from the particles have come to rest: a run from where they do."""
    nearer, cost = _start(scouting, settled.position, found.best, found.summits)
    cost += found.num_evaluations + settled.num_evaluations
    found = found._replace(num_evaluations=cost, doubts=settled.doubts())
    try:
        run = scouting.run(nearer)
    except NonFiniteError:  # what was fitted reaches where the target is no number
        return found
    cost, best = cost + run.levels.num_evaluations, found.best
    # Where a map describes the target, the run before is sure of less than it knows of.
    if run.above(best) < -CLOSE or (not settled.is_described and _says_less(run, best)):
        return found._replace(num_evaluations=cost)
    return found._replace(best=run, nearer=nearer, num_evaluations=cost)


def _nearer(scouting: Scouting, first: Route, summits: Found) -> tuple[Route, Expert, int]:
    """The run to be believed, where to begin, and the evaluations it took."""
    best = first
    nearer, cost = _start(scouting, scouting.draws(first.levels), first, summits)
    for _ in range(MAX_ROUNDS):
        try:
            run = scouting.run(nearer)
        except NonFiniteError:  # what was fitted reaches where the target is no number
            return first, first.start, cost
        cost += run.levels.num_evaluations
        if _says_less(run, best):
            return best, best.start, cost
        above = run.above(best)
        if abs(above) < CLOSE and run.std_error < SURE and not _misses(summits, run):
            return best, nearer, cost
        is_no_surer = run.std_error > HALF * best.std_error
        best = run
        nearer, more = _start(scouting, scouting.draws(run.levels), run, summits)
        cost += more
        if above < CLOSE and is_no_surer and not _misses(summits, run):
            break
    return best, nearer, cost


def _says_less(run: Route, best: Route) -> bool:
    """Whether a run has lost something on the way, or knows no more and is less sure of it."""
    above = run.above(best)
    return above < -CLOSE or (above < AHEAD and bool(run.std_error > best.std_error))


def _misses(summits: Found, run: Route) -> bool:
    return bool(summits.missed(run.levels.cloud, run.log_z, run.std_error))


def _start(scouting: Scouting, x: Tensor, run: Route, summits: Found) -> Start:
    """A density fitted to draws, and beside it the summits where it is too thin."""
    fitted, tilts, cost = scouting.fit(x)
    log_z = summits.raised(run.levels.cloud, run.log_z)
    thin = summits.thin(fitted, tilts, log_z)
    if not thin:
        return Start(fitted, cost)
    beside = torch.stack([summit.log_mass for summit in thin]).logsumexp(0)
    share = torch.sigmoid(beside - log_z).clamp(LEAST, MOST).item()
    others = around(thin, fitted.space).to(number_like(fitted).dtype)
    return Start(Mixture([fitted, others], [1 - share, share]), cost)
