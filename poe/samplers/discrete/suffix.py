"""Metropolis-Hastings that keeps a prefix and has the rest written anew by a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.density.questions import speaks_as
from poe.samplers.kernel import Density, Info
from poe.samplers.metropolis import ProposedByModel, WeighedState
from poe.structure.autoregressive import (
    Autoregressive,
    ancestral,
    as_events,
    as_values,
    num_places,
)


class SuffixNoise(NamedTuple):
    """Uniforms: ``(chains, numel)`` for the elements, ``(chains,)`` to cut and to accept by."""

    elements: Tensor
    cut: Tensor
    accept: Tensor


@dataclass(frozen=True, eq=False)  # models do not compare by value
class SuffixMetropolisHastings(ProposedByModel):
    """Keeps the first c elements and draws the others from an autoregressive model q, in order.

    c is uniform over 0 … numel − 1, for each chain anew: from all of x down to its last element.
    q(x′ | prefix) / q(x | prefix) is q(x′) / q(x), so x′ is accepted with probability

        min(1, (p̃(x′) / q(x′)) / (p̃(x) / q(x))):

    where p̃ = q r, by the ratio of the other experts r alone. Reversible for each c.

    Args:
        model: Any ``poe.Autoregressive`` on the target's space that has a density wherever the
            target has one; one that knows of the other experts, such as ``poe.LocalProduct``, is
            accepted more often. Positions of another shape raise SpaceMismatchError.

    Raises:
        PoeError: For a model that is not autoregressive.

    References:
        Hastings (1970), Monte Carlo sampling methods using Markov chains and their applications,
        doi:10.1093/biomet/57.1.97; Tierney (1994), Markov chains for exploring posterior
        distributions, section 2.3, doi:10.1214/aos/1176325750 (independence chains).

    Example:
        >>> model, liked = experts.MADE(3), experts.Bernoulli([0.0, 2.0, 1.0])
        >>> kernel, target = SuffixMetropolisHastings(model), model * liked
        >>> state = kernel.init(target, torch.zeros(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, info.is_accepted.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    model: Autoregressive

    def __post_init__(self) -> None:
        if not speaks_as(self.model, Autoregressive):
            raise PoeError(
                f"expected a poe.Autoregressive model to draw from, got "
                f"{type(self.model).__name__}: give the autoregressive factor of the target, or "
                "poe.LocalProduct(target.space, poe.twists(target))"
            )

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> SuffixNoise:
        # All in float64.
        n, size = len(position), num_places(self.model.space)
        found = torch.empty((n, size + 2), dtype=torch.float64, device=position.device)
        found.uniform_(generator=generator)
        return SuffixNoise(found[:, 2:], found[:, 0], found[:, 1])

    @torch.no_grad()
    def transition(
        self, target: Density, state: WeighedState, noise: SuffixNoise
    ) -> tuple[WeighedState, Info]:
        size = num_places(self.model.space)
        values = as_values(self.model.space, state.position)
        num_kept = (noise.cut * size).long().clamp(max=size - 1)
        drawn = ancestral(self.model, noise.elements, values, num_kept)
        proposal = as_events(self.model, drawn.values).to(state.position.dtype)
        proposed = WeighedState(proposal, target.log_density(proposal), drawn.log_prob)
        return self._decided(state, proposed, noise.accept)
