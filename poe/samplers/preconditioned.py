"""Any kernel in whitened coordinates: one preconditioner for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.samplers.affine import Affine
from poe.samplers.kernel import Density, Info, Kernel, OnDrawnNoise


class Whitened:
    """The density of u where x = μ + L u, up to the constant log |det L|."""

    def __init__(self, target: Density, affine: Affine) -> None:
        self.target = target
        self.affine = affine

    def log_density(self, u: Tensor) -> Tensor:
        """log p̃(μ + L u): ``(chains, *event) -> (chains,)``."""
        return self.target.log_density(self.affine.to_x(u))

    def log_density_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(μ + L u) and its gradient in u."""
        log_density, score = self.target.log_density_and_score(self.affine.to_x(u))
        return log_density, self.affine.pull_score(score)


class PreconditionedState(NamedTuple):
    """The inner kernel's state, in coordinates u, and the position x ``(chains, *event)``."""

    inner: Any
    position: Tensor

    @property
    def log_density(self) -> Tensor:
        """log p̃(x): ``(chains,)``."""
        return self.inner.log_density


@dataclass(frozen=True)
class Preconditioned(OnDrawnNoise[PreconditionedState]):
    """A kernel that moves in u, with x = μ + L u: step sizes refer to u.

    MALA in u is x' = x + ε L Lᵀ ∇log p̃(x) + √(2ε) L z, HMC in u has the mass matrix (L Lᵀ)⁻¹, and
    so for every kernel. The map is fixed while sampling, so the target is left invariant.

    - ``kernel``: any kernel of ``poe.samplers``;
    - ``affine``: ``Diagonal``, ``Dense`` or ``LowRank``; None is fitted in warm-up, to the
      positions and scores of all chains together (``fit_affine``).

    Source: Girolami & Calderhead 2011, section 2; Neal 2011, section 4.1.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -50.0 * x.square().sum(-1), space=poe.Real(2))
    >>> affine = poe.samplers.Diagonal(torch.zeros(2), torch.full((2,), 0.1))
    >>> kernel = Preconditioned(poe.samplers.MALA(0.5), affine)
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel.guarantee
    (torch.Size([5, 2]), 'asymptotically exact')
    """

    kernel: Any
    affine: Affine | None = None

    @property
    def guarantee(self) -> str:
        """That of the kernel."""
        return self.kernel.guarantee

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The inner kernel's setting that warm-up tunes."""
        return self.kernel.scale_setting

    @property
    def target_acceptance(self) -> float:
        """The inner kernel's."""
        return self.kernel.target_acceptance

    @property
    def gradients_per_step(self) -> int:
        """The inner kernel's."""
        return self.kernel.gradients_per_step

    def with_scale(self, value: Tensor | float) -> Self:
        """The same kernel with that scale."""
        return replace(self, kernel=self.kernel.with_scale(value))

    def state_at(self, target: Density, x: Tensor) -> PreconditionedState:
        """The inner kernel's state at u = L⁻¹ (x − μ), and x."""
        affine = self._affine()
        inner = self.kernel.state_at(Whitened(target, affine), affine.to_u(x))
        return PreconditionedState(inner, x)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        """The inner kernel's random numbers."""
        return self.kernel.draw_noise(position, generator)

    def _transition(
        self, target: Density, state: PreconditionedState, noise: Any
    ) -> tuple[PreconditionedState, Info]:
        affine = self._affine()
        inner, info = self.kernel._transition(Whitened(target, affine), state.inner, noise)
        return PreconditionedState(inner, affine.to_x(inner.position)), info

    def _affine(self) -> Affine:
        if self.affine is None:
            raise PoeError(
                "this kernel's preconditioner was left out: expected an affine map, got None. Give "
                "one (poe.samplers.fit_affine), or let poe.sample fit it in warm-up."
            )
        return self.affine


def plain(kernel: Kernel) -> Kernel:
    """The kernel itself, taken out of its preconditioner where it has one."""
    inner: Kernel = kernel.kernel if isinstance(kernel, Preconditioned) else kernel
    return inner
