"""What is checked of the output of experts and callers, and read off tensors; names no expert."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from poe.core.errors import DtypeError, OperatorError, PoeError, ShapeError
from poe.core.space import Space

HALF = (torch.bfloat16, torch.float16)
"""Of 8 and 11 bits: networks tolerate them, and log-densities, sums and normalisers do not."""


def precise(x: Tensor) -> Tensor:
    """The same numbers, in float32 where they were half precise, for sums of many.

    >>> precise(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype in HALF else x


def check_output(
    expert: nn.Module, space: Space, value: object, x: Tensor, batch_shape: torch.Size
) -> None:
    """Raise where `value` is no log-density of shape `(*batch,)` for x `(*batch, *event)`."""
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"expected {type(expert).__name__}.forward to return a tensor, got {kind_of(value)}"
        )
    if value.shape != batch_shape:
        raise ShapeError(
            f"expected a log-density of shape {tuple(batch_shape)} from {type(expert).__name__} "
            f"for x of shape {tuple(x.shape)} in {space}, got {tuple(value.shape)}; "
            "sum over the event's dimensions only, and drop dimensions of size 1"
        )
    if not value.is_floating_point():
        raise DtypeError(
            f"expected a floating-point log-density from {type(expert).__name__}, got {value.dtype}"
        )


def explain_placement(expert: nn.Module, x: Tensor, error: RuntimeError) -> None:
    """Turn torch's complaint about a dtype or a device into words, where that is the cause."""
    for name, tensor in [*expert.named_parameters(), *expert.named_buffers()]:
        if tensor.device != x.device:
            raise DtypeError(
                f"expected x on {tensor.device}, where {type(expert).__name__}.{name} lies, got "
                f"{x.device}; use x.to('{tensor.device}') or expert.to('{x.device}')"
            ) from error
        both_float = tensor.is_floating_point() and x.is_floating_point()
        if both_float and tensor.ndim and tensor.dtype != x.dtype:
            other_way = f"x.to({tensor.dtype}) or " if tensor.dtype not in HALF else ""
            raise DtypeError(
                f"expected x of {tensor.dtype}, as {type(expert).__name__}.{name}, got {x.dtype}; "
                f"use {other_way}expert.to({x.dtype}){_kept_fast(tensor.dtype)}"
            ) from error

    is_half = [t.dtype for t in (x, *_tensors(expert)) if t.dtype in HALF]
    if is_half and any(text in str(error) for text in _UNKNOWN_IN_HALF):
        raise DtypeError(
            f"expected {type(expert).__name__} and x in float32 or float64, got {is_half[0]}, in "
            f"which it cannot be computed ({error}): use expert.float() and x.float()"
        ) from error


_UNKNOWN_IN_HALF = ("not implemented for", "Low precision")
"""What torch says where it lacks an operation in half precision."""


def _kept_fast(dtype: torch.dtype) -> str:
    """How a network is half precise and chains are not, where that was meant."""
    return f", and poe.Autocast(expert, {dtype}) to compute in it" if dtype in HALF else ""


def dtype_of(module: nn.Module) -> torch.dtype:
    """The module's own dtype, so that 1 / 3 is as exact as its other numbers."""
    floats = [t.dtype for t in _tensors(module) if t.is_floating_point()]
    return floats[0] if floats else torch.float64


def floats_of(module: nn.Module) -> torch.dtype:
    """The dtype of the module's own arrays, else the default one; a lone number has no say."""
    tensors = [*module.parameters(), *module.buffers()]
    floats = (t.dtype for t in tensors if t.is_floating_point() and t.ndim)
    return next(floats, torch.get_default_dtype())


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's own numbers, else the default one."""
    return next((tensor.device for tensor in _tensors(module)), torch.get_default_device())


def number_like(module: nn.Module) -> Tensor:
    """An empty tensor where the module's numbers are, in the dtype of its arrays, or float32.

    What is half precise inside is met by positions that are not.
    """
    dtype = torch.promote_types(floats_of(module), torch.float32)
    return torch.empty(0, dtype=dtype, device=device_of(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def kind_of(value: object) -> str:
    """The type of `value` in words, and a number's value."""
    return (
        f"{type(value).__name__} {value!r}"
        if isinstance(value, int | float)
        else type(value).__name__
    )


def unique_names(names: list[str]) -> tuple[str, ...]:
    """The same names, repeated ones with the first suffix that is free, in linear time.

    >>> unique_names(["a", "a", "a_2", "a"])
    ('a', 'a_2', 'a_2_2', 'a_3')
    """
    taken: dict[str, None] = {}
    suffixes: dict[str, Iterator[int]] = {}
    for name in names:
        free = name
        while free in taken:
            free = f"{name}_{next(suffixes.setdefault(name, count(2)))}"
        taken[free] = None
    return tuple(taken)


def refuse(message: str) -> NoReturn:
    """Raise `OperatorError`."""
    raise OperatorError(message)


def own_method(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """The method of that name that a module has of itself or of its class, or None.

    Not by the attribute, which what the module lacks may be looked up for elsewhere. A property is
    asked, and what it raises is raised.
    """
    if name in (held := getattr(module, "__dict__", {})):
        own: Callable[..., Any] = held[name]
        return own
    found = inspect.getattr_static(type(module), name, None)
    if found is None or not hasattr(found, "__get__"):
        return found
    bound: Callable[..., Any] | None = found.__get__(module, type(module))
    return bound


def collected(collect: Callable[[Tensor], Tensor] | None, x: Tensor) -> Tensor:
    """What is kept of the draws: by default they themselves.

    Args:
        collect: What makes it of draws; None keeps them.
        x: Draws, ``(chains, *event)``.

    Returns:
        One tensor, ``(chains, ...)``.

    Raises:
        PoeError: Where ``collect`` does not return one tensor with a row for each of them.
    """
    if collect is None:
        return x
    kept: object = collect(x)
    if isinstance(kept, Tensor) and kept.shape[:1] == x.shape[:1]:
        return kept
    got = f"shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
    raise PoeError(
        f"expected collect= to return one tensor with a row for each of {len(x)} draws, got {got}: "
        "flatten several parts and join them by torch.cat(parts, -1)"
    )
