"""ArviZ, which only some need."""

from __future__ import annotations

import warnings
from types import ModuleType


def import_arviz() -> ModuleType:
    """The ArviZ module. Raises ImportError with the remedy where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its announcement of version 1 at import
            import arviz
    except ImportError as error:
        raise ImportError(
            'ArviZ\'s container needs ArviZ: pip install "product-of-experts[diagnostics]"'
        ) from error
    return arviz
