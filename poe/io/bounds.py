"""How much memory building what a file describes may take, so that a small file takes no large."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from poe.core.errors import StorageError

WIDEST = 8
"""Bytes of a number, where it is not known of which dtype it will be."""


class Allowance(TorchDispatchMode):
    """Within it, no more than so many bytes of new tensors are made.

    Args:
        num_bytes: How many, those that were let go again included.

    Raises:
        StorageError: Where it would be more.

    Example:
        >>> with Allowance(100):
        ...     torch.zeros(1000)
        Traceback (most recent call last):
        poe.StorageError: expected an expert whose tensors take at most 100 bytes to build, ...
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._allowed, self._left = num_bytes, num_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not given and "scalar" not in func.name():
            self._require(_stated(args, kwargs) * WIDEST)
        made = func(*args, **kwargs)
        known = {_place(tensor) for tensor in given}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and not tensor.is_meta and _place(tensor) not in known:
                self._left -= tensor.numel() * tensor.element_size()
        self._require(0)
        return made

    def _require(self, more: int) -> None:
        if more > self._left:
            raise StorageError(
                f"expected an expert whose tensors take at most {self._allowed:,} bytes to build, "
                "got one that takes more: its file may be made to exhaust the memory"
            )


def _stated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many numbers an operation without a tensor is asked for, at most."""
    if kwargs.get("device") is not None and str(kwargs["device"]) == "meta":
        return 0
    shapes = [arg for arg in args if isinstance(arg, list | tuple)]
    if shapes:
        return max(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
    return math.prod(abs(arg) for arg in args if isinstance(arg, int) and arg)


def _place(tensor: Tensor) -> int:
    return 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()
