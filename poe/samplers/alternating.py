"""Kernels of kernels: mixed states part by part, and several steps as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked, require, require_count
from poe.core.errors import PoeError
from poe.core.joint_space import Joint
from poe.core.space import Space
from poe.samplers.kernel import (
    ASYMPTOTICALLY_EXACT,
    BIASED,
    Density,
    Info,
    Kernel,
    MetropolisState,
    OnDrawnNoise,
    in_two_parts,
    require_kernel,
)
from poe.samplers.questions import (
    Learned,
    Setting,
    can_restart,
    draws_beforehand,
    filled,
    gradients_per_step,
    guarantee,
    has_memory,
    is_of_one_density,
    is_tunable,
    log_odds_per_step,
    missing,
    needs_score,
    space_of,
    target_acceptance,
)


class AlternatingNoise(NamedTuple):
    """The random numbers of each part's kernel."""

    inner: tuple[Any, ...]


class Part:
    """The density of one part of x, the others held: log p̃ of the whole, as a function of it."""

    def __init__(self, target: Density, space: Joint, x: Tensor, index: int) -> None:
        self.target, self.space, self.x, self.index = target, space, x, index

    def log_density(self, part: Tensor) -> Tensor:
        """``(rows, *event) -> (rows,)``; several rows for each of x come one after the other."""
        return self.target.log_density(self.whole(part))

    def log_density_and_score(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in the part."""
        space = self.space.parts[self.index]
        if (space.num_values or 2) > 2:
            raise PoeError(
                f"expected a kernel without a gradient on the part {space}, which has none inside "
                f"of {self.space}: use Gibbs(space) there"
            )
        log_density, score = self.target.log_density_and_score(self.whole(part))
        return log_density, self.space.split(score)[self.index]

    def whole(self, part: Tensor) -> Tensor:
        """x with this part in place of its own: ``(rows, n)``."""
        rows = self.x.repeat_interleave(len(part) // len(self.x), 0)
        parts = list(self.space.split(rows))
        parts[self.index] = part.to(rows.dtype)
        return self.space.join(*parts)


@dataclass(frozen=True)
class Alternating(OnDrawnNoise[MetropolisState]):
    """One step moves x₁ by its kernel given the other parts, then x₂ by its own, and so on.

    A kernel of part i sees log p̃ as a function of xᵢ, which is log p(xᵢ | the others) up to a
    constant. Each leaves p invariant, and so does their composition. So a continuous part may move
    by MALA or HMC and a label by Gibbs.

    Of ``Info``: accepted where any part was, undefined, outside or divergent where any was; the
    probability is the mean over the parts whose kernels have a step size, if any do, else over all.
    A step size left out is tuned by that, one for all parts that leave it out.

    Args:
        space: A ``poe.Joint``, the target's.
        kernels: One for each part, with its step size, without a memory (as MetropolisHastings,
            MALA, HMC, Gibbs, DMALA are). On a Categorical or Sequence part a kernel without a
            gradient.

    Raises:
        PoeError: Where the space is no Joint with as many parts, or a kernel is none, leaves out
            more than its step size, has a memory, is built for one density or on another space than
            its part.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Tierney (1994), Markov chains for
        exploring posterior distributions, section 2.4, doi:10.1214/aos/1176325750 (Metropolis
        within Gibbs).

    Example:
        >>> import poe
        >>> space = poe.Joint((poe.Real(1), poe.Binary(1)))
        >>> target = poe.FromLogDensity(  # x given its label is N(4 label, 1)
        ...     lambda x: -0.5 * (x[:, 0] - 4 * x[:, 1]).square(), space=space
        ... )
        >>> kernels = poe.samplers.MALA(0.5), poe.samplers.Gibbs(poe.Binary(1))
        >>> kernel = Alternating(space, kernels)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 2]), 'asymptotically exact')
    """

    space: Joint
    kernels: tuple[Kernel, ...]

    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kernels = require("kernels", self.kernels, tuple[Kernel, ...])
        object.__setattr__(self, "kernels", tuple(kernels))
        if not isinstance(self.space, Joint) or len(self.kernels) != len(self.space.parts):
            raise PoeError(
                f"expected a poe.Joint and a kernel for each of its parts, got {self.space} and "
                f"{len(self.kernels)} kernels"
            )
        for kernel, part in zip(self.kernels, self.space.parts, strict=True):
            _check(kernel, part)

    @property
    def missing(self) -> frozenset[Setting]:
        """The step size, where a part's kernel leaves its own out: they share one."""
        return frozenset().union(*map(missing, self.kernels))

    def filled(self, learned: Learned) -> Alternating:
        """With what the parts' kernels leave out as learned.

        Args:
            learned: What warm-up knows.

        Returns:
            A copy.
        """
        return replace(self, kernels=tuple(filled(kernel, learned) for kernel in self.kernels))

    @property
    def target_acceptance(self) -> float:
        """The mean over the parts' kernels that have a step size."""
        goals = [target_acceptance(kernel) for kernel in self.kernels if is_tunable(kernel)]
        return sum(goals) / max(1, len(goals))

    @property
    def guarantee(self) -> str:
        """Asymptotically exact where all of the kernels are."""
        is_exact = all(guarantee(kernel) == ASYMPTOTICALLY_EXACT for kernel in self.kernels)
        return ASYMPTOTICALLY_EXACT if is_exact else BIASED

    @property
    def gradients_per_step(self) -> int:
        """Those of the kernels, and once more where each begins, and where the step ends."""
        return 1 + sum(1 + gradients_per_step(kernel) for kernel in self.kernels)

    @property
    def needs_score(self) -> bool:
        """Where a part's kernel does."""
        return any(map(needs_score, self.kernels))

    @property
    def draws_beforehand(self) -> bool:
        """Where all parts' kernels do."""
        return all(map(draws_beforehand, self.kernels))

    @property
    def _inner(self) -> tuple[OnDrawnNoise[Any], ...]:
        return tuple(map(in_two_parts, self.kernels))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> AlternatingNoise:
        parts = zip(self._inner, self.space.split(position), strict=True)
        return AlternatingNoise(tuple(k.draw_noise(part, generator) for k, part in parts))

    def transition(
        self, target: Density, state: MetropolisState, noise: AlternatingNoise
    ) -> tuple[MetropolisState, Info]:
        x, infos = state.position, []
        for index, (kernel, drawn) in enumerate(zip(self._inner, noise.inner, strict=True)):
            density = Part(target, self.space, x, index)
            inner = kernel.state_at(density, self.space.split(x)[index])
            inner, info = kernel.transition(density, inner, drawn)
            x = density.whole(inner.position)
            infos.append(info)
        together = _together(infos)
        tuned = [i for i, kernel in zip(infos, self.kernels, strict=True) if is_tunable(kernel)]
        if tuned:
            probability = torch.stack([info.acceptance_probability for info in tuned]).mean(0)
            together = together._replace(acceptance_probability=probability)
        # Asked once more where it ends: a level of a path knows its parts there by that.
        return self.state_at(target, x), together


def _check(kernel: Kernel, part: Space) -> None:
    require_kernel(kernel)
    name = type(kernel).__name__
    if left_out := sorted(setting.value for setting in missing(kernel) - {Setting.SCALE}):
        raise PoeError(
            f"expected {name} with its {' and '.join(left_out)}, got None: parts are not tuned "
            "together; give one"
        )
    if has_memory(kernel) or not can_restart(kernel):
        raise PoeError(
            f"expected a kernel that begins anew whenever the other parts have moved, got {name}, "
            "whose state holds what does not follow from its position: use MetropolisHastings, "
            "MALA, HMC, Gibbs or DMALA"
        )
    if is_of_one_density(kernel):
        raise PoeError(
            f"expected a kernel that moves by the density it is handed, which changes with the "
            f"other parts, got {name}, which is built for one: use Gibbs(space) or DMALA(space)"
        )
    own = space_of(kernel)
    if own is not None and own != part:
        raise PoeError(f"expected {name} on its part {part}, got it on {own}")


def _together(infos: list[Info]) -> Info:
    """The mean of the probabilities; of the others, whether any part says so."""
    probability, *others = zip(*infos, strict=True)
    whether = (torch.stack(column).any(0) for column in others)
    return Info(torch.stack(probability).mean(0), *whether)


@checked
@dataclass(frozen=True)
class Repeated(OnDrawnNoise[Any]):
    """``times`` steps of a kernel as one step, so that draws are that much further apart.

    Every one of them leaves the target invariant, and so do all together. What is told of a step
    is its last one's acceptance, and of positions outside, undefined or divergent whether there was
    any on the way.

    Args:
        kernel: Whose steps, with nothing left out.
        times: How many, at least 1.

    Raises:
        PoeError: For what is no kernel, and a number below 1.

    References:
        Geyer (1992), Practical Markov chain Monte Carlo, section 3.6, doi:10.1214/ss/1177011137
        (what it is good for: draws that are stored, and looked at, cost something as well).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = Repeated(poe.samplers.MALA(0.5), 10)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> kernel.gradients_per_step, info.is_accepted.shape
        (10, torch.Size([5]))
    """

    kernel: Kernel
    times: int

    def __post_init__(self) -> None:
        require_kernel(self.kernel)
        require_count("times", self.times, 1)

    @property
    def guarantee(self) -> str:
        """That of the kernel."""
        return guarantee(self.kernel)

    @property
    def needs_score(self) -> bool:
        """As the kernel does."""
        return needs_score(self.kernel)

    @property
    def has_memory(self) -> bool:
        """As the kernel has."""
        return has_memory(self.kernel)

    @property
    def can_restart(self) -> bool:
        """As the kernel can."""
        return can_restart(self.kernel)

    @property
    def is_of_one_density(self) -> bool:
        """As the kernel is."""
        return is_of_one_density(self.kernel)

    @property
    def space(self) -> Any:
        """The kernel's, None where it moves on any."""
        return space_of(self.kernel)

    @property
    def draws_beforehand(self) -> bool:
        """As the kernel does."""
        return draws_beforehand(self.kernel)

    @property
    def gradients_per_step(self) -> int:
        """Of all steps together."""
        return self.times * gradients_per_step(self.kernel)

    @property
    def log_odds_per_step(self) -> int:
        """Of all steps together."""
        return self.times * log_odds_per_step(self.kernel)

    def state_at(self, target: Density, x: Tensor) -> Any:
        return in_two_parts(self.kernel).state_at(target, x)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        kernel = in_two_parts(self.kernel)
        return tuple(kernel.draw_noise(position, generator) for _ in range(self.times))

    def transition(self, target: Density, state: Any, noise: tuple[Any, ...]) -> tuple[Any, Info]:
        kernel, infos = in_two_parts(self.kernel), []
        for part in noise:
            state, info = kernel.transition(target, state, part)
            infos.append(info)
        return state, reduce(_one_after_the_other, infos)


def _one_after_the_other(before: Info, after: Info) -> Info:
    """The last acceptance, and what befell on the way."""
    return Info(
        after.acceptance_probability,
        after.is_accepted,
        before.is_outside | after.is_outside,
        before.is_undefined | after.is_undefined,
        before.is_divergent | after.is_divergent,
    )
