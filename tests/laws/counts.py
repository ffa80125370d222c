"""Small targets on counts, their tables, and every kernel that moves there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.density.expert import Expert
from poe.samplers import Kernel, LatticeGibbs, LatticeMALA
from tests.laws.discrete import CHAINS

MAX_COUNT = 80
"""Beyond it no target here has a mass of 1e-9."""


def neighbours(x: Tensor) -> Tensor:
    """Neighbours of like counts, and none where the first is odd and the second 0."""
    value = -0.3 * (x[:, 1:] - x[:, :-1]).square().sum(1)
    return value.masked_fill((x[:, 0] % 2 == 1) & (x[:, 1] == 0), -torch.inf)


def over(name: str, *parameters: object) -> Expert:
    return poe.as_expert(D.Independent(getattr(D, name)(*parameters), 1))


TARGETS: dict[str, Expert] = {
    "Poisson": experts.Poisson([4.0]),
    "coupled": experts.Poisson([0.6, 3.0]) * poe.FromLogDensity(neighbours, space=poe.Count(2)),
    "NegativeBinomial x Geometric": over(
        "NegativeBinomial", torch.tensor([4.0, 1.5]), torch.tensor([0.6, 0.4])
    )
    * over("Geometric", torch.tensor([0.1, 0.3])),
    "two modes": poe.Mixture([experts.Poisson([0.3]), experts.Poisson([30.0])], [0.6, 0.4]),
}

KERNELS: dict[str, Callable[[Expert, int], Kernel]] = {
    "LatticeGibbs": lambda target, chains: LatticeGibbs(target.space),
    "LatticeMALA": lambda target, chains: LatticeMALA(target.space, 0.5),
    "LatticeMALA, small step": lambda target, chains: LatticeMALA(target.space, 0.02),
    "LatticeMALA, large step": lambda target, chains: LatticeMALA(target.space, 8.0),
    "LatticeMALA, per chain": lambda target, chains: LatticeMALA(
        target.space, torch.linspace(0.1, 3.0, chains)
    ),
    "LatticeMALA, preconditioned": lambda target, chains: LatticeMALA(
        target.space, 0.5, torch.linspace(0.3, 3.0, target.space.event_shape.numel())
    ),
    "LatticeMALA, no windows": lambda target, chains: LatticeMALA(target.space, 0.5, num_windows=0),
}


def table_of(target: Expert) -> tuple[Tensor, Tensor]:
    """All states up to the largest count, and their probabilities."""
    n = target.space.event_shape.numel()
    axis = torch.arange(float(MAX_COUNT + 1))
    x = torch.cartesian_prod(*[axis] * n).reshape(-1, n)
    return x, torch.softmax(target(x).double(), 0)


def exact_draws(target: Expert, g: torch.Generator, count: int = CHAINS) -> Tensor:
    x, probability = table_of(target)
    return x[torch.multinomial(probability, count, replacement=True, generator=g)]
