"""Pictures from a neural energy: the Frechet distance of chains of 100, 1,000 and 10,000 steps.

    python -m examples.train_energy          # the shipped energy
    python -m examples.train_energy --fast   # fewer and shorter chains, within a minute

Chains begin at draws of the Gaussian of the pictures' moments and take unadjusted Langevin steps;
what is judged, and shown, is the mean of the clean picture given where a chain is,
x + σ² ∇ log p̃(x), since the energy is one of pictures with noise (Saremi & Hyvärinen 2019, "walk
and jump"). The Frechet distance is to the 10,000 test rows, on features of a classifier
(`judge.py`) that has seen no energy's picture. It falls with the number of chains: compare with the
row of as many test pictures, with noise and jumped from in the same way. Energies that `train.py`
has left in ``--work`` are set beside the shipped one.

With 128 chains, after 100, 1,000 and 10,000 steps, the shipped energy has 181.0, 98.0 and 74.7,
test rows 38.8: chains last, and are still getting better. One that was trained by short runs of 30
steps has 75.0 after these 30, 87.0 after 100, and 2,322 after 1,000, where its pictures are black
and white stripes; it is a generator, and no density.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import experts
import poe
from examples.common import options, wall
from examples.train_energy.data import CLASSES, NOISE, pictures, with_noise
from examples.train_energy.frechet import Moments, frechet_distance, moments
from examples.train_energy.judge import Judge, load_or_train
from examples.train_energy.loop import in_half_precision
from examples.train_energy.train import STEP_SIZE

NAMES = {"denoising": "denoising alone", "short": "short runs", "persistent": "persistent chains"}


class Stage(NamedTuple):
    """Chains after some steps: positions (n, 28, 28), their log-densities (n,), pictures there."""

    steps: int
    positions: Tensor
    log_density: Tensor
    pictures: Tensor


def jump(expert: poe.Expert, x: Tensor) -> Tensor:
    """The mean of the clean picture given one with noise: x + σ² ∇ log p̃(x) (Miyasawa 1961)."""
    return torch.cat([rows + NOISE**2 * expert.score(rows) for rows in x.split(128)])


def chains(
    expert: poe.Expert, start: Tensor, lengths: Sequence[int], generator: torch.Generator
) -> Iterator[Stage]:
    """Where chains from ``start`` are after each of so many steps."""
    kernel, fast = poe.samplers.ULA(STEP_SIZE), in_half_precision(expert)
    x, done = start, 0
    for length in lengths:
        if length > done:
            pieces = [
                poe.advance(fast, kernel, rows, length - done, generator=generator).positions
                for rows in x.split(64)
            ]
            x, done = torch.cat(pieces), length
        yield Stage(length, x, expert(x), jump(expert, x))


def energies(work: Path) -> dict[str, poe.Expert]:
    """The shipped energy, and those that were trained here."""
    found: dict[str, poe.Expert] = {"shipped": experts.load("fashion-energy")}
    for kind, name in NAMES.items():
        if (work / kind).is_dir():
            found[name] = poe.load(work / kind).eval().requires_grad_(False)
    return found


def training_chains(work: Path, count: int) -> Iterator[tuple[str, Tensor]]:
    """Where the chains that training went on with stand, if it was run here."""
    path = work / "persistent.pt"
    if path.exists():
        held = torch.load(path, weights_only=True)
        yield NAMES["persistent"], held["chains"]["positions"][:count]


def row(judge: Judge, truth: Moments, name: str, shown: Tensor, log_density: Tensor) -> str:
    """One line of the table."""
    distance = frechet_distance(moments(judge.features(shown)), truth)
    share = judge.last(judge.features(shown)).softmax(-1).mean(0)
    spread = (-(share * share.log()).sum()).exp()
    return f"{name:38} {distance:8.1f} {log_density.mean():10.1f} {spread:8.1f}"


def picture(path: Path, columns: dict[str, Tensor]) -> None:
    """Sixteen pictures of each."""
    wide = min(4, len(columns))
    high = -(-len(columns) // wide)
    figure, axes = plt.subplots(
        high, wide, figsize=(2.6 * wide, 2.85 * high), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, images) in zip(axes.flat, columns.items(), strict=False):
        axis.imshow(wall(images[:36], columns=6, gap=0), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="36 chains, 10 and 30 steps", output="synthesis.png")
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--lengths", type=int, nargs="*", default=(100, 1000, 10_000))
    parser.add_argument("--only", nargs="*", help="names of energies, as in the table")
    parser.add_argument("--data", type=Path, help="folder of IDX files; fetched where left out")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of train.py")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    work = arguments.work / "fast" if arguments.fast else arguments.work
    torch.set_num_threads(arguments.threads)
    count, lengths = (36, (10, 30)) if arguments.fast else (arguments.chains, arguments.lengths)
    g = torch.Generator().manual_seed(1)
    test, train = pictures("t10k", arguments.data), pictures("train", arguments.data)
    judge = load_or_train(work / "judge.safetensors", train, 30 if arguments.fast else 2500)
    print(f"judge: {judge.accuracy(test):.4f} of the 10,000 test rows in the right class")
    truth = moments(judge.features(test.images))
    shown = {}
    print(f"{f'{count} pictures':38} {'Frechet':>8} {'log p~':>10} {'classes':>8}")
    some = torch.randperm(len(test.images), generator=g)[:count]
    noised = with_noise(test.images[some], g)
    for name, expert in energies(work).items():
        if arguments.only and name not in arguments.only:
            continue
        moved = jump(expert, noised)
        print(row(judge, truth, f"{name}: test rows, noised", moved, expert(noised)))
        shown[f"{name}: test rows, noised"] = moved
        start = expert.experts[0].sample(count, generator=g)
        for stage in chains(expert, start, (0, *lengths), g):
            title = f"{name}: {stage.steps:,} steps"
            print(row(judge, truth, title, stage.pictures, stage.log_density), flush=True)
            shown[title] = stage.pictures
    for name, positions in training_chains(work, count):
        expert = energies(work)[name]
        moved = jump(expert, positions)
        print(row(judge, truth, f"{name}: training's own", moved, expert(positions)))
        shown[f"{name}: training's own"] = moved
    print(
        f"classes: the exponential of the entropy of the judge's mean; of {len(CLASSES)} alike, 10"
    )
    picture(arguments.output, shown)


if __name__ == "__main__":
    main()
