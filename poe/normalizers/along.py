"""Estimates from the levels of one path: forward, backward, by all at once, by integration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.diagnostics.independent_groups import log_mean
from poe.diagnostics.weights import kish_ess
from poe.normalizers.bounds import Sides
from poe.normalizers.levels import Levels
from poe.normalizers.mbar import Normalizers, mbar

MAX_NUMBERS = 2**24
"""Of log-densities that are held at once; beyond, draws of each level are left out evenly."""


def sides(levels: Levels) -> Sides:
    """Σ log mean exp(Δt U) over levels forward, and −Σ log mean exp(−Δt U) backward.

    U = d/dt log γ_t at the particles of the level that a step begins at. Where a part of the start
    is outside the target's support, the way back ends at what is inside: its share is added.
    """
    steps = levels.temperatures.diff()[:, None, None].to(levels.tilts.device)
    back = log_mean(-steps * levels.tilts[1:])
    share_inside = (levels.tilts[0] > -torch.inf).double().mean()
    return Sides(levels.log_z, levels.log_start - back.sum(0) + share_inside.log())


def all_levels(levels: Levels, max_numbers: int = MAX_NUMBERS) -> Normalizers:
    """The multistate Bennett acceptance ratio of all levels: log γ_t(x) = log γ_0(x) + t U(x)."""
    count = len(levels.passed)
    stride = max(1, math.ceil(levels.tilts.numel() * count / max_numbers))
    tilts = levels.tilts[:, :, ::stride]
    groups, each = tilts.shape[1:]
    flat = tilts.permute(1, 0, 2).reshape(groups, count * each)
    t = levels.temperatures.to(flat.device)[:, None, None]
    log_densities = (t * flat).masked_fill(t == 0, 0.0)  # where U is −inf too
    return mbar(log_densities, torch.full((count,), each, device=flat.device))


def weakest_ess(levels: Levels) -> float:
    """The smallest effective sample size of the weights of one step."""
    steps = levels.temperatures.diff().to(levels.tilts.device)
    pairs = zip(steps, levels.tilts[:-1], strict=True)
    return min(kish_ess(step * tilt).item() for step, tilt in pairs)


def integrals(levels: Levels, stride: int = 1) -> Tensor:
    """∫ E_t U dt of each group: ``(groups,)``, by every so many levels.

    The trapezoidal rule corrected by the derivatives, which are variances: d/dt E_t U = Var_t U.
    """
    count = len(levels.passed)
    kept = sorted({*range(0, count, stride), count - 1})
    t, tilts = levels.temperatures[kept].to(levels.tilts.device), levels.tilts[kept]
    mean, variance = tilts.mean(2), tilts.var(2)
    h = t.diff()[:, None]
    trapezoid = 0.5 * h * (mean[1:] + mean[:-1])
    return (trapezoid - h.square() / 12 * variance.diff(dim=0)).sum(0)
