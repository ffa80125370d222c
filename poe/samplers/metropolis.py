"""Random-walk Metropolis-Hastings: needs no gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Noise,
    accept,
    per_chain,
    require_positive,
    where_accepted,
)


class MetropolisState(NamedTuple):
    """Position ``(chains, *event)`` and its log-density ``(chains,)``."""

    position: Tensor
    log_density: Tensor


@dataclass(frozen=True)
class MetropolisHastings(Corrected[MetropolisState]):
    """Random-walk Metropolis: y = x + scale · z, z ~ N(0, I), accepted with min(1, p̃(y) / p̃(x)).

    ``scale``: a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to an
    acceptance rate of 0.234.

    Source: Metropolis et al. 1953; optimal rate: Roberts, Gelman & Gilks 1997.

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

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)

    @property
    def scale_setting(self) -> Tensor | float | None:
        """The setting that warm-up tunes."""
        return self.scale

    def with_scale(self, value: Tensor | float) -> MetropolisHastings:
        """The same kernel with that scale."""
        return replace(self, scale=value)

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> MetropolisState:
        """Position and log-density."""
        return MetropolisState(x, target.log_density(x))

    @torch.no_grad()
    def _transition(
        self, target: Density, state: MetropolisState, noise: Noise
    ) -> tuple[MetropolisState, Info]:
        proposal = state.position + per_chain(self.scale, state.position) * noise.normal
        log_density = target.log_density(proposal)
        info = accept(log_density - state.log_density, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return MetropolisState(*map(keep, (proposal, log_density), state)), info
