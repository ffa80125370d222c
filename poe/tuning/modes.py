"""Modes of a density: climbed to, told apart by the valleys between them, given a shape and a mass.

Chains and particles may all be in one mode; what a few of them are in says nothing of how many
there are. The gradient, in the basin of a mode, points there from far outside of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, Dense
from poe.diagnostics.independent_groups import log_mean
from poe.samplers.kernel import Density, or_nothing

MAX_STEPS = 80
"""Of a climb."""
GAIN, LITTLE = 1e-2, 1.0
"""In nats: a climb that would gain less by a step is over; one that would gain little is there."""
VALLEY = 2.0
"""So many nats lower than both its ends lies the lowest place between two modes."""
NEXT = 0.05
"""Tops nearer than this share of all tops' median distance are one."""
BETWEEN = (0.15, 0.3, 0.5, 0.7, 0.85)
"""Where that place is looked for."""
NEAR, ROUGH, ROUNDINGS = 1e-3, 0.1, 32
"""So near a summit, in its widths, log p̃ is the same but for so many nats and rounding errors."""
TRIES = 6
"""Of going on from a place that is not yet a summit."""
ROUNDS = 8
"""Of finding how wide a mode is: each is at most eight times wider or narrower than the last."""
FLATTEST = 1e-3
"""Curvatures are taken for at least this, where that of the widths alone would be 1."""
DRAWS = 128
"""To weigh the mass around a summit."""
REACH = 3.0
"""A position is in a mode within √d + 3 of its centre, in its own coordinates."""


class Climbed(NamedTuple):
    """Where climbs ended, ``(n, *event)``, and which of them arrived, ``(n,)``."""

    top: Tensor
    has_arrived: Tensor


class Mode(NamedTuple):
    """A Gaussian: centre ``(d,)``, factor ``(d, d)``, and the log of the density's mass inside."""

    centre: Tensor
    factor: Tensor
    log_mass: float


def climb(density: Density, u: Tensor, affine: Affine) -> Climbed:
    """Gradient ascent from everywhere, each climb by steps as long as its last two scores say.

    In the coordinates of the map; a step that leads downward is tried again at a quarter.

    Shapes: u ``(n, *event)``.

    >>> from poe.core.affine import Diagonal
    >>> target = poe.FromLogDensity(
    ...     lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1)
    ... )
    >>> u = torch.tensor([[-1.0], [2.0], [9.0]])
    >>> climbed = climb(target, u, Diagonal(torch.zeros(1), torch.ones(1)))
    >>> climbed.top.flatten().round(decimals=3)
    tensor([-3.,  3.,  3.])
    """
    u = u.clone()
    value, score = usable(density, u)
    length, promise = torch.ones_like(value), torch.full_like(value, torch.inf)
    promise[value == -torch.inf] = 0.0
    for _ in range(MAX_STEPS):
        going = (promise >= GAIN).nonzero().flatten()
        if not len(going):
            break
        here, slope = u[going], score[going]
        way = affine.to_x(affine.pull_score(slope)) - affine.to_x(torch.zeros_like(slope))
        ahead = here + _rows(length[going], here) * way
        new_value, new_score = usable(density, ahead)
        gained = new_value - value[going]
        is_higher = gained > 0
        steps = _next_length(affine, length[going], ahead - here, new_score - slope)
        length[going] = torch.where(is_higher, steps, 0.25 * length[going])
        up = going[is_higher]
        u[up], value[up], score[up] = ahead[is_higher], new_value[is_higher], new_score[is_higher]
        promise[going] = _promise(affine, score[going], length[going])
    return Climbed(u, (promise < LITTLE) & (value > -torch.inf))


def _next_length(affine: Affine, length: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Barzilai and Borwein's, −sᵀy / yᵀΣy; four times the last where that is no maximum's."""
    pulled = affine.pull_score(change).reshape(len(step), -1)
    fallen = -(step * change).reshape(len(step), -1).sum(1)
    bold = 4.0 * length
    found = fallen / pulled.square().sum(1)
    return torch.where((fallen > 0) & found.isfinite(), found.minimum(bold), bold)


def _promise(affine: Affine, score: Tensor, length: Tensor) -> Tensor:
    """What a step would gain on a straight slope, in nats."""
    return length * affine.pull_score(score).reshape(len(score), -1).square().sum(1)


def apart(density: Density, top: Tensor, log_density: Tensor) -> list[Tensor]:
    """The rows of each mode, the highest first: those between which there is no valley.

    Along straight lines to the mode's highest top. Tops that lie next to each other, as distances
    go between all, are one without being asked.

    Shapes: top ``(n, *event)``, log_density ``(n,)``.

    >>> target = poe.FromLogDensity(
    ...     lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1)
    ... )
    >>> top = torch.tensor([[-3.0], [3.0], [2.0]])
    >>> apart(target, top, target(top))
    [tensor([0]), tensor([1, 2])]
    """
    heaps = _heaps(top.reshape(len(top), -1), log_density)
    groups = []
    while heaps:
        first, rest = heaps[0], heaps[1:]
        rows = torch.stack([heap[0] for heap in rest]) if rest else first[:0]
        is_same = without_valley(density, top, log_density, rows, first[:1])
        told = list(zip(rest, is_same.tolist(), strict=True))
        groups.append(torch.cat([first, *(heap for heap, same in told if same)]))
        heaps = [heap for heap, same in told if not same]
    return groups


def _heaps(top: Tensor, log_density: Tensor) -> list[Tensor]:
    """Rows that lie next to each other, by the highest: ``top (n, d)``."""
    left = log_density.argsort(descending=True, stable=True)
    near = NEXT * torch.cdist(top, top).median() if len(top) else 0.0
    heaps = []
    while len(left):
        first = left[0]
        distance = (top[left] - top[first]).norm(dim=1)
        is_near = (distance <= near) & (log_density[left] > log_density[first] - VALLEY)
        is_near[0] = True
        heaps.append(left[is_near])
        left = left[~is_near]
    return heaps


def without_valley(
    density: Density, top: Tensor, log_density: Tensor, rows: Tensor, ends: Tensor
) -> Tensor:
    """Whether the straight lines from rows to ends stay as high as the lower of the two.

    Shapes: top ``(n, *event)``, log_density ``(n,)``; rows and ends ``(k,)``, or one end for all.
    """
    if not len(rows):
        return rows.bool()
    share = top.new_tensor(BETWEEN).reshape(-1, *[1] * top.ndim)
    there = top[ends] + share * (top[rows] - top[ends])
    with torch.no_grad():
        values = or_nothing(density.log_density(there.flatten(0, 1)))
    lowest = values.reshape(len(share), -1).amin(0)
    return lowest > log_density[rows].minimum(log_density[ends]) - VALLEY


def summit(density: Density, top: Tensor, width: Tensor) -> tuple[Tensor, Tensor] | None:
    """The summit above a place that a climb came to, and its factor; None where there is none.

    While Newton's method promises a gain there, the climb goes on in coordinates of its curvature.

    Shapes: top ``(*event)``; width ``(d,)``, about the standard deviations; factor ``(d, d)``.
    """
    for _ in range(TRIES):
        factor = shaped(density, top, width)
        if not bool(top.isfinite().all() & factor.isfinite().all()):  # on its way to infinity
            return None
        promise = (factor.mT @ usable(density, top[None])[1].flatten()).square().sum()
        if promise < LITTLE:
            return top, factor
        top = climb(density, top[None], Dense(top.flatten(), factor)).top[0]
        width = factor.square().sum(1).sqrt()
    return None


def is_rough(density: Density, top: Tensor, width: Tensor) -> bool:
    """Whether log p̃ jumps next to a summit, by more than rounding: it is noise that looks high.

    Where terms cancel of which none is left to say anything, as of log Γ of huge numbers, a climb
    ends at the highest of all errors.

    Shapes: top ``(*event)``; width ``(d,)``, about the standard deviations.

    >>> def noisy(x):
    ...     return -0.5 * x.square().sum(-1) + (1e9 * x).sum(-1).sin()
    >>> top, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    >>> is_rough(poe.FromLogDensity(noisy, space=poe.Real(2)), top, one)
    True
    """
    ends = _both_ends(top, NEAR * width)
    with torch.no_grad():
        height, *values = or_nothing(density.log_density(torch.cat([top[None], ends]))).unbind()
    fallen = torch.stack(values) - height
    jump = fallen.masked_fill(fallen == -torch.inf, 0.0).abs().amax()  # to the edge of a support
    rounding = ROUNDINGS * torch.finfo(height.dtype).eps * height.abs()
    return bool(jump > ROUGH + rounding) or bool((ends == top).reshape(len(ends), -1).all(1).any())


def shaped(density: Density, top: Tensor, width: Tensor) -> Tensor:
    """L with L Lᵀ = (−∇² log p̃)⁻¹ at a summit, by differences as wide as it is.

    Shapes: top ``(*event)``; width ``(d,)``, about the standard deviations; returns ``(d, d)``.
    """
    d = top.numel()
    with torch.no_grad():
        height = density.log_density(top[None])
        for _ in range(ROUNDS):
            values = density.log_density(_both_ends(top, width)).reshape(2, d)
            fallen = (height - or_nothing(values).amax(0)).clamp(min=1e-6)
            width = width * (0.5 / fallen).sqrt().clamp(0.125, 8.0).to(width.dtype)
            if bool(((fallen > 0.25) & (fallen < 1.0)).all()):
                break
    score = usable(density, _both_ends(top, width))[1].reshape(2, d, d)
    curvature = 0.5 * (score[0] - score[1]) * width  # −∂² log p̃, each axis in its width
    curvature = (0.5 * (curvature + curvature.mT)).nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)
    curvature.fill_diagonal_(1.0)  # by the choice of the widths
    eigenvalues, vectors = torch.linalg.eigh(curvature)
    inverse = vectors / eigenvalues.clamp(min=FLATTEST) @ vectors.mT
    return width[:, None] * torch.linalg.cholesky(inverse)


def weighed(density: Density, top: Tensor, factor: Tensor, generator: torch.Generator) -> Mode:
    """The mode with log ∫ p̃ within √d + 3 of its centre, without bias whatever p̃ is.

    Shapes: top ``(*event)``, factor ``(d, d)``.
    """
    u = top.new_empty((DRAWS, top.numel())).normal_(generator=generator)
    with torch.no_grad():
        x = top + (u @ factor.mT).reshape(-1, *top.shape)
        log_target = or_nothing(density.log_density(x).double())
    log_normal = -0.5 * (u.double().square() + math.log(2 * math.pi)).sum(1)
    log_det = factor.double().diagonal().log().sum()
    log_weights = (log_target - log_normal + log_det).masked_fill(~is_in(u), -torch.inf)
    return Mode(top.flatten(), factor, log_mean(log_weights).item())


def is_in(u: Tensor) -> Tensor:
    """Whether positions in a mode's own coordinates ``(..., d)`` are in it: ``(...)``."""
    return u.square().sum(-1).sqrt() <= math.sqrt(u.shape[-1]) + REACH


def usable(density: Density, u: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density and score, −inf and 0 where they are no numbers."""
    value, score = density.log_density_and_score(u)
    return or_nothing(value), score.nan_to_num(0.0, 0.0, 0.0)


def _both_ends(top: Tensor, width: Tensor) -> Tensor:
    """One step back, and one ahead, along each axis: ``(2 d, *event)``."""
    steps = torch.diag(width)
    flat = top.flatten()
    return torch.cat([flat - steps, flat + steps]).reshape(-1, *top.shape)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
