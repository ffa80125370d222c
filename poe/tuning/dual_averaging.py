"""Nesterov dual averaging: a scale that makes the acceptance rate what it should be."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class DualAveraging(NamedTuple):
    """Nesterov dual averaging of a log-scale; every tensor is () or (chains,)."""

    log_scale: Tensor
    log_scale_average: Tensor
    error_average: Tensor
    anchor: Tensor
    num_updates: Tensor


def start_averaging(scale: Tensor) -> DualAveraging:
    """Dual averaging that begins at that scale and leans towards ten times it."""
    zero, log_scale = torch.zeros_like(scale), scale.log()
    return DualAveraging(log_scale, zero, zero, log_scale + math.log(10.0), torch.zeros_like(scale))


def update_averaging(
    state: DualAveraging, acceptance: Tensor, target: float, max_scale: float = math.inf
) -> DualAveraging:
    """One update towards the target acceptance, with no scale above ``max_scale``.

    H̄ₜ = (1 − 1/(t + t₀)) H̄ₜ₋₁ + (δ − αₜ)/(t + t₀);  log εₜ = μ − √t/γ H̄ₜ;
    log ε̄ₜ = t^−κ log εₜ + (1 − t^−κ) log ε̄ₜ₋₁, with γ = 0.05, t₀ = 10, κ = 0.75.

    Args:
        state: Of the last update.
        acceptance: αₜ, () or ``(chains,)``.
        target: δ.
        max_scale: The largest εₜ.

    Returns:
        The next state.

    References:
        Hoffman & Gelman (2014), The No-U-Turn sampler, eq. 6 and section 3.2, arXiv:1111.4246.

    Example:
        >>> state = start_averaging(torch.tensor(1.0))
        >>> for _ in range(500):  # a chain that accepts with probability exp(-scale)
        ...     state = update_averaging(state, torch.exp(-state.log_scale.exp()), 0.5)
        >>> round(float(state.log_scale_average.exp()), 1)  # exp(-0.7) = 0.5
        0.7
    """
    t = state.num_updates + 1.0
    weight = 1.0 / (t + 10.0)
    error = (1.0 - weight) * state.error_average + weight * (target - acceptance)
    log_scale = (state.anchor - t.sqrt() / 0.05 * error).clamp(max=math.log(max_scale))
    eta = t**-0.75
    average = eta * log_scale + (1.0 - eta) * state.log_scale_average
    return DualAveraging(log_scale, average, error, state.anchor, t)
