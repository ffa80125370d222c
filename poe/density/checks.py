"""What is checked of the output of experts and callers, and read off tensors; names no expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, NoReturn, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from poe.core.arguments import told
from poe.core.errors import DtypeError, NonFiniteError, OperatorError, PoeError, ShapeError
from poe.core.space import Space
from poe.density.questions import speaks_as

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
            f"expected {type(expert).__name__}.forward to return a tensor, got {told(value)}"
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


def version_of(x: Tensor) -> int | None:
    """How often a tensor was changed in place; None where that is not counted."""
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version


def explain_change(module: nn.Module, error: RuntimeError) -> None:
    """Turn torch's complaint about a change of x in place into words."""
    if any(text in str(error) for text in _REFUSED_CHANGES):
        refuse_change(module, error)


_REFUSED_CHANGES = ("a leaf Variable that requires grad", "change requires_grad flags of leaf")
"""What torch says of changes in place that it does not make."""


def refuse_change(module: nn.Module, error: RuntimeError | None = None) -> NoReturn:
    """Raise `PoeError`: a module changed its argument in place, which others read too."""
    raise PoeError(
        f"expected {type(module).__name__} to leave its argument x as it is where gradients are "
        "recorded, got a change in place: write x = x.abs() in place of x.abs_(), or work on "
        "x.clone()"
    ) from error


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


GO_BACK = (
    "go back to the last good checkpoint, with a smaller learning rate; a tensor whose infinities "
    "mean something is named in the class's may_be_infinite"
)


@torch.no_grad()
def require_numbers(target: nn.Module) -> None:
    """Refuse what is made of no numbers, whose closed forms would not tell.

    NaN is none, in any parameter, and in the buffers of a class that says by ``may_be_infinite``
    which of its tensors may hold infinities: in others of such an expert these are none either.

    Args:
        target: An expert or a conditional.

    Raises:
        NonFiniteError: With the expert's and the tensor's name.

    >>> broken = experts.Gaussian(torch.nn.Parameter(torch.zeros(2)), 1.0)
    >>> broken.loc.data[1] = torch.nan
    >>> require_numbers(broken ** 2)
    Traceback (most recent call last):
    poe.NonFiniteError: expected numbers in expert 'Gaussian', got nan in 1 of 2 ...
    """
    factors: Any = getattr(target, "_factors", lambda: [(type(target).__name__, target)])
    for name, part in factors():
        for found in _numbers_of(part, "", False):
            _require_numbers(name, found)


class _Numbers(NamedTuple):
    """A tensor of a module, and whether infinities are no numbers of it."""

    path: str
    owner: nn.Module
    tensor: Tensor
    is_finite: bool


def _numbers_of(module: nn.Module, path: str, is_known: bool) -> Iterator[_Numbers]:
    """All parameters, and the buffers of what says which of its tensors are numbers."""
    said: tuple[str, ...] | None = getattr(module, "may_be_infinite", None)
    is_strict = said is not None
    is_known = is_strict if hasattr(module, "_density_methods") else is_known or is_strict
    buffers = module._buffers if is_strict else {}
    for key, tensor in [*module._parameters.items(), *buffers.items()]:
        if _has_floats(tensor):
            is_finite = is_known and key not in (said or ())
            yield _Numbers(f"{path}{key}", module, tensor, is_finite)
    for key, child in module.named_children():
        yield from _numbers_of(child, f"{path}{key}.", is_known)


def _has_floats(tensor: Tensor | None) -> TypeGuard[Tensor]:
    if tensor is None or tensor.is_meta or is_lazy(tensor):
        return False
    return tensor.is_floating_point()


def _require_numbers(name: str, found: _Numbers) -> None:
    tensor = found.tensor
    if bool(tensor.sum().isfinite()):  # the quick way: of all tensors that are as they should be
        return
    wrong = ~tensor.isfinite() if found.is_finite else tensor.isnan()
    if bool(wrong.any()):
        raise NonFiniteError(
            f"expected numbers in expert {name!r}, got {tensor[wrong][0].item()} in "
            f"{int(wrong.sum())} of {wrong.numel()} of its {found.path} "
            f"({type(found.owner).__name__}): {GO_BACK}"
        )


class NotInherited:
    """In place of a method of a parent class that says something of the parent's density alone.

    As if there were none, of this class on: what an expert lacks is looked up elsewhere.
    """

    def __init__(self, name: str, owner: type) -> None:
        self.name, self.owner = name, owner

    def __get__(self, module: object, kind: type) -> NoReturn:
        raise AttributeError(self.in_words(kind))

    def in_words(self, kind: type) -> str:
        """Why there is none, and what to do."""
        return (
            f"{kind.__name__} does not inherit {self.name} from {self.owner.__name__}, since its "
            f"log-density is another: define {self.name} in {kind.__name__} too, or mark what it "
            "overrides by poe.density.questions.interchangeable where that says the same"
        )


def own_method(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """The method of that name that a module has of itself or of its class, or None.

    Not by the attribute, which what the module lacks may be looked up for elsewhere. A property is
    asked, and what it raises is raised. A method of a class whose density the module does not say
    (`poe.density.questions.speaks_as`) is none of it.
    """
    if name in (held := getattr(module, "__dict__", {})):
        own: Callable[..., Any] = held[name]
        return own
    owner = next((base for base in type(module).__mro__ if name in vars(base)), None)
    if owner is None or not speaks_as(module, owner):
        return None
    found = vars(owner)[name]
    if isinstance(found, NotInherited):
        return None
    if not hasattr(found, "__get__"):
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
