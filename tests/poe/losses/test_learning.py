"""Learning by draws of chains: what persistent chains and short runs settle at, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Gaussian
from poe.losses import contrastive_divergence
from poe.samplers import MALA

DATA = torch.tensor([[0.2], [0.9], [1.0]], dtype=torch.float64)
PRECISION = 2.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Tilted(nn.Module):
    """log p̃(x) = −x² + b x: of mean b / 2, so that the likelihood has its maximum at 2 E x."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.b * x - 0.5 * PRECISION * x.square()).sum(-1)


def learned(draw: Callable[[poe.Expert], Tensor], rate: float, num_updates: int = 60) -> Tensor:
    """b, the mean of the second half of the way, which is linear in b and so without bias."""
    net = Tilted()
    expert = poe.FromLogDensity(net, space=poe.Real(1))
    optimizer, path = torch.optim.SGD(net.parameters(), lr=rate), []
    for _ in range(num_updates):
        value, _ = contrastive_divergence(expert, DATA, draw(expert))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        path.append(net.b.detach().clone())
    return torch.stack(path[num_updates // 2 :]).mean()


def z_score(found: list[Tensor], truth: Tensor | float) -> float:
    values = torch.stack(found)
    error = values.std() / len(values) ** 0.5
    assert error < 0.05
    return float((values.mean() - truth) / error)


@pytest.mark.law
def test_persistent_chains_find_the_maximum_of_the_likelihood() -> None:
    def fit(seed: int) -> Tensor:
        g = seeded(seed)
        start = Gaussian([-2.0], scale=0.1).double()  # far off: chains have to get away from it
        buffer = poe.ReplayBuffer(start, 400, reseeded=0.0, generator=g)

        def draw(expert: poe.Expert) -> Tensor:
            taken = buffer.take(200, generator=g)
            found = poe.advance(expert, MALA(0.3), taken.positions, 3, generator=g)
            buffer.put(taken.slots, found.positions)
            return found.positions

        return learned(draw, rate=0.8)

    assert abs(z_score([fit(seed) for seed in range(10)], PRECISION * DATA.mean())) < 4


@pytest.mark.law
def test_short_runs_match_the_data_though_their_expert_does_not() -> None:
    # From x of mean 0, k steps of x ← x + ε (b − 2 x) + τ z end at a mean of (b / 2)(1 − ρᵏ) with
    # ρ = 1 − 2 ε. That is the data's where learning settles (Nijkamp et al. 2019, section 3.2), and
    # not the expert's own mean b / 2.
    epsilon, k = 0.05, 4

    def fit(seed: int) -> Tensor:
        g = seeded(seed)

        def draw(expert: poe.Expert) -> Tensor:
            start = torch.randn(500, 1, generator=g, dtype=torch.float64)
            return poe.short_run(expert, start, k, epsilon, noise=0.05, generator=g).samples[:, 0]

        return learned(draw, rate=2.0)

    settled = PRECISION * DATA.mean() / (1 - (1 - PRECISION * epsilon) ** k)
    assert settled > 2.5 * PRECISION * DATA.mean()
    assert abs(z_score([fit(seed) for seed in range(10)], settled)) < 4
