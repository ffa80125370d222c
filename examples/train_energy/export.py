"""Write a trained energy to ``experts/pretrained``, in half precision, with its description."""

from __future__ import annotations

import argparse
from pathlib import Path

import poe
from examples.common import typed
from experts.pretrained import Card, write

FOLDER = Path(__file__).parents[2] / "experts" / "pretrained"
NAME = "fashion-energy"


def main() -> None:
    parser = argparse.ArgumentParser(prog=typed(), description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of train.py")
    energy = poe.load(parser.parse_args().work / "persistent")
    write(energy, NAME, Card.of_file(FOLDER / f"{NAME}.md"))
    path = FOLDER / f"{NAME}.safetensors"
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
