"""Score matching without noise: the Hessian's trace, exact or along random directions."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.losses.base import (
    Loss,
    Score,
    require_real,
    require_rows,
    score_of,
    square,
    square_of_score,
)


@checked
def score_matching(expert: Expert, data: Tensor) -> Loss:
    r"""Half the squared distance of the expert's score from the data's, up to a constant.

    .. math:: E_\text{data}\left[\tfrac12 \lVert \nabla \log \tilde p \rVert^2
       + \operatorname{tr} \nabla^2 \log \tilde p\right]

    The trace is taken exactly, by one backward pass for each element of an event: for small
    events. Experts with kinks are not fitted well, as two derivatives are assumed.

    Parts: ``squared_score``, the first term, and ``trace``.

    Args:
        expert: The one that learns, on a Real space.
        data: Rows of data, ``(n, *event)``.

    Returns:
        The loss.

    Raises:
        NonFiniteError: Naming the expert, where a derivative is not finite (one synchronisation
            with the device).
        PoeError: Off Real spaces.
        ShapeError: For other shapes.

    References:
        Hyvärinen (2005), Estimation of non-normalized statistical models by score matching, Journal
        of Machine Learning Research 6, eq. 4.

    Example:
        >>> expert = experts.Gaussian([0.0, 0.0], scale=0.5)
        >>> score_matching(expert, torch.zeros(3, 2)).parts["trace"]
        tensor(-8.)
    """
    score = _score(expert, data)
    size = data[0].numel()
    basis = torch.eye(size, dtype=data.dtype, device=data.device).reshape(size, 1, *data.shape[1:])
    trace = torch.stack([score.curvature(direction) for direction in basis]).sum(0)
    return _loss(expert, score, trace)


@checked
def sliced_score_matching(
    expert: Expert,
    data: Tensor,
    *,
    num_slices: int = 1,
    generator: torch.Generator | None = None,
) -> Loss:
    r"""``score_matching`` with the trace estimated along random directions, without bias.

    .. math:: E_\text{data}\left[\tfrac12 \lVert \nabla \log \tilde p \rVert^2
       + E_v\, v^\top \nabla^2 \log \tilde p\; v\right], \qquad v \in \{-1, 1\}^d

    Two backward passes for one direction, whatever the size of an event; the first term is exact,
    which is the variance-reduced form. Parts as of ``score_matching``.

    Args:
        expert: The one that learns, on a Real space.
        data: Rows of data, ``(n, *event)``.
        num_slices: Directions for each row, at least 1.
        generator: The source of the directions; a fresh one by default.

    Returns:
        The loss.

    Raises:
        NonFiniteError: Naming the expert, where a derivative is not finite (one synchronisation
            with the device).
        PoeError: Off Real spaces, and for less than one slice.
        ShapeError: For other shapes.

    References:
        Song, Garg, Shi & Ermon (2019), Sliced score matching: a scalable approach to density and
        score estimation, eq. 8, arXiv:1905.07088.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> expert = experts.Gaussian([0.0, 0.0], scale=0.5)
        >>> sliced_score_matching(expert, torch.zeros(3, 2), generator=g).parts["trace"]
        tensor(-8.)
    """
    if num_slices < 1:
        raise PoeError(f"expected num_slices of at least 1, got {num_slices}")
    score = _score(expert, data)
    generator = resolve(generator, data.device)
    directions = (_signs(data, generator) for _ in range(num_slices))
    trace = torch.stack([score.curvature(direction) for direction in directions]).mean(0)
    return _loss(expert, score, trace)


def _score(expert: Expert, data: Tensor) -> Score:
    require_real(expert)
    require_rows(expert, "data", data)
    return score_of(expert, data)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(2, like.shape, generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)


def _loss(expert: Expert, score: Score, trace: Tensor) -> Loss:
    squares = 0.5 * square(score.value)
    rows = squares + trace
    require_finite(Rows(expert, "data", score.x, rows, read=square_of_score))
    parts = {"squared_score": squares.detach().mean(), "trace": trace.detach().mean()}
    return Loss(rows.mean(), parts)
