"""Discrete Langevin kernels: every element at once along the score, as in DULA and DMALA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from poe.core.arguments import checked
from poe.core.errors import ShapeError
from poe.samplers.discrete.finite import CorrectedOnFiniteSpace, OnFiniteSpace, moved
from poe.samplers.kernel import (
    BIASED,
    Density,
    Info,
    WithScale,
    accept,
    per_chain,
    require_positive,
    where_accepted,
)
from poe.samplers.langevin import LangevinState

MAX_STEP_SIZE = 10.0
"""Larger steps cost next to nothing more than this one: exp(−1/20) is nearly 1."""


class LangevinNoise(NamedTuple):
    """Uniforms in [0, 1): one for each site ``(chains, n)``, and one for each chain."""

    sites: Tensor
    uniform: Tensor


class Proposal(NamedTuple):
    """Each site's log-probabilities of its shifts 1 … k − 1 and of staying: ``(chains, n, k)``."""

    log_probability: Tensor

    def draw(self, uniform: Tensor) -> Tensor:
        """The places in it that the uniforms ``(chains, n)`` fall on: ``(chains, n)``."""
        below = self.log_probability[..., :-1].exp().cumsum(-1)
        return (uniform.unsqueeze(-1) >= below).sum(-1)

    def log_density(self, place: Tensor) -> Tensor:
        """log q of all sites together: ``(chains,)``."""
        return self.log_probability.gather(-1, place.unsqueeze(-1)).sum((-2, -1))


class DiscreteLangevin(OnFiniteSpace):
    """The proposal that DULA and DMALA share."""

    step_size: Tensor | float | None
    preconditioner: Tensor | None

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> LangevinNoise:
        is_float = position.is_floating_point()
        dtype = position.dtype if is_float else torch.get_default_dtype()
        num_sites = self.space.event_shape.numel()
        sites = position.new_empty((len(position), num_sites), dtype=dtype)
        uniform = position.new_empty(len(position), dtype=dtype)
        return LangevinNoise(*(part.uniform_(generator=generator) for part in (sites, uniform)))

    def _check(self) -> None:
        require_positive("step_size", self.step_size)
        shape = self.space.event_shape
        if self.preconditioner is not None and self.preconditioner.shape != shape:
            raise ShapeError(
                f"expected a preconditioner of the event's shape {tuple(shape)}, one positive "
                f"number for each element, got {tuple(self.preconditioner.shape)}"
            )

    def _proposal(self, state: LangevinState) -> Proposal:
        """q of every site: ∝ exp(d(i, v; x) / 2 − [v ≠ xᵢ] / (2 ε gᵢ))."""
        changes = self._changes(state)
        cost = 0.5 / per_chain(self.step_size, changes)
        if self.preconditioner is not None:
            cost = cost / self.preconditioner.flatten().unsqueeze(-1).to(changes.dtype)
        logits = F.pad(0.5 * changes - cost, (0, 1))  # to stay changes nothing
        return Proposal(logits.log_softmax(-1))

    def _propose(
        self, target: Density, state: LangevinState, proposal: Proposal, uniform: Tensor
    ) -> tuple[Tensor, LangevinState]:
        """The places drawn, and the state where they lead."""
        place = proposal.draw(uniform)
        shift = ((place + 1) % self.num_values).reshape(state.position.shape)
        position = moved(state.position, shift, self.num_values)
        return place, self.state_at(target, position)


@checked
@dataclass(frozen=True, eq=False)  # a preconditioner does not compare by value
class DULA(DiscreteLangevin):
    """Discrete unadjusted Langevin: all elements change at once, each on its own. Biased.

    q(y|x) = ∏ᵢ q(yᵢ|x),  q(v|x) ∝ exp(d(i, v; x) / 2 − [v ≠ xᵢ] / (2 ε gᵢ)),

    d the first-order estimate of what the change of that element alone does to log p̃. In the source
    d = ∇ᵢ log p̃ (v − xᵢ) on {0, 1}; between one-hot vectors its square distance is 2, counted as 1
    here, so that ε means the same on all spaces.

    As ε goes to 0 the bias vanishes where log p̃ is linear in x, or nearly so. A position outside
    the support is counted in ``Info.is_outside``, and the chain goes on from there.

    Args:
        space: Where x lives, Binary, Categorical or Sequence. Starts raise PoeError where x is not
            in it, or the target has no gradient in it.
        step_size: ε, a number, or a tensor of shape () or (chains,). There is nothing to tune it
            on: it must be given.
        preconditioner: g, ``(*event)``: positive, None is 1.

    Raises:
        PoeError: For another space, and a step size that is not positive.
        ShapeError: For a preconditioner that is not of the event's shape.

    References:
        Zhang, Liu & Liu (2022), A Langevin-like sampler for discrete distributions, eqs. 4 to 6,
        and section 5 for g, arXiv:2206.09914.

    Example:
        >>> target = experts.Ising.grid((3, 3), coupling=0.3)
        >>> kernel = DULA(target.space, step_size=0.1)
        >>> state = kernel.init(target, torch.zeros(5, 3, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 3, 3]), 'biased')
    """

    step_size: Tensor | float
    preconditioner: Tensor | None = None

    ends_where_it_asked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()

    @property
    def guarantee(self) -> str:
        """Unadjusted: biased."""
        return BIASED

    def transition(
        self, target: Density, state: LangevinState, noise: LangevinNoise
    ) -> tuple[LangevinState, Info]:
        _, moved_to = self._propose(target, state, self._proposal(state), noise.sites)
        log_density = moved_to.log_density
        is_outside = log_density == -torch.inf
        is_undefined = ~(log_density.isfinite() | is_outside)
        ones = torch.ones_like(log_density)
        info = Info(ones, torch.ones_like(is_outside), is_outside, is_undefined, is_undefined)
        return moved_to, info


@checked
@dataclass(frozen=True, eq=False)
class DMALA(WithScale, DiscreteLangevin, CorrectedOnFiniteSpace):
    """Discrete Metropolis-adjusted Langevin: propose as ``DULA``, and accept or stay.

    Accepted with min(1, p̃(y) q(x|y) / p̃(x) q(y|x)). One gradient a step.

    Args:
        space: Where x lives, Binary, Categorical or Sequence. Starts raise PoeError where x is not
            in it, or the target has no gradient in it.
        step_size: ε, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.574.
        preconditioner: g, ``(*event)``: positive; None is 1. It is not fitted in warm-up: none of
            the variances of elements, of their scores, or their ratios did better than 1
            throughout.

    Raises:
        PoeError: For another space, and a step size that is not positive.
        ShapeError: For a preconditioner that is not of the event's shape.

    References:
        Zhang, Liu & Liu (2022), A Langevin-like sampler for discrete distributions, section 4,
        arXiv:2206.09914; Sun et al. (2022), Optimal scaling for locally balanced proposals in
        discrete spaces, arXiv:2209.08183 (the rate).

    Example:
        >>> target = experts.Ising.grid((3, 3), coupling=0.3)
        >>> kernel = DMALA(target.space, step_size=0.3)
        >>> state = kernel.init(target, torch.zeros(5, 3, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 3, 3]), 'asymptotically exact')
    """

    step_size: Tensor | float | None = None
    preconditioner: Tensor | None = None

    target_acceptance: ClassVar[float] = 0.574
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    max_scale: ClassVar[float] = MAX_STEP_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()

    def transition(
        self, target: Density, state: LangevinState, noise: LangevinNoise
    ) -> tuple[LangevinState, Info]:
        forth = self._proposal(state)
        place, proposed = self._propose(target, state, forth, noise.sites)
        stays, num_others = place == self.num_values - 1, self.num_values - 1
        back = torch.where(stays, place, num_others - 1 - place)
        log_q = self._proposal(proposed).log_density(back) - forth.log_density(place)
        log_ratio = proposed.log_density - state.log_density + log_q
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        return LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state)), info
