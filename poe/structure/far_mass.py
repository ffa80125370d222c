"""Whether mass lies towards infinity: a density watched along rays that lead away from its draws.

In polar coordinates of a flat of k dimensions through almost every u, and along almost every ray in
it, ∫ π(u + r v) r^(k − 1) dr is finite where the integral of π is: h(r) = log π(u + r v) + k log r
falls without end. Rays in a fixed direction are asked with k = 1, those in random directions within
k coordinates with that k. A funnel or a ridge that narrows fast enough has no such ray, however
high it rises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.core.errors import ImproperError, NonFiniteError, PoeError, is_out_of_memory
from poe.core.joint_space import Joint
from poe.core.space import Count, Real, Space
from poe.density.conditional import is_batch
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert, conjunction
from poe.structure.proper import is_decided
from poe.structure.rays import MAX_CURVED, NUM_CLIMBS, NUM_PRINCIPAL, Frame, Rays, seeded_alike
from poe.structure.tails import name_direction

NUM_RADII = 8
NEAR = 5.0
"""Where rays begin, in standard deviations of the draws, times √k."""
FAR = {torch.float64: 30.0, torch.float32: 12.0}
"""The logarithm to base 10 of how far they lead, for squares and fourth powers to be finite."""
FAR_IN_HALF = 3.0
MIN_SPAN, MIN_KNOWN = math.log(10.0), 4
"""Rays that end sooner, or tell at fewer radii, say nothing."""
LAST_STEPS = 3
NUM_TURNS = 4
"""How often a gradient is followed to the next."""
MAX_CONFIRMED, ENOUGH = 6, 0.75
"""The rays looked at again, and what share of their like is to tell the same."""
SLOWEST = 0.01
"""What falls off more slowly than r^(−k − 0.01) is not told from what does not."""
LARGEST = math.log(torch.finfo(torch.float64).max)
NOTABLE = 3.0
"""A log-density is higher far out than among draws where it is so by more than chance."""
NATS = 10.0
"""Mass of exp(−10) of that at the draws, a unit of log r, is worth a word."""


class FarMass(NamedTuple):
    """Where a density does not fall off as one with a finite integral must.

    - ``where``: in words;
    - ``distance``, ``log_density``, ``near``: how far out, in standard deviations of the draws, the
      log-density is that high, and how high it is at the draws;
    - ``dimension``: k, the log-density has to fall by more than k log r;
    - ``rising``: the factors whose own log-densities grow on the way;
    - ``chains``: the chains it is about, of a batch of densities.
    """

    where: str
    distance: float
    log_density: float
    near: float
    dimension: int
    rising: tuple[str, ...]
    chains: tuple[int, ...] = ()

    def __str__(self) -> str:
        grows = ", ".join(repr(name) for name in self.rising)
        blame = f"; what grows there is {grows}" if grows else ""
        return (
            f"the target may be improper, with no finite normaliser: {self.distance:.0e} standard "
            f"deviations from the draws {self.where} its log-density is {self.log_density:.4g}, "
            f"{self.near:.4g} among them, and it does not fall like -{self.dimension} log(distance)"
            f"{blame}. Multiply by an expert that falls off there, such as a broad Gaussian, or "
            "use a smaller weight on what grows"
        )


class Looked(NamedTuple):
    """What rays told: mass far out, or None, and how many positions were evaluated."""

    found: FarMass | None
    num_evaluations: int

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """One doubt, or none."""
        found = self.found
        return () if found is None else (Doubt(Kind.IMPROPER, str(found), found.chains),)


class _Seen(NamedTuple):
    """What was found along rays, each ``(rays, radii)``.

    ``is_known``: up to where a ray leads, before values are NaN, +inf, −inf or mere rounding;
    ``is_zero`` ``(rays,)``: whether it ended at −inf.
    """

    log_radius: Tensor
    value: Tensor
    noise: Tensor
    is_known: Tensor
    is_zero: Tensor

    @property
    def last(self) -> Tensor:
        """The last radius that tells, ``(rays,)``."""
        return self.is_known.sum(1).clamp(min=1) - 1

    @property
    def is_long(self) -> Tensor:
        """Whether a ray leads far enough to tell, ``(rays,)``."""
        span = _at(self.log_radius, self.last) - self.log_radius[:, 0]
        return (self.is_known.sum(1) >= MIN_KNOWN) & (span >= MIN_SPAN)


def look_far(
    target: Expert,
    u: Tensor,
    *,
    cloud: Tensor | None = None,
    rows_at_once: int | None = None,
) -> Looked:
    """Whether a target whose properness is not decided has infinite mass, as far as rays tell.

    Rays leave the draws, and standard normals beside: chains that ran off may be where nothing can
    be told any more. Exceptions of the target, far from its draws, and NaN are no evidence: rays
    end there. Nothing is said of what cannot be told. Random numbers are the same at every call.

    Args:
        target: p̃.
        u: Its draws, or where chains are, in unconstrained coordinates, ``(n, *event)``; of a batch
            of densities, one for each.
        cloud: More positions, for their spread and principal directions; by default ``u``.
        rows_at_once: Evaluate the target on no more positions than this at a time.

    Returns:
        What was found, with one doubt or none.

    >>> g = torch.Generator().manual_seed(0)
    >>> bounded = poe.FromLogDensity(lambda x: x.sum(-1).tanh(), space=poe.Real(2))
    >>> [doubt] = look_far(bounded, torch.randn(8, 2, generator=g)).doubts
    >>> doubt.kind.name, doubt.text[:62]
    ('IMPROPER', 'the target may be improper, with no finite normaliser: 1e+12 s')
    >>> confined = bounded * poe.FromEnergy(lambda x: x.abs().sum(-1), space=poe.Real(2))
    >>> look_far(confined, torch.randn(8, 2, generator=g)).doubts
    ()
    """
    if is_decided(target):
        return Looked(None, 0)
    return far_mass(target, u, cloud=cloud, rows_at_once=rows_at_once)


@contextmanager
def failing_where_improper(target: Expert, u: Tensor) -> Iterator[None]:
    """What fails on its way to an improper target is an ImproperError, which says why.

    Args:
        target: p̃.
        u: Positions in unconstrained coordinates, ``(n, *event)``.

    Yields:
        Nothing: inside, the run is made.

    Raises:
        ImproperError: In place of another PoeError or RuntimeError, where rays tell that mass is
            infinite.
    """
    try:
        yield
    except (ImproperError, NonFiniteError):  # which say themselves what to mend
        raise
    except (PoeError, RuntimeError) as error:  # such as that of a factorisation
        if is_out_of_memory(error):
            raise
        if doubts := look_far(target, u).doubts:
            raise ImproperError(f"{doubts[0]}. The run itself ended in: {error}") from error
        raise


@torch.no_grad()
def far_mass(
    target: Expert, u: Tensor, *, cloud: Tensor | None = None, rows_at_once: int | None = None
) -> Looked:
    """Where a density does not fall off, if anywhere; the arguments are those of `look_far`.

    >>> constant = poe.FromLogDensity(lambda x: 0 * x.sum(-1), space=poe.Real(1))
    >>> far_mass(constant, torch.randn(8, 1)).found.where
    'towards infinity'
    """
    if (coordinates := Coordinates(target.space)).was_of_u(target):
        target = coordinates.pull(target)  # where x is not rounded
    field, starts = _Field(target, rows_at_once), _in_rows(u)
    if 0 in starts.shape:
        return Looked(None, 0)
    around = starts if cloud is None else _in_rows(cloud)
    heights = field.heights(starts)
    found = field.look(Frame(starts[heights > -torch.inf], around), heights)
    if found is None and not field.is_told:
        drawn = torch.randn(starts.shape, generator=seeded_alike(starts), device=starts.device)
        beside = drawn.to(starts)
        others = field.heights(beside)
        frame = Frame(beside[others > -torch.inf], None)
        found = field.look(frame, torch.maximum(heights, others))
    return Looked(found, field.num_evaluations)


def _in_rows(u: Tensor) -> Tensor:
    """``(n, *event)`` to ``(n, d)``; single numbers too are rows, of one."""
    return u.detach().reshape(len(u), -1) if len(u) else u.detach().new_empty((0, 1))


class _Field:
    """A target as it is seen along rays: factor by factor, in flat unconstrained coordinates."""

    def __init__(self, target: Expert, rows_at_once: int | None) -> None:
        self.target = target
        self.names, self.factors = zip(*target._factors(), strict=True)
        self.coordinates = Coordinates(target.space)
        self.is_count = isinstance(target.space, Count)
        self.places = _places(target.space)
        self.rows_at_once = rows_at_once
        self.num_evaluations = 0
        self.is_told = False
        """Whether most rays led far enough to tell."""

    def look(self, frame: Frame, heights: Tensor) -> FarMass | None:
        """What rays out of a frame tell, beside how high the target is at its draws."""
        if is_batch(self.target):
            return self._look_apart(frame, heights)
        if len(frame.starts) == 0:
            return None
        near = heights.amax()
        rays = frame.upward() if self.is_count else frame.rays(self.steepest(frame))
        rays = self._leading_out(rays)
        seen = self.along(rays)
        self.is_told = bool(seen.is_long.double().mean() > ENOUGH)
        for row in _suspected(rays, seen, near)[:MAX_CONFIRMED]:
            again = frame.again(rays.one(row), self.is_count)
            seen = self.along(again)
            confirmed = _is_heavy(again, seen, near).double()
            if confirmed.mean() >= ENOUGH and not self._falls_farther(again, frame.rounding):
                return self.told(again, seen, int(confirmed.argmax()), near)
        return None

    def _falls_farther(self, rays: Rays, rounding: float) -> bool:
        """Whether the like of one ray, which end early, all fall beyond, and not by rounding."""
        if bool((rays.limit == torch.inf).any()):
            return False
        limit = torch.full_like(rays.limit, math.log(0.01 / rounding))
        seen = self.along(rays._replace(limit=limit))
        fall = (seen.value[:, 0] - seen.value[:, -1]).clamp(max=1e30)
        return bool(fall.mean() > 10 + 3 * fall.std())

    def _look_apart(self, frame: Frame, heights: Tensor) -> FarMass | None:
        """One density a chain: a chain is suspected by at least two of its own rays."""
        num_chains = len(heights)
        if len(frame.starts) < num_chains:
            return None
        rays = self._leading_out(frame.apart())
        near = heights.repeat(len(rays.origin) // num_chains)
        seen = self.along(rays)
        self.is_told = bool(seen.is_long.double().mean() > ENOUGH)
        is_heavy = _is_heavy(rays, seen, near)
        chains = (is_heavy.reshape(-1, num_chains).sum(0) >= 2).nonzero().flatten().tolist()
        if not chains:
            return None
        row = next(i for i in is_heavy.nonzero().flatten().tolist() if i % num_chains == chains[0])
        return self.told(rays, seen, row, near[row])._replace(chains=tuple(chains))

    def heights(self, u: Tensor) -> Tensor:
        """log π at each of ``(n, d)``, −inf where it is not known."""
        value = conjunction(self._tried(u))
        return torch.where(value.isfinite(), value, -torch.inf)

    def along(self, rays: Rays) -> _Seen:
        """Outward, radius by radius; a ray ends where the target raises, or is not finite."""
        log_radius = self._log_radii(rays)
        shape, eps = log_radius.shape, torch.finfo(rays.direction.dtype).eps
        value = torch.full(shape, torch.nan, dtype=torch.float64, device=log_radius.device)
        noise, is_ambiguous = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.bool)
        is_open = torch.ones_like(is_ambiguous[:, 0])
        for j in range(NUM_RADII):
            at = torch.where(is_open, log_radius[:, j], -torch.inf)  # back where it began
            said = self._tried(self._position(rays, at))
            value[:, j] = torch.where(is_open, conjunction(said), torch.nan)
            is_ambiguous[:, j], noise[:, j] = said.isposinf().any(0), 4 * eps * said.abs().sum(0)
            is_open = is_open & value[:, j].isfinite()
        is_rounding = ~(noise <= (1e-3 * value.abs()).clamp(min=0.1))
        is_known = (~is_ambiguous & value.isfinite() & ~is_rounding).cummin(1).values
        is_next = is_known.sum(1, keepdim=True).clamp(max=NUM_RADII - 1)
        is_zero = (value.isneginf() & ~is_ambiguous).gather(1, is_next)[:, 0] & ~is_known[:, -1]
        return _Seen(log_radius, value, noise, is_known, is_zero)

    def steepest(self, frame: Frame) -> Tensor:
        """Directions in which gradients far out say that the target falls least: ``(n, d)``.

        Of a log-density that is quadratic far out, the eigenvectors of its curvature there, and
        the gradient itself, followed for a few turns, of one that is linear.
        """
        nothing = frame.starts.new_zeros(0, frame.d)
        if not isinstance(self.target.space, Real):
            return nothing
        units, distance = frame.units(), torch.finfo(nothing.dtype).eps ** -0.4
        slope = self._gradient(frame, units, distance)
        if slope is None:
            return nothing
        found = [_least_curved(slope, distance)] if frame.d <= MAX_CURVED else []
        for _ in range(NUM_TURNS):
            if slope is None:
                break
            turned = _of_unit_length(slope[:NUM_CLIMBS])
            found = [*found[:1], turned] if frame.d <= MAX_CURVED else [turned]
            slope = self._gradient(frame, turned * frame.scale, distance)
        directions = torch.cat(found) * frame.scale
        return directions[(directions != 0).any(1)]

    def _gradient(self, frame: Frame, units: Tensor, distance: float) -> Tensor | None:
        """The score that far out, in units of the draws' spread; None where there is none."""
        u = frame.starts[:1] + distance * units
        self.num_evaluations += len(u)
        try:
            score = self.target.score(self._to_x(u)).reshape(u.shape) * frame.scale
        except Exception as error:  # far from all draws, as in `_tried`
            if is_out_of_memory(error):
                raise
            return None
        return score if bool(score.isfinite().all()) else None

    def told(self, rays: Rays, seen: _Seen, row: int, near: Tensor) -> FarMass:
        """One ray in words."""
        last = int(seen.is_known[row].sum()) - 1
        ends = [self._position(rays, seen.log_radius[:, j])[row] for j in (0, last)]
        first, said = (self._said_of(rays, end, row) for end in ends)
        is_rising = (said - first)[:-1] > 1.0
        rising = [name for name, is_up in zip(self.names, is_rising.tolist(), strict=True) if is_up]
        return FarMass(
            where=self._where(rays.direction[row], ends[1]),
            distance=math.exp(float(seen.log_radius[row, last])),
            log_density=float(seen.value[row, last]),
            near=float(near),
            dimension=int(rays.flat[row]),
            rising=tuple(rising) if len(self.names) > 1 else (),
        )

    def _where(self, direction: Tensor, end: Tensor) -> str:
        shape = self.coordinates.u_space.event_shape
        if isinstance(self.target.space, Real) or len(end) > 4:
            return name_direction(direction / direction.norm(), shape)
        x = self._to_x(end[None])[0].flatten()
        return f"towards x = [{', '.join(f'{part:.3g}' for part in x.tolist())}]"

    def _leading_out(self, rays: Rays) -> Rays:
        """The same without what labels, of which there are few, would be moved; some then end."""
        if not isinstance(self.target.space, Joint):
            return rays
        direction = rays.direction.masked_fill(self.places.last.isfinite().to(rays.limit.device), 0)
        moving = (direction != 0).sum(1)
        flat = torch.where(rays.flat > 1, moving.clamp(min=1), rays.flat)
        return Rays(rays.origin, direction, flat, rays.limit.masked_fill(moving == 0, -torch.inf))

    def _position(self, rays: Rays, log_radius: Tensor) -> Tensor:
        u = rays.origin + rays.direction * log_radius.exp()[:, None].to(rays.direction)
        if self.is_count:
            return u.round().abs()
        if not isinstance(self.target.space, Joint):
            return u
        whole = torch.minimum(u.round().abs(), self.places.last.to(u))
        return torch.where(self.places.is_whole.to(u.device), whole, u)

    def _log_radii(self, rays: Rays) -> Tensor:
        """``(rays, radii)``: ever larger steps from near to as far as x can be told apart."""
        near = (NEAR * rays.flat.double().sqrt()).log()
        dtype = rays.direction.dtype
        far = torch.full_like(near, FAR.get(dtype, FAR_IN_HALF) * math.log(10.0))
        far = torch.minimum(far, rays.limit)
        share = torch.linspace(0, 1, NUM_RADII, dtype=torch.float64, device=near.device)
        if not (self.coordinates.is_identity or self.is_count):
            far = self._reach(rays, near, far)
        return near[:, None] + (far - near).clamp(min=0.0)[:, None] * share.square()

    def _reach(self, rays: Rays, near: Tensor, far: Tensor) -> Tensor:
        """The last of 24 radii up to which x goes back to u, and is no end of its space."""
        reach, is_there = near.clone(), torch.ones_like(near, dtype=torch.bool)
        for share in torch.linspace(0, 1, 24).tolist():
            log_radius = near + (far - near) * share**2
            is_there = is_there & self._is_apart(self._position(rays, log_radius))
            reach = torch.where(is_there, log_radius, reach)
        return reach

    def _is_apart(self, u: Tensor) -> Tensor:
        """Whether each of ``(n, d)`` is known by its x."""
        try:
            back = self.coordinates.to_u(self._to_x(u)).reshape(u.shape)
        except (RuntimeError, ValueError) as error:  # a matrix that rounding made singular, say
            if is_out_of_memory(error):
                raise
            return torch.zeros(len(u), dtype=torch.bool, device=u.device)
        return ((back - u).abs() <= 1e-2 * (1 + u.abs())).all(1)

    def _to_x(self, u: Tensor) -> Tensor:
        return self.coordinates.to_x(u.reshape(-1, *self.coordinates.u_space.event_shape))

    def _tried(self, u: Tensor) -> Tensor:
        """What factors say, NaN where a position is not finite, or the target raises there."""
        is_finite = u.isfinite().all(1)
        said = self._said_or_nan(torch.where(is_finite[:, None], u, torch.zeros_like(u)))
        return torch.where(is_finite, said, torch.nan)

    def _said_or_nan(self, u: Tensor) -> Tensor:
        try:
            return self._said(u)
        except Exception as error:  # far from all draws: no evidence, and no fault of a run
            if is_out_of_memory(error):
                raise
            if len(u) == 1 or is_batch(self.target):
                shape = (len(self.factors) + 1, len(u))
                return torch.full(shape, torch.nan, dtype=torch.float64, device=u.device)
            return torch.cat([self._said_or_nan(half) for half in u.chunk(2)], 1)

    def _said(self, u: Tensor) -> Tensor:
        """Each factor's log-density, and the volume's, ``(factors + 1, n)`` in float64."""
        count = self.rows_at_once or len(u)
        if is_batch(self.target):
            count = self.target.num_densities or len(u)
        return torch.cat([self._said_at_once(part) for part in u.split(count)], 1)

    def _said_at_once(self, u: Tensor) -> Tensor:
        x = self._to_x(u)
        self.num_evaluations += len(u)
        said = torch.stack([factor(x).double() for factor in self.factors])
        shaped = u.reshape(-1, *self.coordinates.u_space.event_shape)
        volume = -self.coordinates.log_density_of_x(shaped, x, torch.zeros_like(said[0]))
        return torch.cat([said, volume[None]])

    def _said_of(self, rays: Rays, u: Tensor, row: int) -> Tensor:
        """Of one position; a batch of densities is asked in its own order."""
        if not is_batch(self.target):
            return self._said(u[None])[:, 0]
        count = self.target.num_densities or 1
        return self._said(u.expand(count, -1))[:, row % count]


class _Places(NamedTuple):
    """Of each element of a vector: whether it is a whole number, and the last of them: ``(d,)``."""

    is_whole: Tensor
    last: Tensor


def _places(space: Space) -> _Places:
    parts = space.parts if isinstance(space, Joint) else (space,)
    last = torch.cat(
        [
            torch.full((part.event_shape.numel(),), (part.num_values or torch.inf) - 1.0)
            for part in parts
        ]
    )
    sizes = [part.event_shape.numel() for part in parts]
    is_whole = torch.tensor([part.is_discrete for part in parts])
    return _Places(is_whole.repeat_interleave(torch.tensor(sizes)), last)


def _of_unit_length(rows: Tensor) -> Tensor:
    """The same directions, 0 where there is none; squares of what is huge would overflow."""
    largest = rows.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(rows / largest.clamp(min=torch.finfo(rows.dtype).tiny))


def _least_curved(slope: Tensor, distance: float) -> Tensor:
    """Directions of largest second derivative, from gradients along ± each axis ``(2 d, d)``."""
    ahead, behind = slope.double().chunk(2)
    curvature = (ahead - behind) / (2 * distance)
    _, vectors = torch.linalg.eigh(curvature + curvature.mT)  # ascending
    return vectors.mT.flip(0)[:NUM_PRINCIPAL].to(slope)


def _suspected(rays: Rays, seen: _Seen, near: Tensor) -> list[int]:
    """Rays along which mass does not die out, the heaviest first."""
    height = _at(seen.value, seen.last) + rays.flat * _at(seen.log_radius, seen.last)
    rows = _is_heavy(rays, seen, near).nonzero().flatten()
    found: list[int] = rows[height[rows].argsort(descending=True)].tolist()
    return found


def _is_heavy(rays: Rays, seen: _Seen, near: Tensor) -> Tensor:
    """Whether h(r) = log π + k log r does not fall on the outer half of each ray: ``(rays,)``."""
    flat, last = rays.flat.double(), seen.last
    value, log_radius = (_at(column, last) for column in (seen.value, seen.log_radius))
    slope, error = _slope(seen)
    is_flat = (last >= MIN_KNOWN) & (slope - 2 * error >= -flat - SLOWEST)
    is_higher = value - _at(seen.noise, last) > near + NOTABLE
    is_rising = _is_rising(seen, flat, is_higher)
    # A floor is reached after a fall that the slope of the whole ray still shows.
    slope = torch.where(is_rising, torch.maximum(slope, _last_slope(seen)), slope)
    beyond = (slope + flat).clamp(min=0.0) * (LARGEST - log_radius)
    is_worth = value + flat * log_radius + beyond > near - NATS
    return seen.is_long & (is_rising | is_flat) & is_worth & (~seen.is_zero | is_higher)


def _is_rising(seen: _Seen, flat: Tensor, is_higher: Tensor) -> Tensor:
    """Whether each of the last steps keeps h, for sure, or where it is high perhaps."""
    steps = seen.log_radius.diff(dim=1)
    rise = seen.value.diff(dim=1) + flat[:, None] * steps
    rounding = seen.noise[:, 1:] + seen.noise[:, :-1]
    keeps = rise - torch.where(is_higher[:, None], -rounding, rounding) >= -SLOWEST * steps
    steps_back = [(seen.last - back).clamp(min=0) for back in range(1, LAST_STEPS + 1)]
    return torch.stack([_at(keeps, index) for index in steps_back]).all(0)


def _last_slope(seen: _Seen) -> Tensor:
    """d log π / d log r over the last steps that tell: ``(rays,)``."""
    before = (seen.last - LAST_STEPS).clamp(min=0)
    rise = _at(seen.value, seen.last) - _at(seen.value, before)
    run = _at(seen.log_radius, seen.last) - _at(seen.log_radius, before)
    return rise / run.clamp(min=1e-9)


def _slope(seen: _Seen) -> tuple[Tensor, Tensor]:
    """d log π / d log r by least squares, and its error: ``(rays,)`` both."""
    weight = seen.is_known.double()
    count = seen.is_known.sum(1).clamp(min=3).double()
    y = torch.where(seen.is_known, seen.value, 0.0)
    scale = y.abs().amax(1, keepdim=True).clamp(min=1.0)  # squares of what grows like r⁴ overflow
    x, y = ((column * weight) for column in (seen.log_radius, y / scale))
    x_mean, y_mean = (column.sum(1, keepdim=True) / count[:, None] for column in (x, y))
    dx, dy = (x - x_mean) * weight, (y - y_mean) * weight
    spread = dx.square().sum(1).clamp(min=1e-30)
    slope = (dx * dy).sum(1) / spread
    residual = (dy - slope[:, None] * dx).square().sum(1) / (count - 2)
    return slope * scale[:, 0], (residual / spread).sqrt() * scale[:, 0]


def _at(columns: Tensor, index: Tensor) -> Tensor:
    return columns.gather(1, index[:, None])[:, 0]
