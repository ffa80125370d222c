"""One file of tensors and facts about them: safetensors, with JSON in its header, and a hash.

Written under a temporary name and moved into place, a file cannot be half new and half old.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Set as AbstractSet
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from poe.core.errors import StorageError

FORMAT_VERSION = 2
"""Of every file of this package.

1 had the paths of modules for names of classes, and a hash that took ((1,), 2) for ((1, 2),).
"""


def write(
    path: str | os.PathLike[str], facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write JSON-able facts and tensors to one file, atomically, with a hash of both.

    Args:
        path: The file; what was there is replaced.
        facts: What JSON can hold.
        tensors: By name, of any shapes and devices.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> write(path, {"step": 3}, {"x": torch.zeros(2)})
    >>> read(path)
    ({'step': 3}, {'x': tensor([0., 0.])})
    """
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
    header = {
        "facts": text,
        "format_version": str(FORMAT_VERSION),
        "sha256": _seal(str(FORMAT_VERSION), text, stored),
    }
    return save(stored, metadata=header)


def read(
    path: str | os.PathLike[str],
    *,
    kind: str = "checkpoint of poe.sample",
    remedy: str = "delete it to start the run afresh",
    oldest: int = FORMAT_VERSION,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the tensors that `write` put in a file.

    Args:
        path: The file.
        kind: What the file should be, for the errors.
        remedy: What to do where it is not, for the errors.
        oldest: The first format version whose facts still mean what they mean now. By default the
            present one: a checkpoint knows its run by a fingerprint, which each version takes in
            its own way.

    Returns:
        The facts and the tensors, on the CPU.

    Raises:
        StorageError: Where there is no such file, it is truncated or altered, or of a version that
            is newer than this one or before the oldest.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"expected a {kind} at {path}, got a file that cannot be read ({error}): {remedy}"
        ) from error
    version, text = header.get("format_version", "1"), header.get("facts", "")
    if version not in map(str, range(1, FORMAT_VERSION + 1)):
        raise StorageError(
            f"expected a {kind} of format_version {FORMAT_VERSION} or before at {path}, got "
            f"{version}: read it with the version of this package that wrote it, or a newer one"
        )
    seal = _seal_of_version_1(text, tensors) if version == "1" else _seal(version, text, tensors)
    if header.get("sha256") != seal:
        raise StorageError(
            f"the {kind} at {path} was altered after it was written (its hash does not match): "
            f"{remedy}"
        )
    if int(version) < oldest:
        raise StorageError(
            f"expected a {kind} of format_version {oldest} at {path}, got {version}, which an "
            f"earlier version of this package wrote: go on with that version, or {remedy}"
        )
    return json.loads(text), tensors


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file; what was there is replaced.
        content: All of it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "report.json"
    >>> write_bytes(path, b"{}")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('{}', 1)
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of ``path``, which takes its place once all of it is written.

    Args:
        path: The file to write in the end; what was there stays until then.

    Yields:
        A path in the same folder with the same suffix, which the block must write to. Where the
        block raises, nothing is left of it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("a, b")
    >>> path.read_text(), temporary.exists()
    ('a, b', False)
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise StorageError(f"expected a path to a file, got the folder {path}: name a file in it")
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def fingerprint(value: object) -> str:
    """A hash of what a run depends on: modules with their weights, kernels, tensors, numbers.

    Values of different types differ, also where they are equal (1, 1.0 and True; a list and a
    tuple), and so do values that are put together otherwise. The order of a mapping's or a set's
    items makes no difference. What is of no such kind is told by its ``repr``, without addresses;
    without a ``repr`` of its own, by its attributes.

    Args:
        value: Anything; of a module its ``repr`` and its ``state_dict`` count.

    Returns:
        A SHA-256, in 64 hexadecimal digits.

    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
    True
    >>> fingerprint((1, 2)) == fingerprint((1, 3))
    False
    >>> fingerprint(((1,), 2)) == fingerprint(((1, 2),))
    False
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: object) -> None:
    """The type, then the content: each piece after its length, so that no two values run alike."""
    _tell(digest, type(value).__qualname__.encode())
    if isinstance(value, Tensor):
        _tell(digest, f"{value.dtype}{tuple(value.shape)}".encode())
        _tell(digest, _bytes(value))
    elif isinstance(value, np.ndarray):
        _feed(digest, (value.dtype.str, value.shape, value.tolist()))  # its repr may leave out
    elif isinstance(value, nn.Module):
        _tell(digest, _words(value))
        _feed(digest, dict(value.state_dict()))
    elif isinstance(value, Mapping):
        by_key = {fingerprint(key): item for key, item in value.items()}
        _feed(digest, [(key, by_key[key]) for key in sorted(by_key)])
    elif isinstance(value, AbstractSet):
        _feed(digest, sorted(map(fingerprint, value)))
    elif isinstance(value, tuple | list):
        _tell(digest, str(len(value)).encode())
        for item in value:
            _feed(digest, item)
    elif is_dataclass(value) and not isinstance(value, type):
        _feed(digest, {entry.name: getattr(value, entry.name) for entry in fields(value)})
    elif type(value).__repr__ is object.__repr__ and hasattr(value, "__dict__"):
        _feed(digest, vars(value))  # its repr says nothing of what it holds
    else:
        _tell(digest, _words(value))


def _tell(digest: Any, content: bytes) -> None:
    digest.update(len(content).to_bytes(8, "big"))
    digest.update(content)


def _words(value: object) -> bytes:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _seal(version: str, text: str, tensors: Mapping[str, Tensor]) -> str:
    return fingerprint((int(version), text, dict(tensors)))


def _seal_of_version_1(text: str, tensors: Mapping[str, Tensor]) -> str:
    """As files of that version have it: the pieces run on, without their lengths."""
    digest = hashlib.sha256(b"tuplestr" + _words(text) + b"dict")
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(b"tuplestr" + _words(name))
        digest.update(f"Tensor{tensor.dtype}{tuple(tensor.shape)}".encode() + _bytes(tensor))
    return digest.hexdigest()
