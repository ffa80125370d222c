"""The numbers that an expert is made of: as tensors, and kept where modules keep theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poe import PoeError

ArrayLike = Tensor | Sequence[float] | Sequence[Sequence[float]] | float


def as_tensor(name: str, value: ArrayLike) -> Tensor:
    """A floating-point tensor; raises PoeError, by that name, where a number is not finite."""
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if not tensor.is_meta and not bool(tensor.isfinite().all()):
        raise PoeError(f"expected a finite {name}, got {tensor}")
    return tensor


def keep(module: nn.Module, name: str, value: Tensor | None) -> None:
    """As a parameter where it is one, else as a buffer."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
