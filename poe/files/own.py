"""Whether a picture or a report at some place is one that this package wrote: no other goes."""

from __future__ import annotations

import os
from pathlib import Path

from poe.core.errors import StorageError
from poe.files.atomic import content_of, require_room
from poe.files.tensor_file import loads

MAKER = "product-of-experts"
PICTURE = {"Software": MAKER}
"""What a picture says of itself, for matplotlib's ``savefig(metadata=)``."""
_IN_A_PICTURE = b"Software\0" + MAKER.encode()


def require_own_picture(path: str | os.PathLike[str]) -> None:
    """See that a PNG can be written at ``path``, and that none but one of this package is there.

    Args:
        path: The file.

    Raises:
        StorageError: Where another file is there, or none can be.
    """
    require_room(path)
    if not _is_free(path) and _IN_A_PICTURE not in _content(path)[:4096]:
        raise _is_another(path, "picture")


def require_own_report(path: str | os.PathLike[str], form: str) -> None:
    """See that JSON can be written at ``path``, and that none but one of its format is there.

    Args:
        path: The file.
        form: What is under ``format`` in it.

    Raises:
        StorageError: Where another file is there, or none can be.
    """
    require_room(path)
    if _is_free(path):
        return
    try:
        told = loads(_content(path))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.get("format") != form:
        raise _is_another(path, "report")


def _is_free(path: str | os.PathLike[str]) -> bool:
    return not Path(path).exists() or Path(path).stat().st_size == 0


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return content_of(path)
    except OSError as error:
        raise _is_another(path, "file that can be read") from error


def _is_another(path: str | os.PathLike[str], kind: str) -> StorageError:
    return StorageError(
        f"expected nothing at {path} or a {kind} of this package to write over, got another file: "
        "give another path, or remove it"
    )
