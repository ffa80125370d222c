"""Train a neural energy of Fashion-MNIST.

    python -m examples.train_energy.train persistent        # chains that go on: a density
    python -m examples.train_energy.train short             # short runs from noise: a generator

The first takes sixteen minutes of two cores, the second a quarter of an hour of one. `--share 2.5`
gives each stage of chains as many updates as the shipped energy had, and 1,000 by denoising alone,
of which that had 666: no command here makes the shipped weights again. A run that was stopped goes
on from its checkpoint, to the same bits. `--tensorboard FOLDER` writes scalars there (`pip install
"product-of-experts[tensorboard]"`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import poe
from examples.common import options
from examples.train_energy.chains import Chains, Persistent, ShortRun
from examples.train_energy.data import NOISE, pictures
from examples.train_energy.loop import begin, train
from examples.train_energy.model import learning, moments_of, untrained

STEP_SIZE = 0.01
NUM_CHAINS = 512
SHORT_RUN_STEPS = 30


class Stage(NamedTuple):
    """Updates, their learning rate, how long the average is, and the draws an update has.

    Of persistent chains, each takes ``num_steps``, and begins anew with probability ``reseeded``.
    """

    name: str
    updates: int
    learning_rate: float
    averaging: float = 0.995
    num_draws: int = 64
    num_steps: int = 15
    reseeded: float = 0.0


DENOISING = Stage("denoising", 400, 2e-3)
STAGES = {
    "persistent": (
        Stage("mixing", 560, 3e-4, reseeded=0.01),
        Stage("lasting", 800, 1.5e-4, averaging=0.998, num_draws=128, num_steps=30),
        Stage("returning", 400, 1e-4, num_draws=128, num_steps=30, reseeded=0.005),
        Stage("persistent", 400, 1e-4, num_draws=128, num_steps=30, reseeded=0.002),
    ),
    "short": (Stage("short", 1500, 3e-4),),
}
"""At first many chains begin anew, so that they do not lag behind the energy; then none, so that it
is fitted to where chains are after tens of thousands of steps; at last a few, and fewer, so that a
chain from the start comes there too, and stays."""


def chains(stage: Stage, moments: poe.Expert, generator: torch.Generator) -> Chains | None:
    """Persistent ones, or short runs, from draws of ``moments``; none for denoising alone."""
    if stage is DENOISING:
        return None
    if stage.name == "short":
        return ShortRun(moments, STEP_SIZE, SHORT_RUN_STEPS)
    buffer = poe.ReplayBuffer(moments, NUM_CHAINS, reseeded=stage.reseeded, generator=generator)
    return Persistent(buffer, poe.samplers.ULA(STEP_SIZE), stage.num_steps)


def main() -> None:
    parser = options(__doc__, fast="3 updates of each stage")
    parser.add_argument("kind", choices=tuple(STAGES))
    parser.add_argument("--share", type=float, default=1.0, help="of each stage's updates")
    parser.add_argument("--data", type=Path, help="folder of IDX files; fetched where left out")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tensorboard", type=Path, help="folder for scalars")
    arguments = parser.parse_args()
    work = arguments.work / "fast" if arguments.fast else arguments.work
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    images = pictures("train", arguments.data).images
    report = poe.TensorBoard(arguments.tensorboard).report if arguments.tensorboard else None
    moments = moments_of(images, NOISE)
    expert = untrained(moments)
    held: dict[str, Tensor] = {}
    for stage in (DENOISING, *STAGES[arguments.kind]):
        drawn = chains(stage, moments, generator)
        if drawn is not None and held:
            drawn.load_state_dict(held)  # the chains of the stage before go on
        state = begin(
            learning(expert), drawn, learning_rate=stage.learning_rate, generator=generator
        )
        expert = train(
            state,
            images,
            steps=3 if arguments.fast else max(1, round(arguments.share * stage.updates)),
            num_draws=stage.num_draws,
            averaging=stage.averaging,
            noise=NOISE,
            checkpoint=work / f"{stage.name}.pt",
            report=report,
        )
        poe.save(expert, work / stage.name)
        held = {} if drawn is None else drawn.state_dict()


if __name__ == "__main__":
    main()
