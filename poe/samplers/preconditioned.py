"""Any kernel in whitened coordinates: one preconditioner for all of them, or one for each mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from poe.core.affine import Affine
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.transport import Transport, Transported
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Kernel,
    OnDrawnNoise,
    accept,
    copied,
    floats_like,
    in_two_parts,
    require_kernel,
    sum_event,
    where_accepted,
)
from poe.samplers.langevin import LangevinState
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

    def fit_map(self, target: Density, x: Tensor, score: Tensor) -> Affine | Transport:
        """The map that the inner kernel asks for.

        Args:
            target: What it shall move on.
            x: Positions, ``(n, *event)``.
            score: ∇ log p̃ there, ``(n, *event)``.

        Returns:
            The map.
        """
        return fit_map(self.kernel, target, x, score)

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


class Gaussians(NamedTuple):
    """N(c_k, L_k L_kᵀ) of several modes, each with coordinates of its own: x = c_k + L_k u.

    Args:
        loc: c, ``(modes, d)``.
        factor: L, ``(modes, d, d)``, lower-triangular with positive diagonals.
    """

    loc: Tensor
    factor: Tensor

    @property
    def log_abs_det(self) -> Tensor:
        """log |det L_k|: ``(modes,)``."""
        return self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def to_u(self, x: Tensor) -> Tensor:
        """L_k⁻¹ (x − c_k) of every mode.

        Args:
            x: ``(n, *event)``.

        Returns:
            u, ``(modes, n, d)``.
        """
        centred = x.reshape(1, len(x), -1) - self.loc[:, None]
        return torch.linalg.solve_triangular(self.factor, centred.mT, upper=False).mT

    def to_x(self, u: Tensor, label: Tensor) -> Tensor:
        """c_k + L_k u of each row's own mode.

        Args:
            u: ``(n, *event)``.
            label: k, ``(n,)``.

        Returns:
            x, of the shape of u.
        """
        x = self.loc[:, None] + u.reshape(1, len(u), -1) @ self.factor.mT
        return _of_row(x, label).reshape(u.shape)

    def log_shares(self, u: Tensor) -> Tensor:
        """log r_k(x), r_k = N(x; c_k, L_k L_kᵀ) / Σ_j N(x; c_j, L_j L_jᵀ).

        Args:
            u: Of every mode, ``(modes, n, d)``.

        Returns:
            ``(modes, n)``.
        """
        log_normal = -0.5 * u.square().sum(2) - self.log_abs_det[:, None]
        return log_normal.log_softmax(0)

    def share_and_score(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """log r_k(x) of each row's own mode, and its gradient.

        Args:
            x: ``(n, *event)``.
            label: k, ``(n,)``.

        Returns:
            ``(n,)`` and ``(n, *event)``.
        """
        u = self.to_u(x)
        log_shares = self.log_shares(u)
        pull = -torch.linalg.solve_triangular(self.factor.mT, u.mT, upper=True).mT
        score = _of_row(pull, label) - (log_shares.exp()[..., None] * pull).sum(0)
        return _of_row(log_shares, label), score.reshape(x.shape)


def _of_row(values: Tensor, label: Tensor) -> Tensor:
    """Each row's own of ``(modes, n, ...)``: ``(n, ...)``."""
    return values[label, torch.arange(len(label), device=label.device)]


class _OfMode:
    """p̃(x) r_k(x) in u, x = c_k + L_k u, where each chain keeps to its mode k; it remembers p̃."""

    def __init__(self, target: Density, modes: Gaussians, label: Tensor) -> None:
        self.target, self.modes, self.label = target, modes, label
        self.latest: LangevinState | None = None

    def log_density(self, u: Tensor) -> Tensor:
        """The log-density alone."""
        return self.log_density_and_score(u)[0]

    def log_density_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density, and its gradient in u."""
        x = self.modes.to_x(u, self.label)
        self.latest = LangevinState(x, *self.target.log_density_and_score(x))
        return self.of(self.latest)

    def of(self, state: LangevinState) -> tuple[Tensor, Tensor]:
        """The same where p̃ is known."""
        log_share, score = self.modes.share_and_score(state.position, self.label)
        own = self.modes.factor[self.label]
        in_x = (state.score + score).reshape(len(own), 1, -1)
        return state.log_density + log_share, (in_x @ own).reshape(state.score.shape)


class _Known(NamedTuple):
    """A density at the one place where it is known."""

    log_density_there: Tensor
    score: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        return self.log_density_there

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_density_there, self.score


class JumpNoise(NamedTuple):
    """The kernel's noise, and uniforms ``(3, chains)``: for the mode, the next one, the jump."""

    kernel: Any
    uniform: Tensor


@checked
@dataclass(frozen=True, eq=False)
class ModeJumps(Corrected[LangevinState]):
    """A kernel that moves within the modes of a density, each in coordinates of its own, and jumps.

    A Gaussian N(c_k, L_k L_kᵀ) stands for each mode. With shares r_k(x) of these at x, which sum to
    1, p̃(x) r_k(x) is a density of (x, k) whose margin is p̃. A step

    1. draws k ~ r(x);
    2. moves u, x = c_k + L_k u, by the kernel on p̃(c_k + L_k u) r_k(c_k + L_k u);
    3. proposes any mode j, all alike, with the same u: x' = c_j + L_j u, accepted with
       min(1, p̃(x') r_j(x') |L_j| / (p̃(x) r_k(x) |L_k|)).

    Each leaves p̃ invariant, whatever the Gaussians. Where modes are alike but for an affine map,
    all jumps are accepted, in any number of dimensions and however far apart. A mode that no
    Gaussian stands for is found only as the kernel itself finds it.

    Args:
        kernel: A local one along the score, in u: ``SplitHMC``, ``HMC`` or ``MALA``.
        loc: c, ``(modes, d)``, in the coordinates that the chains move in, events flattened.
        factor: L, ``(modes, d, d)``, lower-triangular with positive diagonals.

    Raises:
        PoeError: For a kernel without score, or one that does not begin anew where a jump ends.
        ShapeError: Where the Gaussians' shapes do not fit each other.

    References:
        Tjelmeland & Hegstad (2001), Mode jumping proposals in MCMC, doi:10.1111/1467-9469.00232;
        Pompe, Holmes & Łatuszyński (2020), A framework for adaptive MCMC targeting multimodal
        distributions, section 2.2, arXiv:1812.02609 (jumps with the same u).

    Example:
        >>> import poe
        >>> two = poe.FromLogDensity(
        ...     lambda x: -50 * (x.abs() - 3).square().sum(-1), space=poe.Real(1)
        ... )
        >>> loc, factor = torch.tensor([[-3.0], [3.0]]), torch.full((2, 1, 1), 0.1)
        >>> kernel = ModeJumps(poe.samplers.SplitHMC(1.5), loc, factor)
        >>> g = torch.Generator().manual_seed(0)
        >>> state = kernel.init(two, torch.full((100, 1), 3.0))  # all in one mode
        >>> for _ in range(20):
        ...     state, info = kernel.step(two, state, generator=g)
        >>> state.position.shape, 35 < (state.position > 0).sum() < 65
        (torch.Size([100, 1]), tensor(True))
    """

    kernel: Kernel
    loc: Tensor
    factor: Tensor

    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        if has_memory(self.kernel) or not (
            needs_score(self.kernel) and ends_where_it_asked(self.kernel)
        ):
            raise PoeError(
                "expected a local kernel along the score, which can begin anew where a jump ends, "
                f"got {type(self.kernel).__name__}: use SplitHMC, HMC or MALA"
            )
        modes, d = self.loc.shape[0], self.loc.shape[-1]
        if self.loc.ndim != 2 or self.factor.shape != (modes, d, d):
            raise ShapeError(
                "expected loc of shape (modes, d) and factor of shape (modes, d, d), got "
                f"{tuple(self.loc.shape)} and {tuple(self.factor.shape)}"
            )

    @property
    def modes(self) -> Gaussians:
        """The Gaussians that stand for the modes."""
        return Gaussians(self.loc, self.factor)

    @property
    def guarantee(self) -> str:
        """That of the kernel: jumps leave the target invariant."""
        return guarantee(self.kernel)

    @property
    def draws_beforehand(self) -> bool:
        """As the kernel does."""
        return draws_beforehand(self.kernel)

    @property
    def gradients_per_step(self) -> int:
        """The kernel's, and one for the jump."""
        return gradients_per_step(self.kernel) + 1

    def state_at(self, target: Density, x: Tensor) -> LangevinState:
        return LangevinState(x, *target.log_density_and_score(x))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> JumpNoise:
        noise = in_two_parts(self.kernel).draw_noise(position, generator)
        uniform = floats_like(position, 3, len(position)).uniform_(generator=generator)
        return JumpNoise(noise, uniform)

    def transition(
        self, target: Density, state: LangevinState, noise: JumpNoise
    ) -> tuple[LangevinState, Info]:
        for_mode, for_next, for_jump = noise.uniform
        all_u = self.modes.to_u(state.position)
        label = _drawn(self.modes.log_shares(all_u), for_mode)
        density = _OfMode(target, self.modes, label)
        u = _of_row(all_u, label).reshape(state.position.shape)
        kernel = in_two_parts(self.kernel)
        inner, info = kernel.transition(
            density, kernel.state_at(_Known(*density.of(state)), u), noise.kernel
        )
        assert density.latest is not None
        state = _where(info.is_accepted, density.latest, state)
        other = (for_next * len(self.loc)).long().clamp(max=len(self.loc) - 1)
        state, jumped = self._jumped(target, state, inner.position, (label, other), for_jump)
        return state, info._replace(is_undefined=info.is_undefined | jumped.is_undefined)

    def _jumped(
        self,
        target: Density,
        state: LangevinState,
        u: Tensor,
        labels: tuple[Tensor, Tensor],
        uniform: Tensor,
    ) -> tuple[LangevinState, Info]:
        """From one mode to another, with the same u; not to where there is no score."""
        x = self.modes.to_x(u, labels[1])
        proposed = LangevinState(x, *target.log_density_and_score(x))
        here, there = (
            each.log_density
            + _of_row(self.modes.log_shares(self.modes.to_u(each.position)), label)
            + self.modes.log_abs_det[label]
            for each, label in zip((state, proposed), labels, strict=True)
        )
        log_ratio = there - here + 0.0 * sum_event(proposed.score)  # NaN where that is no number
        info = accept(log_ratio, proposed.log_density, uniform)
        return _where(info.is_accepted, proposed, state), info


def _drawn(log_shares: Tensor, uniform: Tensor) -> Tensor:
    """A mode for each row, by its shares ``(modes, n)``: ``(n,)``."""
    label = (log_shares.exp().cumsum(0) <= uniform).sum(0)
    return label.clamp(max=len(log_shares) - 1)


def _where(mask: Tensor, one: LangevinState, other: LangevinState) -> LangevinState:
    return LangevinState(*map(partial(where_accepted, mask), one, other))
