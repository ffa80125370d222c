"""Masses of far-apart modes, and log Z, of the targets with a known answer."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from effective import mode_masses, total_variation
from smc import ring, three_experts
from targets import RING_MEANS, RING_SD, RING_WEIGHTS, TARGETS, as_expert
from torch import Tensor

import experts
import poe

NUM_MOVES = {"b": 24, "c": 6}
TUNING_STEPS, STEPS = 300, 400


def one_mode(chains: int, generator: torch.Generator) -> Tensor:
    """Every chain in the lightest mode of the ring: ``(chains, 2)``."""
    normal = torch.randn(chains, 2, generator=generator)
    return torch.tensor(RING_MEANS[0], dtype=torch.float32) + RING_SD * normal


def tempered(chains: int, generator: torch.Generator) -> Tensor:
    """Where chains of parallel tempering end that all started in one mode: ``(chains, 2)``."""
    target = as_expert(TARGETS["b"])
    broad = experts.Gaussian([0.0, 0.0], scale=[4.0, 4.0])
    kernel, replicas, _ = poe.tune_tempering(
        target,
        broad,
        poe.samplers.MALA(),
        one_mode(chains, generator),
        num_steps=TUNING_STEPS,
        generator=generator,
    )
    state = kernel.init_replicas(target, replicas)
    for _ in range(STEPS):
        state, _ = kernel.step(target, state, generator=generator)
    return state.position


def masses(chains: int, runs: int) -> dict[str, float]:
    """Mean total variation of the final positions' mode masses, and that of exact draws."""
    errors, seconds = [], []
    for seed in range(runs):
        began = time.perf_counter()
        x = tempered(chains, torch.Generator().manual_seed(seed))
        seconds.append(time.perf_counter() - began)
        errors.append(total_variation(mode_masses(x.numpy(), RING_MEANS), RING_WEIGHTS))
    counts = np.random.default_rng(0).multinomial(chains, RING_WEIGHTS, size=1000)
    exact = [total_variation(row / chains, RING_WEIGHTS) for row in counts]
    return {
        "total_variation": statistics.mean(errors),
        "exact": statistics.mean(exact),
        "seconds": statistics.median(seconds),
    }


def log_partition(target: str, chains: int, runs: int) -> dict[str, float]:
    """Bias, standard deviation and median seconds of log Z by sequential Monte Carlo."""
    problem = {"b": lambda: ring(None), "c": three_experts}[target]()
    errors, seconds = [], []
    for seed in range(runs):
        began = time.perf_counter()
        draws = poe.smc(
            problem.target,
            chains * NUM_MOVES[target],
            start=problem.start,
            num_moves=NUM_MOVES[target],
            generator=torch.Generator().manual_seed(seed),
            progress=False,
        )
        seconds.append(time.perf_counter() - began)
        assert draws.log_partition is not None
        errors.append(draws.log_partition.value.item() - problem.log_partition)
    return {
        "bias": statistics.mean(errors),
        "sd": statistics.stdev(errors),
        "seconds": statistics.median(seconds),
    }
