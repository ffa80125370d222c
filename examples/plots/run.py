"""Every plot of `poe.plot`, of real compositions, on one sheet.

Three densities on a line with one that is divided by; the ring and the bar of compose_2d and a
blob that is not wanted; bits under a field and couplings; and the shipped experts of handwritten
digits, each of which knows one attribute. The table says what is drawn of what.

    python -m examples.plots [--output plots.png] [--fast]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import experts
import poe
from examples.common import options
from examples.compose_2d.run import Ring, bar
from poe import plot
from poe.demo.attributes import Combination
from poe.demo.conjunction import ATTRIBUTES, Schedule, load_experts, sample as sample_digits

# Thick digits that lean to the right, one class a chain; no expert saw such a 7.
COMBINATIONS = [Combination(digit, 2, 2) for digit in (1, 3, 4, 7, 8, 9)]
FAST, LONG = Schedule(1, 5, 12), Schedule(4, 20, 120)
GAP = 26  # white pixels between two plots
WIDTH = 1480
DPI = 100


class Composition(NamedTuple):
    """A target and what was drawn of it."""

    name: str
    target: poe.Expert
    draws: poe.Draws


class Plot(NamedTuple):
    """A call, of what, and the picture (height, width, 3) that it made."""

    call: str
    composition: Composition
    picture: NDArray[np.uint8]


def on_a_line() -> poe.Product:
    """A broad Gaussian AND a pointed energy AND NOT a bump."""
    return poe.Product(
        wide=experts.Gaussian([-1.0], scale=[1.5]),
        pointed=poe.FromEnergy(lambda x: (x[..., 0] - 1.0).abs(), space=poe.Real(1)),
        bump=experts.Gaussian([0.2], scale=[0.9]) ** -0.3,
    )


def on_the_plane() -> poe.Product:
    """A ring AND half as loudly a bar AND NOT a blob, which is flat far away."""
    blob = experts.Gaussian([1.8, 0.8], scale=[0.5, 0.5])
    flat = experts.Gaussian([0.0, 0.0], scale=[4.0, 4.0])
    return poe.Product(ring=Ring(), bar=bar() ** 0.5, blob=(blob | flat) ** -1)


def on_bits() -> poe.Product:
    """A field on three bits AND couplings: the first two are alike, the last two are not."""
    coupling = torch.tensor([[0.0, 0.8, 0.0], [0.8, 0.0, -0.8], [0.0, -0.8, 0.0]])
    field = experts.Bernoulli(torch.tensor([0.6, 0.3, 0.5]))
    return poe.Product(field=field, couplings=experts.Ising(coupling, torch.zeros(3)))


def draw(target: poe.Expert, num_draws: int, g: torch.Generator) -> poe.Draws:
    """Of eight chains."""
    return poe.sample(
        target, num_draws, num_chains=8, warmup=num_draws // 4, generator=g, progress=False
    )


def compositions(num_draws: int, schedule: Schedule, g: torch.Generator) -> list[Composition]:
    """The four, sampled."""
    found = [
        Composition(name, target, draw(target, num_draws, g))
        for name, target in [
            ("line", on_a_line()), ("plane", on_the_plane()), ("bits", on_bits())
        ]
    ]  # fmt: skip
    parts = load_experts()
    label = torch.tensor([one.digit for one in COMBINATIONS])
    start = parts.digit.given(label).sample(len(label), generator=g)
    target, draws = sample_digits(parts, COMBINATIONS, ATTRIBUTES, start, schedule, g)
    return [*found, Composition("digits", target, draws)]


def figures(line: Composition, plane: Composition, bits: Composition, digits: Composition) -> Any:
    """Call, composition and figure, one after the other."""
    x = digits.draws.samples
    times = torch.linspace(0, x.shape[1] - 1, 9).round().long()
    strip = x[:, times].flatten(0, 1)
    names = [str(one) for one in COMBINATIONS]
    yield "densities", line, plot.densities(line.target, -5.0, 5.0, draws=line.draws)
    yield "densities", bits, plot.densities(bits.target, draws=bits.draws)
    yield "densities", plane, plot.densities(plane.target, -3.8, 3.8, draws=plane.draws)
    yield "pairs", plane, plot.pairs(plane.draws)
    yield "tree", plane, plot.tree(plane.target)
    yield "images", digits, plot.images(strip, rows=len(x), cmap="gray_r", row_labels=names)
    yield "trace", digits, plot.trace(digits.draws)
    yield "contributions", digits, plot.contributions(digits.target, digits.draws)
    yield "contributions", plane, plot.contributions(plane.target, plane.draws.samples[:6, -1])
    yield "disagreement", plane, plot.disagreement(plane.target, plane.draws)


def drawn(all_of_them: list[Composition]) -> Iterator[Plot]:
    """Each figure as the pixels that its PNG has."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for call, composition, figure in figures(*all_of_them):
        figure.set_figheight(figure.get_figheight() + 0.25)
        figure.suptitle(
            f"plot.{call}: {composition.name}", x=0.01, ha="left", fontsize=9, family="monospace"
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        yield Plot(call, composition, np.asarray(canvas.buffer_rgba())[..., :3].copy())


def sheet(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The pictures one after the other in rows, as text is set."""
    rows: list[list[NDArray[np.uint8]]] = [[]]
    for picture in pictures:
        used = sum(one.shape[1] + GAP for one in rows[-1])
        if rows[-1] and used + picture.shape[1] > WIDTH:
            rows.append([])
        rows[-1].append(picture)
    return np.concatenate([_row(row) for row in rows])


def _row(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One row, its pictures in the middle of their spaces."""
    height = max(picture.shape[0] for picture in pictures) + GAP
    row = np.full((height, WIDTH, 3), 255, dtype=np.uint8)
    spare = (WIDTH - sum(picture.shape[1] for picture in pictures)) // (len(pictures) + 1)
    left = spare
    for picture in pictures:
        top = (height - picture.shape[0]) // 2
        row[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + spare
    return row


def print_table(plots: list[Plot]) -> None:
    """What was drawn of what, and what the draws in it are worth."""
    print(f"{'plot':<15}{'of':<8}{'pixels':>12}   draws")
    for call, composition, picture in plots:
        height, width = picture.shape[:2]
        chains, draws = composition.draws.log_density.shape
        what = f"{chains} x {draws}, {composition.draws.guarantee}"
        print(f"{call:<15}{composition.name:<8}{f'{width} x {height}':>12}   {what}")


def main() -> None:
    parser = options(__doc__, fast="fewer draws, for a quick look", output="plots.png")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    generator = torch.Generator().manual_seed(arguments.seed)
    num_draws, schedule = (800, FAST) if arguments.fast else (4000, LONG)
    plots = list(drawn(compositions(num_draws, schedule, generator)))
    print_table(plots)
    from matplotlib.image import imsave

    imsave(arguments.output, sheet([one.picture for one in plots]), dpi=DPI)
    print(f"wrote {arguments.output} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
