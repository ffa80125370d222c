"""Arguments at the door of a public call: taken where it is plain what is meant, else refused.

The annotations of a function say what it takes; ``checked`` holds its callers to them. What a kind
of its own is called, and how one is made of something else, stands beside its class
(``register_kind``).
"""

from __future__ import annotations

import inspect
import operator
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial, wraps
from numbers import Real
from typing import (
    Any,
    ForwardRef,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints as hints_of,
)

import numpy as np
import torch
from torch import Tensor

from poe.core.errors import DtypeError, PoeError, ShapeError, SizeError, is_out_of_memory

Checked = TypeVar("Checked", bound=Callable[..., Any])
MOST = 10**10
"""Above it a count is a slip: no machine holds so many draws, or lives for so many steps."""
REFUSED: Any = object()
"""What ``Kind.take`` answers to a value that is none of its kind."""


def _no_remedy(value: Any) -> str:
    return ""


class Kind(NamedTuple):
    """What an annotation asks for.

    Args:
        words: What is expected, as in "a whole number".
        take: From what came to what is used, or ``REFUSED``.
        remedy: What to do about a value that is refused; empty where there is no advice.
        error: What is raised.
    """

    words: str
    take: Callable[[Any], Any]
    remedy: Callable[[Any], str] = _no_remedy
    error: type[PoeError] = PoeError


ANYTHING = Kind("anything", lambda value: value)
"""Where an annotation says nothing that could be asked."""


def checked(call: Checked) -> Checked:
    """A function, or a class by its constructor, whose arguments are of the kinds it annotates.

    Numbers are taken from whatever holds one (1e3 or ``np.int64(2)`` for a count), and so is a
    sequence. All else of another kind is refused, by what was expected, what came and the remedy.
    What is missing or unknown by name is left to Python, and a graph that is being captured to what
    called it. An allocation that fails inside says how much was asked for.

    Args:
        call: The function or the class.

    Returns:
        The same, checked.

    Example:
        >>> @checked
        ... def doubled(count: int) -> int:
        ...     return 2 * count
        >>> doubled(1e3)
        2000
        >>> doubled("10")
        Traceback (most recent call last):
        poe.PoeError: expected count to be a whole number, got '10': use int('10')
    """
    if isinstance(call, type):
        call.__init__ = _at_the_door(call.__init__, call)  # type: ignore[misc]
        return call
    return cast("Checked", _at_the_door(call, None))


def _at_the_door(call: Callable[..., Any], owner: type | None) -> Callable[..., Any]:
    """A function, or the constructor of a dataclass, whose fields tell of the classes above too."""
    kinds = cache(partial(_kinds_of, call, owner))

    @wraps(call)
    def at_the_door(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return call(*args, **kwargs)
        known = kinds()
        first = [_taken(*kind, each) for kind, each in zip(known.first, args, strict=False)]
        rest = [_taken(*known.rest, each) for each in args[len(first) :]]
        named = {
            name: _taken(name, known.named.get(name, known.others), each)
            for name, each in kwargs.items()
        }
        try:
            return call(*first, *rest, **named)
        except (PoeError, torch.OutOfMemoryError):  # of a device, which people catch
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise SizeError(_too_large(call, error)) from error

    return at_the_door


def _too_large(call: Callable[..., Any], error: BaseException) -> str:
    size = re.search(r"allocate (\d+) bytes", str(error))
    asked = f"got {int(size[1]) / 2**30:.3g} GiB at once" if size else "got more"
    return (
        f"expected {call.__qualname__} to be asked for what memory holds, {asked}: ask for less, "
        "or for one part after another"
    )


class Kinds(NamedTuple):
    """What a function takes: in order, then of ``*args``, by name, and of ``**kwargs``."""

    first: tuple[tuple[str, Kind], ...]
    rest: tuple[str, Kind]
    named: dict[str, Kind]
    others: Kind


def require(name: str, value: Any, kind: Any) -> Any:
    """The value as one of a kind, or the error that names both.

    Args:
        name: What the argument is called.
        value: What came.
        kind: An annotation, such as ``int`` or ``Tensor | None``.

    Returns:
        The value, or what of its kind it holds.

    Raises:
        PoeError: For another kind.

    >>> require("num_steps", torch.tensor(3.0), int)
    3
    """
    return _taken(name, _kind(kind), value)


def require_count(name: str, value: Any, at_least: int = 1) -> int:
    """A whole number, at least so large.

    Args:
        name: What the argument is called.
        value: What came.
        at_least: The least that it may be.

    Returns:
        The number.

    Raises:
        PoeError: For what is no whole number, or less.

    >>> require_count("num_steps", 0)
    Traceback (most recent call last):
    poe.PoeError: expected num_steps >= 1, got 0
    """
    count: int = require(name, value, int)
    if count < at_least:
        raise PoeError(f"expected {name} >= {at_least}, got {count}")
    return count


def require_dimensions(name: str, x: Tensor, expected: str) -> None:
    """Refuse a tensor of another number of dimensions; a star stands for any number of them.

    Args:
        name: What the argument is called.
        x: What came.
        expected: Such as "(chains, draws, *event)".

    Raises:
        ShapeError: Where x has fewer or more.

    >>> require_dimensions("samples", torch.zeros(3), "(chains, draws, *event)")
    Traceback (most recent call last):
    poe.ShapeError: expected samples of shape (chains, draws, *event), got (3,)
    """
    sizes = expected.strip("()").split(", ")
    least = sum(not size.startswith("*") for size in sizes)
    if x.ndim < least or (x.ndim > least and least == len(sizes)):
        raise ShapeError(f"expected {name} of shape {expected}, got {tuple(x.shape)}")


def require_memory(count: int, shape: torch.Size, device: torch.device) -> None:
    """Refuse more events than the machine's memory holds as float32; other devices say so at once.

    Args:
        count: How many.
        shape: Of one event.
        device: Where they are to lie.

    Raises:
        SizeError: Where they cannot.

    >>> require_memory(10**10, torch.Size([1000]), torch.device("cpu"))
    Traceback (most recent call last):
    poe.SizeError: expected draws that memory holds, got 10,000,000,000 of shape (1000,), ...
    """
    needed = 4 * count * shape.numel()
    if device.type == "cpu" and needed > memory(device):
        raise SizeError(
            f"expected draws that memory holds, got {count:,} of shape {tuple(shape)}, "
            f"{needed / 2**30:.3g} GiB: draw fewer, or keep less of each by collect="
        )


def require_values(name: str, x: Tensor) -> None:
    """Refuse a tensor on meta, which has a shape and no values.

    Args:
        name: What the argument is called.
        x: The tensor, of any shape.

    Raises:
        PoeError: For one on meta.

    >>> require_values("x", torch.zeros(3, device="meta"))
    Traceback (most recent call last):
    poe.PoeError: expected x with values, got one on meta, which has none: use a real device
    """
    if x.is_meta:
        raise PoeError(
            f"expected {name} with values, got one on meta, which has none: use a real device"
        )


COPIES = 8
"""A step holds positions, scores and proposals of all chains, noise, and a graph of values."""


def require_memory_for_chains(num_chains: int, shape: torch.Size, device: torch.device) -> None:
    """Refuse more chains than the machine's memory holds while they move.

    Args:
        num_chains: How many.
        shape: Of one event.
        device: Where they are to move.

    Raises:
        SizeError: Where it does not.

    >>> require_memory_for_chains(10**10, torch.Size([2]), torch.device("cpu"))
    Traceback (most recent call last):
    poe.SizeError: expected chains that memory holds, got 10,000,000,000 of shape (2,), of which ...
    """
    needed = 4 * COPIES * num_chains * max(1, shape.numel())
    if device.type == "cpu" and needed > memory(device):
        raise SizeError(
            f"expected chains that memory holds, got {num_chains:,} of shape {tuple(shape)}, of "
            f"which a step takes about {needed / 2**30:.3g} GiB: use fewer, and longer ones"
        )


def memory(device: torch.device) -> float:
    """Of this machine, or of its accelerator, in bytes; infinite where the system does not say.

    Args:
        device: Which of the two.

    Returns:
        The whole, whatever is taken of it.

    >>> memory(torch.device("cpu")) > 2**20
    True
    """
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return float("inf")
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def told(value: object) -> str:
    """What came, in a few words.

    Args:
        value: Anything.

    Returns:
        The words.

    >>> told(torch.zeros(2, 3)), told(None), told(int), told(2.5), told("ten")
    ('a tensor of shape (2, 3)', 'None', 'the class int', 'float 2.5', "'ten'")
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {value.shape}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str):
        return _short(value)
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package in ("builtins", "__main__") else f"{package}.{kind.__name__}"
    return f"{name} {_short(value)}" if isinstance(value, int | float) else name


_KINDS: dict[Any, Kind] = {}


def register_kind(kind: Any, found: Kind) -> None:
    """Say how values of a class, or of a protocol, are known and asked for.

    Args:
        kind: As annotations name it.
        found: Its words, what is taken and the remedy.
    """
    _KINDS[kind] = found
    _kind.cache_clear()


def instance_of(kind: type, value: Any) -> Any:
    """The value where it is one of the class, and no class itself; else ``REFUSED``."""
    return value if isinstance(value, kind) and not isinstance(value, type) else REFUSED


def _kinds_of(call: Callable[..., Any], owner: type | None) -> Kinds:
    """The kind of each parameter, as far as its annotation can be read."""
    parameters = inspect.signature(call).parameters
    found = {name: _kind_of(call, owner, each) for name, each in parameters.items()}

    def those(*places: Any) -> dict[str, Kind]:
        return {name: found[name] for name, each in parameters.items() if each.kind in places}

    of = inspect.Parameter
    rest = those(of.VAR_POSITIONAL) or {"an argument": ANYTHING}
    others = those(of.VAR_KEYWORD) or {"an argument": ANYTHING}
    return Kinds(
        first=tuple(those(of.POSITIONAL_ONLY, of.POSITIONAL_OR_KEYWORD).items()),
        rest=next(iter(rest.items())),
        named=those(of.POSITIONAL_OR_KEYWORD, of.KEYWORD_ONLY),
        others=next(iter(others.values())),
    )


def _kind_of(call: Callable[..., Any], owner: type | None, parameter: inspect.Parameter) -> Kind:
    name = parameter.name
    if parameter.annotation is inspect.Parameter.empty:
        return ANYTHING
    kind = _kind(_hint(name, parameter.annotation, _namespaces(call, owner, name)))
    if name == "num_samples" and owner is None and _is_method(call):
        return kind._replace(take=partial(_not_negative, kind))
    return kind


def _is_method(call: Callable[..., Any]) -> bool:
    """Whether it is one of an expert, such as ``sample``: none need say what a count may be."""
    return next(iter(inspect.signature(call).parameters)) == "self"


def _namespaces(call: Callable[..., Any], owner: type | None, name: str) -> dict[str, Any]:
    """Where the annotation was written: that of a field in the module of its class."""
    if owner is None:
        return inspect.unwrap(call).__globals__
    written = (base for base in owner.__mro__ if name in inspect.get_annotations(base))
    return vars(sys.modules[next(written, owner).__module__])


def _hint(name: str, annotation: Any, namespace: dict[str, Any]) -> Any:
    """The annotation as it is meant; Any where it names what only type checkers know."""
    own = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return hints_of(own, globalns=namespace)[name]
    except NameError:
        return Any


@cache
def _kind(hint: Any) -> Kind:
    """The kind that an annotation names."""
    if hint in _KINDS:
        return _KINDS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if any(isinstance(each, ForwardRef) for each in arguments):
        return ANYTHING  # numbers in lists of lists, which know a door of their own
    if origin in (Union, types.UnionType):
        is_path = any(get_origin(each) is os.PathLike for each in arguments)
        return _any_of([_kind(each) for each in arguments if not (is_path and each is str)])
    if origin is Literal:
        words = " or ".join(map(repr, arguments))
        return Kind(words, lambda value: value if value in arguments else REFUSED)
    if origin is type:
        return Kind("a class", lambda value: value if isinstance(value, type) else REFUSED)
    if origin is tuple:
        return _tuple(arguments)
    if origin in (Sequence, Iterable, Collection, list) and arguments:
        return _sequence(_kind(arguments[0]), list if origin is list else tuple)
    return _of_class(origin or hint)


def _of_class(kind: Any) -> Kind:
    """Instances of a class; all that there is, where a hint names none that can be asked."""
    if kind in _KINDS:
        return _KINDS[kind]
    is_asked = isinstance(kind, type) and kind is not object
    if not is_asked or (getattr(kind, "_is_protocol", False) and not _is_asked_at_run_time(kind)):
        return ANYTHING
    return Kind(_a(kind.__name__), partial(instance_of, kind), _make_one)


def _is_asked_at_run_time(protocol: type) -> bool:
    return bool(getattr(protocol, "_is_runtime_protocol", False))


def _any_of(kinds: list[Kind]) -> Kind:
    """What is one of them already, else what the first can make of it; None is not told of."""
    if ANYTHING in kinds:
        return ANYTHING

    def take(value: Any) -> Any:
        found = REFUSED
        for kind in kinds:
            taken = kind.take(value)
            if taken is value:
                return value
            found = taken if found is REFUSED else found
        return found

    def remedy(value: Any) -> str:
        return next((text for kind in kinds if (text := kind.remedy(value))), "")

    words = " or ".join(dict.fromkeys(kind.words for kind in kinds if kind.words != "None"))
    error = next((kind.error for kind in kinds if kind.error is not PoeError), PoeError)
    return Kind(words, take, remedy, error)


def _tuple(arguments: tuple[Any, ...]) -> Kind:
    """A sequence of one kind, ``tuple[int, ...]``, or of so many, ``tuple[int, int]``."""
    if not arguments or arguments[-1] is Ellipsis:
        return _sequence(_kind(arguments[0]) if arguments else _of_class(object), tuple)
    kinds = [_kind(each) for each in arguments]
    words = f"({', '.join(kind.words for kind in kinds)})"

    def take(value: Any) -> Any:
        items = _items(value)
        if items is REFUSED or len(items) != len(kinds):
            return REFUSED
        taken = tuple(kind.take(item) for kind, item in zip(kinds, items, strict=True))
        return REFUSED if _has_refused(taken) else taken

    return Kind(words, take)


def _sequence(kind: Kind, make: type) -> Kind:
    """Several of one kind. What is one already stays itself."""

    def take(value: Any) -> Any:
        items = _items(value)
        if items is REFUSED:
            return REFUSED
        taken = [kind.take(item) for item in items]
        if _has_refused(taken):
            return REFUSED
        is_same = isinstance(value, make | Sequence) and not isinstance(value, np.ndarray)
        if is_same and all(one is other for one, other in zip(taken, items, strict=True)):
            return value
        return make(taken)

    def remedy(value: Any) -> str:
        items = _items(value)
        odd = [] if items is REFUSED else [i for i in items if kind.take(i) is REFUSED]
        return f" with {told(odd[0])} in it{kind.remedy(odd[0])}" if odd else ""

    return Kind(f"a sequence, each {kind.words}", take, remedy, kind.error)


def _items(value: Any) -> Any:
    """The items of a sequence, of an array as Python's numbers; ``REFUSED`` of what is none."""
    if isinstance(value, str | bytes | Mapping | type):
        return REFUSED
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim else REFUSED
    if isinstance(value, Tensor):
        return list(value) if value.ndim else REFUSED
    return list(value) if isinstance(value, Iterable) else REFUSED


def _has_refused(taken: Iterable[Any]) -> bool:
    return any(each is REFUSED for each in taken)


def _taken(name: str, kind: Kind, value: Any) -> Any:
    taken = kind.take(value)
    if taken is REFUSED:
        came = f"{told(value)}{kind.remedy(value)}"
        raise kind.error(f"expected {name} to be {kind.words}, got {came}")
    return taken


def whole(value: Any) -> Any:
    """A whole number, from whatever holds one; else ``REFUSED``.

    Args:
        value: Anything.

    Returns:
        The number, or ``REFUSED``.

    >>> whole(1e3), whole(np.int64(2)), whole(2.5) is REFUSED
    (1000, 2, True)
    """
    if type(value) is int:
        return value if abs(value) <= MOST else REFUSED
    number = _number(value) if isinstance(value, float | np.floating | Tensor) else value
    if isinstance(number, bool | np.bool_):
        return REFUSED
    if isinstance(number, float) and not number.is_integer():
        return REFUSED
    try:
        count = int(number) if isinstance(number, float) else operator.index(number)
    except TypeError:
        return REFUSED
    return count if abs(count) <= MOST else REFUSED


def _not_negative(kind: Kind, value: Any) -> Any:
    taken = kind.take(value)
    return REFUSED if isinstance(taken, int) and taken < 0 else taken


def _round(value: Any) -> str:
    if isinstance(value, str):
        return f": use int({value!r})" if value.strip().lstrip("+-").isdigit() else ""
    number = _number(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return ""
    if whole(number) is not REFUSED:
        return ": use 0 or more"
    return f": use at most {MOST:.0e}" if abs(number) > MOST else ": use a whole one"


def _number(value: Any) -> Any:
    """A real number as Python's; what learns stays a tensor. Else ``REFUSED``."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.ndim or value.is_complex() or value.dtype == torch.bool:
            return REFUSED
        if value.requires_grad or value.is_meta:
            return value
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return REFUSED
    try:
        number = float(value)
    except OverflowError:
        return REFUSED
    return value if isinstance(value, int) and abs(value) <= MOST else number


def _truth(value: Any) -> Any:
    if isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    return REFUSED


def _dense(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and value.layout == torch.strided
    return value if is_plain and not value.is_complex() else REFUSED


def _to_tensor(value: Any) -> str:
    if isinstance(value, Tensor):
        return " that is complex" if value.is_complex() else " that is sparse: use x.to_dense()"
    is_numbers = isinstance(value, np.ndarray | list | tuple | int | float)
    return ": use torch.as_tensor(...)" if is_numbers else ""


def _called(value: Any) -> Any:
    return value if callable(value) and not isinstance(value, type) else REFUSED


def _path(value: Any) -> Any:
    """A path that a system can have: not empty, without a zero, no name above 255 bytes."""
    if not isinstance(value, str | os.PathLike) or not (text := os.fsdecode(value)):
        return REFUSED
    names = re.split(r"[/\\]", text)
    is_odd = "\0" in text or any(len(os.fsencode(name)) > 255 for name in names)
    return REFUSED if is_odd else value


def _shorter(value: Any) -> str:
    is_path = isinstance(value, str | os.PathLike) and bool(os.fsdecode(value))
    return ": use names of at most 255 bytes, none of them zero" if is_path else ""


def _make_one(value: Any) -> str:
    return ": make one, with its settings" if isinstance(value, type) else ""


def _seed(value: Any) -> str:
    seed = value if isinstance(value, int) and not isinstance(value, bool) else 0
    return f": use torch.Generator().manual_seed({seed})"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


_KINDS |= {
    Any: ANYTHING,
    None: Kind("None", lambda value: None if value is None else REFUSED),
    type(None): Kind("None", lambda value: None if value is None else REFUSED),
    int: Kind("a whole number", whole, _round),
    float: Kind("a number", _number, lambda value: ""),
    bool: Kind("True or False", _truth),
    str: Kind("a string", partial(instance_of, str)),
    Callable: Kind("a function", _called, _make_one),
    Tensor: Kind("a tensor", _dense, _to_tensor, DtypeError),
    os.PathLike: Kind("a path", _path, _shorter),
    torch.Generator: Kind("a torch.Generator", partial(instance_of, torch.Generator), _seed),
    torch.dtype: Kind("a torch.dtype", partial(instance_of, torch.dtype)),
}
