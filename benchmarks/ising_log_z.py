"""log Z of the periodic Ising model, estimated, beside Kaufman's exact formula, on one thread.

    python benchmarks/ising_log_z.py            # 16 x 16, 32 x 32 and 64 x 64: some ten minutes
    python benchmarks/ising_log_z.py --fast     # 16 x 16 and 32 x 32 at the critical coupling

``poe.log_partition`` as it chooses by itself: from strips that are summed exactly to the whole
torus, by clusters of spins (Swendsen-Wang) at every level. ``z`` is the error in stated standard
errors; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import torch

import poe
from experts import Ising

CRITICAL = 0.4406868
COUPLINGS = (0.2, 0.42, CRITICAL, 0.46, 0.6)
SIDES = (16, 32, 64)


def kaufman(n: int, coupling: float) -> float:
    """log Z of the n x n torus without a field. Source: Kaufman 1949, eq. (61)."""
    cosh_sum = math.cosh(2 * coupling) ** 2 / math.sinh(2 * coupling)
    gamma = [2 * coupling + math.log(math.tanh(coupling))]
    gamma += [math.acosh(cosh_sum - math.cos(math.pi * r / n)) for r in range(1, 2 * n)]
    terms = [
        [log_cosh_sinh(n * gamma[2 * r + odd] / 2, sign) for r in range(n)]
        for odd in (0, 1)
        for sign in (1, -1)
    ]
    logs = [sum(size for size, _ in term) for term in terms]
    signs = [math.prod(sign for _, sign in term) for term in terms]
    largest = max(logs)
    total = sum(s * math.exp(log - largest) for s, log in zip(signs, logs, strict=True))
    bulk = n * n / 2 * math.log(2 * math.sinh(2 * coupling))
    return -math.log(2) + bulk + largest + math.log(total)


def log_cosh_sinh(x: float, sign: int) -> tuple[float, float]:
    """log |e^x + sign · e^(−x)|, and its sign."""
    small = sign * math.exp(-2 * abs(x))
    log = abs(x) + math.log1p(small) if small > -1 else -math.inf
    return log, math.copysign(1.0, x) if sign < 0 else 1.0


def main() -> None:
    """Print a row for each side and coupling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fast", action="store_true", help="two sizes, at the critical coupling")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides, couplings = arguments.sides, COUPLINGS
    if arguments.fast:
        sides, couplings = (16, 32), (CRITICAL,)
    print("side  coupling      Kaufman     estimate  std error      z  seconds  remarks")
    for side in sides:
        for coupling in couplings:
            print(row(side, coupling, arguments.seed), flush=True)


def row(side: int, coupling: float, seed: int) -> str:
    """One estimate beside the truth."""
    target = Ising.grid((side, side), coupling, periodic=True)
    truth = kaufman(side, coupling)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)  # remarks are counted in the table
        found = poe.log_partition(
            target, generator=torch.Generator().manual_seed(seed), progress=False
        )
    seconds = time.process_time() - began
    value, error = found.value.item(), found.std_error.item()
    return (
        f"{side:>4}  {coupling:<9}  {truth:>10.4f}  {value:>11.4f}  {error:>9.4f}"
        f"  {(value - truth) / error:>5.2f}  {seconds:>7.1f}  {len(found.remarks):>7}"
    )


if __name__ == "__main__":
    main()
