"""Optional dependencies, asked for where they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """The module, imported.

    Args:
        module: Its name.
        extra: The extra of this package that installs it.

    Returns:
        The module.

    Raises:
        ImportError: Where it is missing, with the line that installs it.

    Example:
        >>> require("numpy", "plots").__name__
        'numpy'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def missing(library: str, extra: str) -> ImportError:
    """The error that names the library and the command that installs it.

    Args:
        library: Its name.
        extra: The extra of this package that installs it.

    Returns:
        The error, to be raised.

    Example:
        >>> print(missing("zuko", "zuko"))
        expected zuko to be installed, got none: pip install "product-of-experts[zuko]"
    """
    return ImportError(
        f'expected {library} to be installed, got none: pip install "product-of-experts[{extra}]"'
    )
