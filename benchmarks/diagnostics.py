"""How long ESS, R-hat and MCSE take in tensors and in ArviZ, and how far the two are apart.

    python benchmarks/diagnostics.py

Draws of a stationary autoregressive process, float32. ArviZ gets the same numbers in float64, one
call a component. Each call runs alone; the best of a few rounds counts, as other programs on the
machine can only slow a call down. Processor time is that of all threads together.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe import diagnostics

GOAL_SECONDS = 0.5
COEFFICIENT = 0.5


class Timed(NamedTuple):
    """A value, and the least wall-clock and processor seconds it took."""

    value: Tensor
    seconds: float
    processor_seconds: float


def autoregressive(shape: tuple[int, int, int]) -> Tensor:
    """x_t = x_{t-1} / 2 + noise, of unit variance."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for t in range(1, shape[1]):
        x[:, t] = COEFFICIENT * x[:, t - 1] + (1 - COEFFICIENT**2) ** 0.5 * x[:, t]
    return x


def timed(call: Callable[[], Tensor], rounds: int) -> Timed:
    """The call's value, and its best times."""
    seconds, processor = [], []
    for _ in range(rounds):
        began, began_processor = time.perf_counter(), time.process_time()
        value = call()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
    return Timed(value, min(seconds), min(processor))


def by_arviz(function: str, method: str, samples: Tensor) -> Tensor:
    """The same number by ArviZ, component by component."""
    compute = getattr(diagnostics.import_arviz(), function)
    columns = samples.double().numpy()
    values = [float(compute(columns[:, :, i], method=method)) for i in range(columns.shape[2])]
    return torch.tensor(values, dtype=torch.float64)


FUNCTIONS = {
    "ess_bulk": (diagnostics.ess_bulk, "ess", "bulk"),
    "ess_tail": (diagnostics.ess_tail, "ess", "tail"),
    "r_hat": (diagnostics.r_hat, "rhat", "rank"),
    "mcse_mean": (diagnostics.mcse_mean, "mcse", "mean"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--components", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    samples = autoregressive((options.chains, options.draws, options.components))
    print(
        f"{options.chains} chains x {options.draws} draws x {options.components} components, "
        f"{options.threads} threads; goal: ess_bulk <= {GOAL_SECONDS} s"
    )
    head = ("ours s", "ArviZ s", "ratio", "ours cpu s", "ArviZ cpu s", "largest relative diff.")
    print(f"{'':<10}" + "".join(f"{text:>{len(text) + 3}}" for text in head))
    for name, (ours, function, method) in FUNCTIONS.items():
        mine = timed(lambda ours=ours: ours(samples), options.rounds)  # type: ignore[misc]
        theirs = timed(lambda f=function, m=method: by_arviz(f, m, samples), 2)  # type: ignore[misc]
        apart = ((mine.value - theirs.value).abs() / theirs.value).max().item()
        print(
            f"{name:<10}{mine.seconds:>9.2f}{theirs.seconds:>10.2f}"
            f"{theirs.seconds / mine.seconds:>8.1f}{mine.processor_seconds:>13.2f}"
            f"{theirs.processor_seconds:>14.2f}{apart:>25.1e}"
        )


if __name__ == "__main__":
    main()
