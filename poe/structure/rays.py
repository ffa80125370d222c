"""Ways out of a density: which rays leave its draws, and in which directions.

Where the integral of π over ℝᵈ is finite, so is, for almost every u, its integral over the line
through u in any one direction, over the plane through u in any two, and so on (Fubini). So rays
start at draws that are moved a little at random, and each knows of how many dimensions its
direction was drawn.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

MAX_AXES, NUM_PAIRS, NUM_CONES, NUM_FLATS, NUM_PRINCIPAL, NUM_SIGNS = 32, 8, 24, 8, 4, 4
MAX_CURVED, NUM_CLIMBS = 64, 8
"""Up to so many dimensions the curvature far out is worked out; beyond, from so many directions."""
MANY, FEW, FEWER = 16, 8, 2
"""Of a batch of densities each has rays of its own: all axes of so many dimensions, and some cones;
and in more, where an evaluation is seldom cheap, so many of both."""
NUM_AGAIN = 8
"""From so many other draws or in directions nearby, a ray is looked at again."""
ANGLE, NEARBY = 0.05, 0.1
"""How far those directions, and all starts, are moved, in radians and standard deviations."""
MAX_CLOUD = 512
"""More positions than these say little more of their spread."""


class Rays(NamedTuple):
    """Ways u + r v out of a density, r ≥ 0, in unconstrained coordinates of d numbers.

    - ``origin``, ``direction`` ``(rays, d)``: u and v, which is a standard deviation long;
    - ``flat`` ``(rays,)``: k, the dimension of what v was drawn from;
    - ``limit`` ``(rays,)``: log r up to which they lead. Where v is at an angle to the axes, what
      cancels of squares is lost in a rounding of ε from r = ε^(−1/2) on, and u itself from 1 / ε.
    """

    origin: Tensor
    direction: Tensor
    flat: Tensor
    limit: Tensor

    def one(self, row: int) -> Rays:
        """A single one of them."""
        return Rays(*(column[row] for column in self))


def seeded_alike(like: Tensor) -> torch.Generator:
    """The same random numbers at every call."""
    return torch.Generator(like.device).manual_seed(0)


class Frame:
    """Where rays begin, ``starts (n, d)``, and which directions the draws suggest."""

    def __init__(self, starts: Tensor, cloud: Tensor | None) -> None:
        self.starts, self.d = starts, starts.shape[1]
        self.generator = seeded_alike(starts)
        self.is_of_draws = cloud is not None
        spread = _spread(starts[:0] if cloud is None else cloud)
        self.scale, self.principal, self.narrowest, self._apart = spread

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
        limit = torch.full_like(rays.limit, torch.inf)
        return rays._replace(direction=rays.direction.abs(), limit=limit)

    def apart(self) -> Rays:
        """A few from each start, start by start: ``(directions * n, d)``."""
        num_axes, count = (MANY, FEW) if self.d <= MANY else (FEWER, FEWER)
        axes, (random, flats) = self._axes(num_axes), self._in_flats()
        directions = torch.cat([axes, -axes, random[:count]])
        flat = torch.cat([torch.ones_like(flats[:1]).expand(2 * len(axes)), flats[:count]])
        n = len(self.starts)
        return Rays(
            self.starts.repeat(len(directions), 1),
            directions.repeat_interleave(n, 0),
            flat.repeat_interleave(n),
            self.starts.new_full((n * len(directions),), torch.inf, dtype=torch.float64),
        )

    def again(self, ray: Rays, is_upward: bool) -> Rays:
        """The same from other draws; in a direction nearby where it was drawn at random."""
        direction = ray.direction.expand(NUM_AGAIN, -1)
        if int(ray.flat) > 1:
            turned = self._normal(NUM_AGAIN) * (ray.direction != 0)
            direction = direction + ANGLE * self.scale * turned
        direction = direction.abs() if is_upward else direction
        rest = (ray.flat.expand(NUM_AGAIN), ray.limit.expand(NUM_AGAIN))
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
        is_aslant = ((both != 0).sum(1) > 1) & is_line
        limit = torch.where(is_aslant, self.rounding**-0.5, torch.inf).double()
        return Rays(self._origins(len(both)), both, flat, limit.log())

    @property
    def rounding(self) -> float:
        """How far that of a direction may lead from a line, in units of what is narrowest."""
        return torch.finfo(self.scale.dtype).eps / self.narrowest

    def _origins(self, count: int) -> Tensor:
        """Starts, moved a little: chains may begin where a density is like nowhere nearby."""
        rows = torch.randint(len(self.starts), (count,), generator=self.generator, device=self._at)
        drawn = self._drawn(count, len(self._apart))
        return self.starts[rows] + NEARBY * drawn @ self._apart

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
        return self._drawn(count, self.d)

    def _drawn(self, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, device=self._at)
        return drawn.to(self.scale.dtype)

    @property
    def _at(self) -> torch.device:
        return self.starts.device


class _Spread(NamedTuple):
    """What positions tell of a density, in d dimensions.

    - ``scale`` ``(d,)``: standard deviations, 1 where there are none;
    - ``principal`` ``(n, d)``: directions of most variance and of least, as long as ``scale``;
    - ``narrowest``: the least standard deviation of all directions, in units of ``scale``;
    - ``apart`` ``(m, d)``: positions less their mean, and a unit for each element that is still.
    """

    scale: Tensor
    principal: Tensor
    narrowest: float
    apart: Tensor


def _spread(cloud: Tensor) -> _Spread:
    floats = cloud if cloud.is_floating_point() else cloud.to(torch.get_default_dtype())
    floats = floats[floats.isfinite().all(1)][:: 1 + len(floats) // MAX_CLOUD]
    n, d = floats.shape
    ones, nothing = floats.new_ones(d), floats.new_zeros(0, d)
    if n < 2:
        return _Spread(ones, nothing, 1.0, torch.diag_embed(ones))
    scale = floats.std(0)
    is_still = ~((scale > 0) & scale.isfinite())
    scale = torch.where(is_still, ones, scale)
    centred = (floats - floats.mean(0)) / scale
    if not bool(centred.isfinite().all()):
        return _Spread(scale, nothing, 1.0, torch.diag_embed(scale))
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    rows = torch.cat([rows[:NUM_PRINCIPAL], rows[NUM_PRINCIPAL:][-NUM_PRINCIPAL:]])
    narrowest = float(sizes[-1]) / n**0.5 if n > d and not bool(is_still.any()) else 1.0
    apart = torch.cat([centred * scale / n**0.5, torch.diag_embed(ones)[is_still]])
    return _Spread(scale, nothing if d == 1 else rows * scale, narrowest, apart)
