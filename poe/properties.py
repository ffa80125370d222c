"""What only some experts have; families register themselves with `functools.singledispatch`."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from poe.errors import NormalizationError
from poe.expert import Expert


@singledispatch
def is_normalized(expert: Expert) -> bool:
    """Whether the normaliser is known, so that `log_prob` exists."""
    return hasattr(expert, "log_prob")


@singledispatch
def exact_log_partition(expert: Expert) -> Tensor | None:
    """log of the integral of p̃ in closed form, or None where there is none."""
    return torch.zeros(()) if hasattr(expert, "log_prob") else None


@singledispatch
def can_sample_exactly(expert: Expert) -> bool:
    """Whether `exact_sample` works for this expert."""
    return hasattr(expert, "sample")


@singledispatch
def exact_sample(
    expert: Expert, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Independent exact draws: `(num_samples, *event)`."""
    if not can_sample_exactly(expert):
        raise NormalizationError(
            f"{type(expert).__name__} has no exact sampler; use poe.sample(expert, num_samples)"
        )
    return expert.sample(num_samples, generator=generator)


@singledispatch
def check_proper(expert: Expert) -> None:
    """Raise `ImproperError` where the expert can be shown to have no finite normaliser."""
