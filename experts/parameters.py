"""How an argument becomes a tensor: the one door for the numbers that an expert is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from poe import DtypeError, PoeError, ShapeError
from poe.core import arguments

ArrayLike = Tensor | float | Sequence["ArrayLike"]
"""Numbers: a tensor, a number, or lists of them."""


def floats(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor, whatever its numbers; integers and booleans are converted.

    Args:
        name: What the argument is called, for the error.
        value: A tensor, a number, or lists of numbers; an ``nn.Parameter`` stays as it is.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The tensor, of the shape of the value.

    Raises:
        poe.DtypeError: For what are no real numbers.

    Example:
        >>> floats("loc", [1, 2])
        tensor([1., 2.])
    """
    if like is not None and not isinstance(value, nn.Parameter):
        return _tensor(name, value, like.dtype, like.device)
    tensor = _tensor(name, value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def real(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor, all of it finite; on the meta device that is not asked.

    Args:
        name: What the argument is called, for the error.
        value: A tensor, a number, or lists of numbers; an ``nn.Parameter`` stays as it is.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The tensor, of the shape of the value.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.PoeError: For NaN and infinities.

    Example:
        >>> real("loc", [0.0, float("nan")])
        Traceback (most recent call last):
        poe.PoeError: loc must be finite, got nan at (1,): leave out or replace what is not
    """
    tensor = floats(name, value, like=like)
    _require(name, tensor, torch.isfinite, "finite", "leave out or replace what is not")
    return tensor


def positive(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor, all of it finite and above 0.

    Args:
        name: What the argument is called, for the error.
        value: A tensor, a number, or lists of numbers; an ``nn.Parameter`` stays as it is.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The tensor, of the shape of the value.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.PoeError: For NaN and infinities, and for 0 and below.

    Example:
        >>> positive("scale", 2)
        tensor(2.)
    """
    tensor = real(name, value, like=like)
    _require(name, tensor, lambda t: t > 0, "positive", "give what is above 0")
    return tensor


def probability(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor, all of it strictly between 0 and 1.

    Args:
        name: What the argument is called, for the error.
        value: A tensor, a number, or lists of numbers; an ``nn.Parameter`` stays as it is.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The tensor, of the shape of the value.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.PoeError: For NaN and infinities, and for 0, 1 and beyond.

    Example:
        >>> probability("flip_probability", 0.5)
        tensor(0.5000)
    """
    tensor = real(name, value, like=like)
    remedy = "what is certain needs no expert"
    _require(name, tensor, lambda t: (t > 0) & (t < 1), "between 0 and 1", remedy)
    return tensor


def probabilities(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point vector of weights, none negative, made to sum to 1.

    Args:
        name: What the argument is called, for the error.
        value: A tensor or a list of numbers, ``(n,)``.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The weights, ``(n,)``, that sum to 1.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.ShapeError: For another shape.
        poe.PoeError: For NaN and infinities, for a weight below 0, for no weight above it, and for
            an ``nn.Parameter``, which an optimiser would move off a sum of 1.

    Example:
        >>> probabilities("weights", [1, 3])
        tensor([0.2500, 0.7500])
    """
    if isinstance(value, nn.Parameter):
        raise PoeError(
            f"{name} must be numbers, got an nn.Parameter, which an optimiser would move off a sum "
            "of 1: give a tensor"
        )
    tensor = real(name, value, like=like)
    if tensor.ndim != 1:
        raise ShapeError(f"{name} must be of shape (n,), got {tuple(tensor.shape)}: one for each")
    _require(name, tensor, lambda t: t >= 0, "0 or above", "leave out what has no weight")
    if not tensor.is_meta and not bool(tensor.sum() > 0):
        raise PoeError(f"{name} must be above 0 somewhere, got {_shown(tensor)}: give a weight")
    return tensor / tensor.sum()


def log_values(name: str, value: ArrayLike, *, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor of logarithms, finite, or −inf for what may not be.

    Args:
        name: What the argument is called, for the error.
        value: A tensor, a number, or lists of numbers; an ``nn.Parameter`` stays as it is.
        like: Whose dtype and device it gets; without it a floating-point tensor keeps its own, and
            all else gets torch's default.

    Returns:
        The tensor, of the shape of the value.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.PoeError: For NaN and +inf.

    Example:
        >>> log_values("pairs", [0, -torch.inf])
        tensor([0., -inf])
    """
    tensor = floats(name, value, like=like)
    remedy = "give log p, with -inf for what may not be"
    _require(name, tensor, lambda t: t < torch.inf, "numbers or -inf", remedy)
    return tensor


def number(name: str, value: ArrayLike, check: Callable[[str, ArrayLike], Tensor]) -> float:
    """One number that passes a check of this module, as Python's.

    Args:
        name: What the argument is called, for the error.
        value: A number, or a tensor of shape ``()``.
        check: Such as ``real`` or ``positive``.

    Returns:
        The number.

    Raises:
        poe.DtypeError: For what is no real number.
        poe.PoeError: Where it does not pass, and for an ``nn.Parameter``.
        poe.ShapeError: For more than one number.

    Example:
        >>> number("bandwidth", torch.tensor(2), positive)
        2.0
    """
    fixed(name, value, "give a float")
    # A float has more digits than torch's default dtype.
    tensor = value if isinstance(value, Tensor) else _tensor(name, value, torch.float64)
    check(name, tensor)
    if not tensor.is_meta and bool((tensor.abs() > torch.finfo(torch.float32).max).any()):
        raise PoeError(f"{name} must be a number of float32 size, got {_shown(tensor)}")
    if tensor.ndim or tensor.is_meta:
        raise ShapeError(f"{name} must be one number, got {_shown(tensor)}: give a float")
    return float(tensor)


def several(name: str, values: Iterable[ArrayLike]) -> list[ArrayLike]:
    """One entry for each layer, as a list.

    Args:
        name: What the argument is called, for the error.
        values: A sequence, or a tensor of at least one dimension.

    Returns:
        Its entries.

    Raises:
        poe.PoeError: Where it has none, being a number or the like, and for one ``nn.Parameter`` of
            them all.

    Example:
        >>> several("weights", ([[1.0]], [[2.0]]))
        [[[1.0]], [[2.0]]]
    """
    fixed(name, values, "give a list with a parameter for each layer")
    if _is_single(values):
        raise PoeError(f"{name} must be a sequence, one for each layer, got {values!r}")
    return list(values)


def whole(name: str, value: SupportsIndex, at_least: int | None = 1) -> int:
    """A whole number, at least so large; of any size where ``at_least`` is None.

    Args:
        name: What the argument is called, for the error.
        value: An int, or what Python takes for an index.
        at_least: The least that it may be.

    Returns:
        The number.

    Raises:
        poe.PoeError: For what is no whole number, or is below the least.

    Example:
        >>> whole("num_steps", 3)
        3
    """
    count: Any = arguments.whole(value)
    if count is arguments.REFUSED or (at_least is not None and count < at_least):
        raise _not_whole(name, value, at_least)
    return int(count)


def sizes(name: str, shape: Iterable[SupportsIndex], at_least: int | None = 1) -> tuple[int, ...]:
    """Whole numbers, one for each dimension or layer, each at least so large.

    >>> sizes("shape", torch.Size([2, 3]))
    (2, 3)
    """
    if _is_single(shape):
        raise PoeError(f"{name} must be whole numbers, got {shape}: give a tuple of them")
    return tuple(whole(f"{name}[{place}]", size, at_least) for place, size in enumerate(shape))


def pair(name: str, shape: Iterable[SupportsIndex], at_least: int | None = 1) -> tuple[int, int]:
    """Two whole numbers, such as rows and columns, each at least so large.

    >>> pair("shape", (2, 3))
    (2, 3)
    """
    found = sizes(name, shape, at_least)
    if len(found) != 2:
        raise ShapeError(f"{name} must be two whole numbers, got {found}: give (rows, columns)")
    return found[0], found[1]


def indices(name: str, value: Tensor | Sequence[Any]) -> Tensor:
    """A tensor of whole numbers, such as those of elements or sites.

    >>> indices("edges", [[0, 1], [1, 2]]).dtype
    torch.int64
    """
    tensor = _tensor(name, value)
    if tensor.is_floating_point() and tensor.numel():
        raise DtypeError(f"{name} must be whole numbers, got {tensor.dtype}: use .long()")
    return tensor.to(torch.long)


def aligned(**numbers: ArrayLike) -> list[Tensor]:
    """As finite tensors of one floating dtype on one device; a parameter stays what it is.

    The dtype is the widest of those that are given, and the device that of the tensor of most
    dimensions.

    Args:
        **numbers: Values by the arguments' names, for the error.

    Returns:
        The tensors, in order.

    Raises:
        poe.DtypeError: For a parameter of another dtype, and what are no real numbers.
        poe.PoeError: For NaN and infinities.

    Example:
        >>> [tensor.dtype for tensor in aligned(loc=0, scale=torch.ones(2).double())]
        [torch.float64, torch.float64]
    """
    given = [value for value in numbers.values() if isinstance(value, Tensor)]
    floating = [tensor.dtype for tensor in given if tensor.is_floating_point()]
    default = torch.get_default_dtype()
    widest = max(floating, key=lambda kind: torch.finfo(kind).bits, default=default)
    device = max(given, key=lambda tensor: tensor.ndim).device if given else None
    for name, value in numbers.items():
        if isinstance(value, nn.Parameter) and value.dtype != widest:
            raise DtypeError(
                f"{name} must be of {widest}, as {' and '.join(numbers)} are of one dtype, got a "
                f"parameter of {value.dtype}: use .to({widest}) before making it a parameter"
            )
    tensors = [_tensor(name, value, widest, device) for name, value in numbers.items()]
    return [real(name, tensor) for name, tensor in zip(numbers, tensors, strict=True)]


def alike(check: Callable[[str, ArrayLike], Tensor], **numbers: ArrayLike) -> list[Tensor]:
    """As tensors of one shape, dtype and device, each of which passes a check of this module.

    Args:
        check: Such as ``real`` or ``positive``.
        **numbers: Values by the arguments' names, for the error.

    Returns:
        Copies, in order, all of the broadcast shape.

    Raises:
        poe.DtypeError: For what are no real numbers.
        poe.ShapeError: Where they are not of one shape, and cannot be expanded to one.
        poe.PoeError: Where one does not pass, or requires a gradient.

    Example:
        >>> [tensor.tolist() for tensor in alike(positive, concentration=[1.0, 2.0], rate=3.0)]
        [[1.0, 2.0], [3.0, 3.0]]
    """
    tensors = aligned(**numbers)
    for name, tensor in zip(numbers, tensors, strict=True):
        check(name, tensor)
        _refuse_gradient(name, tensor)
    try:
        return [tensor.clone() for tensor in torch.broadcast_tensors(*tensors)]
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ShapeError(
            f"{' and '.join(numbers)} must be of one shape, got {shapes}: give one for each "
            "element, or one number for all"
        ) from error


def filled(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """One number for each place; a parameter must have them all.

    Args:
        name: What the argument is called, for the error.
        tensor: Numbers of that shape, or one ``()`` for all.
        shape: Of the places.

    Returns:
        The tensor itself, or a copy of the one number for each place.

    Raises:
        poe.ShapeError: For another shape.

    Example:
        >>> filled("fields", torch.tensor(0.5), torch.Size([2]))
        tensor([0.5000, 0.5000])
    """
    if tensor.ndim == 0 and not isinstance(tensor, nn.Parameter):
        return tensor.expand(shape).clone()
    if tensor.shape != shape:
        raise ShapeError(
            f"{name} must be of shape {tuple(shape)}, or a number for all, got "
            f"{tuple(tensor.shape)}: give one for each place"
        )
    return tensor


def fixed(name: str, value: object, remedy: str) -> None:
    """Refuse a parameter where other numbers are made of it, once: it would not be learned.

    Args:
        name: What the argument is called, for the error.
        value: Any.
        remedy: What to do instead.

    Raises:
        poe.PoeError: For an ``nn.Parameter``.

    Example:
        >>> fixed("mask", torch.nn.Parameter(torch.ones(2)), "give a tensor")
        Traceback (most recent call last):
        poe.PoeError: mask must be numbers, got an nn.Parameter, which would not be learned: give...
    """
    if isinstance(value, nn.Parameter):
        raise PoeError(
            f"{name} must be numbers, got an nn.Parameter, which would not be learned: {remedy}"
        )


def keep(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Hold a tensor in a module: as a parameter where it is one, else as a buffer.

    Args:
        module: What holds it.
        name: The attribute.
        value: The tensor, or None for a buffer that is not there.
    """
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def _require(
    name: str, tensor: Tensor, is_fine: Callable[[Tensor], Tensor], what: str, remedy: str
) -> None:
    if tensor.is_meta:
        return
    wrong = ~is_fine(tensor.detach())
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        where = f" at {place}" if place else ""
        raise PoeError(
            f"{name} must be {what}, got {tensor.detach()[place].item():g}{where}: {remedy}"
        )


def _tensor(
    name: str,
    value: ArrayLike,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Of lists and numbers straight in that dtype, which loses no digits; what is meta stays so."""
    if isinstance(value, Tensor) and value.is_meta:
        device = value.device
    try:
        is_complex = torch.as_tensor(value).is_complex()  # asked first: torch only warns of a cast
        tensor = torch.as_tensor(value, dtype=None if is_complex else dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(
            f"{name} must be numbers, got {type(value).__name__} ({error}): give a tensor, a "
            "number, or lists of one length"
        ) from error
    if is_complex:
        raise DtypeError(f"{name} must be real, got complex numbers: give their .real")
    if tensor.layout is not torch.strided:
        raise DtypeError(f"{name} must be dense, got {tensor.layout}: give its .to_dense()")
    return tensor


def _refuse_gradient(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise PoeError(
            f"{name} must be numbers, or natural parameters that are an nn.Parameter, got a tensor "
            "that requires a gradient: to learn them use expert.with_natural(nn.Parameter(...))"
        )


def _is_single(values: object) -> bool:
    return not isinstance(values, Iterable) or (isinstance(values, Tensor) and values.ndim == 0)


def _shown(tensor: Tensor) -> str:
    is_short = not tensor.is_meta and tensor.numel() <= 8
    kind = f"a tensor of shape {tuple(tensor.shape)} on {tensor.device}"
    return str(tensor.tolist()) if is_short else kind


def _not_whole(name: str, value: object, at_least: int | None) -> PoeError:
    shown = f"{value:g}" if isinstance(value, float) and not math.isnan(value) else str(value)
    bound = "" if at_least is None else f" >= {at_least}"
    return PoeError(f"{name} must be a whole number{bound}, got {shown}: give an int")
