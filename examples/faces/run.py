"""Young AND woman AND smiling: a face generator's latent prior times pretrained classifiers.

Five models that never heard of each other, each from a package of its own (``fetch.py``), make one
density on the latent space of a generator G (``gan-face-generate``):

    p(z) ∝ N(z; 0, I) · p(face | G(z)) · p(young | G(z))^w · p(woman | G(z))^w · p(smiling | G(z))^w

and every conjunction of fewer. ``poe.smc`` draws from it: tempered from the prior, moved by HMC
that turns along the prior exactly and is corrected by acceptance. Who judges the faces guided none
of them: the nets of another package (``face-api``), trained on other data.

    python -m examples.faces        # needs the extra "faces"; downloads 46 MB, once

The table sets three ways to the same pictures side by side, each with as many calls of G (a
gradient counts as one): exact rejection (z from the prior, kept with the probability that the
classifiers give it, which is the product exactly), the best of n by the classifiers' density, and
particles. ``log Z`` is said twice, by the particles and by the mean over the prior.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import experts
import poe
from examples.common import options, wall
from examples.faces.parts import LATENT, Generator, Judge, Verdict, load_generator, load_guides

ATTRIBUTES = ("young", "woman", "smiling")
CONJUNCTIONS = [names for k in (1, 2, 3) for names in combinations(ATTRIBUTES, k)]
KERNEL = poe.samplers.SplitHMC(num_steps=4)
NUM_SHOWN = 48
ROWS_AT_ONCE = 128
ACROSS = 8


class Share(NamedTuple):
    """The share that the judge finds right, and its standard error."""

    value: float
    std_error: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "none kept"
        return f"{100 * self.value:.0f} ± {100 * self.std_error:.0f}"


class Pool(NamedTuple):
    """Draws of the prior: what each guide says ``(n,)``, the judge's verdict, some pictures."""

    says: dict[str, Tensor]
    verdict: Verdict
    pictures: Tensor


class Composed(NamedTuple):
    """Draws of one product: latents ``(islands, particles, 100)``, and what came of them."""

    names: tuple[str, ...]
    draws: poe.Draws
    pictures: Tensor
    right: Tensor
    """``(islands, particles)``."""


def product(
    guides: dict[str, poe.Expert], names: Sequence[str], generator: Generator, weight: float
) -> poe.Product:
    """The prior AND, read through the generator, a face that is all of these."""
    says = poe.Product(face=guides["face"], **{name: guides[name] ** weight for name in names})
    prior = experts.Gaussian(torch.zeros(LATENT), scale=torch.ones(LATENT))
    return poe.Product(prior=prior, says=says.at(generator, poe.Real(LATENT)))


@torch.no_grad()
def pictures_of(generator: Generator, z: Tensor) -> Tensor:
    """Pictures of latents ``(n, 100)``, not all at once."""
    return torch.cat([generator(rows) for rows in z.split(ROWS_AT_ONCE)])


@torch.no_grad()
def draw_pool(
    generator: Generator, guides: dict[str, poe.Expert], judge: Judge, num: int, g: torch.Generator
) -> Pool:
    """The prior by itself, as the guides and the judge see it."""
    says, verdicts, shown = [], [], torch.empty(0)
    for rows in torch.randn(num, LATENT, generator=g).split(ROWS_AT_ONCE):
        pictures = generator(rows)
        says.append(torch.stack([guide(pictures) for guide in guides.values()]))
        verdicts.append(judge(pictures))
        shown = shown if len(shown) else pictures[:NUM_SHOWN]
    columns = torch.cat(says, -1)
    return Pool(
        dict(zip(guides, columns, strict=True)),
        Verdict(*(torch.cat(column) for column in zip(*verdicts, strict=True))),
        shown,
    )


def compose(
    guides: dict[str, poe.Expert], names: tuple[str, ...], generator: Generator, judge: Judge,
    arguments: argparse.Namespace, g: torch.Generator,
) -> Composed:  # fmt: skip
    """Draw from the product of these, and ask the judge."""
    draws = poe.smc(
        product(guides, names, generator, arguments.weight), arguments.particles, kernel=KERNEL,
        num_islands=8, num_moves=4, max_thinning=1, conditional_ess=0.6, generator=g,
    )  # fmt: skip
    pictures = pictures_of(generator, draws.samples.reshape(-1, LATENT))
    right = judge_all(judge, pictures).all_of(names).reshape(draws.log_density.shape)
    return Composed(names, draws, pictures, right)


def judge_all(judge: Judge, pictures: Tensor) -> Verdict:
    """The verdict, on some pictures at a time."""
    verdicts = [judge(rows) for rows in pictures.split(ROWS_AT_ONCE)]
    return Verdict(*(torch.cat(column) for column in zip(*verdicts, strict=True)))


def over_islands(values: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of values ``(islands, particles, ...)``, its standard error by the islands."""
    means = values.double().mean(1)
    weights = log_weights[:, 0].softmax(0)  # alike within an island
    weights = weights.reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    n = len(means)
    return mean, ((weights * (means - mean)).square().sum(0) * n / (n - 1)).sqrt()


def effective_draws(composed: Composed) -> float:
    """The number of independent draws whose mean latent would be as uncertain: on average over z.

    The variance of z over the squared standard error of its mean, each summed over coordinates.
    """
    z, log_weights = composed.draws.samples, composed.draws.log_weights
    mean, std_error = over_islands(z, log_weights)
    variance, _ = over_islands((z - mean).square(), log_weights)
    return float(variance.sum() / std_error.square().sum())


def binomial(right: Tensor) -> Share:
    """The share among independent draws; its standard error is that of (right + 1) / (n + 2)."""
    n = len(right)
    smooth = (float(right.sum()) + 1) / (n + 2)
    return Share(float(right.double().mean()), math.sqrt(smooth * (1 - smooth) / (n + 2)))


def rejected(pool: Pool, log_p: Tensor, names: Sequence[str], g: torch.Generator) -> Tensor:
    """Which of the prior's draws that are kept with probability exp(log_p) are right."""
    keep = torch.rand(len(log_p), generator=g).log() < log_p
    return pool.verdict.all_of(names)[: len(log_p)][keep]


def best_of(pool: Pool, log_p: Tensor, names: Sequence[str]) -> Tensor:
    """Which are right of the best by log_p, one from each of NUM_SHOWN groups of the prior."""
    size = len(log_p) // NUM_SHOWN
    best = log_p[: size * NUM_SHOWN].reshape(NUM_SHOWN, size).argmax(1)
    return pool.verdict.all_of(names)[best + size * torch.arange(NUM_SHOWN)]


def row(composed: Composed, pool: Pool, weight: float, g: torch.Generator) -> list[str]:
    """The cells of one conjunction."""
    names, draws = composed.names, composed.draws
    assert draws.log_partition is not None
    assert draws.log_weights is not None
    assert draws.acceptance_rate is not None
    num_calls = draws.log_partition.num_evaluations
    quiet = sum(pool.says[name] for name in names)
    log_p = (pool.says["face"] + weight * quiet)[:num_calls]
    kept = rejected(pool, log_p, names, g)
    share, std_error = over_islands(composed.right, draws.log_weights)
    log_z = draws.log_partition
    mean = log_p.double().exp().mean()
    error = log_p.double().exp().std() / mean / math.sqrt(len(log_p))
    return [
        " AND ".join(names),
        f"{100 * pool.verdict.all_of(names).double().mean():.0f}",
        str(binomial(rejected(pool, pool.says["face"] + quiet, names, g))),
        f"{binomial(kept)} ({len(kept)})",
        str(binomial(best_of(pool, log_p, names))),
        f"{Share(float(share), float(std_error))} ({effective_draws(composed):.0f})",
        f"{float(draws.acceptance_rate.mean()):.2f}",
        f"{num_calls}",
        f"{float(log_z.value):.2f} ± {float(log_z.std_error):.2f}",
        f"{float(mean.log()):.2f} ± {float(error):.2f}",
    ]


def print_table(rows: list[list[str]], weight: float) -> None:
    """Shares in per cent."""
    head = ["judged right, %", "prior", "w = 1, kept", f"w = {weight:g}, kept", "best of n",
            "particles (ESS)", "accept", "calls", "log Z", "by the prior"]  # fmt: skip
    widths = [max(len(cells[i]) for cells in [head, *rows]) for i in range(len(head))]
    for cells in [head, *rows]:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        print("  ".join([f"{cells[0]:<{widths[0]}}", *padded[1:]]))


def chosen(composed: Composed, g: torch.Generator) -> Tensor:
    """Pictures to show: drawn by their weights, none twice."""
    log_weights = composed.draws.log_weights
    assert log_weights is not None
    weights = log_weights.flatten().softmax(0)
    num = min(NUM_SHOWN, len(weights))
    return composed.pictures[weights.multinomial(num, generator=g)]


def draw_figure(panels: dict[str, Tensor], path: Path) -> None:
    """A wall of faces for each conjunction."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, pictures) in zip(axes.flat, panels.items(), strict=False):
        shown = pictures[: len(pictures) // ACROSS * ACROSS].permute(0, 2, 3, 1)
        axis.imshow((wall(shown, columns=ACROSS, gap=0) + 1) / 2)
        axis.set_title(title, fontsize=12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="the conjunction of all three only", output="faces.png")
    parser.add_argument("--weight", type=float, default=4.0, help="the exponent of each attribute")
    parser.add_argument("--particles", type=int, help="draws of each conjunction (256; fast: 64)")
    arguments = parser.parse_args()
    began = time.perf_counter()
    arguments.particles = arguments.particles or (64 if arguments.fast else 256)
    g = torch.Generator().manual_seed(0)
    generator, guides, judge = load_generator(), load_guides(), Judge()
    conjunctions = CONJUNCTIONS[-1:] if arguments.fast else CONJUNCTIONS
    found = [compose(guides, names, generator, judge, arguments, g) for names in conjunctions]
    num_calls = max(c.draws.log_partition.num_evaluations for c in found if c.draws.log_partition)
    pool = draw_pool(generator, guides, judge, num_calls, g)
    print_table([row(composed, pool, arguments.weight, g) for composed in found], arguments.weight)
    panels = {"the prior": pool.pictures}
    panels |= {" AND ".join(composed.names): chosen(composed, g) for composed in found}
    draw_figure(panels, arguments.output)
    guarantees = {composed.draws.guarantee for composed in found}
    print(f"particles: {', '.join(guarantees)}; prior: {len(pool.verdict.young)} draws")
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
