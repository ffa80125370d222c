"""Densities that grow at an edge so fast that mass lies nearer to it than numbers tell apart.

In unconstrained coordinates u such a density falls like exp(−a |u|) with a small a, and x is
rounded to the edge, or to the last number before it, long before the mass has died out: of
Beta(0.05, 0.05) in float32 a quarter is there. Where x is still told apart the slope of log p̃(u) is
that of a power law in the distance to the edge, by which the density is continued.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import ImproperError
from poe.core.space import Interval, Positive, Space
from poe.density.checks import number_like
from poe.density.conditional import is_batch
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.transformed import Transformed

FEW_ULPS = {torch.float64: 2.0**20, torch.float32: 2.0**10}
"""A distance to an edge of so many units in the last place has digits enough to tell a slope."""
NUM_PROBES = 48
NEAR = 1e-3
"""What lies within this share of an interval's width is next to its edge."""
MATTERS = 11.0
"""Mass of exp(−11) of an edge's, e-folds of distance times the slope, is worth a continuation."""
SLOW_FALLS = 3.0
"""A start reaches so many times as far as it takes a density to fall by one e-fold."""
SLOWEST = 1e-3
"""What falls off more slowly than this is not told from what does not."""
GROWS = 0.1
"""What rises by such a slope grows, by more than the rounding of slopes."""
LAST_ULPS = 8.0
"""Here distances are known to a sixteenth, and slopes by as much."""
FARTHER_IN = 2.0
"""E-folds of distance by which a slope is seen to be that of a power law."""


class Reach(NamedTuple):
    """How far out each element of u may go for slopes to be right; beyond, x is rounded more.

    - ``last_low``, ``last_high``: where x is hardly told apart.
    """

    low: float
    high: float
    last_low: float
    last_high: float


class _Continued(Expert):
    """A density of u, continued beyond a reach by its slopes there, element by element.

    log p̃(u) = log p̃(c) + ∇ log p̃(c) · (u − c), with c the nearest place within reach.
    """

    def __init__(self, expert: Expert, reach: Reach, slowest: float) -> None:
        super().__init__()
        self.space, self.expert, self.reach, self.slowest = expert.space, expert, reach, slowest

    def forward(self, u: Tensor) -> Tensor:
        value, slope, beyond = self._parts(u)
        return value + self.space.as_vector(slope * beyond).sum(-1)

    def log_density_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, slope, beyond = self._parts(u.detach())
        return value + self.space.as_vector(slope * beyond).sum(-1), slope

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The density and its slopes within reach, and how far u is from there."""
        within = u.detach().clamp(self.reach.low, self.reach.high)
        value, slope = self.expert.log_density_and_score(within)
        return value, slope, u - within  # by which a gradient of u finds its way to the slopes


def reaching_edges(target: Expert) -> Expert:
    """The target, continued by power laws next to edges where mass would be lost by rounding.

    Args:
        target: p̃, on any space.

    Returns:
        A density of the same space that is one of its unconstrained coordinates; the target itself
        where nothing is lost, where it has no score, or where nothing is known of how x is rounded.

    Raises:
        ImproperError: Where mass grows towards an edge.

    >>> def beta(a):
    ...     return lambda x: ((a - 1) * (x.log() + torch.log1p(-x))).sum(-1)
    >>> [type(reaching_edges(poe.FromLogDensity(beta(a), space=poe.Interval(1)))).__name__
    ...  for a in (0.1, 1.0)]
    ['Transformed', 'FromLogDensity']
    """
    like = number_like(target)
    reach = reach_of(target.space, like.dtype)
    if reach is None or like.is_meta or is_batch(target):
        return target
    coordinates = Coordinates(target.space)
    if coordinates.was_of_u(target):
        return target
    density = coordinates.pull(target)
    slowest = _slowest(density, reach, like)
    if slowest is None:
        return target
    if slowest < -GROWS:
        raise ImproperError(
            f"expected the mass of {type(target).__name__} to die out towards the edges of "
            f"{target.space}, and it grows like distance^{slowest:.2g} there, as far as numbers "
            "tell it: multiply by an expert that falls off there, or use a smaller weight on what "
            "grows"
        )
    slowest = max(SLOWEST, slowest)
    back = target.space.to_unconstrained.inv
    return Transformed(_Continued(density, reach, slowest), back, space=target.space)


def breadth(target: Expert, usual: float) -> float:
    """The standard deviation of a start that misses no mass next to an edge: in units of u.

    Args:
        target: p̃, or its density of u.
        usual: Elsewhere.

    Returns:
        ``usual``, or more where the density falls slowly.

    >>> grows = poe.FromLogDensity(lambda x: -0.95 * x.log().sum(-1), space=poe.Interval(1))
    >>> round(breadth(grows, 10.0)), breadth(experts.Gaussian([0.0], scale=[1.0]), 10.0)
    (60, 10.0)
    """
    target = reaching_edges(target)
    density = target.expert if isinstance(target, Transformed) else target
    if not isinstance(density, _Continued):
        return usual
    return max(usual, SLOW_FALLS / density.slowest)


def reach_of(space: Space, dtype: torch.dtype) -> Reach | None:
    """How far out x is told apart; None where that is no matter of single elements.

    >>> reach_of(poe.Interval(1), torch.float32)  # log of the least number, and of 2^14
    Reach(low=-86.336..., high=9.704..., last_low=-86.336..., last_high=14.556...)
    """
    least = math.log(torch.finfo(dtype).tiny) + 1
    if isinstance(space, Positive):
        return Reach(least, -least, least, -least)
    if not isinstance(space, Interval) or dtype not in FEW_ULPS:
        return None
    width = space.high - space.low
    least -= min(0.0, math.log(width))
    low, high = (
        least if edge == 0 else math.log(FEW_ULPS[dtype] * _ulp(edge, towards, dtype) / width)
        for edge, towards in ((space.low, space.high), (space.high, space.low))
    )
    if not max(low, high) < math.log(NEAR):
        return None
    on = math.log(FEW_ULPS[dtype] / LAST_ULPS)
    return Reach(low, -high, low if space.low == 0 else low - on, -high + on * (space.high != 0))


def _ulp(edge: float, towards: float, dtype: torch.dtype) -> float:
    number, other = torch.tensor([edge, towards], dtype=dtype)
    return float((torch.nextafter(number, other) - number).abs())


def _slowest(density: Expert, reach: Reach, like: Tensor) -> float | None:
    """The least slope of those at which mass is left where reach ends; None where there is none.

    What rises there, from so far below what lies inside that it is never reached, has no mass: a
    density that was cut to 0 or clamped far out leaves the slope of dx/du alone.
    """
    shape = density.space.event_shape
    generator = torch.Generator(like.device).manual_seed(0)
    inside = like.new_empty((NUM_PROBES, *shape)).normal_(generator=generator)
    where = torch.randint(3, inside.shape, generator=generator, device=like.device)
    places = (
        (reach.low, reach.high),
        (reach.low + FARTHER_IN, reach.high - FARTHER_IN),
        (reach.last_low, reach.last_high),
    )
    slopes = []
    for low, high in places:
        u = torch.where(where == 0, low, torch.where(where == 1, high, inside))
        try:
            slopes.append(density.log_density_and_score(u)[1])
        except Exception:  # at places that nobody asked for, or since there is no score
            return None
    by_place = torch.stack(slopes)
    edges = (
        (reach.last_low, _lost(by_place, where == 0, -reach.last_low)),
        (reach.last_high, _lost(-by_place, where == 1, reach.last_high)),
    )
    kept = []
    for edge, lost in edges:
        rises = lost < -GROWS
        has_mass = ~rises | _rises_to_mass(density, inside, rises.any(0), edge)
        kept.append(lost[lost.isfinite() & has_mass])
    found = torch.cat(kept)
    return float(found.min()) if len(found) else None


def _rises_to_mass(density: Expert, inside: Tensor, rises: Tensor, edge: float) -> Tensor:
    """The elements, of a few that rise, whose density at the edge, alone there, is like inside."""
    chosen = rises.flatten().nonzero().flatten()[:NUM_PROBES]
    moved = inside[: len(chosen)].reshape(len(chosen), rises.numel()).clone()
    moved[torch.arange(len(chosen)), chosen] = edge
    found = torch.zeros_like(rises).flatten()
    if len(chosen):
        there, here = density(moved.reshape(-1, *rises.shape)), density(inside[: len(chosen)])
        found[chosen] = there > here - MATTERS
    return found.reshape(rises.shape)


def _lost(slopes: Tensor, is_there: Tensor, far: float) -> Tensor:
    """The slopes at one edge of the elements that mostly have mass left so far out; elsewhere NaN.

    That of a power law is the same farther in, and farther out. Mass that does not die out is left
    as well.

    Shapes: slopes ``(places, probes, *event)``, the first where they are asked for.
    """
    slope, farther_in, last = slopes
    room = 0.05 + 0.1 * slope.abs()
    is_power = ((slope - farther_in).abs() < room) & ((slope - last).abs() < 0.1 + room)
    is_slow = is_there & is_power & (slope * far < MATTERS)
    is_known = is_there & slope.isfinite()
    return torch.where(is_slow & (is_slow.sum(0) > 0.5 * is_known.sum(0)), slope, torch.nan)
