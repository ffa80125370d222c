"""Summits of a density that climbing reaches, and how much of its mass each of them carries.

Particles find mass by chance: a mode narrow enough is missed by all of them. The gradient, in the
basin of the mode, points there from far outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import MAX_DENSE_DIMENSION
from poe.core.space import Space
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.normalizers.fitted import FittedMixture
from poe.normalizers.levels import Levels
from poe.normalizers.sides import FAR, UNSEEN, UNSEEN_DRAWS
from poe.samplers.kernel import or_nothing

CLIMBS, STEPS = 64, 40
MAX_SUMMITS, MAX_FAR = 4, 8
"""From particles, and from everywhere."""
DRAWS = 512
"""Around each summit, to integrate the density there."""
HALVINGS = 10
WIDEST, NARROWEST = 2.0**4, 2.0**-20
"""Between these times the particles' spread lie the widths of summits that are looked for."""
FLATTEST = 0.1
"""Curvatures are taken for at least this, where that of the widths alone would be 1."""
QUANTILE = 1.2816
"""Of the normal distribution: 0.9 of a Gaussian's mass lies in the ellipsoid of its summit."""


class Summit(NamedTuple):
    """An ellipsoid |L⁻¹ (x − c)|² ≤ q around a summit c, and log of the mass inside.

    Shapes: centre ``(d,)``, factor L ``(d, d)``; log_mass and its standard error ``()``.
    """

    centre: Tensor
    factor: Tensor
    log_mass: Tensor
    std_error: Tensor

    def contains(self, x: Tensor) -> Tensor:
        """Whether vectors ``(*batch, d)`` lie inside: ``(*batch,)``."""
        centred = (x - self.centre).reshape(-1, len(self.centre)).mT
        u = torch.linalg.solve_triangular(self.factor, centred, upper=False).mT
        return _is_inside(u).reshape(x.shape[:-1])

    def missed(
        self, levels: Levels, log_z: Tensor, std_error: Tensor
    ) -> tuple[float, float] | None:
        """The share of Z in here and that of the particles, where they contradict each other."""
        is_inside = (
            self.contains(levels.position.reshape(*levels.position.shape[:2], -1)).double().mean(1)
        )
        weight = torch.softmax(levels.log_z, 0)
        share = weight @ is_inside
        mass = (self.log_mass - log_z).exp()
        errors = [
            (weight * (is_inside - share)).square().sum().sqrt(),
            mass * torch.hypot(self.std_error, std_error),
        ]
        enough = max(UNSEEN, UNSEEN_DRAWS / levels.position.shape[:2].numel())
        is_missed = mass - share > max(enough, FAR * torch.stack(errors).norm().item())
        return (mass.item(), share.item()) if is_missed else None


def around(summits: Sequence[Summit], space: Space) -> FittedMixture:
    """Gaussians of the summits' shapes, of equal weight."""
    centres = torch.stack([summit.centre for summit in summits])
    factors = torch.stack([summit.factor for summit in summits])
    log_weights = centres.new_full((len(summits),), -math.log(len(summits)))
    return FittedMixture(log_weights, centres, factors, space)


class Found(NamedTuple):
    """Summits, none inside of another, and what they cost."""

    summits: list[Summit]
    num_evaluations: int
    num_left: int = 0
    """Climbs that ended at other places, as high as these."""

    def missed(self, levels: Levels, log_z: Tensor, std_error: Tensor) -> list[Summit]:
        """Those that hold more of Z than of the particles."""
        return [one for one in self.summits if one.missed(levels, log_z, std_error)]


NONE = Found([], 0)


def find_summits(target: Expert, x: Tensor, generator: torch.Generator) -> Found:
    """Climb from positions on a continuous space, and integrate the density around the highest.

    From each place a gradient ascent, its steps longer after each that led upward, shorter after
    others. At each top the widths at which log p̃ has fallen by ½ along the axes, and differences of
    the score at these, make the ellipsoid; draws of the Gaussian that belongs to it, cut off at its
    border, weigh the mass in it without bias, whatever the shape of the density.

    Shapes: x ``(n, *event)``. Nothing is looked for in more than 512 dimensions.

    >>> import experts
    >>> wide, narrow = experts.Gaussian([0.0], scale=3.0), experts.Gaussian([1.0], scale=0.001)
    >>> both, g = poe.Mixture([wide, narrow], [0.5, 0.5]), torch.Generator().manual_seed(0)
    >>> found = find_summits(both, 3 * torch.randn(64, 1, generator=g), g)
    >>> abs(found.summits[0].log_mass.exp().item() - 0.45) < 0.03  # 0.9 of a half
    True
    """
    if target.space.event_shape.numel() > MAX_DENSE_DIMENSION:
        return NONE
    return _among(target, x, [], MAX_SUMMITS, generator)


def from_everywhere(
    target: Expert, broad: Expert, near: Found, generator: torch.Generator
) -> Found:
    """The summits that were found, and those that climbs from draws of a broad start reach beside.

    Particles are resampled on their way, and end in few of many modes; these climbs are not.
    """
    if target.space.event_shape.numel() > MAX_DENSE_DIMENSION:
        return near
    x = exact_sample(broad, CLIMBS, generator)
    far = _among(target, x, near.summits, MAX_FAR, generator)
    return Found(
        [*near.summits, *far.summits], near.num_evaluations + far.num_evaluations, far.num_left
    )


def _among(
    target: Expert, x: Tensor, known: list[Summit], most: int, generator: torch.Generator
) -> Found:
    """Where climbs from x end, beside the summits that are known: at most so many."""
    spread = x.reshape(len(x), -1).std(0).clamp(min=torch.finfo(x.dtype).tiny)
    tops, values = _climb(target, x, spread)
    order = values.argsort(descending=True)
    tops = tops[order][values[order] > -torch.inf].reshape(-1, len(spread))
    for summit in known:
        tops = tops[~summit.contains(tops)]
    summits: list[Summit] = []
    count = len(x) * (STEPS + 1)
    while len(tops) and len(summits) < most:
        factor, cost = _shape(target, tops[0], spread)
        summit = _weighed(target, tops[0], factor, generator)
        summits.append(summit)
        count += cost + DRAWS
        tops = tops[~summit.contains(tops)]
    return Found(summits, count, len(tops))


def _climb(target: Expert, x: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Where gradient ascent led to, and log p̃ there."""
    scale = spread.square().reshape(x.shape[1:])
    value, score = _usable(target, x)
    length = torch.ones_like(value)
    for _ in range(STEPS):
        ahead = x + length.reshape(-1, *(1,) * (x.ndim - 1)) * scale * score
        new_value, new_score = _usable(target, ahead)
        is_higher = new_value > value
        rows = is_higher.reshape(-1, *(1,) * (x.ndim - 1))
        x, score = torch.where(rows, ahead, x), torch.where(rows, new_score, score)
        value = torch.where(is_higher, new_value, value)
        length = torch.where(is_higher, 2.0 * length, 0.25 * length)
    return x, value


def _usable(target: Expert, x: Tensor) -> tuple[Tensor, Tensor]:
    value, score = target.log_density_and_score(x)
    return or_nothing(value), score.nan_to_num(0.0, 0.0, 0.0)


def _shape(target: Expert, top: Tensor, spread: Tensor) -> tuple[Tensor, int]:
    """L with L Lᵀ = (−∇² log p̃)⁻¹, by finite differences as wide as the summit, and its cost."""
    d = len(top)
    width = _widths(target, top, spread)
    ends = _both_ends(target, top, width)
    score = target.score(ends).reshape(2, d, d)
    fallen = 0.5 * (score[0] - score[1]) * width  # −∂² log p̃, each axis in its width
    curvature = (0.5 * (fallen + fallen.mT)).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)
    curvature.fill_diagonal_(1.0)  # by the choice of the widths
    values, vectors = torch.linalg.eigh(curvature)
    inverse = vectors / values.clamp(min=FLATTEST) @ vectors.mT
    return width[:, None] * torch.linalg.cholesky(inverse), 2 * d * (HALVINGS + 1)


def _widths(target: Expert, top: Tensor, spread: Tensor) -> Tensor:
    """How far along each axis log p̃ has fallen by ½, on the side where it falls less: ``(d,)``."""
    with torch.no_grad():
        height = target(top.reshape(1, *target.space.event_shape))
        low, high = (spread.new_full(spread.shape, math.log2(x)) for x in (NARROWEST, WIDEST))
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            values = target(_both_ends(target, top, spread * middle.exp2())).reshape(2, -1)
            is_near = or_nothing(values).amax(0) > height - 0.5
            low, high = torch.where(is_near, middle, low), torch.where(is_near, high, middle)
    return spread * (0.5 * (low + high)).exp2()


def _both_ends(target: Expert, top: Tensor, width: Tensor) -> Tensor:
    """One step back, and one ahead, along each axis: ``(2 d, *event)``."""
    steps = torch.diag(width)
    return torch.cat([top - steps, top + steps]).reshape(-1, *target.space.event_shape)


def _weighed(target: Expert, top: Tensor, factor: Tensor, generator: torch.Generator) -> Summit:
    u = top.new_empty((DRAWS, len(top))).normal_(generator=generator)
    x = (top + u @ factor.mT).reshape(-1, *target.space.event_shape)
    with torch.no_grad():
        log_target = or_nothing(target(x).double())
    log_normal = -0.5 * (u.double().square() + math.log(2 * math.pi)).sum(1)
    log_det = torch.linalg.slogdet(factor.double()).logabsdet
    log_weights = (log_target - log_normal + log_det).masked_fill(~_is_inside(u), -torch.inf)
    return Summit(top, factor, log_mean(log_weights), standard_error_of_log_mean(log_weights))


def _is_inside(u: Tensor) -> Tensor:
    """Whether |u|² is at most its quantile: chi-squared's, by Wilson & Hilferty 1931."""
    d = u.shape[-1]
    quantile = d * (1 - 2 / (9 * d) + QUANTILE * math.sqrt(2 / (9 * d))) ** 3
    return u.square().sum(-1) <= quantile
