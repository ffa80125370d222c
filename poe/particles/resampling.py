"""Resampling of weighted particles, within each of several islands at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUM_ITERATIONS = 3


def systematic_resample(
    log_weights: Tensor, num_chosen: int, *, generator: torch.Generator
) -> Tensor:
    """Indices of the chosen particles, island by island.

    Particle i of n is chosen ⌊m Wᵢ⌋ or ⌈m Wᵢ⌉ times, m Wᵢ on average: one uniform U for each
    island, and the particles at which the running sum of the weights passes (U + k) / m. The
    order of the particles decides how much noise that adds (``snake_order``).

    Args:
        log_weights: ``(islands, n)``; an island needs one that is finite.
        num_chosen: m.
        generator: For U.

    Returns:
        Indices, ``(islands, num_chosen)``.

    References:
        Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space
        models, appendix A.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> systematic_resample(torch.tensor([[0.0, -torch.inf, 0.0]]), 4, generator=g)
        tensor([[0, 0, 2, 2]])
    """
    sums = torch.softmax(log_weights.double(), 1).cumsum(1)
    sums = sums / sums[:, -1:]
    uniform = sums.new_empty((len(sums), 1)).uniform_(generator=generator)
    marks = (torch.arange(num_chosen, device=sums.device) + uniform) / num_chosen
    # right=True: a particle of weight 0 is passed over, even by a mark of exactly its sum.
    chosen = torch.searchsorted(sums, marks, right=True)
    last = (log_weights > -torch.inf).int().cumsum(1).argmax(1, keepdim=True)
    return torch.minimum(chosen, last)


def snake_order(x: Tensor, num_islands: int, num_strips: int) -> Tensor:
    """An order in which neighbours are close, for each island: ``(islands, n)`` indices.

    Systematic resampling of particles in an order that runs through space chooses from every part
    of it the number that is due, to within one: far less noise than of particles in any order
    (Gerber, Chopin & Whiteley 2019, who use a Hilbert curve). Here the plane of the two directions
    of largest variance is cut into strips along the first, and each strip is walked along the
    second, to and fro.

    Shapes: x ``(islands * n, *event)``.

    >>> x = torch.tensor([[9.0, 0.1], [1.0, 0.0], [8.0, 2.0], [2.0, 2.0]])
    >>> snake_order(x, num_islands=1, num_strips=2)
    tensor([[1, 3, 2, 0]])
    """
    flat = x.reshape(len(x), -1).to(
        torch.get_default_dtype() if not x.is_floating_point() else x.dtype
    )
    flat = flat - flat.mean(0)
    plane = (flat @ _leading_directions(flat)).reshape(num_islands, -1, min(2, flat.shape[1]))
    n = plane.shape[1]
    ranks = plane.argsort(1).argsort(1)
    strip, along = (ranks[..., 0] * num_strips) // n, ranks[..., -1]
    return (strip * n + torch.where(strip % 2 == 0, along, n - 1 - along)).argsort(1)


def _leading_directions(x: Tensor) -> Tensor:
    """The two directions of largest variance, nearly: ``(n, d) -> (d, min(2, d))``.

    By subspace iteration from the two components of largest variance: no random numbers. Each
    direction points to where its largest entry is positive.
    """
    first = x.square().sum(0).argsort(descending=True)[:2]
    basis = torch.nn.functional.one_hot(first, x.shape[1]).to(x.dtype).mT
    for _ in range(NUM_ITERATIONS):
        basis = torch.linalg.qr(x.mT @ (x @ basis)).Q
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * largest.sign()


def num_strips(num_chosen: int) -> int:
    """Strips for that many chosen particles: as long as they are wide."""
    return max(1, round(math.sqrt(num_chosen)))


def equally_weighted(
    position: Tensor, log_z: Tensor, num_draws: int, generator: torch.Generator
) -> Tensor:
    """Particles of all islands by the islands' weights, in any order: ``(num_draws, *event)``.

    Shapes: position ``(islands, n, *event)``; log_z, log of each island's Ẑ, ``(islands,)``.
    """
    log_weights = log_z.repeat_interleave(position.shape[1])[None]
    rows = systematic_resample(log_weights, num_draws, generator=generator)[0]
    order = torch.randperm(num_draws, generator=generator, device=rows.device)
    return position.flatten(0, 1)[rows[order]]
