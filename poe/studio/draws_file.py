"""Draws to download: safetensors, with what they are worth in its header."""

from __future__ import annotations

import json

from safetensors.torch import save

from poe.studio.draw import Frame
from poe.studio.model import Composition


def content(composition: Composition, frame: Frame) -> bytes:
    """``samples`` and ``log_density`` as a file; the header says guarantee, seed and formula.

    Raises ValueError where there are no draws yet.
    """
    draws = frame.draws
    if draws is None:
        raise ValueError("expected a frame with draws, got one on the way to a start")
    tensors = {"samples": draws.samples, "log_density": draws.log_density}
    header = {
        "guarantee": draws.guarantee,
        "seed": draws.seed,
        "formula": composition.formula,
        "experts": [one._asdict() for one in composition.choices],
        "kernel": repr(draws.kernel),
    }
    return save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={name: json.dumps(value) for name, value in header.items()},
    )
