"""Chains that stand still: which begin anew, and which stay where they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.affine import Affine, fit_moments
from poe.samplers.kernel import Density

STILL = 0.05
"""A chain that moves in so few of its steps stands still."""
NOTHING = math.log(1e-4)
"""Of the least mass around others, in nats: with so little around it a chain has no place."""
COMPARED = 9
"""So many chains that move stand for all of them."""
FAR_ABOVE, QUARTILE = 8.0, 0.6745
"""So many standard deviations; and the normal distribution's quartile."""
NEAR = 1e-3
"""Differences of scores are taken over such a part of what a chain moves in one direction."""


def stand_still(position: Tensor) -> Tensor:
    """Which chains do, of where they were: ``(steps, chains, *event) -> (chains,)``.

    >>> x = torch.randn(20, 2, 1, generator=torch.Generator().manual_seed(0))
    >>> stand_still(x * torch.tensor([[0.0], [1.0]]))
    tensor([ True, False])
    """
    rows = position.reshape(*position.shape[:2], -1)
    return (rows[1:] != rows[:-1]).any(2).double().mean(0) < STILL


def are_high(log_density: Tensor, others: Tensor) -> Tensor:
    """Which are far above what others are: by eight of their standard deviations, robustly.

    Args:
        log_density: log p̃ of all chains, ``(chains,)``.
        others: Of those that move, ``(n,)``.

    Returns:
        ``(chains,)``.

    >>> are_high(torch.tensor([9.0, 5.0]), torch.tensor([-1.0, 0.0, 1.0, 0.5, -0.5]))
    tensor([ True, False])
    """
    low, middle = torch.quantile(others.double(), others.new_tensor([0.25, 0.5]).double())
    return log_density > middle + FAR_ABOVE * (middle - low) / QUARTILE


def in_pits(density: Density, x: Tensor, others: Tensor) -> Tensor:
    """Which of some positions have next to no mass around them.

    Where effects share a scale that tends to 0, the density grows without bound, and the mass is
    gone: a chain that an optimiser left there moves by none but steps too short for all others.
    The mass around a place is that of a normal by log-density, score and its differences, no wider
    in any direction than where the score turns over, nor than the others together. A narrow mode
    has as much of it as they.

    Args:
        density: p̃.
        x: Where chains stand still, ``(n, *event)``.
        others: Where others move, ``(chains, *event)``.

    Returns:
        ``(n,)``.

    >>> def log_density(x):  # of 40 effects whose scale has nearly gone
    ...     log_scale, effects = x[:, 0], x[:, 1:]
    ...     square = (effects / log_scale.exp()[:, None]).square().sum(1)
    ...     return -0.5 * square - 40 * log_scale - 0.5 * (10 * (log_scale + 1)).square()
    >>> density = poe.FromLogDensity(log_density, space=poe.Real(41))
    >>> x = torch.randn(80, 41, generator=torch.Generator().manual_seed(0)).double()
    >>> x[:, 0] = -1 + 0.1 * x[:, 0]
    >>> x[0, 0] = -4.0
    >>> x[:, 1:] *= x[:, :1].exp()
    >>> in_pits(density, x[:2], x[2:])
    tensor([ True, False])
    """
    affine, some = fit_moments(others), others[:: max(1, len(others) // COMPARED)]
    least = torch.stack([_mass_around(density, one, affine) for one in some]).amin()
    mass = torch.stack([_mass_around(density, one, affine) for one in x])
    return (mass - least < NOTHING).to(x.device)


def _mass_around(density: Density, x: Tensor, affine: Affine) -> Tensor:
    """log of it, up to a constant: log p̃ − ½ Σ log max(λ, g², 1), in the directions of H's λ.

    NaN where scores are no numbers.

    Shapes: x ``(*event,)``.
    """
    u = affine.to_u(x[None])
    d = u.numel()
    gradient = affine.pull_score(density.log_density_and_score(x[None])[1]).reshape(d)
    # Over less where the density is steeper.
    width = NEAR / (1.0 + gradient.abs().amax())
    ends = u + width * torch.cat([torch.eye(d), -torch.eye(d)]).to(u).reshape(-1, *u.shape[1:])
    log_density, score = density.log_density_and_score(torch.cat([x[None], affine.to_x(ends)]))
    ahead, back = affine.pull_score(score)[1:].reshape(2, d, d).double()
    hessian = (back - ahead) / (2.0 * width)
    if not bool(hessian.isfinite().all()):
        return hessian.new_tensor(torch.nan).cpu()
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    along = (vectors.mT @ gradient.double()).square()
    return (log_density[0].double() - 0.5 * values.maximum(along).clamp(min=1.0).log().sum()).cpu()
