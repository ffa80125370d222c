"""Write the trained experts to ``experts/pretrained``: half-precision weights and descriptions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from examples.common import typed
from experts.pretrained import FAMILIES, Card, write as write_expert
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
    """Write one expert's weights and description, and the head of its card."""
    state = torch.load(runs / f"{entry['run']}-final.pt", weights_only=True)
    model = FAMILIES[entry["family"]]((16, 16), entry["labels"], 0.1, **entry["settings"])
    model.load_state_dict(state)
    write_expert(model, name, Card.of_file(FOLDER / f"{name}.md"))


def main() -> None:
    parser = argparse.ArgumentParser(prog=typed(), description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    runs = parser.parse_args().work
    for name, entry in EXPERTS.items():
        write(name, entry, runs)
    (FOLDER / "digits-prior.json").write_text(json.dumps(PRIOR, indent=2) + "\n")
    for path in sorted(FOLDER.glob("*.safetensors")):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
