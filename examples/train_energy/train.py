"""Train a neural energy of Fashion-MNIST.

    python examples/train_energy/train.py persistent        # chains that go on: a density
    python examples/train_energy/train.py short             # short runs from noise: a generator

The first takes ten minutes of one core, the second four. A run that was stopped goes on from its
checkpoint, to the same bits. `--tensorboard FOLDER` writes scalars there
(`pip install "product-of-experts[tensorboard]"`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from chains import Chains, Persistent, ShortRun
from data import NOISE, pictures
from loop import begin, train
from model import learning, moments_of, untrained

import poe

STEP_SIZE = 0.01
NUM_STEPS = 15
DENOISING_STEPS = 666
LEARNING_RATE = 3e-4
STEPS = {"persistent": 1400, "short": 200}


def chains(kind: str, start: poe.Expert, generator: torch.Generator) -> Chains:
    """Persistent ones, or short runs, from draws of ``start``."""
    if kind == "short":
        return ShortRun(start, STEP_SIZE, 2 * NUM_STEPS)
    buffer = poe.ReplayBuffer(start, 512, reseeded=0.01, generator=generator)
    return Persistent(buffer, poe.samplers.ULA(STEP_SIZE), NUM_STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", choices=tuple(STEPS))
    parser.add_argument("--steps", type=int, help=f"updates (default {STEPS})")
    parser.add_argument("--data", type=Path, help="folder of IDX files; fetched where left out")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tensorboard", type=Path, help="folder for scalars")
    parser.add_argument("--fast", action="store_true", help="20 updates")
    options = parser.parse_args()
    work = options.work / "fast" if options.fast else options.work
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    images = pictures("train", options.data).images
    steps = 20 if options.fast else options.steps or STEPS[options.kind]
    moments = moments_of(images, NOISE)
    denoiser = train(
        begin(untrained(moments), None, learning_rate=2e-3, generator=generator),
        images,
        steps=min(steps, DENOISING_STEPS),
        noise=NOISE,
        checkpoint=work / "denoising.pt",
    )
    poe.save(denoiser, work / "denoising")
    drawn = chains(options.kind, moments, generator)
    average = train(
        begin(learning(denoiser), drawn, learning_rate=LEARNING_RATE, generator=generator),
        images,
        steps=steps,
        noise=NOISE,
        checkpoint=work / f"{options.kind}.pt",
        report=poe.TensorBoard(options.tensorboard).report if options.tensorboard else None,
    )
    poe.save(average, work / options.kind)


if __name__ == "__main__":
    main()
