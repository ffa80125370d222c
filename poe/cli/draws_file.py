"""Draws as a file: safetensors, with what they are worth in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save

from poe.draws import Draws


def write(draws: Draws, path: Path) -> None:
    """Write ``samples``, ``log_density`` and ``log_weights`` (where there are any), atomically.

    The header holds ``guarantee``, ``seed`` and ``choice``, each as JSON.
    """
    tensors = {"samples": draws.samples, "log_density": draws.log_density}
    if draws.log_weights is not None:
        tensors["log_weights"] = draws.log_weights
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"guarantee": draws.guarantee, "seed": draws.seed, "choice": draws.choice}
    content = save(stored, metadata={name: json.dumps(value) for name, value in header.items()})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
