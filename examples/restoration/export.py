"""Write the trained priors to ``experts/pretrained``: half-precision weights and descriptions.

python -m examples.restoration.export patches.pt vae.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import experts
from examples.common import typed
from examples.restoration.train_patches import SIDE, Mixture, cosines
from examples.restoration.train_vae import new_vae
from experts.pretrained import Card, write

FOLDER = Path(__file__).parents[2] / "experts" / "pretrained"


def ship(expert: nn.Module, name: str) -> None:
    """Weights, description, and the head of the card, whose text is written by hand."""
    write(expert, name, Card.of_file(FOLDER / f"{name}.md"))
    print(f"{name}: {(FOLDER / f'{name}.safetensors').stat().st_size:,} bytes")


def main() -> None:
    """Both priors."""
    parser = argparse.ArgumentParser(
        prog=typed(), description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("patches", type=Path)
    parser.add_argument("vae", type=Path)
    arguments = parser.parse_args()
    mixture = Mixture(**torch.load(arguments.patches, weights_only=True))
    weights, factors = mixture.logits.log_softmax(0), mixture.scale_trils
    learned = nn.Parameter(weights), nn.Parameter(factors)
    tiles, sides = (8 * SIDE, 8 * SIDE), (SIDE, SIDE)
    ship(experts.PatchMixture(cosines(SIDE), *learned, tiles, sides), "pictures-patches")
    vae = new_vae()
    vae.load_state_dict(torch.load(arguments.vae, weights_only=True))
    ship(vae, "digits-vae")


if __name__ == "__main__":
    main()
