"""Many modes: what local chains miss, and what tempering and sequential Monte Carlo find.

Eight Gaussians on a ring, the largest eight times the smallest, written as an energy that nobody
can sample exactly. MALA starts with all its chains in one mode and does not get far; nothing that
can be computed from its draws shows what it misses. `poe.sample` starts its chains apart, sees that
they settle apart, and carries them across by parallel tempering. `poe.smc` walks particles from a
broad Gaussian, and gives log Z too (here 0). The table gives the total variation between the modes'
masses and the true ones, the figure the draws and the masses.

    python -m examples.many_modes [--output many_modes.png] [--fast]
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import poe
from examples.common import options

NUM_MODES, RADIUS, WIDTH = 8, 4.0, 0.35
WEIGHTS = torch.arange(1.0, NUM_MODES + 1) / (NUM_MODES * (NUM_MODES + 1) / 2)
ANGLES = 2 * math.pi * torch.arange(NUM_MODES) / NUM_MODES
CENTRES = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def log_density(x: Tensor) -> Tensor:
    """log of the weighted sum of eight normal densities: `(n, 2) -> (n,)`."""
    squares = (x[:, None] - CENTRES).square().sum(-1)
    constants = WEIGHTS.log() - math.log(2 * math.pi * WIDTH**2)
    return torch.logsumexp(constants - squares / (2 * WIDTH**2), -1)


class Result(NamedTuple):
    """A way to draw, what it drew, and how far its mode masses are from the true ones."""

    name: str
    draws: poe.Draws
    masses: Tensor
    seconds: float

    @property
    def total_variation(self) -> float:
        """Half the sum of the masses' absolute errors."""
        return 0.5 * (self.masses - WEIGHTS).abs().sum().item()


def mode_masses(draws: poe.Draws) -> Tensor:
    """The weighted share of draws nearest to each centre: `(8,)`."""
    nearest = torch.cdist(draws.samples.flatten(0, 1), CENTRES).argmin(1)
    if draws.log_weights is None:
        weights = torch.ones(len(nearest))
    else:
        weights = draws.log_weights.flatten().softmax(0).float()
    masses = torch.zeros(NUM_MODES).index_add_(0, nearest, weights)
    return masses / masses.sum()


def run_all(num_draws: int, seed: int) -> list[Result]:
    """Every way to draw, each from a generator of its own."""
    target = poe.FromLogDensity(log_density, space=poe.Real(2))
    in_one_mode = CENTRES[0].expand(64, 2)
    ways = {
        "MALA, from one mode": lambda g: poe.sample(
            target, 64 * num_draws, kernel=poe.samplers.MALA(), initial=in_one_mode, generator=g
        ),
        "poe.sample": lambda g: poe.sample(target, 64 * num_draws, num_chains=64, generator=g),
        "poe.smc": lambda g: poe.smc(target, 64 * num_draws, generator=g),
    }
    results = []
    for name, way in ways.items():
        began = time.perf_counter()
        draws = way(torch.Generator().manual_seed(seed))
        results.append(Result(name, draws, mode_masses(draws), time.perf_counter() - began))
    return results


def print_table(results: list[Result]) -> None:
    """One row for each way to draw."""
    print(f"{'':<22}{'total variation':>16}{'seconds':>9}   guarantee, and what was done")
    for result in results:
        draws = result.draws
        done = draws.choice if draws.choice else type(draws.kernel).__name__
        numbers = f"{result.total_variation:>16.3f}{result.seconds:>9.1f}"
        print(f"{result.name:<22}{numbers}   {draws.guarantee}; {done}")
    log_z = results[-1].draws.log_partition
    assert log_z is not None
    print(f"log Z by poe.smc: {float(log_z.value):.3f} +- {float(log_z.std_error):.3f} (exact: 0)")


def draw_figure(results: list[Result], path: Path, num_points: int = 3000) -> None:
    """Above, the draws on the density; below, each mode's mass beside the true one."""
    figure, axes = plt.subplots(
        2, len(results), figsize=(11.5, 6.4), height_ratios=(3, 1), layout="constrained"
    )
    line = torch.linspace(-5.6, 5.6, 300)
    grid = torch.cartesian_prod(line, line)
    density = log_density(grid).exp().reshape(300, 300).T
    for (above, below), result in zip(axes.T, results, strict=True):
        samples = result.draws.samples.flatten(0, 1)
        shown = samples[:: max(1, len(samples) // num_points)]
        above.contour(line, line, density, levels=6, colors="#c8b9a0", linewidths=0.8)
        above.scatter(*shown.T, s=3.0, color="#1f4680", alpha=0.5, linewidths=0)
        above.set(xticks=[], yticks=[], aspect="equal", xlim=(-5.6, 5.6), ylim=(-5.6, 5.6))
        above.set_title(f"{result.name}\ntotal variation {result.total_variation:.3f}", fontsize=12)
        below.bar(range(1, NUM_MODES + 1), result.masses, color="#6f9fc8", label="drawn")
        below.step(
            torch.arange(NUM_MODES + 1) + 0.5, [*WEIGHTS.tolist(), WEIGHTS[-1].item()],
            where="post", color="#8a3b2a", linewidth=1.4, label="true",
        )  # fmt: skip
        below.set(xticks=range(1, NUM_MODES + 1), ylim=(0, 0.4), xlabel="mode")
        for axis in (above, below):
            axis.spines[:].set_color("#c8c4ba")
    axes[1, 0].set(ylim=(0, 1.05), ylabel="mass")
    axes[1, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="fewer draws, for a quick look", output="many_modes.png")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = run_all(50 if arguments.fast else 500, arguments.seed)
    print_table(results)
    draw_figure(results, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
