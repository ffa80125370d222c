"""Generalised HMC: the momentum is refreshed in part, and flipped on rejection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from poe.core.errors import PoeError
from poe.samplers.hmc import HMC
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Noise,
    WithScale,
    accept,
    per_chain,
    require_positive,
    sum_event,
    where_accepted,
)
from poe.samplers.langevin import LangevinState
from poe.samplers.momentum import MomentumState, WithMomentum, refresh, set_momentum, where_set


@dataclass(frozen=True)
class GeneralizedHMC(WithScale, WithMomentum, Corrected[MomentumState]):
    """Generalised HMC: p ← α p + √(1 − α²) z, then L leapfrog steps, accepted or turned back.

    (x', p') = L leapfrog steps of size h from (x, p); accepted with
    min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)), and on rejection (x, −p). The flip is what
    keeps the target invariant: leapfrog followed by a flip is its own inverse, leapfrog alone is
    not. One step costs L gradients. With L = 1 it is underdamped Langevin with the bias removed;
    with α → 0 it is HMC.

    - ``step_size`` h: a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
      an acceptance rate of 0.8.
    - ``num_steps`` L: the same for all chains.
    - ``friction`` γ: α = e^(−γhL), so that 1 / γ is how long the momentum lasts, whatever h is;
      about 0.7 / s where s is the standard deviation of the widest direction. The default is that
      of the unit scale.

    A trajectory that leaves the support anywhere is rejected. Raises PoeError for L < 1.

    Source: Horowitz 1991; Neal 2011, section 5.3.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> kernel = GeneralizedHMC(step_size=0.5)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.momentum.shape, info.acceptance_probability.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    step_size: Tensor | float | None = None
    num_steps: int = 1
    # Less than the 1 / s that is best without rejections, for a rejection turns the momentum too.
    friction: float = 0.7

    # On Gaussians of d = 32 and 100, rates of 0.65, 0.8, 0.9 and 0.95 were tried: a rejection costs
    # more here than in HMC, since the chain goes back the way it came.
    target_acceptance: ClassVar[float] = 0.8
    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("friction", self.friction)
        if self.num_steps < 1:
            raise PoeError(f"expected num_steps >= 1, got {self.num_steps}")

    @property
    def gradients_per_step(self) -> int:
        """L."""
        return self.num_steps

    def transition(
        self, target: Density, state: MomentumState, noise: Noise
    ) -> tuple[MomentumState, Info]:
        start = set_momentum(state, self._refresh(state, noise.normal))
        proposed = self._leapfrog(target, start)
        # |p|² − |p'|² as a product: two large sums would lose the difference.
        difference, total = start.momentum - proposed.momentum, start.momentum + proposed.momentum
        log_ratio = proposed.log_density - start.log_density + 0.5 * sum_event(difference * total)
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        rejected = self._turn_back(start)
        return MomentumState(
            *map(partial(where_accepted, info.is_accepted), proposed, rejected)
        ), info

    def _refresh(self, state: MomentumState, normal: Tensor) -> Tensor:
        time = self.friction * self.num_steps * per_chain(self.step_size, state.position)
        return where_set(state, refresh(state.momentum, normal, time), normal)

    def _turn_back(self, start: MomentumState) -> MomentumState:
        """Where a rejected chain stays: at the position, with the refreshed momentum flipped."""
        return start._replace(momentum=-start.momentum)

    def _leapfrog(self, target: Density, state: MomentumState) -> MomentumState:
        """Where the trajectory of HMC ends; log-density −inf if it left the support."""
        hmc = HMC(self.step_size, self.num_steps, jitter=0.0)
        start = LangevinState(state.position, state.log_density, state.score)
        h = per_chain(self.step_size, state.position)
        end, momentum = hmc._trajectory(target, start, state.momentum, h)
        return MomentumState(*end, momentum, state.has_momentum)
