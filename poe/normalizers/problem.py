"""What every estimator of log Z is given: the ends of a path, and scouts that know the far one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from poe.core.arguments import REFUSED, Kind, register_kind
from poe.density.checks import number_like
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.normalizers.levels import Levels, Report, schedule, walk
from poe.normalizers.routes import Scouted, Scouting, scouted
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.path import geometric_path
from poe.tuning.prepared import prepared_particles
from poe.tuning.start import broad_start, wider_start


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
    - ``scouted``: what small runs to the target found, whatever ``start`` is;
    - ``tilts`` ``(islands, n)``: d/dt log γ_t of their particles on the way from ``start``.
    """

    target: Expert
    start: Expert
    where: str
    scouted: Scouted
    tilts: Tensor
    log_constant: float
    """What was taken out of the target: it is to be added to log Z."""
    original: Expert
    """The target on its own space."""
    raised: Raised
    """The errors of the target at some positions, on the way so far."""

    @property
    def scouts(self) -> Levels:
        """Particles of the small run that is to be believed."""
        return self.scouted.best.levels

    @property
    def nearer(self) -> Expert:
        """What fits them best, normalised and sampled exactly; else where they began."""
        return self.scouted.nearer

    def rounding(self) -> Tensor:
        """How far rounding may move log Z: that of a typical log-density, and of the sum."""
        x = self.scouts.position.flatten(0, 1)[:64]
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        with torch.no_grad():
            values = Guarded(self.target, self.raised)(x).double()
            size = values[values.isfinite()].abs().mean() + self.scouted.best.log_z.abs()
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
    name, broad = broad_start(target, number_like(target))
    raised, has_score = posed.raised, posed.has_score
    scouting = Scouting(target, has_score, generator, report, raised)
    found = scouted(scouting, broad, wider_start(target, generator))
    if start is None:
        begin, where = found.nearer, f"a density fitted to particles from {name}"
        where = name if begin is broad else where
    else:
        begin, where = coordinates.pull(start), type(start).__name__
    tilts = tilts_at(begin, target, found.best.levels.position, raised)
    return Problem(target, begin, where, found, tilts, posed.log_constant, original, raised)


def tilts_at(start: Expert, target: Expert, position: Tensor, raised: Raised) -> Tensor:
    """d/dt log γ_t at positions ``(islands, n, *event)``: ``(islands, n)``."""
    path = geometric_path(start, target, raised)
    tilt = path.tilt(path.evaluate(position.flatten(0, 1), with_score=False))
    return tilt.reshape(position.shape[:2])
