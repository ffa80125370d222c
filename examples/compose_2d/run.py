"""AND, OR and NOT in two dimensions: what arithmetic on experts does, checked against quadrature.

Two experts, a ring and a bar, are combined by `*`, `|` and `/`. For each density the figure shows
the exact values on a grid, exact draws (inverse CDF on that grid) and the draws of `poe.sample`.
The table gives the largest disagreement of five moments, in standard errors.

    python -m examples.compose_2d [--output compose_2d.png] [--fast]
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

import experts
import poe
from examples.common import options

HALF_WIDTH = 5.0  # every density is negligible outside the square [-5, 5]^2


class Ring(poe.Expert):
    """An expert of our own: the density exp(-(|x| - 2)^2 / 2s^2) / Z on the plane, s = 0.35.

    One method makes it an expert; `log_prob`, as Z is known, makes it fit for a mixture:
    Z = 2 pi s^2 (exp(-m^2 / 2) + m sqrt(pi / 2) (1 + erf(m / sqrt 2))) with m = 2 / s.
    """

    space = poe.Real(2)
    radius, width = 2.0, 0.35

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * ((x.norm(dim=-1) - self.radius) / self.width) ** 2

    def log_prob(self, x: Tensor) -> Tensor:
        m = self.radius / self.width
        radial = math.exp(-(m**2) / 2) + m * math.sqrt(math.pi / 2) * (1 + math.erf(m / 2**0.5))
        return self(x) - math.log(2 * math.pi * self.width**2 * radial)


def bar() -> poe.Expert:
    """An elongated Gaussian that cuts the ring off centre."""
    angle = math.radians(60)
    axes = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = axes @ torch.diag(torch.tensor([1.2, 0.4]) ** 2) @ axes.T
    return experts.Gaussian(loc=[1.1, -0.6], covariance=covariance)


def compositions() -> dict[str, poe.Expert]:
    """Title (the formula) to expert."""
    a, b = Ring(), bar()
    # Dividing by a bare Gaussian would reward running away from it without end. Mixed with a
    # broad background, b is flat away from its centre: there, "not b" has no opinion.
    background = experts.Gaussian(loc=[0.0, 0.0], scale=[4.0, 4.0])
    return {
        "$a$": a,
        "$b$": b,
        r"$a \cdot b$   (AND)": a * b,
        r"$a + b$   (OR)": a | b,
        r"$a \,/\, (b + u)$   (NOT)": a / (b | background),
    }


class Quadrature(NamedTuple):
    """A density on a regular grid of midpoints: `log_density` (n, n), `points` (n, n, 2)."""

    points: Tensor
    log_density: Tensor

    @property
    def cell_width(self) -> float:
        return 2 * HALF_WIDTH / len(self.points)

    @property
    def probability(self) -> Tensor:
        return self.log_density.flatten().softmax(0)

    @property
    def log_partition(self) -> float:
        return float(self.log_density.flatten().logsumexp(0)) + 2 * math.log(self.cell_width)

    def moments(self) -> Tensor:
        return self.probability @ features(self.points.flatten(0, 1))

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Exact draws up to the cell: inverse CDF over the cells, then uniform inside one."""
        uniform = torch.rand(num_samples, dtype=torch.float64, generator=generator)
        cell = torch.searchsorted(self.probability.cumsum(0), uniform)
        centre = self.points.flatten(0, 1)[cell.clamp(max=self.probability.numel() - 1)]
        jitter = torch.rand(num_samples, 2, dtype=torch.float64, generator=generator) - 0.5
        return centre + self.cell_width * jitter


def quadrature(expert: poe.Expert, cells: int = 400) -> Quadrature:
    """Evaluate the expert at the midpoints of `cells` x `cells` squares."""
    middle = HALF_WIDTH * (2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 1)
    points = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1)
    with torch.no_grad():
        return Quadrature(points, expert(points.float()).double())


def features(x: Tensor) -> Tensor:
    """The five first and second moments: (..., 2) -> (..., 5)."""
    first, second = x.unbind(-1)
    return torch.stack([first, second, first**2, second**2, first * second], dim=-1)


def worst_z(samples: Tensor, exact: Tensor) -> float:
    """Largest |z| of five moments; samples (chains, draws, 2), whose chains are independent."""
    means = features(samples.double()).mean(dim=1)
    standard_error = means.std(dim=0) / math.sqrt(len(means))
    return float(((means.mean(dim=0) - exact) / standard_error).abs().max())


class Result(NamedTuple):
    """What one column of the figure shows and one row of the table says."""

    title: str
    grid: Quadrature
    exact: Tensor
    draws: poe.Draws
    z_exact: float
    z_mala: float


def compare(title: str, expert: poe.Expert, num_draws: int, generator: torch.Generator) -> Result:
    """Sample by quadrature and by MALA, and hold both against the exact moments."""
    num_chains = 500
    grid = quadrature(expert)
    exact = grid.sample(num_chains * num_draws, generator)
    draws = poe.sample(
        expert,
        num_chains * num_draws,
        kernel=poe.samplers.MALA(),
        num_chains=num_chains,
        warmup=600,
        initial=4 * torch.rand(num_chains, 2, generator=generator) - 2,
        generator=generator,
        progress=False,
    )
    moments = grid.moments()
    z_exact = worst_z(exact.reshape(num_chains, num_draws, 2), moments)
    return Result(title, grid, exact, draws, z_exact, worst_z(draws.samples, moments))


def print_table(results: list[Result]) -> None:
    """One row for each density; an honest sampler has its largest |z| of five well under 4."""
    print(f"{'density':<10}{'log Z':>8}{'max |z| exact':>16}{'max |z| MALA':>15}   guarantee")
    for name, result in zip(["a", "b", "AND", "OR", "NOT"], results, strict=True):
        log_partition = f"{round(result.grid.log_partition, 3) + 0.0:.3f}"  # never "-0.000"
        z_scores = f"{result.z_exact:>16.2f}{result.z_mala:>15.2f}"
        print(f"{name:<10}{log_partition:>8}{z_scores}   {result.draws.guarantee}")


def draw_figure(results: list[Result], path: Path, num_points: int = 2500) -> None:
    """Rows: density, exact draws, draws of poe.sample. Columns: the densities."""
    colours = LinearSegmentedColormap.from_list(
        "ink", ["#fbfaf7", "#c9d8e6", "#6f9fc8", "#2a5c99", "#152a52", "#0b1430"]
    )
    figure, axes = plt.subplots(
        3, len(results), figsize=(13.0, 8.1), sharex=True, sharey=True, layout="constrained"
    )
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    for column, result in zip(axes.T, results, strict=True):
        density = (result.grid.log_density - result.grid.log_density.max()).exp()
        column[0].imshow(density, origin="lower", extent=extent, cmap=colours)
        column[0].set_title(result.title, fontsize=14, pad=10)
        mala = result.draws.samples.flatten(0, 1)
        for axis, samples in ((column[1], result.exact), (column[2], mala)):
            # Evenly spaced over all draws, so that every chain has its share of the points.
            shown = samples[:: max(1, len(samples) // num_points)]
            axis.scatter(*shown.T, s=2.0, color="#1f4680", alpha=0.45, linewidths=0)
            axis.set_facecolor("#fbfaf7")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-3.8, 3.8), ylim=(-3.8, 3.8))
        axis.spines[:].set_color("#c8c4ba")
    for axis, label in zip(axes[:, 0], ["density", "exact draws", "MALA draws"], strict=True):
        axis.set_ylabel(label, fontsize=12, labelpad=8)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="fewer draws, for a quick look", output="compose_2d.png")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    generator = torch.Generator().manual_seed(arguments.seed)
    num_draws = 20 if arguments.fast else 200
    results = [
        compare(title, expert, num_draws, generator) for title, expert in compositions().items()
    ]
    print_table(results)
    draw_figure(results, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
