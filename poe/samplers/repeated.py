"""Several steps of a kernel as one: draws further apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from poe.core.arguments import checked, require_count
from poe.samplers.kernel import Density, Info, Kernel, OnDrawnNoise, in_two_parts, require_kernel
from poe.samplers.questions import (
    can_restart,
    draws_beforehand,
    gradients_per_step,
    guarantee,
    has_memory,
    is_of_one_density,
    log_odds_per_step,
    needs_score,
    space_of,
)


@checked
@dataclass(frozen=True)
class Repeated(OnDrawnNoise[Any]):
    """``times`` steps of a kernel as one step, so that draws are that much further apart.

    Every one of them leaves the target invariant, and so do all together. What is told of a step
    is its last one's acceptance, and of positions outside, undefined or divergent whether there was
    any on the way.

    Args:
        kernel: Whose steps, with nothing left out.
        times: How many, at least 1.

    Raises:
        PoeError: For what is no kernel, and a number below 1.

    References:
        Geyer (1992), Practical Markov chain Monte Carlo, section 3.6, doi:10.1214/ss/1177011137
        (what it is good for: draws that are stored, and looked at, cost something as well).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = Repeated(poe.samplers.MALA(0.5), 10)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> kernel.gradients_per_step, info.is_accepted.shape
        (10, torch.Size([5]))
    """

    kernel: Kernel
    times: int

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        require_count("times", self.times, 1)

    @property
    def guarantee(self) -> str:
        """That of the kernel."""
        return guarantee(self.kernel)

    @property
    def needs_score(self) -> bool:
        """As the kernel does."""
        return needs_score(self.kernel)

    @property
    def has_memory(self) -> bool:
        """As the kernel has."""
        return has_memory(self.kernel)

    @property
    def can_restart(self) -> bool:
        """As the kernel can."""
        return can_restart(self.kernel)

    @property
    def is_of_one_density(self) -> bool:
        """As the kernel is."""
        return is_of_one_density(self.kernel)

    @property
    def space(self) -> Any:
        """The kernel's, None where it moves on any."""
        return space_of(self.kernel)

    @property
    def draws_beforehand(self) -> bool:
        """As the kernel does."""
        return draws_beforehand(self.kernel)

    @property
    def gradients_per_step(self) -> int:
        """Of all steps together."""
        return self.times * gradients_per_step(self.kernel)

    @property
    def log_odds_per_step(self) -> int:
        """Of all steps together."""
        return self.times * log_odds_per_step(self.kernel)

    def state_at(self, target: Density, x: Tensor) -> Any:
        return in_two_parts(self.kernel).state_at(target, x)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        kernel = in_two_parts(self.kernel)
        return tuple(kernel.draw_noise(position, generator) for _ in range(self.times))

    def transition(self, target: Density, state: Any, noise: tuple[Any, ...]) -> tuple[Any, Info]:
        kernel, infos = in_two_parts(self.kernel), []
        for part in noise:
            state, info = kernel.transition(target, state, part)
            infos.append(info)
        return state, reduce(_together, infos)


def _together(before: Info, after: Info) -> Info:
    """The last acceptance, and what befell on the way."""
    return Info(
        after.acceptance_probability,
        after.is_accepted,
        before.is_outside | after.is_outside,
        before.is_undefined | after.is_undefined,
        before.is_divergent | after.is_divergent,
    )
