"""Isokinetic dynamics: a velocity of unit length that the score turns, and its splitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.samplers.kernel import Density
from poe.samplers.langevin import LangevinState, add_scaled
from poe.samplers.momentum import MomentumState

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

    Shapes: velocity and score ``(chains, n)``; returns ``(chains, n)`` and ``(chains,)``.

    Source: Ver Steeg & Galstyan 2021; Robnik, De Luca, Silverstein & Seljak 2023.

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
