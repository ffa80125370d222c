"""Hamiltonian Monte Carlo whose step size fits the place, where one for all places does not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine
from poe.core.arguments import checked
from poe.core.transport import Transport
from poe.core.transport_fit import fit_transport
from poe.samplers.alternating import Repeated
from poe.samplers.hmc import SplitHMC, Trajectory
from poe.samplers.kernel import (
    DIVERGENT,
    Density,
    Info,
    Kernel,
    accept,
    per_chain,
    sum_event,
    where_accepted,
)
from poe.samplers.langevin import LangevinState, add_scaled
from poe.samplers.questions import Learned, Setting

SPREAD = 0.25
"""The standard deviation of the log of the first step size around the one that fits."""
MAX_DEVIATION = 1.0
"""Of the log of the frequency from the one that fits: 4 sd, so few that end there are accepted."""
REJECTED = 0.9 * DIVERGENT
"""The log acceptance ratio of a trajectory with a step that does not fit: 0, and no divergence."""
SHORT, SHORTEST = 0.2, 0.05
"""The share of trajectories of shorter steps, and the shortest of these, as a part of h."""
FLOOR = 4.0
"""Mean squares of scores below it change little: a zero of the score shall not look flat."""


class AdaptiveNoise(NamedTuple):
    """Momentum ``(chains, *event)``; a uniform to accept by, two numbers that vary the step size.

    Those are ``(chains,)``: of the whole trajectory, in (−1, 1), and of its first step, normal.
    """

    normal: Tensor
    uniform: Tensor
    variation: Tensor | None
    deviation: Tensor


class End(NamedTuple):
    """Where a trajectory ends: the state; log-density −inf if it left the support on the way."""

    state: LangevinState
    momentum: Tensor
    log_frequency: Tensor
    """s, of its last step: ``(chains,)``."""
    is_misfit: Tensor
    """Whether a step did not fit its place at all: ``(chains,)``."""


@checked
@dataclass(frozen=True)
class AdaptiveStepHMC(Trajectory):
    """Hamiltonian Monte Carlo whose steps are as long as the score allows at each place.

    With the frequency U(x)² = (4 + |∇log p̃(x)|² / d) / 5, which is 1 where a target of unit scale
    has its mass, one step goes h / U(x): short in the neck of a funnel, long in its mouth. The log
    of the frequency that a trajectory steps by is a variable of its own, drawn anew for each,
    s ~ N(log U(x), 0.25²), and reflected about log U where two steps meet:

    p ← p + h/2 e^(−s) ∇log p̃(x);  x ← x + h e^(−s) p;  s' = 2 log U(x) − s;
    p ← p + h/2 (e^(−s) + e^(−s')) ∇log p̃(x);  …  p ← p + h/2 e^(−s) ∇log p̃(x).

    Kicks and drifts are shears and the reflection turns s about a function of x, so the volume of
    (x, p, s) is conserved, and the map, p flipped, is its own inverse. Accepted with the ratio of
    p̃(x) e^(−|p|²/2) N(s; log U(x), 0.25²) at its two ends. One step costs L gradients. A trajectory
    that leaves the support anywhere is rejected.

    The 4 keeps the step from growing without bound where the score is 0; so give it whitened
    coordinates: ``Preconditioned(AdaptiveStepHMC())``.

    Args:
        step_size: h, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.8.
        num_steps: L, the same for all chains; None is chosen in warm-up, to make h L = 1.65.
        jitter: Each chain's h is h (1 + jitter v), v ~ U(−1, 1), anew in each trajectory; of a
            fifth of them h 20^(−w), w ~ U(0, 1), since where the map does not fit, far in a neck,
            no other would be accepted. Without jitter none of both.

    Raises:
        PoeError: For L < 1, a jitter outside [0, 1), and a step size that is not positive.

    References:
        Huang & Leimkuhler (1997), The adaptive Verlet method, doi:10.1137/S1064827595284658 (the
        reflection, there of the step's inverse); Bou-Rabee, Carpenter & Marsden (2024), GIST: Gibbs
        self-tuning for locally adaptive Hamiltonian Monte Carlo, arXiv:2404.15253 (a setting drawn
        given the place, with its density at both ends).

    Example:
        >>> import poe
        >>> def funnel(x):  # v ~ N(0, 9), y ~ N(0, exp(v))
        ...     v, y = x.unbind(-1)
        ...     return -v.square() / 18 - 0.5 * y.square() * (-v).exp() - 0.5 * v
        >>> target = poe.FromLogDensity(funnel, space=poe.Real(2))
        >>> kernel = AdaptiveStepHMC(step_size=0.2, num_steps=8)
        >>> state = kernel.init(target, torch.tensor([[-6.0, 0.05], [6.0, 20.0]]))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([2, 2]), 'asymptotically exact')
    """

    num_steps: int | None = 8
    jitter: float = 0.3

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    # Where tails are narrower than what the step size was tuned on, they are reached by its small
    # values: of 0.8, 0.9 and 0.95, with jitters of 0.3 and 0.6, tried on funnels and hierarchies.
    target_acceptance: ClassVar[float] = 0.8

    def _varied(self, variation: Tensor | None) -> Tensor | float | None:
        """Each chain's own h in this step: most around h, some much shorter."""
        if variation is None or self.step_size is None:
            return self.step_size
        share = 0.5 * (1.0 + variation)  # uniform in (0, 1)
        around = 1.0 + self.jitter * (2.0 * (share - SHORT) / (1.0 - SHORT) - 1.0)
        short = SHORTEST ** (share / SHORT)
        return self.step_size * torch.where(share < SHORT, short, around)

    def fit_map(self, target: Density, x: Tensor, score: Tensor) -> Affine | Transport:
        """A map that bends where scales vary, so that steps need vary the less.

        Args:
            target: What it shall move on.
            x: Positions, ``(n, *event)``.
            score: ∇ log p̃ there, ``(n, *event)``.

        Returns:
            A ``Transport``, or an affine map where that serves as well.
        """
        return fit_transport(x, score, target)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> AdaptiveNoise:
        noise = super().draw_noise(position, generator)
        deviation = torch.empty_like(noise.uniform).normal_(generator=generator)
        return AdaptiveNoise(noise.normal, noise.uniform, noise.variation, deviation)

    def transition(
        self, target: Density, state: LangevinState, noise: AdaptiveNoise
    ) -> tuple[LangevinState, Info]:
        deviation = SPREAD * noise.deviation
        end = self._trajectory(
            target,
            state,
            noise.normal,
            log_frequency=log_local_frequency(state.score) + deviation,
            step_size=per_chain(self._varied(noise.variation), state.position),
        )
        last_deviation = end.log_frequency - log_local_frequency(end.state.score)
        # Differences of squares as products: two large sums would lose the difference.
        kinetic = 0.5 * sum_event((noise.normal - end.momentum) * (noise.normal + end.momentum))
        drawn = 0.5 * (deviation - last_deviation) * (deviation + last_deviation) / SPREAD**2
        log_ratio = end.state.log_density - state.log_density + kinetic + drawn
        log_ratio = log_ratio.masked_fill(end.is_misfit, REJECTED)
        info = accept(log_ratio, end.state.log_density, noise.uniform)
        chosen = map(partial(where_accepted, info.is_accepted), end.state, state)
        return LangevinState(*chosen), info

    def _trajectory(
        self,
        target: Density,
        state: LangevinState,
        momentum: Tensor,
        log_frequency: Tensor,
        step_size: Tensor | float,
    ) -> End:
        """L steps, each as long as the places at both of its ends ask for.

        To reject for any point on the way keeps the balance: the way back has the same points, and
        at each of them a frequency that deviates as far. Where it deviates too far, which is where
        the score falls off a cliff, the next step would go anywhere: the trajectory stops.
        """
        position, score = state.position, state.score
        is_outside = torch.zeros_like(state.log_density, dtype=torch.bool)
        is_misfit = _is_misfit(log_frequency, log_local_frequency(score))
        h = step_size * per_chain((-log_frequency).exp(), position)
        momentum = add_scaled(momentum, score, 0.5 * h)
        for count in range(1, self.gradients_per_step + 1):
            position = add_scaled(position, momentum, h)
            log_density, score = target.log_density_and_score(position)
            is_outside = is_outside | (log_density == -torch.inf)
            local = log_local_frequency(score)
            is_misfit = is_misfit | _is_misfit(log_frequency, local)
            before, kick = h, 0.5 * h
            if count < self.gradients_per_step:
                log_frequency = 2.0 * local - log_frequency
                step = (-log_frequency).exp().masked_fill(is_misfit, 0.0)
                h = step_size * per_chain(step, position)
                kick = 0.5 * (before + h)
            momentum = add_scaled(momentum, score, kick)
        log_density = log_density.masked_fill(is_outside, -torch.inf)
        return End(LangevinState(position, log_density, score), momentum, log_frequency, is_misfit)


def _is_misfit(log_frequency: Tensor, local: Tensor) -> Tensor:
    """Whether a step is not at all as long as the place asks for: ``(chains,)``."""
    return (log_frequency - local).abs() > MAX_DEVIATION


def log_local_frequency(score: Tensor) -> Tensor:
    """log U, U² = (4 + |∇log p̃|² / d) / 5: how fast a density of unit scale moves at a place.

    Shapes: ``(chains, *event) -> (chains,)``.

    >>> log_local_frequency(torch.tensor([[1.0, -1.0], [0.0, 2e30]]))
    tensor([ 0.0000, 68.6194])
    """
    rows = score.reshape(len(score), -1)
    largest = rows.abs().amax(1).clamp(min=1.0)  # whose squares may be more than a number holds
    mean_square = (rows / largest[:, None]).square().mean(1)
    floor = FLOOR / largest.square()
    return largest.log() + 0.5 * ((floor + mean_square) / (FLOOR + 1.0)).log()


@checked
@dataclass(frozen=True)
class FittedHMC(SplitHMC):
    """HMC split around a Gaussian, or in steps that fit the place where one size does not.

    ``SplitHMC`` until warm-up has learned more; then that, or ``AdaptiveStepHMC`` where the scale
    of the score varies along the chains (``Learned.has_varying_scale``). Step size and number of
    steps are left out as well, and where chains mix slowly, draws are several steps apart.

    Example:
        >>> FittedHMC().filled(Learned(scale=0.5, num_steps=3, has_varying_scale=True))
        AdaptiveStepHMC(step_size=0.5, num_steps=3, jitter=0.3)
        >>> type(FittedHMC().filled(Learned(scale=0.5, num_steps=3))).__name__
        'SplitHMC'
    """

    num_steps: int | None = None

    @property
    def missing(self) -> frozenset[Setting]:
        """All settings, and the kind."""
        return frozenset({Setting.SCALE, Setting.NUM_STEPS, Setting.INTEGRATOR})

    def filled(self, learned: Learned) -> Kernel:  # type: ignore[override]
        """The kind that fits, with what it leaves out as learned."""
        kind = AdaptiveStepHMC if learned.has_varying_scale else SplitHMC
        kernel = kind(num_steps=None).filled(learned)
        return kernel if learned.num_repeats == 1 else Repeated(kernel, learned.num_repeats)
