"""``poe.sample`` on our targets."""

from __future__ import annotations

import warnings

import torch
from effective import Run
from targets import TARGETS, as_expert

import poe


def run(sampler: str, target: str, chains: int, draws: int, warmup: int | None, seed: int) -> Run:
    """One call of ``poe.sample`` without a kernel, started where it chooses; the faster of two.

    ``sampler``: "eager", or "compiled" for ``compile=True``.
    """
    expert = as_expert(TARGETS[target])
    runs = [_sample(sampler, expert, chains, draws, warmup, seed) for _ in range(2)]
    fastest = min(runs, key=lambda run: run.sampling_seconds)
    # The second call finds its graphs compiled: what compiling costs, the first one says.
    return fastest._replace(compile_seconds=runs[0].compile_seconds)


def _sample(
    sampler: str, expert: poe.Expert, chains: int, draws: int, warmup: int | None, seed: int
) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)  # R-hat and errors are in the table
        found = poe.sample(
            expert,
            chains * draws,
            num_chains=chains,
            warmup=warmup,
            generator=torch.Generator().manual_seed(seed),
            progress=False,
            compile=sampler == "compiled",
        )
    return as_run(found)


def as_run(draws: poe.Draws) -> Run:
    """The figures of a run."""
    return Run(
        samples=draws.samples.numpy(),
        compile_seconds=draws.compile_seconds,
        warmup_seconds=draws.warmup_seconds,
        sampling_seconds=draws.sampling_seconds,
        warmup_gradients=draws.warmup_gradients,
        gradients=draws.num_gradients,
    )
