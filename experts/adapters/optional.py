"""Optional dependencies, asked for where they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """The module, imported. Raises ImportError with the line that installs it where it is missing.

    >>> require("numpy", "plots").__name__
    'numpy'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"expected {module} to be installed, got none: pip install "
            f'"product-of-experts[{extra}]"'
        ) from error
