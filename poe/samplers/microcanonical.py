"""Microcanonical Langevin: unit velocities turned by the score; unadjusted, and adjusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.samplers.kernel import (
    BIASED,
    Density,
    Info,
    accept,
    per_chain,
    require_positive,
    where_accepted,
)
from poe.samplers.langevin import CorrectedWithScore, LangevinState, add_scaled
from poe.samplers.underdamped import MomentumState, WithMomentum, uncorrected, where_set

LEAPFROG = (0.5, 1.0, 0.5)
"""Turn, drift, turn, in parts of a step: one gradient a step."""
MINIMAL_NORM = (0.1931833275037836, 0.5, 0.6136333449924328, 0.5, 0.1931833275037836)
"""Turn, drift, turn, drift, turn: two gradients a step. Source: McLachlan 1995."""


def require_splitting(splitting: tuple[float, ...]) -> None:
    """Refuse parts that are not the same backwards, or do not make up one step of each kind."""
    is_palindrome = len(splitting) >= 3 and len(splitting) % 2 == 1 and splitting == splitting[::-1]
    sums = sum(splitting[::2]), sum(splitting[1::2])
    if not is_palindrome or any(abs(total - 1.0) > 1e-6 for total in sums):
        raise PoeError(
            "expected a splitting turn, drift, …, turn that is the same backwards, its turns and "
            f"its drifts each summing to 1, got {splitting}: use LEAPFROG or MINIMAL_NORM"
        )


class PhasePoint(NamedTuple):
    """Position, score and unit velocity ``(chains, n)``, and log-density ``(chains,)``."""

    position: Tensor
    log_density: Tensor
    score: Tensor
    velocity: Tensor


class IsokineticNoise(NamedTuple):
    """Normals for the velocity ``(chains, n)`` and the companion ``(chains, n − d)``.

    n = d, save for d = 1, where n = 2. For each chain a uniform to accept by, in [0, 1), and one to
    vary the step size by, in [−1, 1).
    """

    direction: Tensor
    companion: Tensor
    uniform: Tensor
    variation: Tensor


def draw_isokinetic_noise(position: Tensor, generator: torch.Generator) -> IsokineticNoise:
    """The random numbers of one step at positions ``(chains, *event)`` of d numbers each.

    On a line a velocity of unit length is a sign, which no score can turn. There the position gets
    a **companion**: a standard normal coordinate, independent of it and drawn anew in each step.

    >>> noise = draw_isokinetic_noise(torch.zeros(5, 1), torch.Generator().manual_seed(0))
    >>> noise.direction.shape, noise.companion.shape, noise.uniform.shape
    (torch.Size([5, 2]), torch.Size([5, 1]), torch.Size([5]))
    """
    chains, d = len(position), position[0].numel()
    return IsokineticNoise(
        direction=position.new_empty(chains, max(d, 2)).normal_(generator=generator),
        companion=position.new_empty(chains, max(2 - d, 0)).normal_(generator=generator),
        uniform=position.new_empty(chains).uniform_(generator=generator),
        variation=position.new_empty(chains).uniform_(-1.0, 1.0, generator=generator),
    )


def normalize(x: Tensor) -> Tensor:
    """x / |x| for each chain."""
    return x / x.norm(dim=1, keepdim=True)


def turn(velocity: Tensor, score: Tensor, time: Tensor | float) -> tuple[Tensor, Tensor]:
    """The exact flow of du/dt = (1 − u uᵀ) ∇log p̃ / (n − 1) at a fixed score, and what it costs.

    With e = ∇log p̃ / |∇log p̃|, c = e·u and δ = t |∇log p̃| / (n − 1):

        u' = (u + e (sinh δ + c (cosh δ − 1))) / r,   r = cosh δ + c sinh δ,

    and the kinetic energy changes by (n − 1) log r, where r^(1 − n) is the Jacobian on the sphere.

    Both are computed from ζ = e^(−δ) and the parts a = (1 + c)/2, b = (1 − c)/2, so that nothing
    overflows and no two close numbers are subtracted: r = e^δ (a + b ζ²).

    Args:
        velocity: u, ``(chains, n)``, of unit length.
        score: ∇log p̃, ``(chains, n)``.
        time: t, a number or ``(chains, 1)``.

    Returns:
        u', ``(chains, n)``, and the change of the kinetic energy, ``(chains,)``.

    References:
        Ver Steeg & Galstyan (2021), Hamiltonian dynamics with non-Newtonian momentum for rapid
        sampling, arXiv:2111.02434; Robnik, De Luca, Silverstein & Seljak (2023), Microcanonical
        Hamiltonian Monte Carlo, arXiv:2212.08549.

    Example:
        >>> u, kinetic = turn(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), 500.0)
        >>> u.tolist(), round(kinetic.item(), 3)  # 1000 − log 2
        ([[0.0, 1.0]], 999.307)
    """
    norm = score.norm(dim=1, keepdim=True)
    direction = score / norm.clamp(min=torch.finfo(score.dtype).tiny)  # no score: no direction
    delta = time * norm / (score.shape[1] - 1)
    zeta = torch.exp(-delta)
    along = 0.25 * (velocity + direction).square().sum(1, keepdim=True)
    against = 0.25 * (velocity - direction).square().sum(1, keepdim=True)
    pull = (1.0 - zeta) * (along + zeta * against)
    turned = normalize(zeta * velocity + pull * direction)
    lost = against * torch.expm1(-2.0 * delta)
    log_r = delta + torch.where(
        lost > -0.5, torch.log1p(lost), torch.log(along + against * zeta.square())
    )
    return turned, (score.shape[1] - 1) * log_r.squeeze(1)


def repeated(splitting: tuple[float, ...], num_steps: int) -> tuple[float, ...]:
    """A splitting ``num_steps`` times over, with the turns that meet at the same point joined.

    >>> repeated((0.5, 1.0, 0.5), 3)
    (0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5)
    """
    stages = splitting
    for _ in range(num_steps - 1):
        stages = (*stages[:-1], stages[-1] + splitting[0], *splitting[1:])
    return stages


def integrate(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: PhasePoint,
    step_size: Tensor | float,
    stages: tuple[float, ...],
) -> tuple[PhasePoint, Tensor]:
    """Turn and drift by turns: where the trajectory ends, and the change of its kinetic energy.

    log-density − kinetic energy is conserved up to the splitting's error. Where the trajectory left
    the support on its way the log-density is −inf; the way back has the same points.

    Shapes: the kinetic energy is ``(chains,)``; ``evaluate`` gives log-density and score.
    """
    velocity, kinetic = turn(start.velocity, start.score, stages[0] * step_size)
    position, is_outside = start.position, torch.zeros_like(start.log_density, dtype=torch.bool)
    for drift, part in zip(stages[1::2], stages[2::2], strict=True):
        position = add_scaled(position, velocity, drift * step_size)
        log_density, score = evaluate(position)
        is_outside = is_outside | (log_density == -torch.inf)
        velocity, change = turn(velocity, score, part * step_size)
        kinetic = kinetic + change
    log_density = log_density.masked_fill(is_outside, -torch.inf)
    return PhasePoint(position, log_density, score, velocity), kinetic


def _join(x: Tensor, companion: Tensor) -> Tensor:
    return torch.cat([x.reshape(len(x), -1), companion], dim=1)


def with_companion(
    state: LangevinState | MomentumState, companion: Tensor, velocity: Tensor
) -> PhasePoint:
    """A state in ``(chains, n)``: the companion's score is −y; the log-density is the target's."""
    position, score = _join(state.position, companion), _join(state.score, -companion)
    return PhasePoint(position, state.log_density, score, velocity)


def without_companion(point: PhasePoint, like: Tensor) -> LangevinState:
    """The target's own position and score, in its own shape."""
    d = like[0].numel()
    position, score = (part[:, :d].reshape(like.shape) for part in (point.position, point.score))
    return LangevinState(position, point.log_density, score)


def companion_gain(start: PhasePoint, end: PhasePoint, like: Tensor) -> Tensor:
    """(|y|² − |y'|²) / 2, the change of the companions' log-density: ``(chains,)``, 0 for d > 1."""
    y, moved = (point.position[:, like[0].numel() :] for point in (start, end))
    return 0.5 * ((y - moved) * (y + moved)).sum(1)


def on_flat(target: Density, like: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The target's log-density at ``(chains, n)``, and the score there, that of companions too."""
    d = like[0].numel()

    def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
        log_density, score = target.log_density_and_score(flat[:, :d].reshape(like.shape))
        return log_density, _join(score, -flat[:, d:])

    return evaluate


@checked
@dataclass(frozen=True)
class MCLMC(WithMomentum):
    """Microcanonical Langevin: dx = u dt, with |u| = 1 turned by the score and by noise.

    Each step refreshes the velocity in part, u ← (u + ν z) / |u + ν z| with
    ν² = (e^(2h/ℓ) − 1) / d, and follows du/dt = (1 − u uᵀ) ∇log p̃(x) / (d − 1) for a time h.
    Nothing is rejected: biased by O(h²).

    On a line (d = 1) the target is given a companion, see ``draw_isokinetic_noise``.

    Args:
        step_size: h, a length in x, a number, or a tensor of shape () or (chains,). It must be
            given: there is no acceptance rate to tune it on.
        decoherence_length: ℓ, the way after which the velocity is forgotten; None is √d, the
            radius of a target of unit scale.
        splitting: ``MINIMAL_NORM`` (two gradients a step) or ``LEAPFROG`` (one) of
            ``poe.samplers.microcanonical``.

    Raises:
        PoeError: Where a length is not positive, or the splitting is none.

    References:
        Robnik, De Luca, Silverstein & Seljak (2023), Microcanonical Hamiltonian Monte Carlo,
        arXiv:2212.08549; Robnik & Seljak (2024), Fluctuation without dissipation: microcanonical
        Langevin Monte Carlo, arXiv:2303.18221.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(3))
        >>> kernel = MCLMC(step_size=0.5)
        >>> state = kernel.init(target, torch.ones(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.momentum.norm(dim=1), kernel.guarantee
        (tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000]), 'biased')
    """

    step_size: Tensor | float
    decoherence_length: float | None = None
    splitting: tuple[float, ...] = MINIMAL_NORM

    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive("step_size", self.step_size)
        require_positive("decoherence_length", self.decoherence_length)
        require_splitting(self.splitting)

    @property
    def guarantee(self) -> str:
        """Unadjusted: biased."""
        return BIASED

    @property
    def gradients_per_step(self) -> int:
        """One for each drift of the splitting."""
        return len(self.splitting) // 2

    def state_at(self, target: Density, x: Tensor) -> MomentumState:
        # The velocity, (chains, n), is unset.
        state = super().state_at(target, x)
        return state._replace(momentum=x.new_zeros(len(x), max(x[0].numel(), 2)))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> IsokineticNoise:
        # The uniforms are not used.
        return draw_isokinetic_noise(position, generator)

    def transition(
        self, target: Density, state: MomentumState, noise: IsokineticNoise
    ) -> tuple[MomentumState, Info]:
        h = per_chain(self.step_size, noise.direction)
        start = with_companion(state, noise.companion, self._refresh(state, noise.direction, h))
        end, _ = integrate(on_flat(target, state.position), start, h, self.splitting)
        moved = without_companion(end, state.position)
        info = uncorrected(moved.log_density, moved.score)
        return MomentumState(*moved, end.velocity, torch.ones_like(state.has_momentum)), info

    def _refresh(self, state: MomentumState, normal: Tensor, h: Tensor | float) -> Tensor:
        """(u + ν z) / |u + ν z|, or z / |z| where there is no velocity yet."""
        d = normal.shape[1]
        time = 2.0 * h / (self.decoherence_length or d**0.5)
        # A number stays one: to make it a tensor would hold up a device that is ahead of its host.
        variance = (time.expm1() if isinstance(time, Tensor) else math.expm1(time)) / d
        refreshed = add_scaled(state.momentum, normal, variance**0.5)
        return normalize(where_set(state, refreshed, normal))


@checked
@dataclass(frozen=True)
class AdjustedMCLMC(CorrectedWithScore):
    """Microcanonical Monte Carlo with an accept step, and a fresh unit velocity each time.

    u uniform on the sphere, then L steps of size h of the isokinetic dynamics of ``MCLMC`` without
    its noise; accepted with min(1, exp(log p̃(x') − log p̃(x) − ΔK)). The map keeps the volume but
    for the turns of the velocity, whose Jacobian on the sphere is r^(1−d) each: exp(−ΔK), with
    ΔK = (d − 1) Σ log r, is their product.

    On a line (d = 1) the target is given a companion, see ``draw_isokinetic_noise``. A trajectory
    that leaves the support anywhere is rejected.

    Args:
        step_size: h, a length in x, a number, or a tensor of shape () or (chains,); None is tuned
            in warm-up, to an acceptance rate of 0.8.
        num_steps: L, the same for all chains.
        jitter: Each chain's step size is h (1 + jitter v), v ~ U(−1, 1), anew in each step.
        splitting: ``LEAPFROG`` (one gradient a step) or ``MINIMAL_NORM`` (two).

    Raises:
        PoeError: For L < 1, a jitter outside [0, 1), a step size that is not positive, and what is
            no splitting.

    References:
        Robnik, Cohn-Gordon & Seljak (2025), Metropolis adjusted microcanonical Hamiltonian Monte
        Carlo, arXiv:2503.01707.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(3))
        >>> kernel = AdjustedMCLMC(step_size=0.5, num_steps=4)
        >>> state = kernel.init(target, torch.ones(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.acceptance_probability.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    num_steps: int = 2
    jitter: float = 0.2
    splitting: tuple[float, ...] = LEAPFROG

    # Of L = 1 to 8 and rates of 0.65 to 0.9, on Gaussians of d = 32 and 100, L = 2 at 0.8 had the
    # most effective draws a gradient for the worse of x and x². The paper's 0.9 is for trajectories
    # of a length tuned to the target.
    target_acceptance: ClassVar[float] = 0.8
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1:
            raise PoeError(f"expected num_steps >= 1, got {self.num_steps}")
        if not 0.0 <= self.jitter < 1.0:
            raise PoeError(f"expected 0 <= jitter < 1, got {self.jitter}")
        require_splitting(self.splitting)

    @property
    def gradients_per_step(self) -> int:
        """L for each drift of the splitting."""
        return self.num_steps * (len(self.splitting) // 2)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> IsokineticNoise:
        return draw_isokinetic_noise(position, generator)

    def transition(
        self, target: Density, state: LangevinState, noise: IsokineticNoise
    ) -> tuple[LangevinState, Info]:
        start = with_companion(state, noise.companion, normalize(noise.direction))
        h = self._varied(noise.variation[:, None])
        end, kinetic = self._integrate(on_flat(target, state.position), start, h)
        potential = end.log_density - start.log_density + companion_gain(start, end, state.position)
        info = accept(potential - kinetic, end.log_density, noise.uniform)
        proposed = without_companion(end, state.position)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info

    def _varied(self, variation: Tensor) -> Tensor | float:
        """Each chain's own step size in this step; the same for all where there is no jitter."""
        h = per_chain(self.step_size, variation)
        return h * (1.0 + self.jitter * variation) if self.jitter > 0.0 else h

    def _integrate(
        self,
        evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
        start: PhasePoint,
        h: Tensor | float,
    ) -> tuple[PhasePoint, Tensor]:
        return integrate(evaluate, start, h, repeated(self.splitting, self.num_steps))
