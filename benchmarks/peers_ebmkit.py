"""ebmkit on our targets: its self-tuning MALA, and HMC with the settings of a tuned peer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from ebm.samplers import HMC, MALA, AdaptiveMALA
from ebm.samplers.base import Sampler
from effective import Run
from targets import TARGETS, Energy, summed, torch_operations
from torch import Tensor


class Trajectory(NamedTuple):
    """Settings of HMC, which ebmkit does not tune."""

    step_size: float
    num_steps: int


# What the warm-up of blackjax's ChEES finds on each target with an identity mass matrix.
TRAJECTORIES = {"a": Trajectory(0.11, 46), "b": Trajectory(0.3, 5), "c": Trajectory(0.2, 3)}


def _time(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def _adaptive_mala(energy: Energy, x: Tensor, draws: int, warmup: int) -> Run:
    """It tunes a step size for all chains; its diagonal preconditioner gains nothing on a to c."""
    tuned = AdaptiveMALA(warmup=warmup)
    x, warmup_seconds = _time(lambda: tuned.sample(energy, x, steps=0))
    sampler = MALA(tuned.step_size)

    def sample() -> Tensor:
        return sampler.sample(energy, x, steps=draws, return_trajectory=True)

    trajectory, seconds = min((_time(sample) for _ in range(2)), key=lambda r: r[1])
    # Two gradients a step: the score at x is computed anew.
    return _as_run(trajectory, warmup_seconds, seconds, 2 * warmup, 2 * draws)


def _hmc(energy: Energy, x: Tensor, draws: int, warmup: int, settings: Trajectory) -> Run:
    sampler: Sampler = HMC(settings.step_size, settings.num_steps)
    x, warmup_seconds = _time(lambda: sampler.sample(energy, x, steps=warmup))

    def sample() -> Tensor:
        return sampler.sample(energy, x, steps=draws, return_trajectory=True)

    trajectory, seconds = min((_time(sample) for _ in range(2)), key=lambda r: r[1])
    gradients = settings.num_steps + 1
    return _as_run(trajectory, warmup_seconds, seconds, warmup * gradients, draws * gradients)


def _as_run(
    trajectory: Tensor, warmup_seconds: float, seconds: float, warmup: float, gradients: float
) -> Run:
    samples = trajectory[1:].transpose(0, 1).numpy()
    return Run(samples, 0.0, warmup_seconds, seconds, warmup, gradients)


def run(sampler: str, target: str, chains: int, draws: int, warmup: int, seed: int) -> Run:
    """One sampler on one target, started at N(0, I)."""
    torch.manual_seed(seed)  # ebmkit draws from the global generator
    energy = summed(TARGETS[target].energies(torch_operations()))
    x = torch.randn(chains, TARGETS[target].dimension)
    if sampler == "hmc":
        return _hmc(energy, x, draws, warmup, TRAJECTORIES[target])
    if sampler == "adaptive_mala":
        return _adaptive_mala(energy, x, draws, warmup)
    raise ValueError(f"expected hmc or adaptive_mala, got {sampler!r}")
