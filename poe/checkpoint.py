"""One file for a run, interrupted or done: tensors in safetensors, the rest as JSON in its header.

One file, written under a temporary name and moved into place, cannot be half new and half old.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from poe.errors import StorageError


def write(
    path: str | os.PathLike[str], facts: Mapping[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write JSON-able ``facts`` and ``tensors`` to one file, atomically, with a hash of both."""
    path = Path(path)
    # Clones: the format refuses tensors that share memory.
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    header = {"facts": text, "sha256": _digest(text, stored)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(save(stored, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(
    path: str | os.PathLike[str],
    *,
    kind: str = "checkpoint of poe.sample",
    remedy: str = "delete it to start the run afresh",
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a file. Raises StorageError where it is truncated or altered.

    ``kind`` and ``remedy`` say in the error what the file should be, and what to do about it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"expected a {kind} at {path}, got a file that cannot be read ({error}): {remedy}"
        ) from error
    text = header.get("facts", "")
    if header.get("sha256") != _digest(text, tensors):
        raise StorageError(
            f"the {kind} at {path} was altered after it was written (its hash does not match): "
            f"{remedy}"
        )
    return json.loads(text), tensors


def fingerprint(value: object) -> str:
    """A hash of what a run depends on: modules with their weights, kernels, tensors, numbers.

    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
    True
    >>> fingerprint((1, 2)) == fingerprint((1, 3))
    False
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: object) -> None:
    digest.update(type(value).__qualname__.encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    elif isinstance(value, nn.Module):
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode())
        _feed(digest, dict(value.state_dict()))
    elif isinstance(value, Mapping):
        for key in sorted(value):
            _feed(digest, (key, value[key]))
    elif isinstance(value, tuple | list):
        for item in value:
            _feed(digest, item)
    elif is_dataclass(value):
        _feed(digest, [getattr(value, entry.name) for entry in fields(value)])
    else:
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode())


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return fingerprint((text, dict(tensors)))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
