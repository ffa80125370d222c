"""Scores on discrete spaces: of bits and counts read as real numbers, of labels in one-hot form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.errors import GradientError
from poe.core.joint_space import Joint
from poe.core.space import Binary, Count, Space

OneHotLogDensity = Callable[[Tensor], Tensor]
"""log p̃ of one-hot events z ``(*batch, *event, k)``: ``(*batch,)``."""


def one_hot(x: Tensor, num_values: int, dtype: torch.dtype | None = None) -> Tensor:
    """z with z_v = 1 where v = x, else 0: ``(*batch, *event) -> (*batch, *event, k)``.

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    values = torch.arange(num_values, device=x.device)
    return (x.unsqueeze(-1) == values).to(dtype or torch.get_default_dtype())


def smooth_place(
    space: Space,
    x: Tensor,
    floats: Callable[[], torch.dtype],
    own: Callable[[], OneHotLogDensity | None],
    without: Callable[[], str],
) -> tuple[OneHotLogDensity | None, Tensor]:
    """A smooth function that says at some place what a discrete expert says at x, and that place.

    None for the function means the expert's own formula, read at real numbers. What is known of the
    expert is asked for only where it is needed, since it may cost a walk over its factors:
    ``floats``, the dtype of its numbers; ``own``, its log-density of one-hot events, if it has one;
    ``without``, the factors that have none.

    Raises GradientError for spaces of infinitely many values, and where the expert offers no
    function of the one-hot encoding.
    """
    if isinstance(space, Binary | Count | Joint):
        return None, x if x.is_floating_point() else x.to(floats())
    if space.num_values is None:
        raise GradientError(f"expected a continuous or finite space for a score, got {space}")
    found = own()
    if found is None:
        raise GradientError(
            f"expected an expert with a gradient in the one-hot encoding of x on {space}, got "
            f"{without()}, which has none: build it as poe.FromOneHot(fn, space=...), give it a "
            "method log_density_of_one_hot(z), or use poe.samplers.Gibbs(space), which needs no "
            "gradient"
        )
    return found, one_hot(x, space.num_values, floats())
