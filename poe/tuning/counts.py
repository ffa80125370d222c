"""Where runs on counts start, as no distribution is uniform on them, and what fits their draws."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Geometric, Independent, NegativeBinomial

from poe.core.arguments import checked
from poe.core.randomness import resolve
from poe.core.space import Space
from poe.density.adapt import FromDistribution
from poe.density.expert import Expert, Mixture
from poe.density.transformed import mask_outside
from poe.samplers.discrete.counts import log_normal_between

SIZES = tuple(4.0**k for k in range(-1, 11))
"""A quarter to a million: particles of all sizes miss no mode."""
WIDER = 1.2
"""By which a fit is broader than what it is fitted to."""
FEW_SIZES = (1.0, 4.0, 16.0, 64.0)
"""Where chains start: unlike enough to disagree where there are several modes."""


def counts_of_sizes(space: Space, like: Tensor, sizes: Iterable[float] = SIZES) -> Expert:
    """Counts of a mean drawn once for all elements: Σₖ wₖ Πᵢ (1 − qₖ) qₖ^nᵢ, qₖ = sₖ / (1 + sₖ).

    Events of which all elements are large are as likely as those of which all are small, so that
    some are near to a mode wherever that is; geometric distributions reach down to 0.

    Args:
        space: A ``poe.Count``.
        like: A tensor of the dtype and on the device that is asked for.
        sizes: The means s, which are all as likely.

    Returns:
        An expert that is normalised and can be sampled exactly.

    Example:
        >>> expert = counts_of_sizes(poe.Count(2), torch.zeros(()), (1.0, 3.0))
        >>> expert(torch.zeros(1, 2)).exp()  # (1 / 4 + 1 / 16) / 2
        tensor([0.1562])
    """
    ones = like.new_ones(space.event_shape)
    each = [
        FromDistribution(Independent(Geometric(ones / (1 + size)), ones.ndim)) for size in sizes
    ]
    return Mixture(each)


class RoundedNormals(Expert):
    """Independent normals rounded to whole numbers, from 0 on: P(n) = Φ(n + ½) − Φ(n − ½).

    Of n = 0 all that lies below; Φ that of N(μᵢ, σᵢ²).

    Args:
        space: A ``poe.Count``.
        loc: μ, ``(*event)``.
        scale: σ, ``(*event)``, positive.

    Example:
        >>> expert = RoundedNormals(poe.Count(1), torch.zeros(1), torch.ones(1))
        >>> expert(torch.tensor([[0.0], [1.0]])).exp()
        tensor([0.6915, 0.2417])
        >>> expert.sample(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 1])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, space: Space, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        n, loc, scale = x.double(), self.loc.double(), self.scale.double()
        below = ((n - 0.5 - loc) / scale).masked_fill(n <= 0, -torch.inf)
        value = log_normal_between(below, (n + 0.5 - loc) / scale)
        total = self.space.as_vector(value).sum(-1).to(self.loc.dtype)
        return mask_outside(self.space, x, total)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        shape = (num_samples, *self.loc.shape)
        normal = self.loc.new_empty(shape).normal_(generator=resolve(generator, self.loc.device))
        return (self.loc + self.scale * normal).round().clamp(min=0)


def fitted_counts(x: Tensor, space: Space, like: Tensor) -> Expert:
    """Independent elements of the means of positions, and of variances a little larger.

    Negative binomial where none varies much less than a Poisson would, else rounded normals.

    Args:
        x: Positions, ``(n, *event)``.
        space: A ``poe.Count``.
        like: A tensor of the dtype and on the device that is asked for.

    Returns:
        An expert that is normalised and can be sampled exactly.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [4.0], [10.0]])
        >>> fitted = fitted_counts(x, poe.Count(1), x)
        >>> round(float(fitted(torch.arange(200.0)[:, None]).exp() @ torch.arange(200.0)), 4)
        4.0
    """
    positions = x.double()
    mean, variance = positions.mean(0), WIDER * positions.var(0) + 1 / 12
    if bool((variance < 0.9 * mean).any()):
        return RoundedNormals(space, mean.to(like), variance.sqrt().to(like))
    mean = mean.clamp(min=0.05)
    variance = torch.maximum(variance, 1.02 * mean)
    count, share = mean.square() / (variance - mean), 1 - mean / variance
    distribution = NegativeBinomial(count.to(like), share.to(like))
    return FromDistribution(Independent(distribution, mean.ndim))
