"""What a MALA step costs over the bare gradient, eager and compiled, random numbers included.

    python benchmarks/step_cost.py

The target is the product of three experts in 32-d of targets.py. Bare: the sum of its energies and
its gradient, by torch alone. Wall-clock on one thread, medians over rounds in which the calls take
turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from targets import TARGETS, Energy, as_expert, summed, torch_operations
from torch import Tensor
from torch.func import grad_and_value

import poe
from poe.sampling.compiled import GRADIENTS_PER_BLOCK, Block

Call = Callable[[], object]


def eager_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """The energies and their gradient by autograd."""
    x = x.detach().requires_grad_()
    values = energy(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), gradient


def compiled_gradient(energy: Energy, x: Tensor) -> Call:
    """The same in one compiled graph, compiled."""

    def summed_and_each(x: Tensor) -> tuple[Tensor, Tensor]:
        values = energy(x)
        return values.sum(), values

    gradient = grad_and_value(summed_and_each, has_aux=True)
    call = torch.compile(lambda x: gradient(x), fullgraph=True, dynamic=False)
    call(x)
    return lambda: call(x)


def compiled_block(target: poe.Expert, x: Tensor, generator: torch.Generator) -> Call:
    """Some MALA steps in one graph, their random numbers drawn before."""
    kernel = poe.samplers.MALA(step_size=0.01)
    block, state = Block(kernel, target), kernel.init(target, x)

    def call() -> None:
        nonlocal state
        state, _ = block(state, block.draw_noise(x, generator))

    call()
    if block.failure:
        raise RuntimeError(f"expected the block to compile: {block.failure}")
    return call


def eager_step(target: poe.Expert, x: Tensor, generator: torch.Generator) -> Call:
    """One MALA step as a kernel makes it."""
    kernel = poe.samplers.MALA(step_size=0.01)
    state = kernel.init(target, x)

    def call() -> None:
        nonlocal state
        state, _ = kernel.step(target, state, generator=generator)

    return call


def median_seconds(calls: dict[str, Call], rounds: int, repeats: int) -> dict[str, float]:
    """Median seconds of each call; they take turns within a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            if round_index >= 2:  # the first two warm up
                times[name].append((time.perf_counter() - began) / repeats)
    return {name: statistics.median(record) for name, record in times.items()}


def measure(chains: int, rounds: int, repeats: int, is_compiled: bool) -> dict[str, float]:
    """Microseconds of the bare gradient and of a MALA step, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    target = TARGETS["c"]
    energy, expert = summed(target.energies(torch_operations())), as_expert(target)
    x = torch.randn(chains, target.dimension, generator=generator)
    calls: dict[str, Call]
    if is_compiled:
        with torch.no_grad():
            calls = {
                "gradient": compiled_gradient(energy, x),
                "step": compiled_block(expert, x, generator),
            }
            seconds = median_seconds(calls, rounds, repeats)
        seconds["step"] /= GRADIENTS_PER_BLOCK  # MALA: one a step
    else:
        calls = {
            "gradient": lambda: eager_gradient(energy, x),
            "step": eager_step(expert, x, generator),
        }
        seconds = median_seconds(calls, rounds, repeats)
    ratio = seconds["step"] / seconds["gradient"]
    return {**{name: value * 1e6 for name, value in seconds.items()}, "ratio": ratio}


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for is_compiled in (False, True):
        found = measure(options.chains, options.rounds, options.repeats, is_compiled)
        print(
            f"{'compiled' if is_compiled else 'eager'}: bare gradient {found['gradient']:.0f} us, "
            f"MALA step {found['step']:.0f} us, ratio {found['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
