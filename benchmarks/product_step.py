"""What a MALA step on a product costs over the bare sum of its experts' gradients, eager.

    python benchmarks/product_step.py

Bare: for each expert by itself, its log-density and gradient at the positions, and nothing else.
The step adds the product, the random numbers, the proposal, the accept decision and the new state.
Processor time on one thread, medians over rounds in which the calls take turns: other programs on
the machine count little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import experts
import poe

GOAL = 1.25


def gaussian(dimension: int, generator: torch.Generator) -> poe.Expert:
    """A Gaussian of full covariance."""
    factor = torch.randn(dimension, 2 * dimension, generator=generator)
    covariance = factor @ factor.T / (2 * dimension) + 0.1 * torch.eye(dimension)
    return experts.Gaussian(torch.zeros(dimension), covariance=covariance)


def mixture(dimension: int, generator: torch.Generator) -> poe.Expert:
    """Eight Gaussians of full covariance."""
    components = [gaussian(dimension, generator) for _ in range(8)]
    return poe.Mixture(components, torch.full((8,), 1 / 8))


def mlp(dimension: int, generator: torch.Generator) -> poe.Expert:
    """A neural energy with two hidden layers of 128."""
    layers = [nn.Linear(dimension, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(128, 1), nn.Flatten(0))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return experts.NeuralEnergy(net.requires_grad_(False), poe.Real(dimension))


def products(generator: torch.Generator) -> dict[str, list[poe.Expert]]:
    """The experts of each product, in 32 dimensions."""
    kinds = (gaussian, mixture, mlp)
    return {
        "Gaussian x mixture x MLP": [kind(32, generator) for kind in kinds],
        "MLP x MLP x MLP": [mlp(32, generator) for _ in range(3)],
        "Gaussian x Gaussian x Gaussian": [gaussian(32, generator) for _ in range(3)],
    }


def bare_gradients(parts: list[poe.Expert], x: Tensor) -> None:
    """Each expert's log-density and gradient, without our checks."""
    for expert in parts:
        position = x.detach().requires_grad_()
        torch.autograd.grad(expert.forward(position).sum(), position)


def median_times(calls: list[Callable[[], None]], rounds: int, repeats: int) -> list[float]:
    """Median seconds of each call; the calls take turns within a round."""
    times: list[list[float]] = [[] for _ in calls]
    for round_index in range(rounds + 2):
        for call, record in zip(calls, times, strict=True):
            began = time.process_time()
            for _ in range(repeats):
                call()
            if round_index >= 2:  # the first two warm up
                record.append((time.process_time() - began) / repeats)
    return [statistics.median(record) for record in times]


def measure(parts: list[poe.Expert], chains: int, rounds: int, repeats: int) -> list[float]:
    """Seconds of the bare gradients, of the product's gradient, and of a MALA step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(chains, 32, generator=generator)
    target, kernel = poe.Product(*parts), poe.samplers.MALA(step_size=0.01)
    state = kernel.init(target, x)

    def step() -> None:
        nonlocal state
        state, _ = kernel.step(target, state, generator=generator)

    calls = [
        lambda: bare_gradients(parts, state.position),
        lambda: target.log_density_and_score(state.position) and None,
        step,
    ]
    return median_times(calls, rounds, repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.chains} chains, 32 dimensions, one thread; goal: ratio <= {GOAL}")
    print(f"{'product':<32}{'bare us':>10}{'product us':>12}{'step us':>10}{'ratio':>8}")
    for name, parts in products(torch.Generator().manual_seed(0)).items():
        bare, product, step = measure(parts, options.chains, options.rounds, options.repeats)
        verdict = "" if step / bare <= GOAL else "  above the goal"
        numbers = f"{bare * 1e6:>10.0f}{product * 1e6:>12.0f}{step * 1e6:>10.0f}"
        print(f"{name:<32}{numbers}{step / bare:>8.2f}{verdict}")


if __name__ == "__main__":
    main()
