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
MATTERS = 12.0
"""Mass of exp(−12) of an edge's, e-folds of distance times the slope, is worth a continuation."""
SLOW_FALLS = 3.0
"""A start reaches so many times as far as it takes a density to fall by one e-fold."""
SLOWEST = 1e-3
"""What falls off more slowly than this is not told from what does not."""


class Reach(NamedTuple):
    """How far each element of u may go, outward, before x is no longer told apart."""

    low: float
    high: float


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
    Reach(low=-86.336..., high=9.704...)
    """
    least = math.log(torch.finfo(dtype).tiny) + 1
    if isinstance(space, Positive):
        return Reach(least, -least)
    if not isinstance(space, Interval) or dtype not in FEW_ULPS:
        return None
    width = space.high - space.low
    least -= min(0.0, math.log(width))
    low, high = (
        least if edge == 0 else math.log(FEW_ULPS[dtype] * _ulp(edge, towards, dtype) / width)
        for edge, towards in ((space.low, space.high), (space.high, space.low))
    )
    return Reach(low, -high) if max(low, high) < math.log(NEAR) else None


def _ulp(edge: float, towards: float, dtype: torch.dtype) -> float:
    number, other = torch.tensor([edge, towards], dtype=dtype)
    return float((torch.nextafter(number, other) - number).abs())


def _slowest(density: Expert, reach: Reach, like: Tensor) -> float | None:
    """The least slope of those at which mass is left where reach ends; None where there is none."""
    shape = density.space.event_shape
    generator = torch.Generator(like.device).manual_seed(0)
    u = like.new_empty((NUM_PROBES, *shape)).normal_(generator=generator)
    where = torch.randint(3, u.shape, generator=generator, device=like.device)
    u = torch.where(where == 0, reach.low, torch.where(where == 1, reach.high, u))
    try:
        _, slope = density.log_density_and_score(u)
    except Exception:  # at places that nobody asked for, or since there is no score
        return None
    lost = [
        _lost(sign * slope, where == side, math.log(FEW_ULPS[like.dtype]) + far)
        for side, (sign, far) in enumerate(((1, -reach.low), (-1, reach.high)))
    ]
    slopes = torch.cat(lost)
    return float(slopes.min()) if len(slopes) else None


def _lost(slope: Tensor, is_there: Tensor, far: float) -> Tensor:
    """The slopes at one edge of the elements that mostly have mass left so far out."""
    is_slow = is_there & (slope > SLOWEST) & (slope * far < MATTERS)
    is_known = is_there & slope.isfinite()
    return slope[is_slow & (is_slow.sum(0) > 0.5 * is_known.sum(0))]
