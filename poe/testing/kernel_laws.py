"""The law of a Markov kernel: it leaves its target invariant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.density.expert import Expert
from poe.samplers.kernel import Kernel
from poe.testing.law_error import LawError

MIN_CHAINS = 40_000
MAX_Z = 4.0


def check_kernel(
    kernel: Kernel,
    target: Expert,
    exact_draws: Tensor,
    *,
    num_steps: int,
    generator: torch.Generator,
    init: Callable[[Expert, Tensor], Any] | None = None,
) -> dict[str, float]:
    """Invariance from exact draws: after any number of steps the moments are still the target's.

    Each chain starts at an exact draw x₀ and ends at x_n. For f = x, x² (each component) and
    log p̃(x), invariance says E[f(x_n) − f(x₀)] = 0. The chains are independent, so the **paired
    differences** have the standard error sd / √chains (which needs E f² finite: x² of a
    heavy-tailed target needs a fourth moment), and

        z = mean(f(x_n) − f(x₀)) / (sd(f(x_n) − f(x₀)) / √chains)

    is standard normal. It is looked at after 1, 2, 4, … and ``num_steps`` steps: a mistake that
    makes the chains depend on each other (one uniform for all) shows in some steps only.

    Raises LawError where some |z| reaches 4, or a chain is not finite, and PoeError below 40,000
    chains, where a variance that is 13 % wrong can pass.

    Shapes: exact_draws ``(chains, *event)``. Returns the worst |z| of each moment. ``init`` makes
    the first state, where it is not to be ``kernel.init``.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(1))
    >>> g = torch.Generator().manual_seed(0)
    >>> exact = torch.randn(40_000, 1, generator=g)
    >>> worst = check_kernel(
    ...     poe.samplers.MALA(1.0), target, exact, num_steps=3, generator=g
    ... )
    >>> sorted(worst)
    ['log-density', 'mean', 'second moment']
    """
    if len(exact_draws) < MIN_CHAINS:
        raise PoeError(f"expected at least {MIN_CHAINS} exact draws, got {len(exact_draws)}")
    if num_steps < 1:
        raise PoeError(f"expected num_steps >= 1, got {num_steps}")
    state = (init or kernel.init)(target, exact_draws)
    before = _moments(target, exact_draws)
    rounds = []
    for step in range(1, num_steps + 1):
        state, _ = kernel.step(target, state, generator=generator)
        if step == num_steps or step.bit_count() == 1:
            after = _moments(target, state.position)
            rounds.append({name: _worst_z(after[name] - before[name]) for name in before})
    worst = {name: max((z[name] for z in rounds), key=_badness) for name in before}
    broken = {name: z for name, z in worst.items() if not z < MAX_Z}
    if broken:
        numbers = ", ".join(f"{name} |z| = {z:.1f}" for name, z in broken.items())
        raise LawError(
            f"{kernel} does not leave its target invariant: expected every |z| < {MAX_Z:g} in "
            f"{num_steps} steps of {len(exact_draws)} chains from exact draws, got {numbers}"
        )
    return worst


def _badness(z: float) -> float:
    return z if z == z else float("inf")  # NaN, a lost chain, is the worst


@torch.no_grad()
def _moments(target: Expert, x: Tensor) -> dict[str, Tensor]:
    flat = x.reshape(len(x), -1).double()
    return {
        "mean": flat,
        "second moment": flat.square(),
        "log-density": target.log_density(x).double()[:, None],
    }


def _worst_z(differences: Tensor) -> float:
    """The largest |z| over components; NaN where a chain is not finite, 0 where nothing moved."""
    standard_error = differences.std(0) / len(differences) ** 0.5
    z = differences.mean(0).abs() / standard_error
    return z.masked_fill((standard_error == 0) & (differences[0] == 0), 0.0).max().item()
