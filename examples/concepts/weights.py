"""The trained weights beside this example: one safetensors file each, in half precision."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = Path(__file__).parent / "weights"


def write(name: str, state: dict[str, Tensor], folder: Path = WEIGHTS) -> None:
    """Write tensors, halved."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half().contiguous() for key, value in state.items()}
    save_file(tensors, folder / f"{name}.safetensors")


def read(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """Read them, in single precision."""
    return {k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()}
