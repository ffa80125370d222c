"""What can go wrong, in words: every error says what was expected, what came, and the remedy."""

from __future__ import annotations

import torch

NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch's own errors say, which on some devices are of no kind of their own."""


class PoeError(ValueError):
    """Any error that this package raises on purpose."""


class ShapeError(PoeError):
    """A tensor has the wrong shape."""


class DtypeError(PoeError, TypeError):
    """A tensor has the wrong dtype or lies on the wrong device, or the value is no tensor."""


class SizeError(PoeError, MemoryError):
    """More numbers are asked for than memory holds; the message says how many."""


class OperatorError(PoeError, TypeError):
    """An operator has no meaning between densities; the message names the one that has."""


class SpaceMismatchError(PoeError):
    """Two experts live on different spaces; the message names the bridge between them."""


class ImproperError(PoeError):
    """A density has no finite normaliser, so it can be neither sampled nor normalised."""


class NormalizationError(PoeError):
    """An operation needs a known normaliser, and this expert has none."""


class NonFiniteError(PoeError):
    """A log-density is NaN or infinite where a number is needed."""


class GradientError(PoeError):
    """A gradient is asked of a log-density that has none; the message names kernels without."""


class AdaptationError(PoeError):
    """An object from elsewhere cannot be adapted without loss."""


class StorageError(PoeError):
    """A saved expert is missing, truncated, tampered with, or of an unknown kind."""


class TrustWarning(UserWarning):
    """A result was computed, and there is a reason not to trust it yet."""


# A traceback names them by the place where users find them.
for _kind in (PoeError, *PoeError.__subclasses__(), TrustWarning):
    _kind.__module__ = "poe"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error tells that there is no memory left, for which no argument is to blame.

    Args:
        error: Any.

    Returns:
        Whether it does, by its kind or its words.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    is_told = isinstance(error, RuntimeError) and any(s in str(error) for s in NO_MEMORY)
    return is_known or is_told
