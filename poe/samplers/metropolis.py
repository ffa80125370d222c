"""Random-walk Metropolis-Hastings: needs no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    MetropolisState,
    Noise,
    WithScale,
    accept,
    per_chain,
    require_positive,
    where_accepted,
)


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
