"""Any kernel in whitened coordinates: one preconditioner for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from poe.core.affine import Affine
from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.transport import Transport, Transported
from poe.samplers.kernel import (
    Density,
    Info,
    Kernel,
    OnDrawnNoise,
    copied,
    in_two_parts,
    require_kernel,
)
from poe.samplers.questions import (
    Learned,
    Setting,
    can_restart,
    draws_beforehand,
    ends_where_it_asked,
    filled,
    fit_map,
    from_far,
    gradients_per_step,
    guarantee,
    has_memory,
    is_of_one_density,
    is_reversible,
    is_tunable,
    max_scale,
    missing,
    needs_score,
    with_scale,
)


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

    def in_x(self, u: Tensor, log_density: Tensor) -> Tensor:
        """log p̃(x), from the log-density of u: the same."""
        return log_density


def whitened(target: Density, affine: Affine | Transport) -> Whitened | Transported:
    """The density of u."""
    return affine.whitened(target) if isinstance(affine, Transport) else Whitened(target, affine)


class PreconditionedState(NamedTuple):
    """The state in whitened coordinates, and the position in the target's own.

    Args:
        inner: The inner kernel's state, in coordinates u.
        position: x, ``(chains, *event)``.
        log_density: log p̃(x), ``(chains,)``.
    """

    inner: Any
    position: Tensor
    log_density: Tensor


@checked
@dataclass(frozen=True)
class Preconditioned(OnDrawnNoise[PreconditionedState]):
    """A kernel that moves in u, with x = μ + L u, or x bent further: step sizes refer to u.

    MALA in u is x' = x + ε L Lᵀ ∇log p̃(x) + √(2ε) L z, HMC in u has the mass matrix (L Lᵀ)⁻¹, and
    so for every kernel. The map is fixed while sampling, so the target is left invariant.

    Args:
        kernel: Any that moves by the density it is handed, on continuous positions.
        affine: ``Diagonal``, ``Dense`` or ``LowRank``, or a ``Transport``, which bends; None is
            fitted in warm-up, to the positions and scores of all chains together: an affine map
            (``fit_affine``), or what the inner kernel asks for (``fit_map``).

    Raises:
        PoeError: For what is no kernel, and for one that is built for a density in x.

    References:
        Girolami & Calderhead (2011), Riemann manifold Langevin and Hamiltonian Monte Carlo
        methods, section 2, doi:10.1111/j.1467-9868.2010.00765.x; Neal (2011), MCMC using
        Hamiltonian dynamics, section 4.1, arXiv:1206.1901.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -50.0 * x.square().sum(-1), space=poe.Real(2))
        >>> affine = poe.samplers.Diagonal(torch.zeros(2), torch.full((2,), 0.1))
        >>> kernel = Preconditioned(poe.samplers.MALA(0.5), affine)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 2]), 'asymptotically exact')
    """

    kernel: Kernel
    affine: Affine | Transport | None = None

    # Of an instance, where the inner kernel has them: a static look-up finds them there alone.
    scale_setting: ClassVar[Tensor | float | None]
    """The inner kernel's setting that warm-up tunes."""
    target_acceptance: ClassVar[float]
    """The inner kernel's."""

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        if is_of_one_density(self.kernel) or not can_restart(self.kernel):
            raise PoeError(
                "expected a kernel that moves by the density it is handed, which is one in "
                f"whitened coordinates, got {type(self.kernel).__name__}, which is built for "
                "densities in x: give it by itself"
            )
        if is_tunable(self.kernel):
            object.__setattr__(self, "scale_setting", self.kernel.scale_setting)
            object.__setattr__(self, "target_acceptance", self.kernel.target_acceptance)

    @property
    def guarantee(self) -> str:
        """That of the kernel."""
        return guarantee(self.kernel)

    @property
    def is_reversible(self) -> bool:
        """As the inner kernel is: the map is fixed."""
        return is_reversible(self.kernel)

    @property
    def needs_score(self) -> bool:
        """As the inner kernel does."""
        return needs_score(self.kernel)

    @property
    def ends_where_it_asked(self) -> bool:
        """As the inner kernel does, up to the rounding of the map."""
        return ends_where_it_asked(self.kernel)

    @property
    def has_memory(self) -> bool:
        """As the inner kernel has."""
        return has_memory(self.kernel)

    @property
    def draws_beforehand(self) -> bool:
        """As the inner kernel does."""
        return draws_beforehand(self.kernel)

    @property
    def gradients_per_step(self) -> int:
        """The inner kernel's."""
        return gradients_per_step(self.kernel)

    @property
    def max_scale(self) -> float:
        """The inner kernel's."""
        return max_scale(self.kernel)

    def with_scale(self, value: Tensor | float | None) -> Self:
        """The same kernel with that scale of the inner one.

        Args:
            value: A number, or a tensor of shape () or ``(chains,)``, in u; None leaves it to be
                tuned.

        Returns:
            A copy.

        Raises:
            PoeError: Where the inner kernel has no scale.
        """
        return copied(self, kernel=with_scale(self.kernel, value))

    @property
    def missing(self) -> frozenset[Setting]:
        """What the inner kernel leaves out, and the map."""
        inner = missing(self.kernel)
        return inner if self.affine is not None else inner | {Setting.AFFINE}

    def filled(self, learned: Learned) -> Self:
        """The inner kernel, and the map, with what they leave out as learned.

        Args:
            learned: What warm-up knows.

        Returns:
            A copy.
        """
        affine = learned.affine if self.affine is None else self.affine
        return copied(self, kernel=filled(self.kernel, learned), affine=affine)

    def fit_map(self, x: Tensor, score: Tensor) -> Affine | Transport:
        """The map that the inner kernel asks for.

        Args:
            x: Positions, ``(n, *event)``.
            score: ∇ log p̃ there, ``(n, *event)``.

        Returns:
            The map.
        """
        return fit_map(self.kernel, x, score)

    @property
    def from_far(self) -> Self:
        """The inner kernel's, in the same coordinates."""
        return replace(self, kernel=from_far(self.kernel))

    def warmup_steps(self, num_chains: int) -> int:
        """Fewer with more chains, which know as much sooner.

        Args:
            num_chains: How many.

        Returns:
            16000 steps over the chains, between 200 and 1000.
        """
        return max(200, min(1000, 16_000 // num_chains))

    def state_at(self, target: Density, x: Tensor) -> PreconditionedState:
        affine = self._affine()
        density, u = whitened(target, affine), affine.to_u(x)
        inner = in_two_parts(self.kernel).state_at(density, u)
        return PreconditionedState(inner, x, density.in_x(u, inner.log_density))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        return in_two_parts(self.kernel).draw_noise(position, generator)

    def transition(
        self, target: Density, state: PreconditionedState, noise: Any
    ) -> tuple[PreconditionedState, Info]:
        affine = self._affine()
        density, kernel = whitened(target, affine), in_two_parts(self.kernel)
        inner, info = kernel.transition(density, state.inner, noise)
        log_density = density.in_x(inner.position, inner.log_density)
        return PreconditionedState(inner, affine.to_x(inner.position), log_density), info

    def _affine(self) -> Affine | Transport:
        if self.affine is None:
            raise PoeError(
                "this kernel's preconditioner was left out: expected an affine map, got None. Give "
                "one (poe.samplers.fit_affine), or let poe.sample fit it in warm-up."
            )
        return self.affine
