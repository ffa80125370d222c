"""Metropolis-Hastings that needs no gradient: a random walk, and independent draws of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError, SpaceMismatchError
from poe.density.capabilities import can_sample_exactly
from poe.density.checks import require_numbers
from poe.density.expert import Expert
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    MetropolisState,
    Noise,
    WithScale,
    accept,
    floats_like,
    per_chain,
    require_positive,
    where_accepted,
)

LEAST_WARMUP, MOST_WARMUP, ALL_STEPS = 100, 1000, 16_000
"""Steps to forget a start by: fewer with more chains, which are worth as much for what follows."""


@checked
@dataclass(frozen=True)
class MetropolisHastings(WithScale, Corrected[MetropolisState]):
    """Random-walk Metropolis: y = x + scale · z, z ~ N(0, I), accepted with min(1, p̃(y) / p̃(x)).

    Args:
        scale: A number, or a tensor of shape () or (chains,); None is tuned in warm-up, to an
            acceptance rate of 0.234.

    Raises:
        PoeError: Where the scale is not positive.

    References:
        Metropolis et al. (1953), Equation of state calculations by fast computing machines,
        doi:10.1063/1.1699114; Roberts, Gelman & Gilks (1997), Weak convergence and optimal scaling
        of random walk Metropolis algorithms, doi:10.1214/aoap/1034625254 (the rate).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> kernel = MetropolisHastings(scale=1.0)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.is_accepted.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    scale: Tensor | float | None = None

    target_acceptance: ClassVar[float] = 0.234
    scale_field: ClassVar[str] = "scale"
    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: Noise
    ) -> tuple[MetropolisState, Info]:
        proposal = state.position + per_chain(self.scale, state.position) * noise.normal
        log_density = target.log_density(proposal)
        info = accept(log_density - state.log_density, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return MetropolisState(*map(keep, (proposal, log_density), state)), info


class WeighedState(NamedTuple):
    """The state of a chain whose proposals are draws of a model.

    Args:
        position: x, ``(chains, *event)``.
        log_density: log p̃(x), ``(chains,)``.
        log_proposal: The model's log q(x), ``(chains,)``.
    """

    position: Tensor
    log_density: Tensor
    log_proposal: Tensor


class Proposed(NamedTuple):
    """Draws of the model ``(chains, *event)``, and uniforms to accept by ``(chains,)``."""

    position: Tensor
    uniform: Tensor


class ProposedByModel(Corrected[WeighedState]):
    """A kernel whose proposals are drawn from a model q, accepted by the ratio of p̃ / q."""

    model: Expert

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> WeighedState:
        """Positions with both log-densities there.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            SpaceMismatchError: Where x or the target is not of the model's space.
        """
        space = self.model.space
        found = getattr(target, "space", space)
        if x.shape[1:] != space.event_shape or found != space:
            raise SpaceMismatchError(
                f"expected positions (chains, *event) in {space}, where the model lives, got "
                f"{tuple(x.shape)} in {found}: chains move in unconstrained coordinates, to which "
                "poe.Transformed(model, space.to_unconstrained) takes a model"
            )
        return WeighedState(x, target.log_density(x), self.model.log_density(x))

    def _decided(
        self, state: WeighedState, proposed: WeighedState, uniform: Tensor
    ) -> tuple[WeighedState, Info]:
        """The proposed state where it is accepted, and what happened."""
        # A draw where rounding leaves the model no density would be kept for ever.
        is_weighed = proposed.log_proposal.isfinite()
        ratio = self._log_weight(proposed) - self._log_weight(state)
        ratio = torch.where(is_weighed, ratio, -torch.inf)
        info = accept(ratio, proposed.log_density, uniform)
        keep = partial(where_accepted, info.is_accepted)
        return WeighedState(*map(keep, proposed, state)), info

    def _log_weight(self, state: WeighedState) -> Tensor:
        """log p̃ − log q: ``(chains,)``."""
        return state.log_density - state.log_proposal


@dataclass(frozen=True, eq=False)  # models do not compare by value
class IndependenceMetropolisHastings(ProposedByModel):
    """Independent draws y of a model q, each accepted by the ratio of importance weights.

        min(1, (p̃(y) / q(y)) / (p̃(x) / q(x)))

    Where weights are bounded by W times their mean, the distance to the target falls like
    (1 − 1 / W)ⁿ from any start; where they are not, chains may stay where one is large.

    Args:
        model: Any expert that can be sampled exactly and has a density wherever the target has
            one, on the space in which chains move. Positions of another raise SpaceMismatchError.

    Raises:
        PoeError: For a model that cannot be sampled exactly.
        NonFiniteError: For one whose parameters are no numbers.

    References:
        Hastings (1970), Monte Carlo sampling methods using Markov chains and their applications,
        doi:10.1093/biomet/57.1.97; Tierney (1994), Markov chains for exploring posterior
        distributions, section 2.3.2, doi:10.1214/aos/1176325750; Mengersen & Tweedie (1996), Rates
        of convergence of the Hastings and Metropolis algorithms, theorem 2.1,
        doi:10.1214/aos/1033066201 (the rate).

    Example:
        >>> import poe
        >>> model = experts.Gaussian([0.0, 0.0], scale=1.0)
        >>> target = model * experts.Gaussian([0.5, 0.5], scale=1.0)
        >>> kernel = IndependenceMetropolisHastings(model)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.is_accepted.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    model: Expert

    def __post_init__(self) -> None:
        if not isinstance(self.model, Expert) or not can_sample_exactly(self.model):
            raise PoeError(
                f"expected a model that can be sampled exactly, got {type(self.model).__name__}: "
                "give a flow, an autoregressive model or another factor of the target that can"
            )
        require_numbers(self.model)

    def warmup_steps(self, num_chains: int) -> int:
        """Enough to forget a start.

        Args:
            num_chains: How many.

        Returns:
            16000 over the chains, between 100 and 1000.
        """
        return min(MOST_WARMUP, max(LEAST_WARMUP, ALL_STEPS // num_chains))

    @torch.no_grad()
    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Proposed:
        drawn = self.model.sample(len(position), generator=generator).to(position.dtype)
        return Proposed(drawn, floats_like(position, len(position)).uniform_(generator=generator))

    @torch.no_grad()
    def transition(
        self, target: Density, state: WeighedState, noise: Proposed
    ) -> tuple[WeighedState, Info]:
        y = noise.position
        proposed = WeighedState(y, target.log_density(y), self.model.log_density(y))
        return self._decided(state, proposed, noise.uniform)
