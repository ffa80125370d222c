"""Hamiltonian Monte Carlo split around a Gaussian: exact for it, and fast for what is near it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from poe.samplers.hmc import HMC, TURN, Hamiltonian
from poe.samplers.langevin import add_scaled


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

    - ``step_size`` h, an angle: a number, or a tensor of shape () or (chains,); None is tuned in
      warm-up, to an acceptance rate of 0.8 but no further than h L = 1.65.
    - ``num_steps`` L: the same for all chains; None is chosen in warm-up, to make h L = 1.65.
    - ``jitter``: each chain's angle is h (1 + jitter v), v ~ U(−1, 1), anew in each step.

    A trajectory that leaves the support anywhere is rejected. Raises PoeError for L < 1, and for a
    jitter outside [0, 1).

    Source: Shahbaba, Lan, Johnson & Neal 2014, section 2; Beskos, Pinski, Sanz-Serna & Stuart 2011.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> kernel = SplitHMC(step_size=1.57)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, bool((info.acceptance_probability > 0.999).all())
    (torch.Size([5, 2]), True)
    """

    num_steps: int | None = 1

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
