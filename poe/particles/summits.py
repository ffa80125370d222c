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

from poe.core.affine import MAX_DENSE_DIMENSION, Diagonal
from poe.core.doubt import Doubt, Kind
from poe.core.space import Space
from poe.density.checks import number_like
from poe.density.expert import Expert
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.particles.fitted import FittedGaussian, FittedMixture
from poe.samplers.kernel import or_nothing
from poe.tuning.modes import is_rough

UNSEEN = 0.01
"""The share of the target's mass that may lie where an estimator has never been."""
UNSEEN_DRAWS = 8.0
"""Or where that many of its draws, or chains, should have been."""
FEW, TOGETHER = 4.0, 0.1
"""Summits of so many chains each, that hold so much of the mass together, may not be empty."""
FAR = 5.0
"""Estimates that differ by more standard errors than this contradict each other."""
CLIMBS, STEPS = 64, 40
LAST, RISE = 8, 0.5
"""A climb that in so many last steps still rose by so much has not ended at a summit."""
MAX_SUMMITS = 4
DRAWS = 512
"""Around each summit, to integrate the density there."""
HALVINGS = 10
WIDEST, NARROWEST = 2.0**4, 2.0**-20
"""Between these times the particles' spread lie the widths of summits that are looked for."""
BETWEEN, VALLEY = (0.0, 0.25, 0.5, 0.75), 0.5
"""Where on the way from one top to another log p̃ is asked for, and how far it falls in a valley."""
THIN = 3.0
"""Summits where a fitted density is so many times lower than at particles join it in a start."""
NOTICEABLE = 0.002
"""The share of Z that such a summit has."""
MANY = 0.1
"""Of all particles, in one summit."""
FLATTEST = 0.1
"""Curvatures are taken for at least this, where that of the widths alone would be 1."""
QUANTILE = 1.2816
"""Of the normal distribution: 0.9 of a Gaussian's mass lies in the ellipsoid of its summit."""


class Cloud(NamedTuple):
    """Particles at a target, in islands: ``(islands, n, *event)``, log of each island's Ẑ."""

    position: Tensor
    log_z: Tensor
    num_chains: int


class Summit(NamedTuple):
    """An ellipsoid |L⁻¹ (x − c)|² ≤ q around a summit c, and log of the mass inside.

    Shapes: centre ``(d,)``, factor L ``(d, d)``; height log p̃(c), log_mass and its standard error
    ``()``.
    """

    centre: Tensor
    factor: Tensor
    height: Tensor
    log_mass: Tensor
    std_error: Tensor

    @property
    def least_mass(self) -> Tensor:
        """log of the mass that is there at least: a few draws of large weight say little."""
        return self.log_mass - FAR * self.std_error

    def contains(self, x: Tensor) -> Tensor:
        """Whether vectors ``(*batch, d)`` lie inside: ``(*batch,)``."""
        centred = (x - self.centre).reshape(-1, len(self.centre)).mT
        u = torch.linalg.solve_triangular(self.factor, centred, upper=False).mT
        return _is_inside(u).reshape(x.shape[:-1])

    def missed(self, cloud: Cloud, log_z: Tensor, std_error: Tensor) -> tuple[float, float] | None:
        """The share of Z in here and that of the particles, where they contradict each other."""
        weight, is_inside = self._held(cloud)
        share = weight @ is_inside
        mass = (self.log_mass - log_z).exp()
        spread = (weight * (is_inside - share)).square().sum().sqrt()
        # On the scale of logarithms: a log Z that is hardly known leaves room for no mass at all.
        least = mass * (-FAR * torch.hypot(self.std_error, std_error)).exp()
        enough = max(UNSEEN, UNSEEN_DRAWS / cloud.num_chains)
        is_missed = bool((least - share > FAR * spread) & (mass - share > enough))
        return (mass.item(), share.item()) if is_missed else None

    def held(self, cloud: Cloud) -> Tensor:
        """The share of the particles in here: ``()``."""
        weight, is_inside = self._held(cloud)
        return weight @ is_inside

    def _held(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        """The weight of each island, and the share of its particles in here: ``(islands,)``."""
        x = cloud.position.reshape(*cloud.position.shape[:2], -1)
        return torch.softmax(cloud.log_z, 0), self.contains(x).double().mean(1)


def around(summits: Sequence[Summit], space: Space) -> FittedMixture:
    """Gaussians of the summits' shapes, weighted by their masses."""
    centres = torch.stack([summit.centre for summit in summits])
    factors = torch.stack([summit.factor for summit in summits])
    log_weights = torch.stack([summit.log_mass for summit in summits]).log_softmax(0)
    return FittedMixture(log_weights.to(centres.dtype), centres, factors, space)


def beyond(summits: Sequence[Summit], space: Space) -> FittedGaussian:
    """A Gaussian twice as wide as the summits lie apart, for climbs that end at others."""
    centres = torch.stack([summit.centre for summit in summits])
    sizes = torch.stack([summit.factor.square().sum(1) for summit in summits]).mean(0)
    spread = (centres.var(0, correction=0) + sizes).sqrt()
    return FittedGaussian(Diagonal(centres.mean(0), 2.0 * spread), space)


class Found(NamedTuple):
    """Summits, none inside of another, and what they cost."""

    summits: list[Summit]
    num_evaluations: int
    is_all: bool = True
    """Whether the last climbs brought no more that particles had missed."""

    def missed(self, cloud: Cloud, log_z: Tensor, std_error: Tensor) -> list[Summit]:
        """Those that hold more of Z than of the particles."""
        return [one for one in self.summits if one.missed(cloud, log_z, std_error)]

    def raised(self, cloud: Cloud, log_z: Tensor) -> Tensor:
        """log Z by the summit that holds most of the particles: its mass over their share.

        What particles say of log Z on their way is too low where they lag. Where no summit holds
        many it is kept.
        """
        if not self.summits:
            return log_z
        shares = torch.stack([summit.held(cloud) for summit in self.summits])
        fullest = shares.argmax()
        if not bool(shares[fullest] > MANY):
            return log_z
        return self.summits[int(fullest)].log_mass - shares[fullest].log()

    def thin(self, fitted: Expert, tilts: Tensor, log_z: Tensor) -> list[Summit]:
        """Those where a density fitted to particles is lower than at most of them.

        Args:
            fitted: The density q.
            tilts: log p̃ − log q at particles, ``(n,)``.
            log_z: Of the target.

        Returns:
            The summits at whose centre that is larger by log 3 than at half of the particles, if
            they hold a noticeable share of Z: the top of a funnel's neck does not.
        """
        if not self.summits:
            return []
        heights = torch.stack([summit.height for summit in self.summits])
        centres = torch.stack([summit.centre for summit in self.summits])
        with torch.no_grad():
            there = centres.reshape(-1, *fitted.space.event_shape).to(number_like(fitted).dtype)
            fit = fitted(there).double()
        masses = torch.stack([summit.least_mass for summit in self.summits])
        is_thin = heights - fit > tilts.median() + math.log(THIN)
        is_thin &= masses - log_z > math.log(NOTICEABLE)
        return [summit for summit, thin in zip(self.summits, is_thin, strict=True) if thin]

    def and_more(self, other: Found) -> Found:
        """Those of both."""
        return Found(
            [*self.summits, *other.summits],
            self.num_evaluations + other.num_evaluations,
            other.is_all,
        )


NONE = Found([], 0)


def find_summits(
    target: Expert,
    x: Tensor,
    generator: torch.Generator,
    known: Sequence[Summit] = (),
    most: int = MAX_SUMMITS,
) -> Found:
    """Climb from positions on a continuous space, and integrate the density around the highest.

    From each place a gradient ascent, its steps longer after each that led upward, shorter after
    others. At each top the widths at which log p̃ has fallen by ½ along the axes, and differences of
    the score at these, make the ellipsoid; draws of the Gaussian that belongs to it, cut off at its
    border, weigh the mass in it without bias, whatever the shape of the density.

    Shapes: x ``(n, *event)``. Nothing is looked for in more than 512 dimensions, nor twice: what
    ends at a summit that is ``known`` is left out, or with no valley between (Ursem 1999,
    Multinational evolutionary algorithms, doi:10.1109/CEC.1999.785470).

    >>> import experts
    >>> wide, narrow = experts.Gaussian([0.0], scale=3.0), experts.Gaussian([1.0], scale=0.001)
    >>> both, g = poe.Mixture([wide, narrow], [0.5, 0.5]), torch.Generator().manual_seed(0)
    >>> found = find_summits(both, 3 * torch.randn(64, 1, generator=g), g)
    >>> abs(found.summits[0].log_mass.exp().item() - 0.45) < 0.03  # 0.9 of a half
    True
    """
    if target.space.event_shape.numel() > MAX_DENSE_DIMENSION:
        return NONE
    spread = x.reshape(len(x), -1).std(0).clamp(min=torch.finfo(x.dtype).tiny)
    tops = _tops(target, x, spread)
    for summit in known:
        tops = _others(target, tops, summit)
    summits: list[Summit] = []
    count = len(x) * (STEPS + 2)
    while len(tops) and len(summits) < most:
        factor, cost = _shape(target, tops[0], spread)
        summit = _weighed(target, tops[0], factor, generator)
        top = tops[0].reshape(target.space.event_shape)
        if not is_rough(target, top, factor.square().sum(1).sqrt()):
            summits.append(summit)
        count += cost + DRAWS + 2 * tops.shape[1] + 1
        tops = _others(target, tops[1:], summit)
    return Found(summits, count)


def _tops(target: Expert, x: Tensor, spread: Tensor) -> Tensor:
    """Where gradient ascent ended, the highest first: ``(n, d)``; not those still on their way."""
    early, before = _climb(target, x, spread, STEPS - LAST)
    late, after = _climb(target, early, spread, LAST)
    is_there = (after - before < RISE) & (after > -torch.inf)
    if not bool(is_there.any()):
        is_there = after > -torch.inf
    order = after.argsort(descending=True)
    return late[order][is_there[order]].reshape(-1, len(spread))


def _climb(target: Expert, x: Tensor, spread: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Where gradient ascent led to, and log p̃ there."""
    scale = spread.square().reshape(x.shape[1:])
    value, score = _usable(target, x)
    length = torch.ones_like(value)
    for _ in range(steps):
        ahead = x + length.reshape(-1, *(1,) * (x.ndim - 1)) * scale * score
        new_value, new_score = _usable(target, ahead)
        is_higher = new_value > value
        rows = is_higher.reshape(-1, *(1,) * (x.ndim - 1))
        x, score = torch.where(rows, ahead, x), torch.where(rows, new_score, score)
        value = torch.where(is_higher, new_value, value)
        length = torch.where(is_higher, 2.0 * length, 0.25 * length)
    return x, value


def _others(target: Expert, tops: Tensor, summit: Summit) -> Tensor:
    """Those tops that are not in a summit, nor on one hill with it: between them lies a valley."""
    tops = tops[~summit.contains(tops)]
    if not len(tops):
        return tops
    between = torch.stack([torch.lerp(tops, summit.centre, part) for part in BETWEEN])
    with torch.no_grad():
        values = or_nothing(target(between.reshape(-1, *target.space.event_shape)))
    lowest = values.reshape(len(BETWEEN), -1).double()
    return tops[lowest[1:].amin(0) < lowest[0] - VALLEY]


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
        height = target(top.reshape(1, *target.space.event_shape))[0].double()
    log_normal = -0.5 * (u.double().square() + math.log(2 * math.pi)).sum(1)
    log_det = torch.linalg.slogdet(factor.double()).logabsdet
    log_weights = (log_target - log_normal + log_det).masked_fill(~_is_inside(u), -torch.inf)
    error = standard_error_of_log_mean(log_weights)
    return Summit(top, factor, height, log_mean(log_weights), error)


def _is_inside(u: Tensor) -> Tensor:
    """Whether |u|² is at most its quantile: chi-squared's, by Wilson & Hilferty 1931."""
    d = u.shape[-1]
    quantile = d * (1 - 2 / (9 * d) + QUANTILE * math.sqrt(2 / (9 * d))) ** 3
    return u.square().sum(-1) <= quantile


def missed_doubts(found: Found, cloud: Cloud, log_z: Tensor, std_error: Tensor) -> list[Doubt]:
    """Whether particles are at summits that climbing reaches as often as the mass there says."""
    missed = [summit.missed(cloud, log_z, std_error) for summit in found.summits]
    shares = [pair for pair in missed if pair is not None]
    empty = _nearly_empty(found, cloud, log_z)
    if not shares and sum(mass - held for mass, held in empty) > TOGETHER:
        shares = empty
    if not shares:
        return []
    mass, held = map(sum, zip(*shares, strict=True))
    text = (
        f"climbing reaches {len(shares)} summits that have {mass:.0%} of the mass that was "
        f"found, and {held:.0%} of the particles: modes were missed; give a start that covers "
        "them, by `start=`, or leave it out"
    )
    return [Doubt(Kind.UNSEEN, text)]


def _nearly_empty(found: Found, cloud: Cloud, log_z: Tensor) -> list[tuple[float, float]]:
    """Mass and particles of summits with less than a third of the chains that are due, if a few."""
    pairs = [
        ((one.least_mass - log_z).exp().item(), one.held(cloud).item()) for one in found.summits
    ]
    return [
        (mass, held) for mass, held in pairs if mass * cloud.num_chains >= FEW and 3 * held < mass
    ]
