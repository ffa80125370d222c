"""Tuning parallel tempering: a ladder whose swaps are all alike, and a step size for each level."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked, require_count
from poe.core.errors import PoeError
from poe.density.expert import Expert
from poe.samplers.kernel import Kernel
from poe.samplers.questions import Setting, max_scale, missing, target_acceptance
from poe.samplers.tempering import ParallelTempering, TemperingState, respaced
from poe.tuning.dual_averaging import DualAveraging, start_averaging, update_averaging

NUM_ROUNDS = 5
MIN_STEPS = 100
FIRST_LEVELS = 12


class TunedTempering(NamedTuple):
    """What tuning found, and what it cost.

    Args:
        kernel: With its exponents and step sizes.
        replicas: Where they ended, the target's last: ``(levels, chains, *event)``.
        num_gradients: How often a chain, all its replicas together, evaluated the target.
    """

    kernel: ParallelTempering
    replicas: Tensor
    num_gradients: int


@checked
def tune_tempering(
    target: Expert,
    start: Expert,
    kernel: Kernel,
    x: Tensor,
    *,
    num_steps: int,
    num_levels: int | None = None,
    generator: torch.Generator,
) -> TunedTempering:
    """A tuned ladder from start to target, and where its replicas ended.

    In five rounds, each twice as long as the one before, the pairs' mean rejection rates r_l say
    how far apart start and target are: the barrier Λ(β_l) = r_1 + … + r_{l−1}, interpolated, is cut
    into equal parts, which makes the next round's swaps equally likely. A step size that the kernel
    leaves out is tuned for each level to the kernel's target acceptance.

    Args:
        target: The density at β = 1.
        start: The density at β = 0, broad, on the same space.
        kernel: What moves at every level.
        x: Where each level starts, ``(chains, *event)``.
        num_steps: In all rounds together, at least 100.
        num_levels: None takes ⌈2Λ⌉ + 1, where swaps are accepted about every second time.
        generator: Of all that is drawn.

    Returns:
        The kernel; and the replicas ``(levels, chains, *event)``, the target's last, to go on from
        by ``kernel.init_replicas``.

    Raises:
        PoeError: For too few steps.
        ShapeError: For x of no or several batch dimensions.

    References:
        Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), Non-reversible parallel tempering: a
        scalable highly parallel MCMC scheme, section 5 and algorithm 4, arXiv:1905.02939.

    Example:
        >>> import poe, experts
        >>> target = experts.Gaussian([5.0], scale=[0.1])
        >>> start = experts.Gaussian([0.0], scale=[3.0])
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.full((100, 1), 5.0)
        >>> kernel = poe.samplers.MALA()
        >>> tuned = tune_tempering(target, start, kernel, x, num_steps=300, generator=g)
        >>> len(tuned.kernel.exponents), tuned.replicas.shape
        (7, torch.Size([7, 100, 1]))
    """
    if num_steps < MIN_STEPS:
        raise PoeError(f"expected num_steps >= {MIN_STEPS} to tune a ladder in, got {num_steps}")
    levels = FIRST_LEVELS if num_levels is None else require_count("num_levels", num_levels, 2)
    # Densities change fastest at the start, so that is where the first levels are closest.
    exponents = tuple(((torch.arange(levels).double() / (levels - 1)) ** 3).tolist())
    tempering = ParallelTempering(
        start, kernel, exponents, _first_step_sizes(kernel, levels, target)
    )
    replicas, num_gradients = x.expand(levels, *x.shape), 0
    for length in _lengths(num_steps):
        num_gradients += len(replicas) + length * tempering.gradients_per_step
        state, tempering = _run(target, tempering, replicas, length, generator)
        tempering, replicas = respaced(tempering, state, num_levels)
    return TunedTempering(tempering, replicas, num_gradients)


def _lengths(num_steps: int) -> list[int]:
    """The rounds' lengths: each twice the one before, and together ``num_steps``."""
    shares = [2**k * num_steps // (2**NUM_ROUNDS - 1) for k in range(NUM_ROUNDS - 1)]
    return [*shares, num_steps - sum(shares)]


def _first_step_sizes(kernel: Kernel, levels: int, target: Expert) -> tuple[float, ...] | None:
    if Setting.SCALE not in missing(kernel):
        return None
    return (max(1, target.space.event_shape.numel()) ** -0.5,) * levels


def _run(
    target: Expert,
    tempering: ParallelTempering,
    replicas: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> tuple[TemperingState, ParallelTempering]:
    """One round at fixed exponents, with dual averaging of each level's step size."""
    state, averaging = tempering.init_replicas(target, replicas), None
    if tempering.step_size is not None:
        averaging = start_averaging(torch.tensor(tempering.step_size, dtype=torch.float64))
        averaging = averaging._replace(anchor=averaging.log_scale)  # good guesses: lean nowhere
    for _ in range(num_steps):
        noise = tempering.draw_noise(state.position, generator)
        state, info = tempering.transition_of_all(target, state, noise)
        if averaging is not None:
            acceptance = info.acceptance_probability.reshape(-1, state.num_chains).mean(1)
            averaging = _averaged(averaging, tempering, acceptance.double().cpu())
            tempering = _with_step_sizes(tempering, averaging.log_scale)
    if averaging is not None:
        tempering = _with_step_sizes(tempering, averaging.log_scale_average)
    return state, tempering


def _averaged(
    averaging: DualAveraging, tempering: ParallelTempering, acceptance: Tensor
) -> DualAveraging:
    """One update, with the acceptance of the levels that the kernel moved."""
    aim = target_acceptance(tempering.kernel)
    unmoved = acceptance.new_full((len(tempering.exponents) - len(acceptance),), aim)
    largest = max_scale(tempering.kernel)
    return update_averaging(averaging, torch.cat([unmoved, acceptance]), aim, largest)


def _with_step_sizes(tempering: ParallelTempering, log_scale: Tensor) -> ParallelTempering:
    if tempering.has_exact_start:  # its step size is never used, so nothing tunes it
        log_scale = torch.cat([log_scale[1:2], log_scale[1:]])
    return replace(tempering, step_size=tuple(log_scale.exp().tolist()))
