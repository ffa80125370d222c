"""Write a trained energy to ``experts/pretrained``, in half precision, with its description."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import save_file

import experts  # noqa: F401 (poe.load builds its classes)
import poe
from examples.train_energy.data import NOISE, SIZE

FOLDER = Path(__file__).parents[2] / "experts" / "pretrained"
NAME = "fashion-energy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of train.py")
    state = poe.load(parser.parse_args().work / "persistent").state_dict()
    path = FOLDER / f"{NAME}.safetensors"
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)
    description = {
        "family": "ResidualEnergy",
        "shape": (SIZE, SIZE),
        "noise_level": NOISE,
        "weights": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (FOLDER / f"{NAME}.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
