"""Single-site Metropolis on finite spaces: another value at a random site, no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.space import Space
from poe.samplers.finite import moved, require_finite, require_inside
from poe.samplers.kernel import Corrected, Density, Info, MetropolisState, accept, where_accepted


class SiteNoise(NamedTuple):
    """A site, a shift 1 … k − 1 and a uniform for each chain: all ``(chains,)``."""

    site: Tensor
    shift: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class SingleSiteMetropolis(Corrected[MetropolisState]):
    """One site drawn at random is given one of its other k − 1 values, all alike.

    The proposal is symmetric, so y is accepted with min(1, p̃(y) / p̃(x)): one evaluation a step.

    ``space``: where x lives, Binary, Categorical or Sequence. Raises PoeError for another, and for
    a start that is not in it.

    Source: Metropolis et al. 1953; of spins: Newman & Barkema 1999, section 3.1.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
    >>> kernel = SingleSiteMetropolis(target.space)
    >>> state = kernel.init(target, torch.zeros(5, 3))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.sum(-1)  # each flip of a 0 is accepted
    tensor([1., 1., 1., 1., 1.])
    """

    space: Space

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_finite(self.space, self)

    def init(self, target: Density, x: Tensor) -> MetropolisState:
        """State at ``x`` ``(chains, *event)``. Raises PoeError where x is not in the space."""
        require_inside(self.space, x)
        return super().init(target, x)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> SiteNoise:
        """A site, a shift and a uniform for each chain."""
        assert self.space.num_values is not None
        chains, device = len(position), position.device
        num_sites = self.space.event_shape.numel()
        site = torch.randint(num_sites, (chains,), generator=generator, device=device)
        highest = self.space.num_values
        shift = torch.randint(1, highest, (chains,), generator=generator, device=device)
        return SiteNoise(site, shift, torch.rand(chains, generator=generator, device=device))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: SiteNoise
    ) -> tuple[MetropolisState, Info]:
        assert self.space.num_values is not None
        x = state.position.reshape(len(state.position), -1)
        site = noise.site.unsqueeze(1)
        value = moved(x.gather(1, site), noise.shift.unsqueeze(1), self.space.num_values)
        proposal = x.scatter(1, site, value).reshape(state.position.shape)
        log_density = target.log_density(proposal)
        info = accept(log_density - state.log_density, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return MetropolisState(*map(keep, (proposal, log_density), state)), info
