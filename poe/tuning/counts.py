"""Where runs on counts start, which no distribution is uniform on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Independent, Poisson

from poe.core.arguments import checked
from poe.core.randomness import resolve
from poe.core.space import Space
from poe.density.adapt import FromDistribution
from poe.density.capabilities import is_small, tails
from poe.density.expert import Expert
from poe.density.transformed import mask_outside

LEAST = 2.0**-24
"""The smallest uniform: draws end at 2^24, the last count that float32 tells from the next."""


def few_counts(space: Space, like: Tensor) -> Expert:
    """Poissons of mean 1: where chains start.

    Args:
        space: A ``poe.Count``.
        like: A tensor of the dtype and on the device that is asked for.

    Returns:
        An expert that can be sampled exactly.

    Example:
        >>> few_counts(poe.Count(2), torch.zeros(())).log_prob(torch.zeros(1, 2))
        tensor([-2.])
    """
    ones = like.new_ones(space.event_shape)
    return FromDistribution(Independent(Poisson(ones), ones.ndim))


class AnyCounts(Expert):
    """p(n) = 1 / ((n + 1) (n + 2)) of each count: as many of 10 to 100 as of 100 to 1000, nearly.

    P(n ≥ k) = 1 / (k + 1), so that n = ⌊1 / u⌋ − 1 of a uniform u. In logarithms it is as broad as
    a distribution of tails ~ 1 / n² is: particles that start there come to counts of any size.

    Args:
        space: A ``poe.Count``.
        like: A tensor of the dtype and on the device that is asked for.

    Example:
        >>> expert = AnyCounts(poe.Count(1), torch.zeros(()))
        >>> expert.log_prob(torch.tensor([[0.0], [8.0]]))  # 1 / 2 and 1 / 90
        tensor([-0.6931, -4.4998])
        >>> expert.sample(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1])
    """

    zero: Tensor

    def __init__(self, space: Space, like: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("zero", like.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        n = x.to(self.zero.dtype)
        value = -(torch.log1p(n) + (n + 2).log())
        return mask_outside(self.space, x, self.space.as_vector(value).sum(-1))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        device = self.zero.device
        u = torch.rand(
            (num_samples, *self.space.event_shape),
            dtype=torch.float64,
            device=device,
            generator=resolve(generator, device),
        )
        return (1 / u.clamp(min=LEAST)).floor().sub(1).to(self.zero.dtype)


@tails.register
def _(expert: AnyCounts) -> Tensor | None:
    """Of 1 / n²."""
    if not is_small(expert.space):
        return None
    ones = torch.ones(expert.space.event_shape.numel(), dtype=torch.float64)
    return torch.cat([0 * ones, 0 * ones, 2 * ones])[None]
