"""What draws consist of, and what the chains did: the ground that summaries and files stand on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from poe import diagnostics
from poe.core.doubt import Doubt
from poe.density.normalized import LogPartition
from poe.samplers.kernel import Kernel

MIN_DRAWS_TO_BE_STUCK = 20
UNLIKELY = 1e-3
"""The chance of as many rejections in a row, in all draws, that tells of standing still."""


@dataclass(frozen=True, eq=False)
class Record:
    """The figures of `poe.Draws`, which documents them, without what is made of them."""

    samples: Tensor
    log_density: Tensor
    guarantee: str
    log_weights: Tensor | None = None
    kernel: Kernel | None = None
    acceptance_rate: Tensor | None = None
    num_outside: Tensor | None = None
    num_undefined: Tensor | None = None
    num_divergent: Tensor | None = None
    num_warmup: int = 0
    seconds: float = 0.0
    seed: int | None = None
    warmup_gradients: int = 0
    num_gradients: int = 0
    warmup_seconds: float = 0.0
    sampling_seconds: float = 0.0
    compile_seconds: float = 0.0
    choice: str = ""
    doubts: tuple[Doubt, ...] = ()
    log_partition: LogPartition | None = None
    tuned: tuple[str, ...] = ()
    is_batch: bool = False

    @property
    def num_nonfinite(self) -> Tensor:
        """How many draws of each chain are not finite (in x or in log-density): ``(chains,)``.

        Weighted draws of weight zero do not count.
        """
        is_finite = self.samples.reshape(*self.log_density.shape, -1).isfinite().all(-1)
        return self._count(~(is_finite & self.log_density.isfinite()))

    @property
    def num_dead(self) -> Tensor:
        """How many draws of each chain are finite, at a log-density of −inf: ``(chains,)``.

        No such draw is one of the target. Weighted draws of weight zero do not count.
        """
        is_finite = self.samples.reshape(*self.log_density.shape, -1).isfinite().all(-1)
        return self._count(is_finite & (self.log_density == -torch.inf))

    def _count(self, flags: Tensor) -> Tensor:
        """Of those that have a weight, in each chain."""
        if self.log_weights is not None:
            flags = flags & (self.log_weights != -torch.inf)
        return flags.sum(1)

    @property
    def stuck_chains(self) -> list[int]:
        """The chains that accepted none of their proposals, of which there were 20 at least."""
        if self.acceptance_rate is None or self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK:
            return []
        return (self.acceptance_rate == 0).nonzero().flatten().tolist()

    @property
    def still_chains(self) -> list[int]:
        """The chains that stood still for a quarter of their draws, or hardly accepted a proposal.

        That is for 20 consecutive draws at least, and for more than chains of their median rate of
        acceptance do by chance; or at less than a tenth of that rate, unless each has a density of
        its own; those in ``stuck_chains`` are not repeated. Weighted draws have no order; chains
        that accepted every proposal, as those of Gibbs do, stay where the density is.
        """
        is_short = self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK
        if self.acceptance_rate is None or self.log_weights is not None or is_short:
            return []
        stay = diagnostics.longest_stay(self.samples, self.log_density)
        usual = self.acceptance_rate.median().clamp(1e-6, 1 - 1e-6).item()
        by_chance = math.log(UNLIKELY / self.log_density.numel()) / math.log1p(-usual)
        is_long = stay >= max(MIN_DRAWS_TO_BE_STUCK, self.samples.shape[1] / 4, by_chance)
        is_rare = self.acceptance_rate < self.acceptance_rate.median() / 10
        is_rare = is_rare & (not self.is_batch)
        has_rejected = self.acceptance_rate < 1
        is_moving = self.acceptance_rate > 0
        return ((is_long | is_rare) & is_moving & has_rejected).nonzero().flatten().tolist()

    @property
    def escaped_chains(self) -> list[int]:
        """The chains whose medians are ten robust sds or more away from those of the others.

        In position, or downward in log-density; see ``poe.diagnostics.distance_from_others``. None
        of fewer than 20 draws a chain, of weighted draws, and of a batch of densities.
        """
        is_short = self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK
        if self.is_batch or self.log_weights is not None or is_short:
            return []
        distance = diagnostics.distance_from_others(self.samples, self.log_density)
        return (distance >= diagnostics.MAX_DISTANCE).nonzero().flatten().tolist()
