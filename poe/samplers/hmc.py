"""Hamiltonian Monte Carlo: trajectories along the score, then one accept step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Noise,
    WithScale,
    accept,
    copied,
    draw_noise,
    per_chain,
    require_positive,
    sum_event,
    where_accepted,
)
from poe.samplers.langevin import CorrectedWithScore, LangevinState, add_scaled
from poe.samplers.questions import ITS_SCALE, NOTHING, Learned, Setting
from poe.samplers.underdamped import MomentumState, WithMomentum, refresh, set_momentum, where_set

TURN = 1.65
"""Radians: a little more than a quarter turn. What is turned further comes back on the other side,
which makes up for the proposals that are rejected."""
MAX_STEPS = 16
"""The most steps of a trajectory that warm-up chooses."""


class TrajectoryNoise(NamedTuple):
    """Momentum ``(chains, *event)``; for each chain a uniform to accept by, and one to vary by."""

    normal: Tensor
    uniform: Tensor
    variation: Tensor | None


@dataclass(frozen=True)
class Trajectory(CorrectedWithScore):
    """A corrected kernel that goes L steps of size h with fresh momentum; one costs L gradients."""

    num_steps: int | None = 5
    jitter: float = 0.0

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps is not None and self.num_steps < 1:
            raise PoeError(f"expected num_steps >= 1, got {self.num_steps}")
        if not 0.0 <= self.jitter < 1.0:
            raise PoeError(f"expected 0 <= jitter < 1, got {self.jitter}")

    @property
    def gradients_per_step(self) -> int:
        """L. Raises PoeError where it was left out."""
        if self.num_steps is None:
            raise PoeError(
                "this kernel's num_steps was left out: expected a number, got None. Give one, or "
                "let poe.sample choose it in warm-up."
            )
        return self.num_steps

    @property
    def missing(self) -> frozenset[Setting]:
        """The step size and the number of steps, where they were left out."""
        own = NOTHING if self.step_size is not None else ITS_SCALE
        return own if self.num_steps is not None else own | {Setting.NUM_STEPS}

    def filled(self, learned: Learned) -> Self:
        """The step size, and the number of steps: where the step size was given, as it asks."""
        scale, num_steps = self.step_size, self.num_steps
        if num_steps is None:
            num_steps = learned.num_steps if scale is None else whole_turn(torch.as_tensor(scale))
        return copied(
            self, step_size=learned.scale if scale is None else scale, num_steps=num_steps
        )

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        normal, uniform = draw_noise(position, generator)
        varies = self.jitter > 0
        variation = (
            torch.empty_like(uniform).uniform_(-1, 1, generator=generator) if varies else None
        )
        return TrajectoryNoise(normal, uniform, variation)

    def _varied(self, variation: Tensor | None) -> Tensor | float | None:
        """Each chain's own step size in this step."""
        if variation is None or self.step_size is None:
            return self.step_size
        return self.step_size * (1.0 + self.jitter * variation)


@dataclass(frozen=True)
class Hamiltonian(Trajectory):
    """A trajectory of kicks and drifts with fresh momentum p ~ N(0, I), then one accept step.

    Accepted with min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)); one step costs L gradients.
    A subclass says what drifts and what kicks; both conserve volume and can be reversed.
    """

    def _force(self, position: Tensor, score: Tensor) -> Tensor:
        """What kicks the momentum: ``(chains, *event)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement _force")

    def _drift(
        self, position: Tensor, momentum: Tensor, duration: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Position and momentum after a time without kicks."""
        raise NotImplementedError(f"{type(self).__name__} must implement _drift")

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def transition(
        self, target: Density, state: LangevinState, noise: TrajectoryNoise
    ) -> tuple[LangevinState, Info]:
        step_size = per_chain(self._varied(noise.variation), state.position)
        proposed, momentum = self._trajectory(target, state, noise.normal, step_size)
        # |p|² − |p'|² as a product: two large sums would lose the difference.
        kinetic = 0.5 * sum_event((noise.normal - momentum) * (noise.normal + momentum))
        log_ratio = proposed.log_density - state.log_density + kinetic
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _trajectory(
        self, target: Density, state: LangevinState, momentum: Tensor, h: Tensor | float
    ) -> tuple[LangevinState, Tensor]:
        """Where the trajectory ends: state and momentum; log-density −inf if it left the support.

        To reject for any point on the way keeps the balance: the way back has the same points.
        """
        position, score = state.position, state.score
        is_outside = torch.zeros_like(state.log_density, dtype=torch.bool)
        momentum = add_scaled(momentum, self._force(position, score), 0.5 * h)
        for step in range(self.gradients_per_step):
            position, momentum = self._drift(position, momentum, h)
            log_density, score = target.log_density_and_score(position)
            is_outside = is_outside | (log_density == -torch.inf)
            duration = h if step < self.gradients_per_step - 1 else 0.5 * h
            momentum = add_scaled(momentum, self._force(position, score), duration)
        log_density = log_density.masked_fill(is_outside, -torch.inf)
        return LangevinState(position, log_density, score), momentum


@checked
@dataclass(frozen=True)
class HMC(Hamiltonian):
    """Hamiltonian Monte Carlo with fresh momentum p ~ N(0, I) and L leapfrog steps of size h.

    p ← p + h/2 ∇log p̃(x);  x ← x + h p;  p ← p + h/2 ∇log p̃(x);  L times; accepted with
    min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)). One step costs L gradients. With L = 1 it
    is MALA of step size ε = h²/2; with more it goes on in one direction where MALA turns anew.
    A trajectory that leaves the support anywhere is rejected.

    Args:
        step_size: h, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.65.
        num_steps: L, the same for all chains; None is chosen in warm-up, to make h L = 1.65,
            a little more than a quarter turn.
        jitter: Each chain's step size is h (1 + jitter v), v ~ U(−1, 1), anew in each step. With
            none, a direction of standard deviation s comes back to where it was after
            h L = 2π s.

    Raises:
        PoeError: For L < 1, a jitter outside [0, 1), and a step size that is not positive.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, sections 3.2 and 4.2, arXiv:1206.1901;
        Beskos et al. (2013), Optimal tuning of the hybrid Monte Carlo algorithm, arXiv:1001.4460
        (the rate).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = HMC(step_size=0.5, num_steps=4)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.acceptance_probability.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    jitter: float = 0.2

    target_acceptance: ClassVar[float] = 0.65

    def _force(self, position: Tensor, score: Tensor) -> Tensor:
        return score

    def _drift(
        self, position: Tensor, momentum: Tensor, duration: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        return add_scaled(position, momentum, duration), momentum


def whole_turn(scale: Tensor) -> int:
    """The number of steps of that scale that turn by 1.65 radians in whitened coordinates.

    Args:
        scale: h, () or ``(chains,)``; of several the geometric mean.

    Returns:
        L, from 1 to 16.

    Example:
        >>> whole_turn(torch.tensor(0.5))
        3
    """
    ratio = TURN / scale.log().mean().exp().item()
    return max(1, min(MAX_STEPS, round(ratio))) if math.isfinite(ratio) else MAX_STEPS


@checked
@dataclass(frozen=True)
class SplitHMC(Hamiltonian):
    """Hamiltonian Monte Carlo around N(0, I): its flow is a rotation, done exactly.

    log p̃(x) = −|x|²/2 + φ(x), and only φ, what the Gaussian leaves over, is approximated:

    p ← p + h/2 ∇φ(x);  (x, p) ← (x cos h + p sin h, p cos h − x sin h);  p ← p + h/2 ∇φ(x);
    L times, where ∇φ = ∇log p̃ + x; accepted with
    min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)). One step costs L gradients.

    Where the target is N(0, I) every step is accepted, and the quarter turn h L = π/2 is an
    independent draw for one gradient. So give it whitened coordinates: in
    ``Preconditioned(SplitHMC())`` the Gaussian is N(μ, L Lᵀ), fitted to leave the smallest ∇φ over.
    A trajectory that leaves the support anywhere is rejected.

    Args:
        step_size: h, an angle: a number, or a tensor of shape () or (chains,); None is tuned in
            warm-up, to an acceptance rate of 0.8 but no further than h L = 1.65.
        num_steps: L, the same for all chains; None is chosen in warm-up, to make h L = 1.65.
        jitter: Each chain's angle is h (1 + jitter v), v ~ U(−1, 1), anew in each step. With none,
            a direction whose scale the Gaussian misses by a factor of 2 turns by half a circle, and
            its square all but stands still.

    Raises:
        PoeError: For L < 1, a jitter outside [0, 1), and a step size that is not positive.

    References:
        Shahbaba, Lan, Johnson & Neal (2014), Split Hamiltonian Monte Carlo, section 2,
        arXiv:1106.5941; Beskos, Pinski, Sanz-Serna & Stuart (2011), Hybrid Monte Carlo on Hilbert
        spaces, doi:10.1016/j.spa.2011.06.003.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = SplitHMC(step_size=1.57)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, bool((info.acceptance_probability > 0.999).all())
        (torch.Size([5, 2]), True)
    """

    num_steps: int | None = 1
    # The square of such a direction then has a tenth of the ESS of others; N(0, I) loses 8 %.
    jitter: float = 0.24

    target_acceptance: ClassVar[float] = 0.8

    @property
    def max_scale(self) -> float:
        """A little more than a quarter turn, in all steps together."""
        return TURN / (self.num_steps or 1)

    @property
    def from_far(self) -> HMC:
        """A leapfrog step, which falls inward as MALA does.

        To split off a Gaussian that is not yet the target's is no help far out in steep tails: what
        is left over is as large as the force itself, and small steps lose little energy.
        """
        return HMC(num_steps=1, jitter=0.0)

    def _force(self, position: Tensor, score: Tensor) -> Tensor:
        return score + position

    def _drift(
        self, position: Tensor, momentum: Tensor, duration: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        cos, sin = _cos_sin(duration)
        return add_scaled(position * cos, momentum, sin), add_scaled(momentum * cos, position, -sin)


def _cos_sin(angle: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    if isinstance(angle, Tensor):
        return angle.cos(), angle.sin()
    return math.cos(angle), math.sin(angle)


@checked
@dataclass(frozen=True)
class GeneralizedHMC(WithScale, WithMomentum, Corrected[MomentumState]):
    """Generalised HMC: p ← α p + √(1 − α²) z, then L leapfrog steps, accepted or turned back.

    (x', p') = L leapfrog steps of size h from (x, p); accepted with
    min(1, exp(log p̃(x') − |p'|²/2 − log p̃(x) + |p|²/2)), and on rejection (x, −p). The flip is what
    keeps the target invariant: leapfrog followed by a flip is its own inverse, leapfrog alone is
    not. One step costs L gradients. With L = 1 it is underdamped Langevin with the bias removed;
    with α → 0 it is HMC. A trajectory that leaves the support anywhere is rejected.

    Args:
        step_size: h, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.8.
        num_steps: L, the same for all chains.
        friction: γ, in α = e^(−γhL), so that 1 / γ is how long the momentum lasts, whatever h is;
            about 0.7 / s where s is the standard deviation of the widest direction. The default is
            that of the unit scale.

    Raises:
        PoeError: For L < 1, and a step size or friction that is not positive.

    References:
        Horowitz (1991), A generalized guided Monte Carlo algorithm,
        doi:10.1016/0370-2693(91)90812-5; Neal (2011), MCMC using Hamiltonian dynamics, section 5.3,
        arXiv:1206.1901.

    Example:
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
