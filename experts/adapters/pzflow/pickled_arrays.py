"""Pickles of arrays, tuples, lists and dicts, read without running what they name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from typing import Any

import numpy as np

from poe.core.errors import AdaptationError

ARRAYS = {"numpy._core.multiarray", "numpy.core.multiarray"}
DTYPES = {"f4", "f8", "i4", "i8"}


def read_arrays(content: bytes, known_names: Collection[str] = ()) -> Any:
    """What a pickle holds, if that is arrays, numbers, strings, tuples, lists and dicts.

    Nothing that the file names is imported or called: NumPy's arrays are put together here of their
    shape, dtype and bytes.

    Args:
        content: The pickle.
        known_names: Functions, as "module.name", that may be named, and come back as their `Name`.

    Returns:
        What it holds.

    Raises:
        AdaptationError: For a pickle that names anything else, and for a broken one.

    Example:
        >>> read_arrays(pickle.dumps({"x": (1, np.ones(2))}))
        {'x': (1, array([1., 1.]))}
        >>> read_arrays(pickle.dumps(print))
        Traceback (most recent call last):
        poe.AdaptationError: expected a pickle of arrays, numbers and strings, got one that ...
    """
    try:
        found = _Reader(io.BytesIO(content), known_names).load()
    except AdaptationError:
        raise
    except Exception as error:  # a broken file may raise anything
        raise AdaptationError(
            f"expected a pickle of arrays, got a file that cannot be read as one: {error}"
        ) from error
    return _unwrapped(found)


class Name(str):
    """The name of a function that the file refers to; it was not imported."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known_names: Collection[str]) -> None:
        super().__init__(file)
        self.known_names = known_names

    def find_class(self, module: str, name: str) -> Any:
        if module in ARRAYS and name == "_reconstruct":
            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Dtype if name == "dtype" else Name("numpy.ndarray")
        if f"{module}.{name}" in self.known_names:
            return Name(f"{module}.{name}")
        raise AdaptationError(
            "expected a pickle of arrays, numbers and strings, got one that names "
            f"{module}.{name}: a pickle may run any code, so that this one is not read"
        )


class _Dtype:
    """A dtype of numbers, by its name and byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, *_: object) -> None:
        if name not in DTYPES:
            raise AdaptationError(f"expected arrays of {', '.join(sorted(DTYPES))}, got {name}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in "<>" else "<"


class _Array:
    """An array, put together of its shape, dtype and bytes."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        flat = np.frombuffer(data, np.dtype(dtype.order + dtype.name))
        self.value = flat.reshape(shape, order="F" if is_fortran else "C").copy()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _unwrapped(found: Any) -> Any:
    if isinstance(found, _Array):
        return found.value
    if isinstance(found, dict):
        return {key: _unwrapped(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(map(_unwrapped, found))
    return found
