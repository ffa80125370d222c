"""The log score on points held out, with the bounds that log Z has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.density.expert import Expert
from poe.exponents.fitted import Loss
from poe.normalizers.choose import find_log_partition


def log_score_loss(
    held_out: Tensor, generator: torch.Generator, *, progress: bool = False
) -> Callable[[Expert, Tensor], Loss]:
    """log Z − mean log p̃(x) of an expert over the points held out ``(n, *event)``.

    Where log Z is estimated its bounds are the loss's; where it is not to be trusted nothing bounds
    the loss from above.
    """

    def loss(target: Expert, weights: Tensor) -> Loss:
        with torch.no_grad():
            mean = float(target(held_out).double().mean())
        found = find_log_partition(target, None, None, generator, progress)
        upper = float(found.upper) if found.is_trusted else torch.inf
        return Loss(float(found.value) - mean, float(found.lower) - mean, upper - mean)

    return loss
