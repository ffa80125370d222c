"""Write the trained priors to ``experts/pretrained``: half-precision weights and descriptions.

python -m examples.restoration.export patches.pt vae.pt
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from examples.restoration.train_patches import SIDE, Mixture, cosines
from examples.restoration.train_vae import SHAPE

FOLDER = Path(__file__).parents[2] / "experts" / "pretrained"


def write(name: str, family: str, shape: tuple[int, int], tensors: dict[str, Tensor]) -> None:
    """Weights and description; the card is written by hand."""
    path = FOLDER / f"{name}.safetensors"
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, path)
    description = {
        "family": family,
        "shape": shape,
        "weights": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Both priors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("patches", type=Path)
    parser.add_argument("vae", type=Path)
    arguments = parser.parse_args()
    mixture = Mixture(**torch.load(arguments.patches, weights_only=True))
    tensors = {
        "filters": cosines(SIDE),
        "logits": mixture.logits.log_softmax(0),
        "scale_trils": mixture.scale_trils,
    }
    write("pictures-patches", "PatchMixture", (8 * SIDE, 8 * SIDE), tensors)
    write("digits-vae", "VAE", SHAPE, torch.load(arguments.vae, weights_only=True))


if __name__ == "__main__":
    main()
