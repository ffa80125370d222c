"""Pickles of arrays, tuples, lists and dicts, read without running what they name.

The opcodes are gone through here, and not by ``pickle``, whose memory a file of a few bytes can
exhaust: by a number of the memo, or by naming itself over and over.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from poe.core.errors import AdaptationError

ARRAYS = {"numpy._core.multiarray", "numpy.core.multiarray"}
DTYPES = {"f4", "f8", "i4", "i8"}
DEEPEST = 100
MORE_THAN_THE_FILE = 4
"""So many times the file's bytes is what it may hold, each array and value as often as named."""
KEYS = (str, int, float, bytes, type(None))


def read_arrays(content: bytes, known_names: Collection[str] = ()) -> Any:
    """What a pickle holds, if that is arrays, numbers, strings, tuples, lists and dicts.

    Nothing that the file names is imported or called: NumPy's arrays are put together here of their
    shape, dtype and bytes. Time and memory are of the order of the file's size.

    Args:
        content: The pickle.
        known_names: Functions, as "module.name", that may be named, and come back as their `Name`.

    Returns:
        What it holds.

    Raises:
        AdaptationError: For a pickle that names anything else, for a broken one, and for one that
            holds more than its size, as it can by naming a part over and over.

    Example:
        >>> import pickle
        >>> read_arrays(pickle.dumps({"x": (1, np.ones(2))}))
        {'x': (1, array([1., 1.]))}
        >>> read_arrays(pickle.dumps(print))
        Traceback (most recent call last):
        poe.AdaptationError: expected a pickle of arrays, numbers and strings, got one that ...
    """
    try:
        found = _Reader(known_names).read(content)
        return _Unwrapping(1000 + MORE_THAN_THE_FILE * len(content)).of(found, 0)
    except AdaptationError:
        raise
    except Exception as error:  # a broken file may raise anything
        raise AdaptationError(
            f"expected a pickle of arrays, got a file that cannot be read as one: {error}"
        ) from error


class Name(str):
    """The name of a function that the file refers to; it was not imported."""


class _Dtype:
    """A dtype of numbers, by its name and byte order."""

    def __init__(self, name: str, *_: object) -> None:
        if name not in DTYPES:
            raise AdaptationError(f"expected arrays of {', '.join(sorted(DTYPES))}, got {name}")
        self.name, self.order = name, "<"

    def build(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


class _Array:
    """An array, put together of its shape, dtype and bytes."""

    value: np.ndarray[Any, Any]

    def __init__(self, *_: object) -> None:
        pass

    def build(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes) or not isinstance(dtype, _Dtype):
            raise ValueError("an array's bytes are none")
        flat = np.frombuffer(data, np.dtype(dtype.order + dtype.name))
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class _Reader:
    """A stack and a memo, moved by one opcode after the other."""

    def __init__(self, known_names: Collection[str]) -> None:
        self.known_names = known_names
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                [found] = self.stack
                return found
            if opcode.name in VALUES:
                self.stack.append(argument)
            elif opcode.name in MOVES:
                MOVES[opcode.name](self, argument)
            else:
                raise ValueError(f"it has {opcode.name}, which arrays have no need of")
        raise ValueError("it does not end")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("it takes more than it holds")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        place = self.marks.pop()
        found = self.stack[place:]
        del self.stack[place:]
        return found

    def take(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def name(self, module: str, name: str) -> Any:
        if module in ARRAYS and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Dtype if name == "dtype" else Name("numpy.ndarray")
        if f"{module}.{name}" in self.known_names:
            return Name(f"{module}.{name}")
        raise AdaptationError(
            "expected a pickle of arrays, numbers and strings, got one that names "
            f"{module}.{name}: a pickle may run any code, so that this one is not read"
        )

    def call(self) -> Any:
        kind, arguments = self.take(2)
        if kind is not _Array and kind is not _Dtype:
            raise ValueError(f"it calls {kind!r}")
        return kind(*arguments)

    def build(self) -> None:
        state = self.pop()
        if not isinstance(self.stack[-1], _Array | _Dtype):
            raise ValueError("it gives a state to what has none")
        self.stack[-1].build(state)

    def extend(self) -> None:
        items = self.since_mark()
        self.stack[-1].extend(items)

    def append(self) -> None:
        item = self.pop()
        self.stack[-1].append(item)

    def update(self, items: list[Any]) -> None:
        self.stack[-1].update(_pairs(items))

    def store(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """Keys are of kinds whose hash takes no time, as that of nested tuples may."""
    for key in items[::2]:
        if not isinstance(key, KEYS):
            raise ValueError(f"a key is a {type(key).__name__}")
    return dict(zip(items[::2], items[1::2], strict=True))


VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
     "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
     "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)  # fmt: skip
"""Opcodes that put their argument on the stack."""

MOVES: dict[str, Callable[[_Reader, Any], object]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "NONE": lambda reader, _: reader.stack.append(None),
    "NEWTRUE": lambda reader, _: reader.stack.append(True),
    "NEWFALSE": lambda reader, _: reader.stack.append(False),
    "MARK": lambda reader, _: reader.marks.append(len(reader.stack)),
    "POP": lambda reader, _: reader.pop(),
    "POP_MARK": lambda reader, _: reader.since_mark(),
    "EMPTY_TUPLE": lambda reader, _: reader.stack.append(()),
    "EMPTY_LIST": lambda reader, _: reader.stack.append([]),
    "EMPTY_DICT": lambda reader, _: reader.stack.append({}),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.since_mark())),
    "TUPLE1": lambda reader, _: reader.stack.append(reader.take(1)),
    "TUPLE2": lambda reader, _: reader.stack.append(reader.take(2)),
    "TUPLE3": lambda reader, _: reader.stack.append(reader.take(3)),
    "LIST": lambda reader, _: reader.stack.append(reader.since_mark()),
    "DICT": lambda reader, _: reader.stack.append(_pairs(reader.since_mark())),
    "APPEND": lambda reader, _: reader.append(),
    "APPENDS": lambda reader, _: reader.extend(),
    "SETITEM": lambda reader, _: reader.update(list(reader.take(2))),
    "SETITEMS": lambda reader, _: reader.update(reader.since_mark()),
    "MEMOIZE": lambda reader, _: reader.store(len(reader.memo)),
    "PUT": lambda reader, index: reader.store(index),
    "BINPUT": lambda reader, index: reader.store(index),
    "LONG_BINPUT": lambda reader, index: reader.store(index),
    "GET": lambda reader, index: reader.stack.append(reader.memo[index]),
    "BINGET": lambda reader, index: reader.stack.append(reader.memo[index]),
    "LONG_BINGET": lambda reader, index: reader.stack.append(reader.memo[index]),
    "GLOBAL": lambda reader, both: reader.stack.append(reader.name(*both.split(" ", 1))),
    "STACK_GLOBAL": lambda reader, _: reader.stack.append(reader.name(*reader.take(2))),
    "REDUCE": lambda reader, _: reader.stack.append(reader.call()),
    "BUILD": lambda reader, _: reader.build(),
}


class _Unwrapping:
    """Arrays in place of what they were put together in; what is named often counts as often."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed

    def of(self, found: Any, depth: int) -> Any:
        self._count(1)
        if depth > DEEPEST:
            raise AdaptationError(
                f"expected a pickle of arrays, got one whose parts are more than {DEEPEST} deep, "
                "or hold themselves"
            )
        if isinstance(found, _Array):
            self._count(found.value.nbytes)
            return found.value
        if isinstance(found, str | bytes):
            self._count(len(found))
        if isinstance(found, dict):
            return {key: self.of(value, depth + 1) for key, value in found.items()}
        if isinstance(found, list | tuple):
            return type(found)([self.of(value, depth + 1) for value in found])
        return found

    def _count(self, more: int) -> None:
        self.left -= more
        if self.left < 0:
            raise AdaptationError(
                "expected a pickle of arrays, got one that names its parts over and over: it would "
                "take much more memory than the file has bytes"
            )
