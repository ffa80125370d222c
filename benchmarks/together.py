"""Whether experts of one architecture are better evaluated together: by vmap over their weights.

    python benchmarks/together.py

Products of some networks (two tanh layers) in 32-d at 1000 chains: a log-density and its score one
expert after the other, as a product does, over the same with the weights stacked and one call for
all. Above 1 to stack would be faster. One thread; medians over rounds in which both take turns.
"""

from __future__ import annotations

import argparse
import copy

import torch
from step_cost import median_seconds
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

import poe

DIMENSION = 32


class Stacked(poe.Expert):
    """The product of networks alike, by one call with all of their weights."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.space = poe.Real(DIMENSION)
        self.weights, _ = stack_module_state(networks)
        self.skeleton = copy.deepcopy(networks[0]).to("meta")

    def forward(self, x: Tensor) -> Tensor:
        def call(weights: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(self.skeleton, weights, (x,))
            return found

        return -torch.func.vmap(call)(self.weights).sum(0).squeeze(-1)


def networks(count: int, width: int) -> list[nn.Module]:
    """Energies of one architecture, each with weights of its own."""
    return [
        nn.Sequential(
            nn.Linear(DIMENSION, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        ).requires_grad_(False)
        for _ in range(count)
    ]


def one_by_one(found: list[nn.Module]) -> poe.Expert:
    """Their product as a user writes it."""
    space = poe.Real(DIMENSION)
    return poe.Product(
        *(poe.FromEnergy(lambda x, net=net: net(x).squeeze(-1), space=space) for net in found)
    )


def ratio(count: int, width: int, chains: int, rounds: int) -> float:
    """Seconds one by one over seconds together."""
    torch.manual_seed(0)
    found = networks(count, width)
    apart, together = one_by_one(found), Stacked(found)
    x = torch.randn(chains, DIMENSION)
    torch.testing.assert_close(apart(x), together(x))
    seconds = median_seconds(
        {
            "apart": lambda: apart.log_density_and_score(x),
            "together": lambda: together.log_density_and_score(x),
        },
        rounds,
        repeats=5,
    )
    return seconds["apart"] / seconds["together"]


def main() -> None:
    """Print the ratios, for some numbers of experts and widths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for chains in (10, 1000):
        for count in (2, 8):
            for width in (16, 64, 256):
                found = ratio(count, width, chains, options.rounds)
                print(f"{chains:5d} chains, {count} experts of width {width:3d}: {found:.2f}")


if __name__ == "__main__":
    main()
