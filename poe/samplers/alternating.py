"""Alternating kernels: mixed states part by part, each by a kernel of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.joint_space import Joint
from poe.samplers.kernel import (
    ASYMPTOTICALLY_EXACT,
    BIASED,
    Density,
    Info,
    Kernel,
    OnDrawnNoise,
    TunableKernel,
)
from poe.samplers.metropolis import MetropolisState

MEMORYLESS = {"position", "log_density", "score"}
"""What a kernel's state may hold, so that it can begin anew when the other parts have moved."""


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
    """One step moves x₁ by the first kernel given the other parts, then x₂ by the second, …

    A kernel of part i sees log p̃ as a function of xᵢ, which is log p(xᵢ | the others) up to a
    constant. Each leaves p invariant, and so does their composition. So a continuous part may move
    by MALA or HMC and a label by Gibbs.

    - ``space``: a ``poe.Joint``, the target's;
    - ``kernels``: one for each part, with its step size, without a memory (as MetropolisHastings,
      MALA, HMC, Gibbs, DMALA are). On a Categorical or Sequence part a kernel without a gradient.

    Of ``Info``: accepted where any part was, the probability their mean, undefined, outside or
    divergent where any was. Raises PoeError.

    Source: Geman & Geman 1984; Metropolis within Gibbs: Tierney 1994, section 2.4.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))
        if not isinstance(self.space, Joint) or len(self.kernels) != len(self.space.parts):
            raise PoeError(
                f"expected a poe.Joint and a kernel for each of its parts, got {self.space} and "
                f"{len(self.kernels)} kernels"
            )
        for kernel, part in zip(self.kernels, self.space.parts, strict=True):
            _check(kernel, part)

    @property
    def guarantee(self) -> str:
        """Asymptotically exact where all of the kernels are."""
        is_exact = all(kernel.guarantee == ASYMPTOTICALLY_EXACT for kernel in self.kernels)
        return ASYMPTOTICALLY_EXACT if is_exact else BIASED

    @property
    def gradients_per_step(self) -> int:
        """Those of the kernels, and once more where each begins, and where the step ends."""
        return 1 + sum(1 + kernel.gradients_per_step for kernel in self._inner)

    @property
    def _inner(self) -> tuple[OnDrawnNoise[Any], ...]:
        return tuple(kernel for kernel in self.kernels if isinstance(kernel, OnDrawnNoise))

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> MetropolisState:
        """Position and log-density."""
        return MetropolisState(x, target.log_density(x))

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> AlternatingNoise:
        """The random numbers of each part's kernel."""
        parts = zip(self._inner, self.space.split(position), strict=True)
        return AlternatingNoise(tuple(k.draw_noise(part, generator) for k, part in parts))

    def _transition(
        self, target: Density, state: MetropolisState, noise: AlternatingNoise
    ) -> tuple[MetropolisState, Info]:
        x, infos = state.position, []
        for index, (kernel, drawn) in enumerate(zip(self._inner, noise.inner, strict=True)):
            density = Part(target, self.space, x, index)
            inner = kernel.state_at(density, self.space.split(x)[index])
            _require_memoryless(kernel, inner)
            inner, info = kernel._transition(density, inner, drawn)
            x = density.whole(inner.position)
            infos.append(info)
        # Asked once more where it ends: a level of a path knows its parts there by that.
        return self.state_at(target, x), _together(infos)


def _check(kernel: Kernel, part: object) -> None:
    if not isinstance(kernel, OnDrawnNoise):
        raise PoeError(
            "expected kernels that draw their random numbers first (OnDrawnNoise), got "
            f"{type(kernel).__name__}"
        )
    if isinstance(kernel, TunableKernel) and kernel.scale_setting is None:
        raise PoeError(
            f"expected {type(kernel).__name__} with its step size, got None: parts are not tuned "
            "together; give one"
        )
    if (own := getattr(kernel, "space", part)) != part:
        raise PoeError(f"expected {type(kernel).__name__} on its part {part}, got it on {own}")


def _require_memoryless(kernel: object, state: Any) -> None:
    if not set(state._fields) <= MEMORYLESS:
        raise PoeError(
            "expected a kernel whose state is position, log_density and score, got "
            f"{type(kernel).__name__}, whose state holds {', '.join(state._fields)}: use "
            "MetropolisHastings, MALA, HMC, Gibbs or DMALA"
        )


def _together(infos: list[Info]) -> Info:
    """The mean of the probabilities; of the others, whether any part says so."""
    probability, *others = zip(*infos, strict=True)
    whether = (torch.stack(column).any(0) for column in others)
    return Info(torch.stack(probability).mean(0), *whether)
