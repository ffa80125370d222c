"""How much memory a MALA step on a product takes over the bare gradient of its experts' sum.

    python benchmarks/product_memory.py

Each figure is the growth of a fresh process's peak resident memory, from just before the first call
to the end of a few of them. "One by one": the gradient of one expert after another. "Sum": the
gradient of the sum of their log-densities, by autograd, and nothing else. "Step": a MALA step on
their product.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable

import torch
from product_step import bare_gradients, products
from torch import Tensor

import poe

NAMES = ("Gaussian x mixture x MLP", "MLP x MLP x MLP")
DIMENSION = 32


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sum_gradient(parts: list[poe.Expert], x: Tensor) -> None:
    """The gradient of the sum of the log-densities, without our checks."""
    position = x.detach().requires_grad_()
    total = torch.stack([expert.forward(position) for expert in parts]).sum()
    torch.autograd.grad(total, position)


def call_of(kind: str, parts: list[poe.Expert], x: Tensor) -> Callable[[], None]:
    """What is measured, ready to run."""
    if kind == "one by one":
        return lambda: bare_gradients(parts, x)
    if kind == "sum":
        return lambda: sum_gradient(parts, x)
    target, kernel = poe.Product(*parts), poe.samplers.MALA(step_size=0.01)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        state = kernel.init(target, x)
        for _ in range(3):
            state, _ = kernel.step(target, state, generator=generator)

    return step


def measure(kind: str, name: str, chains: int) -> float:
    """Megabytes that a call adds to this process, which must be a fresh one."""
    torch.set_num_threads(1)
    parts = products(torch.Generator().manual_seed(0))[name]
    x = torch.randn(chains, DIMENSION, generator=torch.Generator().manual_seed(0))
    call_of(kind, parts, x[:10])()  # libraries that load on the first call
    call = call_of(kind, parts, x)
    before = peak_bytes()
    call()
    return (peak_bytes() - before) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=100_000)
    chains = parser.parse_args().chains
    print(f"{chains} chains, {DIMENSION} dimensions ({4 * chains * DIMENSION / 1e6:.0f} MB)")
    print(f"{'product':<28}{'one by one MB':>15}{'sum MB':>9}{'step MB':>9}{'step / sum':>12}")
    fresh = multiprocessing.get_context("spawn")
    for name in NAMES:
        found = []
        for kind in ("one by one", "sum", "step"):
            with fresh.Pool(1) as pool:
                found.append(pool.apply(measure, (kind, name, chains)))
        alone, total, step = found
        print(f"{name:<28}{alone:>15.0f}{total:>9.0f}{step:>9.0f}{step / total:>12.2f}")


if __name__ == "__main__":
    main()
