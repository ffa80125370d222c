"""A seed gives the same bits in every process, not only in the one that tries it twice.

Solvers that read memory which nothing has written give other last bits in each process, and chains
that differ in a bit part soon. A new entry point enters by one line.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BENT = """
import torch
import poe
torch.set_num_threads(1)

def banana(x):
    bent = x[..., 1] - 0.03 * (x[..., 0].square() - 100.0)
    return -0.5 * (x[..., 0] / 10.0).square() - 0.5 * bent.square()

target = poe.FromLogDensity(banana, space=poe.Real(2))
g = torch.Generator().manual_seed(1)
"""
RUNS = {
    "sample": "print(poe.sample(target, 2000, generator=g, progress=False).samples.tolist())",
    "smc": "print(poe.smc(target, 1000, generator=g, progress=False).samples.tolist())",
    "log_partition": (
        "method = poe.normalizers.MBAR()\n"
        "print(poe.log_partition(target, method=method, generator=g, progress=False).value.item())"
    ),
}


def test_no_solver_of_least_squares_that_reads_unwritten_memory() -> None:
    """``torch.linalg.lstsq`` by gelsy leaves its pivots to chance: normal equations do not."""
    found = [
        path.relative_to(ROOT)
        for package in ("poe", "experts")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "lstsq(" in path.read_text()
    ]
    assert not found


def _printed(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_seed_gives_the_same_bits_in_every_process(name: str) -> None:
    first, *others = (_printed(BENT + RUNS[name]) for _ in range(3))
    assert first.strip()
    assert all(other == first for other in others)
