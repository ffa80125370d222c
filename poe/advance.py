"""Chains moved on by a kernel for a given number of steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.samplers.kernel import Kernel
from poe.watch import Tally


class Advanced(NamedTuple):
    """Where chains are after some steps, and what befell them on the way.

    - ``positions`` ``(chains, *event)``, detached, in the expert's own space;
    - ``log_density`` ``(chains,)``: log p̃ there;
    - ``tally``: for each chain how many proposals were accepted, outside, undefined, divergent.
    """

    positions: Tensor
    log_density: Tensor
    tally: Tally


def advance(
    expert: Expert,
    kernel: Kernel,
    x: Tensor,
    num_steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Advanced:
    """The chains at ``x`` ``(chains, *event)`` after ``num_steps`` steps of the kernel, as it is.

    No warm-up, and no claim: draws of the expert if the chains began at such and the kernel is
    exact. From data they are what CD-k needs, from a `ReplayBuffer` what persistent CD needs. On a
    constrained space the chains move in its unconstrained coordinates, as in `poe.sample`, and a
    step size is one there.

    Raises `NonFiniteError`, naming the experts, where a chain starts at a log-density or a score
    that is not finite, or ends so: it exploded, or left the support unadjusted. These two checks
    are the only synchronisations with the device. Raises `PoeError` for fewer than one step.

    >>> expert, g = experts.Gaussian([0.0], scale=[1.0]), torch.Generator().manual_seed(0)
    >>> kernel = poe.samplers.ULA(0.1)
    >>> advance(expert, kernel, torch.full((5, 1), 3.0), 40, generator=g).positions.shape
    torch.Size([5, 1])
    """
    if num_steps < 1:
        raise PoeError(f"expected at least one step, got {num_steps}")
    generator = resolve(generator, x.device)
    coordinates = Coordinates(expert.space)
    target = coordinates.pull(expert)
    state = kernel.init(target, coordinates.to_u(x.detach()))
    tally = Tally.none(len(x), x.device)
    for _ in range(num_steps):
        state, info = kernel.step(target, state, generator=generator)
        flags = Tally(info.is_accepted, info.is_outside, info.is_undefined, info.is_divergent)
        tally = tally.plus(flags)
    positions = coordinates.to_x(state.position)
    log_density = coordinates.log_density_of_x(state.position, positions, state.log_density)
    is_at_a_point = positions.reshape(len(positions), -1).isfinite().all(1)
    said = torch.where(is_at_a_point, log_density, torch.nan)
    where = f"chains after {num_steps} steps of {kernel}"
    require_finite(Rows(expert, where, positions, said))
    return Advanced(positions, log_density, tally)
