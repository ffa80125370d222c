"""Whether one step size fits all places: what the scores of a warm-up tell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.affine import fit_affine
from poe.core.transport import Transport
from poe.core.transport_fit import fit_transport, misfit

MIN_POSITIONS = 100
MAX_POSITIONS = 2000
SPREAD = 2.0
MARGIN = 0.6
"""The log of |score|² may vary by so much more than twice as far as that of a Gaussian."""
MIN_MISFIT = 0.25
"""A score so near to a Gaussian's asks for no other kernel."""
STRAIGHTENED = 0.2
"""The share of the misfit that a map that bends may leave."""


def has_varying_scale(position: Tensor, score: Tensor, *, min_misfit: float = MIN_MISFIT) -> bool:
    """Whether the scale of the score varies along the chains, so that steps should fit the place.

    In whitened coordinates the scores of a Gaussian have a log |∇|² of the standard deviation of
    log χ²_d; so have those of modes of equal width, wherever they are. Either that deviation is
    more than twice as large and by .6 more (a narrow part inside a broad one), or a map that bends
    (``fit_transport``) leaves less than a fifth of the misfit of the best affine one, where that
    misfit is large (funnels, hierarchies in their centred form, bent valleys).

    Args:
        position: Positions of chains that have arrived, ``(n, *event)``; a few hundred at least.
        score: ∇ log p̃ there, ``(n, *event)``.
        min_misfit: Of the best affine map (``misfit``); below it nothing else is asked for.

    Returns:
        False where there are too few to tell.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(500, 3, generator=g)
        >>> has_varying_scale(x, -x)
        False
        >>> broad = torch.rand(500, 1, generator=g) < 0.5  # N(0, I) and N(0, 0.01² I)
        >>> has_varying_scale(torch.where(broad, x, 0.01 * x), torch.where(broad, -x, -100 * x))
        True
    """
    x, scores = (_some(part) for part in (position, score))
    is_finite = x.isfinite().all(1) & scores.isfinite().all(1)
    x, scores = x[is_finite], scores[is_finite]
    if len(x) < MIN_POSITIONS:
        return False
    affine = fit_affine(x, scores)
    if _spreads(affine.pull_score(scores)):
        return True
    before = misfit(affine, x, scores)
    if before < min_misfit:
        return False
    bent = fit_transport(x, scores)
    return isinstance(bent, Transport) and misfit(bent, x, scores) < STRAIGHTENED * before


def _some(rows: Tensor) -> Tensor:
    """At most 2000 of them, evenly: ``(n, *event) -> (m, d)``."""
    return rows.reshape(len(rows), -1)[:: math.ceil(len(rows) / MAX_POSITIONS)].double()


def _spreads(score: Tensor) -> bool:
    of_gaussian = _spread_of_normal(score.shape[1])
    return spread_of_scores(score) * of_gaussian > SPREAD * of_gaussian + MARGIN


def spread_of_scores(score: Tensor) -> float:
    """The standard deviation of log |∇|², over that of a Gaussian: that of log χ²_d.

    Shapes: score ``(n, *event)``, in whitened coordinates.

    >>> x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    >>> abs(spread_of_scores(-x) - 1) < 0.05
    True
    """
    squares = score.reshape(len(score), -1).square().sum(1)
    return squares.clamp(min=1e-300).log().std().item() / _spread_of_normal(score[0].numel())


def _spread_of_normal(d: int) -> float:
    return torch.special.polygamma(1, torch.tensor(0.5 * d, dtype=torch.float64)).sqrt().item()
