"""What is checked of the output of experts and callers, and read off tensors; names no expert."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from poe.core.errors import DtypeError, OperatorError, PoeError, ShapeError
from poe.core.space import Space


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
            raise DtypeError(
                f"expected x of {tensor.dtype}, as {type(expert).__name__}.{name}, got {x.dtype}; "
                f"use x.to({tensor.dtype}) or expert.to({x.dtype})"
            ) from error


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
    """An empty tensor where the module's numbers are, in the dtype of its arrays."""
    return torch.empty(0, dtype=floats_of(module), device=device_of(module))


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


Forward = TypeVar("Forward", bound=Callable[..., Tensor])


def leaves_x(forward: Forward) -> Forward:
    """Mark a ``forward`` that only reads x, or hands it to experts: it is given x itself.

    Any other is given a copy, since what it does to its argument is not known. The mark is the
    function's own, so that a subclass with another ``forward`` does not inherit it.
    """
    forward.leaves_x = True  # type: ignore[attr-defined]
    return forward


def handed_out(module: nn.Module, x: Tensor) -> Tensor:
    """What a module's ``forward`` is given for x: a copy, which it may change in place.

    x itself goes to one that leaves it as it is, and where gradients are recorded: there a copy
    costs a part of the graph, and a change is found by its version.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return x
    is_read = getattr(module.forward, "leaves_x", False) and not module._forward_pre_hooks
    return x if is_read else x.clone()


def version_of(x: Tensor) -> int:
    """How often a tensor was changed in place; 0 where that is not counted."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


def explain_change(module: nn.Module, error: RuntimeError) -> None:
    """Turn torch's complaint about a change of x in place into words."""
    if "a leaf Variable that requires grad" in str(error):
        refuse_change(module, error)


def refuse_change(module: nn.Module, error: RuntimeError | None = None) -> NoReturn:
    """Raise `PoeError`: a module changed its argument in place, which others read too."""
    raise PoeError(
        f"expected {type(module).__name__} to leave its argument x as it is where gradients are "
        "recorded, got a change in place: write x = x.abs() in place of x.abs_(), or work on "
        "x.clone()"
    ) from error


def unique_names(names: list[str]) -> tuple[str, ...]:
    """The same names, repeated ones with a suffix."""
    taken: list[str] = []
    for name in names:
        candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(names) + 1))
        taken.append(next(candidate for candidate in candidates if candidate not in taken))
    return tuple(taken)


def refuse(message: str) -> NoReturn:
    """Raise `OperatorError`."""
    raise OperatorError(message)


def own_method(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """The method of that name that a module has of itself or of its class, or None.

    Not by the attribute, which what the module lacks may be looked up for elsewhere. A property is
    asked, and what it raises is raised.
    """
    if name in vars(module):
        own: Callable[..., Any] = vars(module)[name]
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
    kept: object = collect(x.clone())  # it may change its argument, and not the chain
    if isinstance(kept, Tensor) and kept.shape[:1] == x.shape[:1]:
        return kept
    got = f"shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
    raise PoeError(
        f"expected collect= to return one tensor with a row for each of {len(x)} draws, got {got}: "
        "flatten several parts and join them by torch.cat(parts, -1)"
    )
