"""When experts of one architecture are better evaluated together: ``poe.Together``.

    python benchmarks/together.py

Products of some networks (two tanh layers) in 32-d: seconds of a log-density and its score one
expert after the other, as a product does, over those of ``poe.Together``; above 1 it is the faster.
Then the same of compiled MALA steps, and what compiling them took. One thread; medians over rounds
in which both take turns.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from step_cost import median_seconds
from torch import nn

import experts
import poe
from poe.sampling.compiled import Block

DIMENSION = 32


def networks(count: int, width: int) -> poe.Product:
    """Energies of one architecture, each with weights of its own."""
    torch.manual_seed(0)
    return poe.Product(*(_network(width) for _ in range(count)))


def _network(width: int) -> poe.Expert:
    layers = (
        nn.Linear(DIMENSION, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 1),
        nn.Flatten(0),
    )
    return experts.NeuralEnergy(nn.Sequential(*layers).requires_grad_(False), poe.Real(DIMENSION))


def eager(count: int, width: int, chains: int, rounds: int) -> float:
    """Seconds apart over seconds together."""
    apart = networks(count, width)
    together = poe.Together(apart)
    x = torch.randn(chains, DIMENSION)
    torch.testing.assert_close(apart(x), together(x))
    calls = {
        "apart": lambda: apart.log_density_and_score(x),
        "together": lambda: together.log_density_and_score(x),
    }
    seconds = median_seconds(calls, rounds, repeats=5)
    return seconds["apart"] / seconds["together"]


def compiled(count: int, width: int, chains: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of steps apart over together, and the seconds that compiling each took."""
    apart = networks(count, width)
    x = torch.randn(chains, DIMENSION)
    kernel, generator = poe.samplers.MALA(step_size=0.01), torch.Generator().manual_seed(0)
    torch.compile(torch.neg)(x)  # the compiler's own loading is not counted
    calls, compiling = {}, {}
    for name, target in {"apart": apart, "together": poe.Together(apart)}.items():
        torch._dynamo.reset()
        block = Block(kernel, target)
        state, noises = kernel.init(target, x), block.draw_noise(x, generator)
        block(state, noises)
        if block.failure:
            raise RuntimeError(f"expected the block to compile: {block.failure}")
        calls[name], compiling[name] = partial(block, state, noises), block.compile_seconds
    seconds = median_seconds(calls, rounds, repeats=5)
    return seconds["apart"] / seconds["together"], compiling["apart"], compiling["together"]


def main() -> None:
    """Print the ratios, for some numbers of experts, widths and chains."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for count in (2, 8, 32):
        for width in (16, 64, 256):
            ratios = [eager(count, width, chains, options.rounds) for chains in (10, 100, 1000)]
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{count:2d} experts of width {width:3d}: {shown} at 10, 100, 1000 chains")
    # What earlier runs compiled would be taken from the disk.
    with torch._inductor.utils.fresh_cache():
        for count in (8, 32):
            ratio, apart, together = compiled(count, 64, 100, options.rounds)
            print(
                f"compiled, {count:2d} experts of width 64, 100 chains: {ratio:.2f}; "
                f"compiling took {apart:.0f} s apart, {together:.0f} s together"
            )


if __name__ == "__main__":
    main()
