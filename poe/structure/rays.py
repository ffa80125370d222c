"""Whether mass lies towards infinity: a density watched along rays that lead away from its draws.

Where the integral of π over ℝᵈ is finite, so is, for almost every u, its integral over the line
through u in any one direction, over the plane through u of any two, and so on (Fubini). In polar
coordinates of such a flat of k dimensions: along almost every ray ∫ π(u + r v) r^(k − 1) dr is
finite, so that h(r) = log π(u + r v) + k log r falls without end. Rays that leave draws along fixed
directions are asked with k = 1, those in random directions within k coordinates with that k. A
funnel or a ridge that narrows fast enough has no such ray, however high it rises.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.core.errors import ImproperError, PoeError
from poe.core.space import Count, Real
from poe.density.conditional import is_batch
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert, conjunction
from poe.structure.proper import is_decided
from poe.structure.tails import name_direction

NUM_RADII = 8
NEAR = 5.0
"""Where rays begin, in standard deviations of the draws, times √k."""
FAR = {torch.float64: 30.0, torch.float32: 12.0}
"""The logarithm to base 10 of how far they lead, for squares and fourth powers to be finite."""
FAR_IN_HALF = 3.0
MIN_SPAN, MIN_KNOWN = math.log(10.0), 4
"""Rays that end sooner, or tell at fewer radii, say nothing."""
MAX_AXES, NUM_PAIRS, NUM_CONES, NUM_FLATS, NUM_PRINCIPAL, NUM_SIGNS = 32, 8, 24, 8, 4, 4
MAX_CURVED, NUM_CLIMBS, NUM_TURNS = 64, 8, 4
"""Up to so many dimensions the curvature far out is worked out; climbs, and gradients of each."""
FEW = 8
"""So many axes and cones for a batch of densities, each with rays of its own."""
MAX_CONFIRMED, NUM_AGAIN = 6, 8
"""The rays looked at again, and from how many other draws or directions nearby each is."""
ENOUGH = 0.75
"""Of these, so many are to tell the same."""
ANGLE, NEARBY = 0.05, 0.1
"""How far those directions and starts are apart, in radians and standard deviations."""
MAX_CLOUD = 512
"""More positions than these say little more of their spread."""
SLOWEST = 0.01
"""What falls off more slowly than r^(−k − 0.01) is not told from what does not."""
LARGEST = math.log(torch.finfo(torch.float64).max)
NOTABLE = 3.0
"""A log-density is higher far out than among draws where it is so by more than chance."""
NATS = 10.0
"""Mass of exp(−10) of that at the draws, a unit of log r, is worth a word."""
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class Rays(NamedTuple):
    """Ways u + r v out of a density, r ≥ 0, in unconstrained coordinates of d numbers.

    - ``origin``, ``direction`` ``(rays, d)``: u and v, which is a standard deviation long;
    - ``flat`` ``(rays,)``: k, the dimension of what v was drawn from;
    - ``is_line`` ``(rays,)``: whether v is at an angle to the axes, so that rounding loses u.
    """

    origin: Tensor
    direction: Tensor
    flat: Tensor
    is_line: Tensor

    def one(self, row: int) -> Rays:
        """A single one of them."""
        return Rays(*(column[row] for column in self))


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
        ImproperError: In place of another PoeError, where rays tell that mass is infinite.
    """
    try:
        yield
    except ImproperError:
        raise
    except (PoeError, torch.linalg.LinAlgError) as error:
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
    field, starts = _Field(target, rows_at_once), u.detach().flatten(1)
    if 0 in starts.shape:
        return Looked(None, 0)
    around = starts if cloud is None else cloud.detach().flatten(1)
    heights = field.heights(starts)
    found = field.look(_Frame(starts, around).inside(heights), heights)
    if found is None and not field.is_told:
        drawn = torch.randn(starts.shape, generator=_generator(starts), device=starts.device)
        beside = drawn.to(starts)
        others = field.heights(beside)
        found = field.look(_Frame(beside, None).inside(others), torch.maximum(heights, others))
    return Looked(found, field.num_evaluations)


def _generator(like: Tensor) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(0)


class _Frame:
    """Where rays begin, ``starts (n, d)``, and which directions the draws suggest."""

    def __init__(self, starts: Tensor, cloud: Tensor | None) -> None:
        self.starts, self.d = starts, starts.shape[1]
        self.generator = _generator(starts)
        self.is_of_draws = cloud is not None
        self.scale, self.principal = _spread(starts[:0] if cloud is None else cloud)

    def inside(self, heights: Tensor) -> _Frame:
        """Of the starts that are where the density is known, and is not 0."""
        self.starts = self.starts[heights > -torch.inf]
        return self

    def rays(self, *straight: Tensor) -> Rays:
        """Along axes, their diagonals, the draws' principal directions, given ones; at random."""
        one = torch.ones(1, dtype=torch.int64, device=self._at)
        parts = [
            self._leaving(self._axes(MAX_AXES), one, False),
            self._leaving(*self._in_flats(), False),
        ]
        if self.is_of_draws:  # elsewhere they end too soon to tell
            lines = torch.cat([*self._diagonals(), self.principal, *straight])
            parts.append(self._leaving(lines, one, True))
        return Rays(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def upward(self) -> Rays:
        """For counts: towards infinity alone."""
        rays = self.rays()
        return rays._replace(
            direction=rays.direction.abs(), is_line=torch.zeros_like(rays.is_line)
        )

    def apart(self) -> Rays:
        """A few from each start, start by start: ``(directions * n, d)``."""
        axes, (random, flats) = self._axes(FEW), self._in_flats()
        directions = torch.cat([axes, -axes, random[:FEW]])
        flat = torch.cat([torch.ones_like(flats[:1]).expand(2 * len(axes)), flats[:FEW]])
        n = len(self.starts)
        return Rays(
            self.starts.repeat(len(directions), 1),
            directions.repeat_interleave(n, 0),
            flat.repeat_interleave(n),
            torch.zeros(n * len(directions), dtype=torch.bool, device=self.starts.device),
        )

    def again(self, ray: Rays, is_upward: bool) -> Rays:
        """The same from other draws; in a direction nearby where it was drawn at random."""
        direction = ray.direction.expand(NUM_AGAIN, -1)
        if int(ray.flat) > 1:
            turned = self._normal(NUM_AGAIN) * (ray.direction != 0)
            direction = direction + ANGLE * self.scale * turned
        direction = direction.abs() if is_upward else direction
        rest = (ray.flat.expand(NUM_AGAIN), ray.is_line.expand(NUM_AGAIN))
        return Rays(self._origins(NUM_AGAIN), direction, *rest)

    def units(self) -> Tensor:
        """Each axis both ways, a standard deviation long, or some random directions of many."""
        if self.d <= MAX_CURVED:
            axes = torch.diag_embed(self.scale)
            return torch.cat([axes, -axes])
        return self._in_flats()[0][:NUM_CLIMBS]

    def _leaving(self, directions: Tensor, flat: Tensor, is_line: bool) -> Rays:
        both = torch.cat([directions, -directions])
        flat = flat.expand(len(directions)).repeat(2)
        told = torch.full((len(both),), is_line, device=both.device)
        return Rays(self._origins(len(both)), both, flat, told)

    def _origins(self, count: int) -> Tensor:
        """Starts, moved a little: chains may begin where a density is like nowhere nearby."""
        rows = torch.randint(len(self.starts), (count,), generator=self.generator, device=self._at)
        return self.starts[rows] + NEARBY * self.scale * self._normal(count)

    def _axes(self, most: int) -> Tensor:
        chosen = torch.randperm(self.d, generator=self.generator, device=self._at)[:most]
        return torch.diag_embed(self.scale)[chosen] if self.d <= most else self._one_hot(chosen)

    def _one_hot(self, chosen: Tensor) -> Tensor:
        zeros = self.scale.new_zeros(len(chosen), self.d)
        return zeros.scatter(1, chosen[:, None], self.scale[chosen][:, None])

    def _diagonals(self) -> list[Tensor]:
        """Signs (±1, ..., ±1), in units of x and of the draws' spread, and pairs of axes."""
        if self.d == 1:
            return []
        signs = self._signs()
        size = self.scale.square().mean().sqrt()
        return [signs * self.scale, signs * size, self._pairs() * self.scale, self._pairs() * size]

    def _signs(self) -> Tensor:
        """Half of all, since rays go both ways."""
        if self.d <= 3:
            rest = itertools.product([1.0, -1.0], repeat=self.d - 1)
            return self.scale.new_tensor([[1.0, *signs] for signs in rest])
        ones = self.scale.new_ones(1, self.d)
        return torch.cat([ones, self._normal(NUM_SIGNS - 1).sign()])

    def _pairs(self) -> Tensor:
        """e_i ± e_j, some of them."""
        if self.d < 3:
            return self.scale.new_zeros(0, self.d)
        pairs = self.scale.new_zeros(NUM_PAIRS, self.d)
        for row in range(NUM_PAIRS):
            chosen = torch.randperm(self.d, generator=self.generator, device=self._at)[:2]
            pairs[row, chosen] = self.scale.new_tensor([1.0, -1.0 if row % 2 else 1.0])
        return pairs

    def _in_flats(self) -> tuple[Tensor, Tensor]:
        """Random directions in all coordinates, and in some: ``(n, d)``, and of how many."""
        cones, flats = self._normal(NUM_CONES), self._normal(NUM_FLATS)
        if self.d < 3:
            random = cones
        else:
            sizes = torch.linspace(2, self.d - 1, NUM_FLATS).round().to(cones)
            order = torch.rand(flats.shape, generator=self.generator, device=self._at)
            random = torch.cat([cones, flats * (order.argsort(1) < sizes[:, None])])
        return random * self.scale / random.norm(dim=1, keepdim=True), (random != 0).sum(1)

    def _normal(self, count: int) -> Tensor:
        shape = (count, self.d)
        drawn = torch.randn(shape, generator=self.generator, device=self._at)
        return drawn.to(self.scale.dtype)

    @property
    def _at(self) -> torch.device:
        return self.starts.device


def _spread(cloud: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations ``(d,)``, 1 where there are none, and some principal directions.

    The directions are a standard deviation long: those of most variance, and of least.
    """
    floats = cloud if cloud.is_floating_point() else cloud.to(torch.get_default_dtype())
    floats = floats[floats.isfinite().all(1)][:: 1 + len(floats) // MAX_CLOUD]
    n, d = floats.shape
    if n < 2:
        return floats.new_ones(d), floats.new_zeros(0, d)
    scale = floats.std(0)
    scale = torch.where((scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))
    centred = (floats - floats.mean(0)) / scale
    if d == 1 or not bool(centred.isfinite().all()):
        return scale, floats.new_zeros(0, d)
    _, _, rows = torch.linalg.svd(centred, full_matrices=False)
    rows = torch.cat([rows[:NUM_PRINCIPAL], rows[NUM_PRINCIPAL:][-NUM_PRINCIPAL:]])
    return scale, rows * scale


class _Field:
    """A target as it is seen along rays: factor by factor, in flat unconstrained coordinates."""

    def __init__(self, target: Expert, rows_at_once: int | None) -> None:
        self.target = target
        self.names, self.factors = zip(*target._factors(), strict=True)
        self.coordinates = Coordinates(target.space)
        self.is_count = isinstance(target.space, Count)
        self.rows_at_once = rows_at_once
        self.num_evaluations = 0
        self.is_told = False
        """Whether most rays led far enough to tell."""

    def look(self, frame: _Frame, heights: Tensor) -> FarMass | None:
        """What rays out of a frame tell, beside how high the target is at its draws."""
        if is_batch(self.target):
            return self._look_apart(frame, heights)
        if len(frame.starts) == 0:
            return None
        near = heights.amax()
        rays = frame.upward() if self.is_count else frame.rays(self.steepest(frame))
        seen = self.along(rays)
        self.is_told = bool(seen.is_long.double().mean() > ENOUGH)
        for row in _suspected(rays, seen, near)[:MAX_CONFIRMED]:
            again = frame.again(rays.one(row), self.is_count)
            seen = self.along(again)
            confirmed = _is_heavy(again, seen, near).double()
            if confirmed.mean() >= ENOUGH:
                return self.told(again, seen, int(confirmed.argmax()), near)
        return None

    def _look_apart(self, frame: _Frame, heights: Tensor) -> FarMass | None:
        """One density a chain: a chain is suspected by at least two of its own rays."""
        num_chains = len(heights)
        if len(frame.starts) < num_chains:
            return None
        rays = frame.apart()
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
        is_finite = u.isfinite().all(1)
        said = self._tried(torch.where(is_finite[:, None], u, torch.zeros_like(u)))
        if said is None:
            return torch.full((len(u),), -torch.inf, dtype=torch.float64, device=u.device)
        value = conjunction(said)
        return torch.where(value.isfinite() & is_finite, value, -torch.inf)

    def along(self, rays: Rays) -> _Seen:
        """Outward, radius by radius; where the target raises, all rays end."""
        log_radius = self._log_radii(rays)
        shape, eps = log_radius.shape, torch.finfo(rays.direction.dtype).eps
        value = torch.full(shape, torch.nan, dtype=torch.float64, device=log_radius.device)
        noise, is_ambiguous = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.bool)
        for j in range(NUM_RADII):
            said = self._tried(self._position(rays, log_radius[:, j]))
            if said is None:
                break
            value[:, j], is_ambiguous[:, j] = conjunction(said), said.isposinf().any(0)
            noise[:, j] = 4 * eps * said.abs().sum(0)
        is_rounding = ~(noise <= (1e-3 * value.abs()).clamp(min=0.1))
        is_known = (~is_ambiguous & value.isfinite() & ~is_rounding).cummin(1).values
        is_next = is_known.sum(1, keepdim=True).clamp(max=NUM_RADII - 1)
        is_zero = (value.isneginf() & ~is_ambiguous).gather(1, is_next)[:, 0] & ~is_known[:, -1]
        return _Seen(log_radius, value, noise, is_known, is_zero)

    def steepest(self, frame: _Frame) -> Tensor:
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

    def _gradient(self, frame: _Frame, units: Tensor, distance: float) -> Tensor | None:
        """The score that far out, in units of the draws' spread; None where there is none."""
        u = frame.starts[:1] + distance * units
        self.num_evaluations += len(u)
        try:
            score = self.target.score(self._to_x(u)).flatten(1) * frame.scale
        except OUT_OF_MEMORY:
            raise
        except Exception:  # far from all draws, as in `_tried`
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

    def _position(self, rays: Rays, log_radius: Tensor) -> Tensor:
        u = rays.origin + rays.direction * log_radius.exp()[:, None].to(rays.direction)
        return u.round().abs() if self.is_count else u

    def _log_radii(self, rays: Rays) -> Tensor:
        """``(rays, radii)``: ever larger steps from near to as far as x can be told apart."""
        near = (NEAR * rays.flat.double().sqrt()).log()
        dtype = rays.direction.dtype
        far = torch.full_like(near, FAR.get(dtype, FAR_IN_HALF) * math.log(10.0))
        far = torch.where(rays.is_line, far.clamp(max=math.log(0.01 / torch.finfo(dtype).eps)), far)
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
            back = self.coordinates.to_u(self._to_x(u)).flatten(1)
        except OUT_OF_MEMORY:
            raise
        except (RuntimeError, ValueError):  # a matrix that rounding made singular, say
            return torch.zeros(len(u), dtype=torch.bool, device=u.device)
        return ((back - u).abs() <= 1e-2 * (1 + u.abs())).all(1)

    def _to_x(self, u: Tensor) -> Tensor:
        return self.coordinates.to_x(u.reshape(-1, *self.coordinates.u_space.event_shape))

    def _tried(self, u: Tensor) -> Tensor | None:
        """What factors say, or None where the target raises."""
        if not bool(u.isfinite().all()):
            return None
        try:
            return self._said(u)
        except OUT_OF_MEMORY:
            raise
        except Exception:  # far from all draws: no evidence, and no fault of a run that stays here
            return None

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


def _of_unit_length(rows: Tensor) -> Tensor:
    """The same directions, 0 where there is none; squares of what is huge would overflow."""
    largest = rows.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(rows / largest.clamp(min=torch.finfo(rows.dtype).tiny))


def _least_curved(slope: Tensor, distance: float) -> Tensor:
    """The directions of largest second derivative, from gradients along ± each axis ``(2 d, d)``."""
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
    beyond = (slope + flat).clamp(min=0.0) * (LARGEST - log_radius)
    is_worth = value + flat * log_radius + beyond > near - NATS
    is_higher = value - _at(seen.noise, last) > near + NOTABLE
    keeps = _is_rising(seen, flat, is_higher) | is_flat
    return seen.is_long & keeps & is_worth & (~seen.is_zero | is_higher)


def _is_rising(seen: _Seen, flat: Tensor, is_higher: Tensor) -> Tensor:
    """Whether each of the last three steps keeps h, for sure, or where it is high perhaps."""
    steps = seen.log_radius.diff(dim=1)
    rise = seen.value.diff(dim=1) + flat[:, None] * steps
    rounding = seen.noise[:, 1:] + seen.noise[:, :-1]
    keeps = rise - torch.where(is_higher[:, None], -rounding, rounding) >= -SLOWEST * steps
    steps_back = [(seen.last - back).clamp(min=0) for back in (1, 2, 3)]
    return torch.stack([_at(keeps, index) for index in steps_back]).all(0)


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
