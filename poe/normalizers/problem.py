"""What every estimator of log Z is given: the ends of a path, and scouts that know the far one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from poe.core.arguments import REFUSED, Kind, register_kind
from poe.core.space import Count
from poe.density.capabilities import is_normalized
from poe.density.checks import number_like
from poe.density.expert import Expert, Mixture
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.normalizers.fitted import fit_density
from poe.normalizers.levels import Levels, Report, schedule, walk
from poe.normalizers.sides import group_doubts
from poe.normalizers.summits import CLIMBS, NONE, Found, around, find_summits
from poe.particles.islands import Schedule
from poe.particles.resampling import systematic_resample
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.path import geometric_path
from poe.samplers.questions import needs_score
from poe.tuning.counts import fitted_counts
from poe.tuning.prepared import prepared_particles
from poe.tuning.start import broad_start

SCOUTS = Schedule(8, 32, 4, 2, 0.5, None)
"""A small run in bold steps."""
MORE = SCOUTS._replace(num_chains=128)
"""Where they disagree."""
DRAWS = 1024
"""Of the scouts, by their weights, to fit a start to."""


class Method(Protocol):
    """A way to log Z with its settings."""

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target.

        Args:
            target: p̃, one density.
            start: Where to begin, where the method has a start; None leaves it to the method.
            generator: Of all that is drawn.
            report: Called with each level's temperature and acceptance rate.

        Returns:
            The value, with its error, bounds and doubts.
        """


def _method(value: object) -> object:
    return value if callable(value) and not isinstance(value, type | nn.Module) else REFUSED


register_kind(
    Method,
    Kind("a method", _method, lambda value: ": make one, such as poe.normalizers.MBAR()"),
)


class Problem(NamedTuple):
    """log Z of ``target`` is asked for, on an unconstrained or a discrete space.

    - ``start``: sampled exactly, of known log partition: the near end of the path;
    - ``where``: what that is, in words;
    - ``scouts``: a small run from a broad start to the target, whatever ``start`` is;
    - ``tilts`` ``(islands, n)``: d/dt log γ_t of the scouts on the way from ``start``;
    - ``summits``: what climbing from there reaches;
    - ``nearer``: what fits the scouts best, normalised and sampled exactly; on a discrete space
      where they began.
    """

    target: Expert
    start: Expert
    where: str
    scouts: Levels
    tilts: Tensor
    summits: Found
    nearer: Expert
    log_constant: float
    """What was taken out of the target: it is to be added to log Z."""
    original: Expert
    """The target on its own space."""
    raised: Raised
    """The errors of the target at some positions, on the way so far."""

    @property
    def num_evaluations(self) -> int:
        """Of the target, by scouts and by climbs."""
        return self.scouts.num_evaluations + self.summits.num_evaluations

    def rounding(self) -> Tensor:
        """How far the rounding of log-densities may move log Z: that of a typical one."""
        x = self.scouts.position.flatten(0, 1)[:64]
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        with torch.no_grad():
            values = Guarded(self.target, self.raised)(x).double()
            size = values[values.isfinite()].abs().mean()
        return size * torch.finfo(dtype).eps

    def walk(
        self, num_samples: int, conditional_ess: float, generator: torch.Generator, report: Report
    ) -> Levels:
        """Particles from the start to the target."""
        plan = schedule(num_samples, conditional_ess)
        return walk(self.target, self.start, plan, generator, report, self.raised)

    def draws(self, num_samples: int, generator: torch.Generator, report: Report) -> Levels:
        """Draws of the target that owe nothing to the start: from what is nearer."""
        return walk(self.target, self.nearer, schedule(num_samples), generator, report, self.raised)


def pose(
    target: Expert, start: Expert | None, generator: torch.Generator, report: Report
) -> Problem:
    """Send scouts to the target; without a start, begin at what fits them, or where they did."""
    remedy = "ask for log Z once for each condition"
    posed, _ = prepared_particles(target, start, remedy=remedy, generator=generator)
    original, target, coordinates = posed.target, posed.density, posed.coordinates
    like = number_like(target)
    name, broad = broad_start(target, like)
    raised, has_score = posed.raised, needs_score(posed.choice.kernel)
    scouts, summits = _scouted(target, broad, has_score, generator, report, raised)
    # On a discrete space a density of independent elements may favour one mode so much that
    # particles from there never come back to the others: they begin where the scouts did.
    # Counts have no uniform distribution to begin at: what fits is nearer by far.
    is_discrete = target.space.is_discrete and not isinstance(target.space, Count)
    nearer = broad if is_discrete else _fit(Guarded(target, raised), scouts, has_score, generator)
    if start is None:
        begin, where = nearer, name if is_discrete else f"a density fitted to particles from {name}"
    else:
        begin, where = coordinates.pull(start), type(start).__name__
    tilts = tilts_at(begin, target, scouts.position, raised)
    constant = posed.log_constant
    return Problem(target, begin, where, scouts, tilts, summits, nearer, constant, original, raised)


def equally_weighted(levels: Levels, num_draws: int, generator: torch.Generator) -> Tensor:
    """Particles of all islands by the islands' weights, in any order: ``(num_draws, *event)``."""
    log_weights = levels.log_z.repeat_interleave(levels.position.shape[1])[None]
    rows = systematic_resample(log_weights, num_draws, generator=generator)[0]
    order = torch.randperm(num_draws, generator=generator, device=rows.device)
    return levels.position.flatten(0, 1)[rows[order]]


def tilts_at(start: Expert, target: Expert, position: Tensor, raised: Raised) -> Tensor:
    """d/dt log γ_t at positions ``(islands, n, *event)``: ``(islands, n)``."""
    path = geometric_path(start, target, raised)
    tilt = path.tilt(path.evaluate(position.flatten(0, 1), with_score=False))
    return tilt.reshape(position.shape[:2])


def _fit(target: Expert, scouts: Levels, has_score: bool, generator: torch.Generator) -> Expert:
    x = equally_weighted(scouts, DRAWS, generator)
    if isinstance(target.space, Count):
        return fitted_counts(x, target.space, x)
    if not has_score:
        return fit_density(x, None, target.space, generator)
    score = target.score(x)
    is_usable = bool(score.isfinite().all()) and bool((score != 0).any())
    return fit_density(x, score if is_usable else None, target.space, generator)


def _scouted(
    target: Expert,
    broad: Expert,
    has_score: bool,
    generator: torch.Generator,
    report: Report,
    raised: Raised,
) -> tuple[Levels, Found]:
    """Scouts, and what climbing from them reaches; more of them where they disagree or miss it.

    Without a score nothing climbs.
    """
    scouts = walk(target, broad, SCOUTS, generator, report, raised)
    if group_doubts(scouts.log_z):
        scouts = _after(
            scouts.num_evaluations, walk(target, broad, MORE, generator, report, raised)
        )
    if target.space.is_discrete or not has_score:
        return scouts, NONE
    found = find_summits(
        Guarded(target, raised), equally_weighted(scouts, CLIMBS, generator), generator
    )
    log_z, error = log_mean(scouts.log_z), standard_error_of_log_mean(scouts.log_z)
    missed = [summit for summit in found.summits if summit.missed(scouts, log_z, error)]
    if not (missed and is_normalized(broad)):
        return scouts, found
    both = Mixture([broad, around(missed, target.space)])
    return _after(
        scouts.num_evaluations, walk(target, both, SCOUTS, generator, report, raised)
    ), found


def _after(num_evaluations: int, levels: Levels) -> Levels:
    """With the cost of those before."""
    return levels._replace(num_evaluations=levels.num_evaluations + num_evaluations)
