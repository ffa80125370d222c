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
        raise missing(module, extra) from error


def missing(library: str, extra: str) -> ImportError:
    """The error that names the library and the command that installs it.

    >>> missing("zuko", "zuko")
    ImportError('expected zuko to be installed, got none: pip install "product-of-experts[zuko]"')
    """
    return ImportError(
        f'expected {library} to be installed, got none: pip install "product-of-experts[{extra}]"'
    )
