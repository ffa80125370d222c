"""The law of a Markov kernel: it leaves its target invariant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poe.core.arguments import require, require_count, told
from poe.core.errors import PoeError
from poe.core.space import Count, Space
from poe.density.coordinates import require_chains
from poe.density.expert import Expert, require_expert
from poe.samplers.kernel import Kernel, require_kernel
from poe.testing.law_error import LawError

MIN_CHAINS = 40_000
MIN_COUNT = 25
"""States that fewer chains are expected in are looked at together."""


def check_kernel(
    kernel: Kernel,
    target: Expert,
    exact_draws: Tensor,
    *,
    num_steps: int,
    generator: torch.Generator,
    init: Callable[[Expert, Tensor], Any] | None = None,
    max_z: float = 4.0,
) -> dict[str, float]:
    """Invariance from exact draws: after any number of steps the moments are still the target's.

    Each chain starts at an exact draw x₀ and ends at x_n. For f = x, x² (each component), log p̃(x)
    and, where the space is finite or of counts, the indicator of each state, invariance says
    E[f(x_n) − f(x₀)] = 0. The chains are independent, so the **paired differences** have the
    standard error sd / √chains (which needs E f² finite: x² of a heavy-tailed target needs a fourth
    moment), and

        z = mean(f(x_n) − f(x₀)) / (sd(f(x_n) − f(x₀)) / √chains)

    is standard normal. It is looked at after 1, 2, 4, … and ``num_steps`` steps: a mistake that
    makes the chains depend on each other (one uniform for all) shows in some steps only. States
    that fewer than 25 chains are expected in count as one, since z of a rare one is not normal.

    How much is found: from normal draws, of which x² has the standard deviation √2 σ², a variance
    that comes out r too large has |z| ≈ r √chains / 2 in chains that have forgotten x₀, and more in
    others. By 40,000 chains r = 4 % is found (|z| > 4) every other time, r = 6 % 98 times of 100.
    P(|z| > 4) is 6e-5 for a right kernel: a check of one, some 40 looks, is wrong one time in 400.
    A suite of 20,000 and more looks wants ``max_z=5`` (1 % in all; r = 5 % and 7 %).

    Args:
        kernel: What is to leave ``target`` invariant.
        target: A density with an exact sampler.
        exact_draws: Its draws, ``(chains, *event)``; at least 40,000.
        num_steps: How many steps each chain takes.
        generator: Where the kernel's noise comes from.
        init: Makes the first state, where it is not to be ``kernel.init``.
        max_z: The |z| from which on the law is broken.

    Returns:
        The worst |z| of each kind of f.

    Raises:
        LawError: Some |z| reaches ``max_z``, or a chain is not finite.
        PoeError: Fewer than 40,000 chains, or no step.

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
    if not hasattr(target, "space"):  # a level of a path is none, and may be given one
        require_expert(target)
    require_kernel(kernel)
    require_chains(target.space, exact_draws, "exact_draws")
    if len(exact_draws) < MIN_CHAINS:
        raise PoeError(f"expected at least {MIN_CHAINS} exact draws, got {len(exact_draws)}")
    num_steps, max_z = require_count("num_steps", num_steps), require("max_z", max_z, float)
    require("generator", generator, torch.Generator)
    require("init", init, Callable[[Expert, Tensor], Any] | None)
    state = (init or kernel.init)(target, exact_draws)
    if not isinstance(getattr(state, "position", None), Tensor):
        raise PoeError(f"expected init to return a state with a position, got {told(state)}")
    before = _moments(target, exact_draws)
    rounds = []
    for step in range(1, num_steps + 1):
        state, _ = kernel.step(target, state, generator=generator)
        if step == num_steps or step.bit_count() == 1:
            rounds.append(_z_values(target, exact_draws, state.position, before))
    worst = {name: max((z[name] for z in rounds), key=_badness) for name in rounds[0]}
    broken = {name: z for name, z in worst.items() if not z < max_z}
    if broken:
        numbers = ", ".join(f"{name} |z| = {z:.1f}" for name, z in broken.items())
        raise LawError(
            f"{kernel} does not leave its target invariant: expected every |z| < {max_z:g} in "
            f"{num_steps} steps of {len(exact_draws)} chains from exact draws, got {numbers}"
        )
    return worst


def _badness(z: float) -> float:
    return z if z == z else float("inf")  # NaN, a lost chain, is the worst


def _z_values(
    target: Expert, start: Tensor, end: Tensor, before: dict[str, Tensor]
) -> dict[str, float]:
    """The largest |z| of each kind of f."""
    after = _moments(target, end)
    z = {name: _worst_z(after[name] - before[name]) for name in before}
    if isinstance(target.space, Count) or _is_finite(target.space):
        z["states"] = _worst_z_of_states(*_numbered(target.space, start, end))
    return z


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


def _is_finite(space: Space) -> bool:
    """Whether each state has a number of its own that an integer of 64 bits holds."""
    values, size = space.num_values, space.event_shape.numel()
    return values is not None and size * math.log2(values) < 62


def _numbered(space: Space, start: Tensor, end: Tensor) -> tuple[Tensor, ...]:
    """A number for each state of both: ``(chains, *event)`` each -> ``(chains,)`` each."""
    if not isinstance(space, Count):
        return _places(space, start), _places(space, end)
    rows = torch.cat([start, end]).reshape(2 * len(start), -1)
    return rows.unique(dim=0, return_inverse=True)[1].split(len(start))


def _places(space: Space, x: Tensor) -> Tensor:
    """The number of each state, its values as the digits: (chains, *event) -> (chains,)."""
    flat = x.reshape(len(x), -1).long()
    digits = torch.arange(flat.shape[1], device=x.device)
    return (flat * (space.num_values or 1) ** digits).sum(1)


def _worst_z_of_states(start: Tensor, end: Tensor) -> float:
    """The same of the indicators of all states, by counting who came to each and who left it.

    Which are rare is told by the counts before and after together: by those before alone, the
    states kept would be those whose count happened to be high, and so falls.
    """
    _, place = torch.cat([start, end]).unique(return_inverse=True)
    counts = place.bincount()
    place = torch.where((counts < 2 * MIN_COUNT)[place], len(counts), place)
    first, last = place.split(len(start))
    came, left = (
        where[first != last].bincount(minlength=len(counts) + 1).double() for where in (last, first)
    )
    mean = (came - left) / len(start)
    variance = (came + left) / len(start) - mean.square()
    z = mean.abs() / (variance / len(start)).sqrt()
    return z.masked_fill(came + left == 0, 0.0).max().item()
