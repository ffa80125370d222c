"""Write the trained experts to ``experts/pretrained``: half-precision weights and descriptions."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experts.pretrained import FAMILIES
from poe.demo.attributes import CLASSES, SLANTS, THICKNESSES

FOLDER = Path(__file__).parents[2] / "experts" / "pretrained"

EXPERTS: dict[str, dict[str, Any]] = {
    "digits-class": {
        "family": "PixelMixture",
        "labels": (*CLASSES, "any"),
        "settings": {"channels": 32, "blocks": 7},
        "run": "class",
    },
    "digits-slant": {
        "family": "ImageFlow",
        "labels": (*SLANTS, "between"),
        "settings": {"layers": 10, "hidden": 192},
        "run": "slant",
    },
    "digits-thickness": {
        "family": "ReconstructionEnergy",
        "labels": (*THICKNESSES, "between", "any"),
        "settings": {"channels": 24},
        "run": "thickness",
    },
}

# Each of the two experts is divided by the unconditional density of its own kind.
PRIOR = {"prior_of": {"slant": "digits-slant", "thickness": "digits-thickness"}}


def write(name: str, entry: dict[str, Any], runs: Path) -> None:
    """Write one expert's weights and description."""
    state = torch.load(runs / f"{entry['run']}-final.pt", weights_only=True)
    # Parameters in half precision; buffers (axes, noise level) as they are, lest a log-determinant
    # no longer fit its map.
    model = FAMILIES[entry["family"]]((16, 16), entry["labels"], 0.1, **entry["settings"])
    halved = dict(model.named_parameters())
    tensors = {
        key: (value.half() if key in halved else value).contiguous() for key, value in state.items()
    }
    path = FOLDER / f"{name}.safetensors"
    save_file(tensors, path)
    description = {key: value for key, value in entry.items() if key != "run"} | {
        "shape": (16, 16),
        "noise_level": 0.1,
        "weights": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    describe(name, description)


def describe(name: str, description: dict[str, Any]) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(description, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    runs = parser.parse_args().work
    FOLDER.mkdir(exist_ok=True)
    for name, entry in EXPERTS.items():
        write(name, entry, runs)
    describe("digits-prior", PRIOR)
    for path in sorted(FOLDER.glob("*.safetensors")):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
