"""Real pictures restored by a product of two experts: a prior, and what was seen.

Prior of pictures: mixtures of Gaussians on tiles of 8 x 8 pixels, fitted to other pictures. Times
the likelihood of noise, missing pixels or halved size it is a mixture again, so every draw is
exact; a blur joins neighbouring tiles, which Gibbs sampling draws in turn. The grid of tiles might
begin anywhere: of the posteriors of several grids an equal-weight mixture is taken (an OR), whose
mean is the restored picture. Its intervals are drawn in by what the grids' means differ: where each
grid's posterior is calibrated with variance W, and their means vary by B about the mean of all,
that one errs by W - B. Before, the components' weights are learned anew from the spoiled picture.

Peers are given the best of their settings by the truth, which the product never sees. Needs the
extra restoration.

    python -m examples.restore_pictures [--output restore_pictures.png] [--fast]
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

import experts
import poe
from examples.common import options
from examples.restoration.degrade import TASKS, Quality, Spoiled, best, quality
from examples.restoration.pictures import CORNERS, held_out_picture

BROAD = 4.0
"""Standard deviation of a Gaussian about grey that makes the prior proper."""
LEVEL = 0.8
"""Of the intervals."""
SWEEPS = 12
"""Of Gibbs sampling before its first draw."""
MORE = 2
"""So many times as many draws of Gibbs sampling, of which the mean is taken too."""
ADAPTATIONS = 2
FINE = ("Gaussian noise", "half size")
"""Where most tiles were seen in the same way, so that many grids cost little."""


class Restored(NamedTuple):
    """Mean, and the ends of the intervals, of every pixel: ``(rows, cols)``."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def coverage(self, truth: np.ndarray, unknown: np.ndarray) -> float:
        """The share of true pixels inside, of those that were not known before."""
        inside = (self.low <= truth) & (truth <= self.high)
        return float(inside[4:-4, 4:-4][unknown[4:-4, 4:-4]].mean())


class Grid(NamedTuple):
    """The draws of one grid's posterior ``(draws, rows, cols)``, and its mean.

    ``mean_error``: the variance of that mean as an estimate, in units of the posterior's.
    """

    draws: Tensor
    mean: Tensor
    mean_error: float = 0.0


def corners(step: int, side: int) -> list[tuple[int, int]]:
    """Where grids begin: every so many pixels, up and down, by even numbers."""
    return [(row, col) for row in range(0, side, step) for col in range(0, side, step)]


def posterior(
    prior: experts.PatchMixture, seen: poe.Expert, corner: tuple[int, int]
) -> tuple[poe.Product, experts.images.Window]:
    """prior x likelihood on a picture a little larger, of which a part at the corner was seen."""
    shape = tuple(prior.space.event_shape)
    rows, cols = shape
    part = tuple(seen.space.event_shape)
    window = experts.images.Window((rows, cols), (part[0], part[1]), corner)
    broad = experts.Gaussian(torch.full((rows, cols), 0.5), scale=BROAD)
    return poe.Product(prior=prior, broad=broad, likelihood=seen.at(window)), window


def on_grid(
    prior: experts.PatchMixture,
    spoiled: Spoiled,
    corner: tuple[int, int],
    num_draws: int,
    generator: torch.Generator,
) -> Grid:
    """Exact draws where tiles are apart given what was seen, else Gibbs sampling tile by tile."""
    target, window = posterior(prior, spoiled.likelihood, corner)
    simple = poe.simplify(target).expert
    if isinstance(simple, experts.TiledMixture):
        draws = poe.sample(simple, num_draws, generator=generator, progress=False)
        return Grid(window(draws.samples.flatten(0, 1)), window(simple.mean()))

    factors = poe.gaussian_factors(poe.Product(*list(target.experts)[1:])) or ()
    start = torch.from_numpy(spoiled.picture).to(torch.float32)[None]
    draws = poe.sample(
        target,
        MORE * num_draws,
        kernel=experts.images.TileGibbs(prior, factors),
        num_chains=1,
        warmup=SWEEPS,
        initial=torch.nn.functional.pad(start, window.margins, mode="replicate"),
        generator=generator,
        progress=False,
    )
    x = window(draws.samples[0])
    return Grid(x, x.mean(0), 1 / len(x))  # the sweeps hardly depend on each other


def adapted(
    prior: experts.PatchMixture, seen: poe.Expert, starts: Iterable[tuple[int, int]]
) -> experts.PatchMixture:
    """The prior with the components' weights that the spoiled picture itself speaks for.

    By expectation-maximisation of the exact evidence, with as many tiles of prior knowledge as the
    picture has tiles. The prior as it is, where the posterior has no closed form.
    """
    for _ in range(ADAPTATIONS):
        found = [poe.simplify(posterior(prior, seen, corner)[0]).expert for corner in starts]
        shares = [one.probabilities for one in found if isinstance(one, experts.TiledMixture)]
        if not shares:
            return prior
        share = torch.stack(shares).mean((0, 2))
        prior = experts.PatchMixture(
            prior.bank.filters,
            (share + prior.logits.softmax(0)).log(),
            prior.scale_trils,
            tuple(prior.space.event_shape),  # type: ignore[arg-type]
            prior.bank.stride,
        )
    return prior


def pooled(grids: Sequence[Grid]) -> Restored:
    """Mean of the mixture of the grids' posteriors, and intervals for it."""
    draws = torch.stack([grid.draws for grid in grids])
    means = torch.stack([grid.mean for grid in grids])
    mean = means.mean(0)
    within = draws.var(1).mean(0)
    errors = within * np.mean([grid.mean_error for grid in grids]) * (1 - 1 / len(grids))
    between = (means.var(0, correction=0) - errors).clamp(min=0)
    within, between = nearby(within), nearby(between)
    drawn_in = ((within - between).clamp(min=0) / (within + between)).sqrt()
    low, high = (mean + drawn_in * (end - mean) for end in interval(draws.flatten(0, 1)))
    return Restored(mean.numpy(), low.numpy(), high.numpy())


def nearby(picture: Tensor) -> Tensor:
    """The mean of the pixels around each."""
    pool = torch.nn.functional.avg_pool2d
    return pool(picture[None], 9, stride=1, padding=4, count_include_pad=False)[0]


def interval(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Between these another draw lies with probability 0.8: ``(n, *event) -> 2 x (*event)``.

    The order statistics at p (n + 1), since quantiles of few draws are too narrow.
    """
    n = len(draws)
    tail = ((1 - LEVEL) / 2 * (n + 1) - 1) / (n - 1)
    return draws.quantile(tail, 0), draws.quantile(1 - tail, 0)


def restore(spoiled: Spoiled, step: int, num_draws: int, generator: torch.Generator) -> Restored:
    """The pooled posterior of grids that begin every ``step`` pixels."""
    prior = experts.load("pictures-patches")
    side = prior.bank.stride[0]
    rows, cols = (-(-(length + side - 1) // side) * side for length in spoiled.picture.shape)
    starts = corners(step, side)
    prior = adapted(prior.on((rows, cols)), spoiled.likelihood, starts[:: len(starts) // 2 + 1])
    return pooled([on_grid(prior, spoiled, corner, num_draws, generator) for corner in starts])


class Row(NamedTuple):
    """A picture spoiled and restored, and what the best peer made of it."""

    picture: str
    task: str
    truth: np.ndarray
    spoiled: np.ndarray
    unknown: np.ndarray
    restored: Restored
    peers: dict[str, np.ndarray]

    @property
    def best_peer(self) -> str:
        return max(self.peers, key=lambda name: quality(self.peers[name], self.truth).psnr)


def print_table(rows: Sequence[Row]) -> None:
    """PSNR in dB and SSIM of each, and how many true pixels the 80 % intervals cover."""
    print(f"\n{'':<26}{'as seen':>8}{'product':>16}{'covered':>9}   peers, at their best setting")
    for row in rows:
        ours, seen = quality(row.restored.mean, row.truth), quality(row.spoiled, row.truth)
        peers = ", ".join(
            f"{name} {_shown(quality(picture, row.truth))}" for name, picture in row.peers.items()
        )
        print(
            f"{row.picture + ', ' + row.task:<26}{seen.psnr:>8.2f}{_shown(ours):>16}"
            f"{row.restored.coverage(row.truth, row.unknown):>9.3f}   {peers}"
        )
    covered = np.mean([row.restored.coverage(row.truth, row.unknown) for row in rows])
    wins = sum(
        quality(row.restored.mean, row.truth).psnr
        > quality(row.peers[row.best_peer], row.truth).psnr
        for row in rows
    )
    print(f"the product has the higher PSNR in {wins} of {len(rows)}; covered {covered:.3f}\n")


def _shown(found: Quality) -> str:
    return f"{found.psnr:.2f} ({found.ssim:.3f})"


def draw(rows: Sequence[Row], output: Path) -> None:
    """A row for each task: seen, restored, width of the intervals, the best peer, the truth."""
    figure, axes = plt.subplots(len(rows), 5, figsize=(12, 2.5 * len(rows)), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        width = row.restored.high - row.restored.low
        panels = {
            "as seen": row.spoiled,
            "product": row.restored.mean,
            "80 % interval's width": width,
            row.best_peer: row.peers[row.best_peer],
            "truth": row.truth,
        }
        for axis, (title, picture) in zip(line, panels.items(), strict=True):
            is_width = picture is width
            axis.imshow(
                picture, cmap="magma" if is_width else "gray", vmin=0, vmax=0.5 if is_width else 1
            )
            axis.set_xticks([])
            axis.set_yticks([])
            is_scored = title not in ("truth", "80 % interval's width")
            score = f", {quality(picture, row.truth).psnr:.2f} dB" if is_scored else ""
            axis.set_title(title + score, fontsize=9)
        line[0].set_ylabel(f"{row.picture},\n{row.task}", fontsize=9)
    figure.tight_layout()
    figure.savefig(output, dpi=80)


def pictures(names: Sequence[str], size: int, num_draws: int, most_grids: int = 16) -> list[Row]:
    """Every picture, spoiled in every way; so many draws of all grids together."""
    generator, rows = torch.Generator().manual_seed(0), []
    for name in names:
        truth = held_out_picture(name, size)
        for task, spoil in TASKS.items():
            began = time.perf_counter()
            spoiled = spoil(truth, generator)
            num_grids = most_grids if task in FINE else 4
            restored = restore(
                spoiled, 8 // math.isqrt(num_grids), num_draws // num_grids, generator
            )
            peers = {peer: best(found, truth.numpy()) for peer, found in spoiled.peers.items()}
            rows.append(
                Row(
                    name,
                    task,
                    truth.numpy(),
                    spoiled.picture,
                    spoiled.unknown,
                    restored,
                    peers,
                )
            )
            print(f"{name}, {task}: {time.perf_counter() - began:.0f} s", flush=True)
    return rows


def main() -> None:
    """Restore, print the table, and draw."""
    parser = options(__doc__, fast="one small picture, few grids", output="restore_pictures.png")
    arguments = parser.parse_args()
    began = time.perf_counter()
    if arguments.fast:
        rows = pictures(["camera"], size=48, num_draws=64, most_grids=4)
    else:
        rows = pictures(list(CORNERS), size=96, num_draws=128)
    print_table(rows)
    draw([row for row in rows if row.picture == "camera"], arguments.output)
    print(f"{arguments.output}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
