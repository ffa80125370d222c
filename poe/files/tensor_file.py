"""One file of tensors and facts about them: safetensors, with JSON in its header, and a hash.

Written under a temporary name and moved into place, a file cannot be half new and half old. The
hash is of every byte of the file, its own digits taken for zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from poe.core.errors import StorageError
from poe.files.atomic import content_of, write_bytes
from poe.files.fingerprint import bytes_of

FORMAT_VERSION = 3
"""Of every file of this package.

1 had the paths of modules for names of classes, and a hash that took ((1,), 2) for ((1, 2),). 2 had
a hash of what was read from the file, and not of its bytes.
"""
NO_HASH = "0" * 64
LONGEST_HEADER = 100_000_000
"""Bytes, as the format itself has it."""


def write(
    path: str | os.PathLike[str], facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write JSON-able facts and tensors to one file, atomically, with a hash of both.

    Args:
        path: The file; one of this package whose ``facts["format"]`` is the same is replaced.
        facts: What JSON can hold.
        tensors: By name, of any shapes and devices.

    Raises:
        StorageError: Where another file is there, or no file can be.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> write(path, {"step": 3}, {"x": torch.zeros(2)})
    >>> read(path)
    ({'step': 3}, {'x': tensor([0., 0.])})
    """
    require_own(path, facts.get("format", ""))
    write_bytes(path, packed(facts, tensors))


def packed(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    r"""What `write` puts in the file, its arguments the same.

    Args:
        facts: What JSON can hold.
        tensors: By name, of any shapes and devices.

    Returns:
        The content of a safetensors file.

    Example:
        >>> packed({}, {"x": torch.zeros(1)})[-4:]
        b'\x00\x00\x00\x00'
    """
    # Clones: the format refuses tensors that share memory.
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    header = {"facts": text, "format_version": str(FORMAT_VERSION), "sha256": NO_HASH}
    content = save(stored, metadata=header)
    return sealed(content, header_size(content))


def read(
    path: str | os.PathLike[str],
    *,
    form: str | None = None,
    kind: str = "checkpoint of poe.sample",
    remedy: str = "delete it to start the run afresh",
    oldest: int = FORMAT_VERSION,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors that `write` put in a file.

    Args:
        path: The file.
        form: What is under ``format`` in its facts; None for whatever it is.
        kind: What the file should be, for the errors.
        remedy: What to do where it is not, for the errors.
        oldest: The first format version whose facts still mean what they mean now. By default the
            present one: a checkpoint knows its run by a fingerprint, which each version takes in
            its own way.

    Returns:
        The facts and the tensors, on the CPU.

    Raises:
        StorageError: Where there is no such file, it is truncated or altered, of another format, or
            of a version that is newer than this one or before the oldest.
    """
    try:
        content = content_of(path)
        tensors = load(content)
        header = json.loads(content[8 : header_size(content)]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError, KeyError) as error:
        raise StorageError(
            f"expected a {kind} at {path}, got a file that cannot be read ({error}): {remedy}"
        ) from error
    version, text = header.get("format_version", "1"), header.get("facts", "")
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise StorageError(
            f"expected a {kind} of format_version {FORMAT_VERSION} or before at {path}, got "
            f"{version}: read it with the version of this package that wrote it, or a newer one"
        )
    if not _is_whole(content, header, tensors):
        raise StorageError(
            f"the {kind} at {path} was altered after it was written (its hash does not match): "
            f"{remedy}"
        )
    if int(version) < oldest:
        raise StorageError(
            f"expected a {kind} of format_version {oldest} at {path}, got {version}, which an "
            f"earlier version of this package wrote: go on with that version, or {remedy}"
        )
    with understanding(path, kind, remedy):
        facts = _facts_in(text)
    if form is not None and facts.get("format") != form:
        raise StorageError(
            f"expected a {kind} at {path}, got another file of this package: give another path"
        )
    return facts, tensors


@contextmanager
def understanding(path: str | os.PathLike[str], kind: str, remedy: str) -> Iterator[None]:
    """What goes wrong within, where the content of a file is taken apart, is the file's fault.

    Args:
        path: The file.
        kind: What it should be.
        remedy: What to do where it is not.

    Yields:
        Nothing.

    Raises:
        StorageError: In place of any other error.

    >>> with understanding("run", "checkpoint", "delete it"):
    ...     {}["step"]
    Traceback (most recent call last):
    poe.StorageError: expected a checkpoint at run, got a file that says something else ...
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # a file can be wrong in any way
        raise StorageError(
            f"expected a {kind} at {path}, got a file that says something else "
            f"({type(error).__name__}: {error}): {remedy}"
        ) from error


def format_of(path: str | os.PathLike[str]) -> str | None:
    """What a file of this package says it is, by its header alone; None for any other file.

    Args:
        path: The file.

    Returns:
        The ``format`` among its facts, empty where there is none.
    """
    facts = facts_of(path)
    return None if facts is None else str(facts.get("format", ""))


def facts_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a file of this package says, by its header alone; None for any other file.

    Nothing shows yet that it is as it was written: for that there is `read`.

    Args:
        path: The file.

    Returns:
        Its facts.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size if size <= LONGEST_HEADER else 0))
        told = header["__metadata__"]
        facts = json.loads(told["facts"])
        return facts if "format_version" in told and isinstance(facts, dict) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # whatever else a file may be


def require_own(path: str | os.PathLike[str], form: str) -> None:
    """See that nothing is at ``path`` but a file of this package of that format, or an empty one.

    Args:
        path: What is to be written over.
        form: What is to be written.

    Raises:
        StorageError: Where another file is there.
    """
    if not Path(path).is_file() or Path(path).stat().st_size == 0:
        return
    found = format_of(path)
    if found != form:
        what = (
            f"another file of this package ({found or 'of no name'})"
            if found is not None
            else ("a file that this package did not write, or not to the end")
        )
        raise StorageError(
            f"expected nothing at {path} or a {form or 'file of this package'} to write over, got "
            f"{what}: give another path, or remove the file"
        )


def header_size(content: bytes) -> int:
    """Where the tensors of a safetensors file begin.

    Args:
        content: The file's.

    Returns:
        A number of bytes.
    """
    return 8 + int.from_bytes(content[:8], "little")


def sealed(content: bytes, end: int) -> bytes:
    """The content with its hash, in place of the zeros that it was made with.

    Args:
        content: With ``"sha256": "000..."`` once before ``end``.
        end: Where in the content to look for it.

    Returns:
        As long a content.
    """
    place = _place_of_hash(content, NO_HASH, end)
    return content[:place] + sha256(content).encode() + content[place + 64 :]


def is_sealed(content: bytes, stated: object, end: int) -> bool:
    """Whether the hash that a content states is the one of all the rest of it.

    Args:
        content: As of `sealed`.
        stated: What it gives as its hash.
        end: As of `sealed`.

    Returns:
        Whether nothing was changed.
    """
    if not isinstance(stated, str) or not re.fullmatch("[0-9a-f]{64}", stated):
        return False
    place = _place_of_hash(content, stated, end)
    blank = content[:place] + NO_HASH.encode() + content[place + 64 :]
    return place >= 0 and sha256(blank) == stated


def sha256(content: bytes) -> str:
    """The SHA-256 of a file's content, as ``sha256sum`` prints it.

    Args:
        content: All of it.

    Returns:
        64 hexadecimal digits.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def loads(text: str | bytes) -> Any:
    """What a JSON text says; a key given twice and a number that is none are refused.

    Args:
        text: The text.

    Returns:
        What it says.

    Raises:
        ValueError: Where it is no such text.
        RecursionError: Where it is nested too deeply.

    >>> loads('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' is given twice
    """
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _facts_in(text: str) -> dict[str, Any]:
    facts = json.loads(text, object_pairs_hook=_once)
    if not isinstance(facts, dict):
        raise TypeError("its facts are no object")
    return facts


def _place_of_hash(content: bytes, digits: str, end: int) -> int:
    """Where its digits begin; -1 where it is not there, or not once."""
    found = list(re.finditer(rb'"sha256": ?"' + digits.encode() + b'"', content[:end]))
    return found[0].end() - 65 if len(found) == 1 else -1


def _is_whole(content: bytes, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    stated, text = header.get("sha256"), header.get("facts", "")
    match header.get("format_version", "1"):
        case "1":
            return stated == _seal_of_version_1(text, tensors)
        case "2":
            return stated == _seal_of_version_2(text, tensors)
    return is_sealed(content, stated, header_size(content))


def _seal_of_version_1(text: str, tensors: Mapping[str, Tensor]) -> str:
    """As files of that version have it: the pieces run on, without their lengths."""
    digest = hashlib.sha256(b"tuplestr" + repr(text).encode() + b"dict")
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(b"tuplestr" + repr(name).encode())
        digest.update(f"Tensor{tensor.dtype}{tuple(tensor.shape)}".encode() + bytes_of(tensor))
    return digest.hexdigest()


def _seal_of_version_2(text: str, tensors: Mapping[str, Tensor]) -> str:
    """As files of that version have it: each piece of what was read, after its length."""
    keys = {_hash_of(b"str", repr(name).encode()).hexdigest(): name for name in tensors}
    digest = _hash_of(b"tuple", b"3", b"int", b"2", b"str", repr(text).encode(), b"dict")
    _tell(digest, b"list", str(len(keys)).encode())
    for key in sorted(keys):
        tensor = tensors[keys[key]]
        _tell(digest, b"tuple", b"2", b"str", repr(key).encode(), b"Tensor")
        _tell(digest, f"{tensor.dtype}{tuple(tensor.shape)}".encode(), bytes_of(tensor))
    return str(digest.hexdigest())


def _hash_of(*pieces: bytes) -> Any:
    digest = hashlib.sha256()
    _tell(digest, *pieces)
    return digest


def _tell(digest: Any, *pieces: bytes) -> None:
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
