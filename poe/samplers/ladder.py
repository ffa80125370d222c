"""Annealed Langevin: down a ladder of densities from broad to sharp, then on at the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.expert import Expert
from poe.samplers.kernel import Density, Info, Kernel, TunableKernel, require_positive
from poe.samplers.langevin import MALA
from poe.samplers.questions import (
    Learned,
    Leg,
    Setting,
    filled,
    guarantee,
    is_tunable,
    missing,
    needs_score,
    with_scale,
)


class AnnealedState(NamedTuple):
    """The state on a ladder of densities.

    Args:
        inner: The inner kernel's state.
        num_steps: The number of steps taken, which tells the level.
    """

    inner: Any
    num_steps: int

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``."""
        return self.inner.position

    @property
    def log_density(self) -> Tensor:
        """``(chains,)``, of the level the chains are at."""
        return self.inner.log_density


@checked
@dataclass(frozen=True)
class AnnealedLangevin:
    """Run a kernel at each density of a ladder from broad to sharp, and go on at the target itself.

    p̃₁, …, p̃_L, then p̃: ``steps_per_level`` steps at each of the L levels, starting each level where
    the one before ended; every later step is at the target. The walk down the ladder only finds a
    good start, so the guarantee is that of the kernel at the target.

    A step size left out everywhere is tuned level by level in poe.sample's warm-up, or beforehand
    by ``poe.tune_ladder``, which returns this kernel with the tuned tuple: a kernel never re-tunes
    itself.

    Args:
        ladder: Experts on the target's space; they may be batches of densities, one per chain,
            like the target.
        kernel: One kernel for all, or a tuple of L + 1 (one a level, and the target's).
        steps_per_level: Steps at each level of the ladder, at least 1.
        step_size: None keeps the kernels' own; a tuple of L + 1 sets the step size at each level
            (each a number or a tensor of shape () or (chains,)).
        noise_levels: The noise σ of each level and of the target (L + 1 numbers), where these are
            densities of data with Gaussian noise. Then a change of level from σ to σ' also takes
            out the noise that is too much there: with u = x + σ² ∇log p_σ(x), the mean of the clean
            data given x, x moves to u + (σ'/σ) (x − u).

    Raises:
        PoeError: For fewer than one step a level, and for tuples of another length than L + 1.

    References:
        Song & Ermon (2019), Generative modeling by estimating gradients of the data distribution,
        algorithm 1, arXiv:1907.05600; Du et al. (2023), Reduce, reuse, recycle, arXiv:2302.11552
        (corrected at each level); Robbins (1956), An empirical Bayes approach to statistics, and
        Efron (2011), Tweedie's formula and selection bias, eq. 1.4, doi:10.1198/jasa.2011.tm11181
        (the mean of the clean data); Song, Meng & Ermon (2021), Denoising diffusion implicit
        models, eq. 12, arXiv:2010.02502 (the change of level).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -8.0 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = AnnealedLangevin((target ** 0.1, target ** 0.5), MALA(0.05), steps_per_level=3)
        >>> g = torch.Generator().manual_seed(0)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> for _ in range(7):
        ...     state, info = kernel.step(target, state, generator=g)
        >>> kernel.level(state), kernel.num_ladder_steps
        (2, 6)
    """

    ladder: tuple[Expert, ...] = field(repr=False)
    kernel: Kernel | tuple[Kernel, ...] = field(default_factory=MALA)
    steps_per_level: int = 100
    step_size: tuple[Tensor | float, ...] | None = None
    noise_levels: tuple[float, ...] | None = None

    has_memory: ClassVar[bool] = True
    can_restart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps_per_level < 1:
            raise PoeError(f"expected steps_per_level >= 1, got {self.steps_per_level}")
        for step_size in self.step_size or ():
            require_positive("step_size", step_size)
        for noise_level in self.noise_levels or ():
            require_positive("noise_levels", noise_level)
        settings = {
            "kernel": self.kernel,
            "step_size": self.step_size,
            "noise_levels": self.noise_levels,
        }
        for name, value in settings.items():
            if isinstance(value, tuple) and len(value) != len(self.ladder) + 1:
                raise PoeError(
                    f"expected {len(self.ladder) + 1} entries of `{name}`, one for each of the "
                    f"{len(self.ladder)} levels and one for the target, got {len(value)}"
                )

    @property
    def num_ladder_steps(self) -> int:
        """The number of steps before the chains are at the target."""
        return len(self.ladder) * self.steps_per_level

    @property
    def guarantee(self) -> str:
        """That of the kernel at the target."""
        return guarantee(self.kernel_at(len(self.ladder)))

    @property
    def needs_score(self) -> bool:
        """Where the kernel of a level does."""
        return any(map(needs_score, self._kernels))

    @property
    def missing(self) -> frozenset[Setting]:
        """What the kernel of any level leaves out."""
        return frozenset().union(*map(missing, self._kernels))

    def filled(self, learned: Learned) -> AnnealedLangevin:
        """What the kernels of all levels leave out as learned, alike.

        Args:
            learned: What warm-up knows.

        Returns:
            A copy.
        """
        return self.joined(tuple(filled(kernel, learned) for kernel in self._kernels))

    def legs(self, target: Expert, num_steps: int) -> tuple[Leg, ...]:
        """The ladder's levels, ``steps_per_level`` steps each, and the target.

        Args:
            target: The density at the end.
            num_steps: Steps there.

        Returns:
            L + 1 legs.
        """
        ladder = tuple(
            Leg(
                density,
                self.kernel_at(level),
                self.steps_per_level,
                partial(self.descend, level=level),
            )
            for level, density in enumerate(self.ladder)
        )
        return (*ladder, Leg(target, self.kernel_at(len(self.ladder)), num_steps))

    def joined(self, kernels: tuple[Kernel, ...]) -> AnnealedLangevin:
        """These kernels at the levels: by their step sizes, where nothing else of them was open.

        Args:
            kernels: L + 1 of them, the target's last.

        Returns:
            A copy.
        """
        is_by_scale = all(map(is_tunable, kernels)) and self.missing <= {Setting.SCALE}
        if not is_by_scale:
            return replace(self, kernel=kernels, step_size=None)
        scales = tuple(cast(TunableKernel, kernel).scale_setting for kernel in kernels)
        return replace(self, step_size=cast(tuple[Tensor | float, ...], scales))

    def warmup_steps(self, num_chains: int) -> int:
        """At the target, as many as at each level.

        Args:
            num_chains: Of no account here.

        Returns:
            ``steps_per_level``.
        """
        return self.steps_per_level

    @property
    def _kernels(self) -> tuple[Kernel, ...]:
        return tuple(map(self.kernel_at, range(len(self.ladder) + 1)))

    def kernel_at(self, level: int) -> Kernel:
        """The kernel of that level, with its step size.

        Args:
            level: 0 … L; level L is the target's.

        Returns:
            The kernel.
        """
        kernel = self.kernel[level] if isinstance(self.kernel, tuple) else self.kernel
        if self.step_size is None:
            return kernel
        if is_tunable(kernel):
            return with_scale(kernel, self.step_size[level])
        return replace(kernel, step_size=self.step_size[level])  # type: ignore[type-var]

    def level(self, state: AnnealedState) -> int:
        """The level of the next step.

        Args:
            state: Where the chains are.

        Returns:
            0 … L − 1 on the ladder, L at the target.
        """
        return min(state.num_steps // self.steps_per_level, len(self.ladder))

    def descend(self, inner: Any, level: int) -> Tensor:
        """Where chains that leave a level start the next one.

        Args:
            inner: The state of the kernel of the level that they leave.
            level: Its number, 0 … L − 1.

        Returns:
            Positions, ``(chains, *event)``.

        Raises:
            PoeError: Where the noise should be taken out, but the kernel keeps no score.
        """
        position: Tensor = inner.position
        if self.noise_levels is None:
            return position
        if not hasattr(inner, "score"):
            raise PoeError(
                "expected a kernel that keeps a score with noise_levels, got "
                f"{type(self.kernel_at(level)).__name__}: use MALA, HMC or ULA, or leave "
                "noise_levels out"
            )
        now, then = self.noise_levels[level : level + 2]
        clean = position + now**2 * inner.score
        return clean + then / now * (position - clean)

    def init(self, target: Density, x: Tensor) -> AnnealedState:
        """The state on the first level.

        Args:
            target: The density at the end of the ladder.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            NonFiniteError: Where the first level's log-density or score is not finite.
        """
        return AnnealedState(self.kernel_at(0).init((*self.ladder, target)[0], x), 0)

    def init_at_target(self, target: Density, x: Tensor) -> AnnealedState:
        """The state with the ladder already behind it.

        Args:
            target: The density at the end of the ladder.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            NonFiniteError: Where the target's log-density or score is not finite.
        """
        inner = self.kernel_at(len(self.ladder)).init(target, x)
        return AnnealedState(inner, self.num_ladder_steps)

    def step(
        self, target: Density, state: AnnealedState, *, generator: torch.Generator
    ) -> tuple[AnnealedState, Info]:
        """One transition of every chain at the current level.

        Args:
            target: The density at the end of the ladder.
            state: Where the chains are.
            generator: Of all that is drawn.

        Returns:
            The next state, and what happened.
        """
        level = self.level(state)
        density, kernel = (*self.ladder, target)[level], self.kernel_at(level)
        inner = state.inner
        if level > 0 and state.num_steps == level * self.steps_per_level:
            # the first step at a new level
            inner = kernel.init(density, self.descend(inner, level - 1))
        inner, info = kernel.step(density, inner, generator=generator)
        return AnnealedState(inner, state.num_steps + 1), info
