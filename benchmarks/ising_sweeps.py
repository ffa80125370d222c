"""Checkerboard sweeps a second of a 512 x 512 Ising model, beside a numba loop, on one thread.

    python benchmarks/ising_sweeps.py

Periodic, at the critical coupling. The loop sweeps one grid of bytes, with a uniform in double
precision and a table of five probabilities for each site. Ours moves 16 chains at once and works
out their log-density too; sweeps are counted for each chain. Rounds in which the two take turns, by
processor time; median, least and most of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
import torch

import experts
from poe.density.capabilities import conditionals, spin_pairs
from poe.samplers import BlockGibbs, Checkerboard

SIDE, CHAINS, COUPLING = 512, 16, 0.4406868


@numba.njit(fastmath=True)
def loop(s: np.ndarray, table: np.ndarray) -> None:
    """One sweep of the grid, even sites first."""
    rows, cols = s.shape
    for parity in range(2):
        for i in range(rows):
            above = s[i - 1 if i else rows - 1]
            below = s[i + 1 if i + 1 < rows else 0]
            for j in range((i + parity) % 2, cols, 2):
                left = s[i, j - 1 if j else cols - 1]
                right = s[i, j + 1 if j + 1 < cols else 0]
                s[i, j] = np.random.random() < table[above[j] + below[j] + left + right]


def their_sweeps(repeats: int) -> Callable[[], int]:
    """So many sweeps of one grid."""
    s = np.zeros((SIDE, SIDE), dtype=np.uint8)
    table = 1 / (1 + np.exp(-2 * COUPLING * (2 * np.arange(5) - 4)))

    def run() -> int:
        for _ in range(repeats):
            loop(s, table)
        return repeats

    return run


def our_sweeps(kernel: Checkerboard | BlockGibbs, target: experts.Ising) -> Callable[[], int]:
    """One sweep of all chains, from where the last one ended."""
    g = torch.Generator().manual_seed(0)
    state = kernel.init(target, torch.zeros(CHAINS, SIDE, SIDE))

    def run() -> int:
        nonlocal state
        state, _ = kernel.step(target, state, generator=g)
        return CHAINS

    return run


def rates(calls: list[Callable[[], int]], rounds: int, repeats: int) -> list[list[float]]:
    """Sweeps a second of each, round by round; the first round is left out."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, own in zip(calls, found, strict=True):
            began, count = time.process_time(), 0
            for _ in range(repeats):
                count += call()
            own.append(count / (time.process_time() - began))
    return [own[1:] for own in found]


def main() -> None:
    """Print chain-sweeps a second of the loop, of ours, and of block Gibbs on any graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    target = experts.Ising.grid((SIDE, SIDE), COUPLING, periodic=True)
    pairs, found = spin_pairs(target), conditionals(target)
    assert pairs is not None
    assert found is not None
    names = ("numba loop", "Checkerboard", "BlockGibbs")
    kernels = (Checkerboard(pairs, (SIDE, SIDE)), BlockGibbs(found))
    calls = [their_sweeps(CHAINS), *(our_sweeps(kernel, target) for kernel in kernels)]
    measured = rates(calls[:2], rounds, 3) + rates(calls[2:], 1, 1)
    for name, own in zip(names, measured, strict=True):
        print(f"{name:<14}{spread(own)} chain-sweeps/s")
    ratios = [ours / theirs for theirs, ours in zip(*measured[:2], strict=True)]
    print(f"{'ratio':<14}{spread(ratios)}")


def spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
