"""Every way to use a density on Real(2), small: what a law of entry points is asked of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import experts
import poe
from poe import normalizers, samplers
from poe.samplers import Kernel
from poe.sampling.short_run import advance

Run = Callable[[poe.Expert], Any]

PRIOR = experts.Gaussian([0.0, 0.0], scale=2.0)

FOLLOW_A_SCORE: dict[str, Kernel] = {
    "ULA": samplers.ULA(0.05),
    "MALA": samplers.MALA(0.1),
    "HMC": samplers.HMC(0.1, 2),
    "SplitHMC": samplers.Preconditioned(samplers.SplitHMC()),
    "AdaptiveStepHMC": samplers.AdaptiveStepHMC(0.1),
    "GeneralizedHMC": samplers.GeneralizedHMC(0.1),
    "UnderdampedLangevin": samplers.UnderdampedLangevin(0.1),
    "MCLMC": samplers.MCLMC(0.1, 1.0),
    "AdjustedMCLMC": samplers.AdjustedMCLMC(0.1, 2),
}
FOLLOW_NONE: dict[str, Kernel] = {
    "MetropolisHastings": samplers.MetropolisHastings(0.5),
    "IndependenceMetropolisHastings": samplers.IndependenceMetropolisHastings(PRIOR),
    "SurrogateMALA": samplers.SurrogateMALA(PRIOR, 0.3),
    "DelayedAcceptance": samplers.DelayedAcceptance(samplers.MALA(0.1), PRIOR),
}
METHODS: dict[str, normalizers.Method | None] = {
    "by default": None,
    "Quadrature": normalizers.Quadrature(),
    "MBAR": normalizers.MBAR(256),
    "SMC": normalizers.SMC(256),
    "AIS": normalizers.AIS(32, 1),
    "ImportanceSampling": normalizers.ImportanceSampling(512),
    "Bridge": normalizers.Bridge(256),
    "ThermodynamicIntegration": normalizers.ThermodynamicIntegration(128),
}


def generator() -> torch.Generator:
    """Always the same."""
    return torch.Generator().manual_seed(0)


def sampled(kernel: Kernel | None, num_chains: int = 8) -> Run:
    """A short run of a kernel, or of the default one."""
    return lambda target: poe.sample(
        target,
        10 * num_chains,
        num_chains=num_chains,
        kernel=kernel,
        warmup=20,
        generator=generator(),
        progress=False,
    )


def particles(kernel: Kernel | None) -> Run:
    """A small run of particles."""
    return lambda target: poe.smc(
        target, 256, kernel=kernel, num_moves=2, generator=generator(), progress=False
    )


def log_z(method: normalizers.Method | None) -> Run:
    """log Z by a method."""
    return lambda target: poe.log_partition(
        target, method=method, generator=generator(), progress=False
    )


CHOOSE_A_KERNEL: dict[str, Run] = {
    "sample": sampled(None),
    "sample, one chain": sampled(None, 1),
    "smc": particles(None),
    **{f"log_partition, {name}": log_z(method) for name, method in METHODS.items()},
    "normalize": lambda target: poe.normalize(target, generator=generator()),
}
WITHOUT_A_SCORE: dict[str, Run] = {
    **{f"sample, {name}": sampled(kernel) for name, kernel in FOLLOW_NONE.items()},
    "smc, MetropolisHastings": particles(samplers.MetropolisHastings(0.5)),
}
BY_A_SCORE: dict[str, Run] = {
    **{f"sample, {name}": sampled(kernel) for name, kernel in FOLLOW_A_SCORE.items()},
    "sample, one chain": sampled(samplers.MALA(0.1), 1),
    "smc, MALA": particles(samplers.MALA(0.1)),
    "short_run": lambda target: poe.short_run(
        target, torch.zeros(8, 2), 3, 0.05, generator=generator()
    ),
    "advance": lambda target: advance(
        target, samplers.MALA(0.1), torch.zeros(8, 2), 3, generator=generator()
    ),
}
"""Entry points that ask for a score, whatever the target is."""


class Shifted(poe.Conditional):
    """A function of x − y."""

    space = poe.Real(2)
    condition_ndim = 1

    def __init__(self, expert: poe.Expert) -> None:
        super().__init__()
        self.expert = expert

    def log_density(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.expert(x - condition)


class Shear(nn.Module):
    """A linear map."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.stack([z[..., 0] + 0.3 * z[..., 1], 0.8 * z[..., 1]], -1)


AffineTransform = torch.distributions.transforms.AffineTransform

COMPOSITIONS: dict[str, Callable[[poe.Expert], poe.Expert]] = {
    "alone": lambda expert: expert,
    "Product": lambda expert: PRIOR * expert,
    "Tempered": lambda expert: PRIOR * expert**0.5,
    "At": lambda expert: PRIOR * expert.at(Shear(), poe.Real(2)),
    "Transformed": lambda expert: PRIOR * poe.Transformed(expert, AffineTransform(0.5, 2.0)),
    "Chunked": lambda expert: poe.Chunked(PRIOR * expert, 3),
    "Autocast": lambda expert: PRIOR * poe.Autocast(expert),
    "Mixture": lambda expert: poe.Mixture([PRIOR, expert], [0.5, 0.5], log_partitions=[None, 0.0]),
    "Normalized": lambda expert: PRIOR * poe.Mixture([expert], log_partitions=[1.0]) ** 2,
    "Given": lambda expert: PRIOR * Shifted(expert).given(torch.ones(2)),
}
"""Where an expert may lie in a composition."""
