"""A product of two diffused experts in 2-d, walked down its ladder: ours beside published samplers.

    python benchmarks/composition.py [--picture composition.png]

Du et al. 2023 (section 4): eight Gaussians (radius 0.5, sd 0.03) times a uniform bar (|x| < 0.2,
|y| < 1), here with analytic experts, so that every error is the sampler's. Cosine ladder of 100
noise levels, start N(0, I), 2000 points, three seeds, one thread. The product is two Gaussians at
(0, ±0.5) of equal mass. The published samplers end at the least noise, as published.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import experts
import poe

NUM_LEVELS = 100
RADIUS, SD = 0.5, 0.03
BAR = (0.2, 1.0)
ANGLES = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
MEANS = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
SPACE = poe.Real(2)
Sampler = Callable[[int, torch.Generator], Tensor]


def signal_levels() -> list[float]:
    """ᾱ of each noise level, from the least noise to the most: x = √ᾱ x₀ + √(1 − ᾱ) z.

    Source: Nichol & Dhariwal 2021, eq. 17, with β ≤ 0.999.
    """
    times = np.linspace(0.0, 1.0, NUM_LEVELS + 1)
    cosine = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.clip(1 - cosine[1:] / cosine[:-1], 0.0, 0.999)
    return list(np.cumprod(1 - beta))


def diffused_ring(signal: float) -> poe.Expert:
    """The eight Gaussians at that noise: each of variance ᾱ 0.03² + 1 − ᾱ about √ᾱ μ."""
    means, variance = math.sqrt(signal) * MEANS, signal * SD**2 + 1 - signal
    constant = math.log(len(MEANS) * 2 * math.pi * variance)

    def log_density(x: Tensor) -> Tensor:
        squares = (x[:, None] - means.to(x)).square().sum(-1)
        return torch.logsumexp(-squares / (2 * variance), 1) - constant

    return poe.FromLogDensity(log_density, space=SPACE)


def diffused_bar(signal: float) -> poe.Expert:
    """The bar at that noise: a product of [Φ((h − x)/σ) − Φ((−h − x)/σ)] / 2h, h = √ᾱ × half."""
    halves = math.sqrt(signal) * torch.tensor(BAR, dtype=torch.float64)
    sigma = math.sqrt(1 - signal)

    def log_density(x: Tensor) -> Tensor:
        # By symmetry in the left tail of both normal distribution functions, where they are exact.
        upper = torch.special.log_ndtr((halves.to(x) - x.abs()) / sigma)
        lower = torch.special.log_ndtr((-halves.to(x) - x.abs()) / sigma)
        mass = upper + torch.log1p(-torch.exp((lower - upper).clamp(max=-1e-12)))
        return (mass - torch.log(2 * halves).to(x)).sum(1)

    return poe.FromLogDensity(log_density, space=SPACE)


def uniform_bar() -> poe.Expert:
    """The bar without noise: −∞ outside."""

    def log_density(x: Tensor) -> Tensor:
        halves = torch.tensor(BAR).to(x)
        inside = 0.0 * x.sum(1) - (2 * halves).log().sum()
        return inside.masked_fill((x.abs() >= halves).any(1), -torch.inf)

    return poe.FromLogDensity(log_density, space=SPACE)


def ladder() -> tuple[poe.Expert, ...]:
    """The product at each noise level, from the most noise to the least."""
    return tuple(
        poe.Product(ring=diffused_ring(signal), bar=diffused_bar(signal))
        for signal in reversed(signal_levels())
    )


def target() -> poe.Expert:
    """The product without noise."""
    return poe.Product(ring=diffused_ring(1.0), bar=uniform_bar())


def start(count: int, generator: torch.Generator) -> Tensor:
    """N(0, I): ``(count, 2)``, in double precision, as all that follows."""
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


def exact(count: int, generator: torch.Generator) -> Tensor:
    """Points of the product, by rejection from the Gaussians."""
    kept = torch.empty(0, 2, dtype=torch.float64)
    while len(kept) < count:
        chosen = torch.randint(8, (4 * count,), generator=generator)
        x = MEANS[chosen] + SD * start(4 * count, generator)
        inside = (x[:, 0].abs() < BAR[0]) & (x[:, 1].abs() < BAR[1])
        kept = torch.cat([kept, x[inside]])
    return kept[:count]


def published_langevin(step_size: float, num_steps: int, is_corrected: bool) -> Sampler:
    """(Un)adjusted Langevin with one step size at every level."""
    kernel_type = poe.samplers.MALA if is_corrected else poe.samplers.ULA

    def sample(count: int, generator: torch.Generator) -> Tensor:
        x, kernel = start(count, generator), kernel_type(step_size)
        for density in ladder():
            state = kernel.init(density, x)
            for _ in range(num_steps):
                state, _ = kernel.step(density, state, generator=generator)
            x = state.position
        return x

    return sample


def published_hmc(step_size: float, num_steps: int, is_corrected: bool) -> Sampler:
    """(Un)adjusted HMC of three steps, half of the momentum kept, turned back on a rejection."""

    def sample(count: int, generator: torch.Generator) -> Tensor:
        x, momentum = start(count, generator), start(count, generator)
        for density in ladder():
            for _ in range(num_steps):
                momentum = 0.5 * momentum + math.sqrt(0.75) * start(count, generator)
                y, p, log_ratio = leapfrog(density, x, momentum, step_size)
                uniform = torch.rand(count, generator=generator, dtype=x.dtype)
                accepted = (uniform < log_ratio.exp())[:, None] | (not is_corrected)
                x = torch.where(accepted, y, x)
                momentum = torch.where(accepted, p, -momentum)
        return x

    return sample


def leapfrog(
    density: poe.Expert, x: Tensor, momentum: Tensor, step_size: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Three steps: position, momentum, log acceptance ratio."""
    before, score = density.log_density_and_score(x)
    kinetic, after = momentum.square().sum(1) / 2, before
    for _ in range(3):
        momentum = momentum + step_size / 2 * score
        x = x + step_size * momentum
        after, score = density.log_density_and_score(x)
        momentum = momentum + step_size / 2 * score
    return x, momentum, after - before + kinetic - momentum.square().sum(1) / 2


def annealed(count: int, generator: torch.Generator) -> Tensor:
    """Ours, the same walk: HMC with its step size tuned at each level on a hundred pilot chains."""
    *levels, last = ladder()
    kernel = poe.samplers.AnnealedLangevin(
        tuple(levels), poe.samplers.HMC(num_steps=3), steps_per_level=10
    )
    pilot = start(100, generator)
    kernel = poe.tune_ladder(last, kernel, pilot, num_steps=20, generator=generator)
    state = kernel.init(last, start(count, generator))
    for _ in range(kernel.num_ladder_steps + kernel.steps_per_level):
        state, _ = kernel.step(last, state, generator=generator)
    return state.position


def sequential(count: int, generator: torch.Generator) -> Tensor:
    """Ours, with weights: sequential Monte Carlo from N(0, I) through the ladder to the product.

    Twenty times as many weighted points are drawn, and a systematic resample of them is kept.
    """
    zeros = torch.zeros(2, dtype=torch.float64)
    draws = poe.smc(
        target(),
        20 * count,
        start=experts.Gaussian(zeros, scale=torch.ones_like(zeros)),
        path=ladder()[::10],
        generator=generator,
        progress=False,
    )
    x, log_weights = draws.samples.flatten(0, 1), draws.log_weights.flatten()
    order = x[:, 1].argsort()
    ends = log_weights[order].softmax(0).cumsum(0)
    places = (torch.arange(count) + torch.rand((), generator=generator)) / count
    chosen = order[torch.searchsorted(ends, places.to(ends)).clamp(max=len(x) - 1)]
    return x[chosen]


SAMPLERS: dict[str, Sampler] = {
    "exact": exact,
    "ULA 0.001, 10 steps a level": published_langevin(0.001, 10, False),
    "MALA 0.001, 10 steps a level": published_langevin(0.001, 10, True),
    "unadjusted HMC 0.03, 10 x 3": published_hmc(0.03, 10, False),
    "HMC 0.03, 10 x 3": published_hmc(0.03, 10, True),
    "ours: tuned HMC, 10 x 3": annealed,
    "ours: sequential Monte Carlo": sequential,
}


class Quality(NamedTuple):
    """How good the points ``(n, 2)`` of one sampler are, and the seconds they took."""

    accuracy: float
    """The fraction within three sd of one of the two modes, in each dimension."""
    log_likelihood: float
    """The mean log-density of the product with a slightly leaky bar: 1 % of it on a wider square,
    so that it is finite for points just outside."""
    wasserstein: float
    """W₂ to exact points, by optimal assignment."""
    chamfer: float
    top: float
    """The fraction with y > 0; 0.5 in truth."""
    seconds: float


def accuracy(x: Tensor) -> float:
    """The fraction within 3 × 0.03 of (0, ±0.5) in each dimension."""
    inside = (x[:, 0].abs() <= 3 * SD) & ((x[:, 1].abs() - RADIUS).abs() <= 3 * SD)
    return inside.double().mean().item()


LEAK, SQUARE = 0.01, 1.1
BAR_AREA = 4 * BAR[0] * BAR[1]
INNER = (1 - LEAK) / BAR_AREA
OUTER = LEAK / (4 * SQUARE**2 - BAR_AREA)


def _ring_mass(half_x: float, half_y: float) -> float:
    """The ring's mass in |x| < half_x, |y| < half_y."""

    def within(mean: float, half: float) -> float:
        normal = NormalDist(mean, SD)
        return normal.cdf(half) - normal.cdf(-half)

    return sum(within(x, half_x) * within(y, half_y) for x, y in MEANS.tolist()) / len(MEANS)


LOG_NORMALIZER = math.log(
    OUTER * (_ring_mass(SQUARE, SQUARE) - _ring_mass(*BAR)) + INNER * _ring_mass(*BAR)
)


def log_likelihood(x: Tensor) -> float:
    """Mean normalised log-density of ring × leaky bar; −∞ where a point left the square."""
    in_bar = (x[:, 0].abs() < BAR[0]) & (x[:, 1].abs() < BAR[1])
    bar = torch.where(in_bar, math.log(INNER), math.log(OUTER))
    bar = bar.masked_fill((x.abs() >= SQUARE).any(1), -torch.inf)
    return (diffused_ring(1.0)(x) + bar - LOG_NORMALIZER).mean().item()


def quality(x: Tensor, truth: Tensor, seconds: float) -> Quality:
    """All figures of the points, against exact ones."""
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(x, truth)
    rows, columns = linear_sum_assignment(distances.square().numpy())
    return Quality(
        accuracy(x),
        log_likelihood(x),
        distances[rows, columns].square().mean().sqrt().item(),
        (distances.amin(0).mean() + distances.amin(1).mean()).item(),
        (x[:, 1] > 0).double().mean().item(),
        seconds,
    )


HEADINGS = ("accuracy", "LL", "W2", "chamfer", "top", "seconds")
FORMATS = ("8.4f", "8.2f", "8.3f", "8.4f", "8.3f", "8.2f")


def run(sampler: Sampler, count: int, seeds: int, truth: Tensor) -> tuple[list[Quality], Tensor]:
    """The quality of each seed, and the points of the last."""
    found = []
    for seed in range(seeds):
        began = time.perf_counter()
        x = sampler(count, torch.Generator().manual_seed(seed))
        found.append(quality(x, truth, time.perf_counter() - began))
    return found, x


def draw(points: dict[str, Tensor], path: str) -> None:
    """Scatter the points of every sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(points), figsize=(2.4 * len(points), 2.8), sharey=True)
    for axis, (name, x) in zip(axes, points.items(), strict=True):
        axis.scatter(*x.T.numpy(), s=1, alpha=0.3, linewidths=0)
        axis.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), xticks=[-0.5, 0, 0.5], aspect="equal")
        axis.set_title(name.replace(", ", ",\n").replace(": ", ":\n"), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def verdicts(ours: list[Quality], count: int) -> list[str]:
    """What became of the goals, for the mean over seeds (and, of masses, for the worst seed)."""
    accuracy, log_likelihood, *_, seconds = (
        sum(column) / len(ours) for column in zip(*ours, strict=True)
    )
    mass_error = max(abs(q.top - 0.5) for q in ours)
    # Of independent exact draws, four standard errors.
    bound = 4 * math.sqrt(0.25 / count)
    rows = [
        ("accuracy", accuracy, ">=", 0.99),
        ("LL", log_likelihood, ">=", 3.4),
        ("seconds", seconds, "<=", 15.0),
        ("error of the modes' masses, worst seed", mass_error, "<=", bound),
    ]
    return [
        f"{name}: {value:.4g} (goal {sign} {goal:.3g}): "
        + ("reached" if (value >= goal if sign == ">=" else value <= goal) else "MISSED")
        for name, value, sign, goal in rows
    ]


def main() -> None:
    """Print the table, and draw the picture where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", help="file to draw the points into (needs matplotlib)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth = exact(options.samples, torch.Generator().manual_seed(options.seeds))
    print(f"{options.samples} points, mean of {options.seeds} seeds (± sd), one thread")
    print(f"{'':<30}" + "".join(f"{heading:>17}" for heading in HEADINGS))
    points, found = {}, {}
    for name, sampler in SAMPLERS.items():
        found[name], points[name] = run(sampler, options.samples, options.seeds, truth)
        columns = torch.tensor(found[name], dtype=torch.float64)
        means, deviations = columns.mean(0).tolist(), columns.std(0, correction=0).tolist()
        cells = [
            f"{mean:{style}} ± {deviation:.4f}"
            for mean, deviation, style in zip(means, deviations, FORMATS, strict=True)
        ]
        print(f"{name:<30}" + "".join(f"{cell:>17}" for cell in cells), flush=True)
    print("\n" + "\n".join(verdicts(found["ours: sequential Monte Carlo"], options.samples)))
    if options.picture:
        draw(points, options.picture)


if __name__ == "__main__":
    main()
