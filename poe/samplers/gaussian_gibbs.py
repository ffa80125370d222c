"""Block Gibbs where x is Gaussian given hidden variables: these first, then all of x at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.randomness import uniforms
from poe.density.expert import Expert
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    MetropolisState,
    accept,
    sum_event,
    where_accepted,
)
from poe.structure.gaussian_factors import GaussianFactor, Weights, gaussian_factors


class GibbsNoise(NamedTuple):
    """Uniforms and normals for the responses of each factor, and one uniform for each chain."""

    weights: tuple[Tensor, ...]
    normals: tuple[Tensor, ...]
    uniform: Tensor


@checked
@dataclass(frozen=True, eq=False)  # operators do not compare by value
class GaussianGibbs(Corrected[MetropolisState]):
    """Draws the weights W ~ p(W | x) of all factors, then all of x ~ N(Q⁻¹b, Q⁻¹) given them.

    Q = Σ A'WA and b = Σ A'W y, over the factors exp(−½ (A x − y)' W (A x − y)). The Gaussian is
    drawn by perturbation and optimisation: z = Q x + b + Σ A'W^½ ε has the law N(Qx + b, Q), and
    f ≈ Q⁻¹z by ``num_steps`` of conjugate gradients proposes x' = f − x. That is an involution for
    given z, so accepting it with min(1, exp((x − x')'(Q f − z))) leaves the target invariant
    however rough the solution is; where it is good, every step is accepted and x' is an independent
    draw given the weights.

    Args:
        factors: Those of the very target that is sampled, ``poe.gaussian_factors(target)``.
        num_steps: Of conjugate gradients, preconditioned by the diagonal of Q.

    Raises:
        PoeError: For no factors, and for fewer than one step.

    References:
        Schmidt, Gao & Roth (2010), A generative perspective on MRFs in low-level vision, section 3;
        Gilavert, Moussaoui & Idier (2015), Efficient Gaussian sampling for solving large-scale
        inverse problems using MCMC, algorithm 2 (the accept step: reversible jump perturbation
        optimization).

    Example:
        >>> target = experts.Gaussian([1.0], scale=2.0) * experts.Gaussian([0.0], scale=1.0)
        >>> kernel = GaussianGibbs(poe.gaussian_factors(target), num_steps=2)
        >>> state = kernel.init(target, torch.zeros(5, 1))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, bool(info.is_accepted.all())
        (torch.Size([5, 1]), True)
    """

    factors: tuple[GaussianFactor, ...]
    num_steps: int = 100

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.factors:
            raise PoeError(
                "expected the Gaussian factors of a target, got none: give "
                "poe.gaussian_factors(target); where that is None, use another kernel"
            )
        if self.num_steps < 1:
            raise PoeError(f"expected at least one step, got {self.num_steps}")

    def __repr__(self) -> str:
        return f"GaussianGibbs({len(self.factors)} factors, num_steps={self.num_steps})"

    @property
    def gradients_per_step(self) -> int:
        """In evaluations of all the factors: a step of conjugate gradients costs about one."""
        return self.num_steps + 2

    def at_level(self, level: Expert) -> GaussianGibbs:
        """The same by the factors of that level.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it.

        Raises:
            PoeError: Where the level's factors are not known.
        """
        found = gaussian_factors(level)
        if found is None:
            raise PoeError(
                f"expected a level whose Gaussian factors are known, got {level}, whose are not: "
                "use Preconditioned(SplitHMC())"
            )
        return replace(self, factors=found)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> GibbsNoise:
        shapes = [(len(position), *factor.operator.out_shape) for factor in self.factors]
        return GibbsNoise(
            tuple(uniforms(s, like=position, generator=generator) for s in shapes),
            tuple(position.new_empty(s).normal_(generator=generator) for s in shapes),
            uniforms((len(position),), like=position, generator=generator),
        )

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: GibbsNoise
    ) -> tuple[MetropolisState, Info]:
        x = state.position
        responses = [factor.operator(x) for factor in self.factors]
        drawn = zip(self.factors, responses, noise.weights, strict=True)
        weights = [factor.draw(response, uniform) for factor, response, uniform in drawn]
        precision = Precision(self.factors, weights)
        parts = zip(self.factors, responses, weights, noise.normals, strict=True)
        z = torch.stack(
            [f.operator.adjoint(w.times(r + f.target) + w.root(e)) for f, r, w, e in parts]
        ).sum(0)
        solution, residual = precision.solve(z, self.num_steps)
        proposal = solution - x
        # In the conditional given the weights: the residual of the solution is z − Q f.
        log_ratio = -sum_event((x - proposal) * residual)
        log_density = target.log_density(proposal)
        info = accept(log_ratio, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return MetropolisState(*map(keep, (proposal, log_density), state)), info


class Precision:
    """Q = Σ A'WA, as a function."""

    def __init__(self, factors: tuple[GaussianFactor, ...], weights: Sequence[Weights]) -> None:
        self.pairs = list(zip(factors, weights, strict=True))
        self.diagonal = torch.stack([w.diagonal() for w in weights]).sum(0)

    def __call__(self, x: Tensor) -> Tensor:
        parts = [f.operator.adjoint(w.times(f.operator(x))) for f, w in self.pairs]
        return torch.stack(parts).sum(0)

    def solve(self, z: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
        """f ≈ Q⁻¹z by preconditioned conjugate gradients from 0, and z − Q f.

        Each of a batch by itself. Once a residual is zero its solution stays.
        """
        f = torch.zeros_like(z)
        residual, scaled = z, z / self.diagonal
        direction, norm = scaled, _dot(z, scaled)
        for _ in range(num_steps):
            image = self(direction)
            curvature = _dot(direction, image)
            step = torch.where(curvature > 0, norm / curvature, torch.zeros_like(norm))
            f = f + step * direction
            residual = residual - step * image
            scaled = residual / self.diagonal
            previous, norm = norm, _dot(residual, scaled)
            ratio = torch.where(previous > 0, norm / previous, torch.zeros_like(norm))
            direction = scaled + ratio * direction
        return f, z - self(f)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each chain's events: ``(n, *event) -> (n, 1, ..., 1)``."""
    return sum_event(a * b).reshape(-1, *[1] * (a.ndim - 1))
