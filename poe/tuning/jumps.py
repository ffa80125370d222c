"""Tuning jumps between modes: the Gaussians that stand for them, and the step size within them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Dense, fit_affine
from poe.density.expert import Expert
from poe.samplers.hmc import SplitHMC, whole_turn
from poe.samplers.preconditioned import Gaussians, ModeJumps
from poe.samplers.questions import max_scale, target_acceptance
from poe.tuning.dual_averaging import start_averaging, update_averaging

SHARES = (0.15, 0.15, 0.25, 0.45)
"""Of the steps: in all rounds but the last the Gaussians are fitted anew at the end."""
FIT = 4
"""So many positions for each dimension, at least, to fit a mode's Gaussian to."""


class TunedJumps(NamedTuple):
    """What tuning found.

    - ``kernel``: with its Gaussians and step size;
    - ``position``: where the chains ended, ``(chains, *event)``;
    - ``label``: each position's mode in the last round, ``(steps, chains)``;
    - ``log_density``: in the last round, ``(steps, chains)``;
    - ``num_gradients``: how often each chain evaluated the target.
    """

    kernel: ModeJumps
    position: Tensor
    label: Tensor
    log_density: Tensor
    num_gradients: int


def tune_jumps(
    density: Expert, modes: Gaussians, u: Tensor, *, num_steps: int, generator: torch.Generator
) -> TunedJumps:
    """Chains within modes and between them, by HMC split around each mode's Gaussian.

    Round by round each Gaussian is fitted to the positions and scores in its mode, where there are
    enough. The step size is tuned to the acceptance that the kernel asks for.

    Args:
        density: What is sampled.
        modes: Gaussians to begin with.
        u: Where the chains begin, ``(chains, *event)``.
        num_steps: In all rounds together.
        generator: Of all that is drawn.

    Returns:
        The kernel, and what chains did in the last round.

    Example:
        >>> target = poe.FromLogDensity(
        ...     lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1)
        ... )
        >>> modes = Gaussians(torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1, 1))
        >>> g, u = torch.Generator().manual_seed(0), torch.full((20, 1), 3.0)
        >>> tuned = tune_jumps(target, modes, u, num_steps=100, generator=g)
        >>> tuned.kernel.factor.flatten().round(decimals=2)  # 1 / √16
        tensor([0.2500, 0.2500])
    """
    scale, steps, count = 0.5, 2, 1
    for share in SHARES:
        kernel = ModeJumps(SplitHMC(scale, steps), modes.loc, modes.factor)
        length = max(2, round(share * num_steps))
        visited, scale = _round(density, kernel, u, length, generator)
        position, log_density, score = visited
        u, count = position[-1], count + 1 + length * kernel.gradients_per_step
        steps = whole_turn(torch.tensor(scale))
        if share != SHARES[-1]:
            modes = _fitted(modes, position.flatten(0, 1), score.flatten(0, 1))
    label = labels(modes, position.flatten(0, 1)).reshape(position.shape[:2])
    kernel = ModeJumps(SplitHMC(scale, steps), modes.loc, modes.factor)
    return TunedJumps(kernel, u, label, log_density, count)


def labels(modes: Gaussians, u: Tensor) -> Tensor:
    """The likeliest mode of each position ``(n, *event)``: ``(n,)``."""
    return modes.log_shares(modes.to_u(u)).argmax(0)


def _round(
    density: Expert, kernel: ModeJumps, u: Tensor, length: int, generator: torch.Generator
) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """Positions, log-densities and scores on the way, and the step size."""
    inner = kernel.kernel
    assert isinstance(inner, SplitHMC)
    assert inner.step_size is not None
    averaging = start_averaging(torch.as_tensor(inner.step_size, dtype=torch.float64))
    averaging = averaging._replace(anchor=averaging.log_scale)
    state, visited = kernel.init(density, u), []
    for _ in range(length):
        now = ModeJumps(inner.with_scale(averaging.log_scale.exp().item()), *kernel.modes)
        state, info = now.step(density, state, generator=generator)
        acceptance = info.acceptance_probability.double().mean().cpu()
        averaging = update_averaging(
            averaging, acceptance, target_acceptance(inner), max_scale(SplitHMC())
        )
        visited.append(state)
    position, log_density, score = (torch.stack(part) for part in zip(*visited, strict=True))
    return (position, log_density, score), averaging.log_scale_average.exp().item()


def _fitted(modes: Gaussians, position: Tensor, score: Tensor) -> Gaussians:
    """Each mode's Gaussian by the positions that it is the likeliest mode of."""
    label = labels(modes, position)
    each = [
        _refitted(Dense(loc, factor), position[label == k], score[label == k])
        for k, (loc, factor) in enumerate(zip(*modes, strict=True))
    ]
    return Gaussians(*(torch.stack(part) for part in zip(*each, strict=True)))


def _refitted(mode: Dense, position: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    if len(position) >= FIT * max(5, len(mode.loc)):
        fitted = fit_affine(position, score)
        if isinstance(fitted, Dense):
            return fitted.loc, fitted.factor
    return mode.loc, mode.factor
