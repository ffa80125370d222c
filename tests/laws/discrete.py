"""Small discrete targets, their tables, and every kernel that moves on them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import experts
import poe
from poe.density.adapt import Uniform
from poe.density.expert import Expert
from poe.normalizers.enumeration import num_states, states
from poe.samplers import (
    DMALA,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    ParallelTempering,
    PathAuxiliary,
    RandomScanGibbs,
    SingleSiteMetropolis,
)

CHAINS = 40_000
"""For moments from exact draws."""


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at_most(count: int, size: int) -> Expert:
    """A constraint: −inf where more than so many elements are 1."""
    return poe.FromLogDensity(
        lambda x: torch.zeros_like(x[:, 0]).masked_fill(x.sum(-1) > count, -torch.inf),
        space=poe.Binary(size),
    )


def rbm_times_ising_times_constraint() -> Expert:
    matrix = (0.5 * randn(6, 6, seed=1)).triu(1)
    ising = experts.Ising(matrix, 0.3 * randn(6, seed=2))
    rbm = experts.RBM(randn(6, 4, seed=3), 0.5 * randn(6, seed=4), 0.5 * randn(4, seed=5))
    return rbm * ising * at_most(4, 6)


def grid() -> Expert:
    return experts.Ising.grid((2, 3), coupling=0.5, field=0.1)


def potts(space: poe.Space, seed: int) -> Expert:
    """Pairwise one-hot couplings of n sites and a field; no two neighbours of value 1."""
    n, k = space.event_shape.numel(), space.num_values
    assert k is not None
    coupling, field = 0.7 * randn(n, n, k, k, seed=seed), 0.5 * randn(n, k, seed=seed + 1)
    coupling = coupling * torch.ones(n, n).triu(1)[..., None, None]  # each pair once

    def pairs(z: Tensor) -> Tensor:
        z = z.reshape(-1, n, k)
        both = torch.einsum("biu,ijuv,bjv->b", z, coupling, z)
        return both + (z * field).sum((-2, -1))

    def apart(z: Tensor) -> Tensor:
        z = z.reshape(-1, n, k)
        is_excluded = (z[:, 1:, 1] * z[:, :-1, 1] > 0.5).any(1)
        return torch.zeros_like(z[:, 0, 0]).masked_fill(is_excluded, -torch.inf)

    return poe.FromOneHot(pairs, space=space) * poe.FromOneHot(apart, space=space)


def classes_times_potts() -> Expert:
    space = poe.Categorical((2, 2), 3)
    return experts.Categorical(0.5 * randn(2, 2, 3, seed=8)) * potts(space, 9)


TARGETS: dict[str, Expert] = {
    "RBM x Ising x constraint": rbm_times_ising_times_constraint(),
    "Ising grid": grid(),
    "Categorical": classes_times_potts(),
    "Sequence": potts(poe.Sequence(4, 3), 11),
}

KERNELS: dict[str, Callable[[Expert, int], Kernel]] = {
    "Gibbs": lambda target, chains: Gibbs(target.space),
    "RandomScanGibbs": lambda target, chains: RandomScanGibbs(target.space),
    "SingleSiteMetropolis": lambda target, chains: SingleSiteMetropolis(target.space),
    "GibbsWithGradients": lambda target, chains: GibbsWithGradients(target.space),
    "DMALA": lambda target, chains: DMALA(target.space, 0.5),
    "DMALA, large step": lambda target, chains: DMALA(target.space, 5.0),
    "DMALA, per chain": lambda target, chains: DMALA(
        target.space, torch.linspace(0.3, 5.0, chains)
    ),
    "DMALA, preconditioned": lambda target, chains: DMALA(
        target.space, 2.0, preconditioner(target)
    ),
    "PathAuxiliary": lambda target, chains: PathAuxiliary(target.space, 2),
    "PathAuxiliary, fractional": lambda target, chains: PathAuxiliary(target.space, 1.3),
    "PathAuxiliary, longest": lambda target, chains: PathAuxiliary(target.space, 100),
    "PathAuxiliary, per chain": lambda target, chains: PathAuxiliary(
        target.space, torch.linspace(0.5, 4.0, chains)
    ),
    "ParallelTempering Gibbs": lambda target, chains: tempered(target, Gibbs(target.space)),
    "ParallelTempering SingleSiteMetropolis": lambda target, chains: tempered(
        target, SingleSiteMetropolis(target.space)
    ),
    "ParallelTempering GibbsWithGradients": lambda target, chains: tempered(
        target, GibbsWithGradients(target.space)
    ),
    "ParallelTempering DMALA": lambda target, chains: tempered(target, DMALA(target.space, 0.5)),
    "ParallelTempering PathAuxiliary": lambda target, chains: tempered(
        target, PathAuxiliary(target.space, 2)
    ),
}


def preconditioner(target: Expert) -> Tensor:
    shape = target.space.event_shape
    return torch.linspace(0.3, 3.0, shape.numel()).reshape(shape)


def tempered(target: Expert, kernel: Kernel) -> ParallelTempering:
    return ParallelTempering(Uniform(target.space), kernel, (0.0, 1.0))


def table_of(target: Expert) -> tuple[Tensor, Tensor]:
    """All states and their probabilities."""
    x = states(target.space)
    return x, torch.softmax(target(x).double(), 0)


def exact_draws(target: Expert, g: torch.Generator, count: int = CHAINS) -> Tensor:
    x, probability = table_of(target)
    return x[torch.multinomial(probability, count, replacement=True, generator=g)]


def frequencies(target: Expert, x: Tensor) -> Tensor:
    """Of every state, in the order of the table."""
    count = int(num_states(target.space))
    return torch.bincount(places_of(target, x), minlength=count).double() / len(x)


def places_of(target: Expert, x: Tensor) -> Tensor:
    """Where each x stands in the table."""
    k, n = target.space.num_values, target.space.event_shape.numel()
    assert k is not None
    return (x.reshape(-1, n).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)


def check_table(target: Expert, x: Tensor) -> None:
    """Whether independent draws are of the target: no state that cannot be, and total variation."""
    check_frequencies(frequencies(target, x), table_of(target)[1], len(x))


def check_frequencies(found: Tensor, truth: Tensor, count: int) -> None:
    """The same of the frequencies of so many draws: within four standard errors."""
    assert (found[truth == 0] == 0).all()
    excess, spread = excess_total_variation(found, truth, count)
    assert excess < 4 * spread


def excess_total_variation(found: Tensor, truth: Tensor, count: int) -> tuple[float, float]:
    """½ Σ |found − truth| over its mean for independent draws, and that mean's spread.

    Of a binomial number X of n draws E|X − n p| = 2 ν (1 − p) P(X = ν) with ν = ⌊n p⌋ + 1 (de
    Moivre), for rare states too, and E(X − n p)² = n p (1 − p). That the numbers of two states go
    down together by a little makes the spread slightly too large.
    """
    n, p = count, truth.double()[truth > 0]
    nu = (n * p).floor() + 1
    log_choose = math.lgamma(n + 1) - torch.lgamma(nu + 1) - torch.lgamma(n - nu + 1)
    log_mass = log_choose + torch.xlogy(nu, p) + torch.xlogy(n - nu, 1 - p)
    mean = 2 * nu * (1 - p) * log_mass.exp() / n
    spread = 0.5 * (p * (1 - p) / n - mean.square()).clamp(min=0).sum().sqrt()
    distance = 0.5 * (found - truth).abs().sum()
    return (distance - 0.5 * mean.sum()).item(), spread.item()


def check_islands(by_island: Tensor, truth: Tensor, generator: torch.Generator) -> None:
    """Whether what weighted islands say together is the truth: total variation, but for noise.

    Were each island's error as likely of the other sign, signs drawn anew would show how far off
    the sum may be: within four spreads of these distances. Independent islands share one mean,
    which takes one of them: the factor √(n / (n − 1)).

    Args:
        by_island: Each island's part of the frequencies, ``(islands, states)``; the sum is all.
        truth: ``(states,)``.
        generator: Of the signs.
    """
    found, num_islands = by_island.sum(0), len(by_island)
    residual = by_island - by_island.sum(1, keepdim=True) * found
    signs = torch.randint(2, (400, num_islands), generator=generator).double() * 2 - 1
    noise = (
        0.5 * (signs @ residual.double()).abs().sum(1) * (num_islands / (num_islands - 1)) ** 0.5
    )
    assert 0.5 * (found - truth).abs().sum() < noise.mean() + 4 * noise.std()
