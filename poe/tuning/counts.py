"""Where runs on counts start, as no distribution is uniform on them, and what fits their draws."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Geometric, Independent, NegativeBinomial

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.core.randomness import resolve
from poe.core.space import Space
from poe.density.adapt import FromDistribution
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert, Mixture
from poe.density.transformed import mask_outside
from poe.diagnostics.settled import MIN_COMPARED, r_hat_of_settled
from poe.samplers.discrete.counts import LatticeGibbs, log_normal_between
from poe.samplers.guarded import Guarded, Raised

SIZES = tuple(4.0**k for k in range(-1, 11))
"""A quarter to a million: particles of all sizes miss no mode."""
WIDER = 1.2
"""By which a fit is broader than what it is fitted to."""
APART = 3.0
"""An R-hat that none of slowly mixing chains has."""
ON_ITS_WAY = 2.5
NUM_CHAINS, SWEEPS, EVERY, MAX_ELEMENTS = 48, 130, 5, 256
SIZES_COMPARED = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Chains from these, so many sweeps long and looked at every few, show whether there are modes."""
ALL_SIZES = "counts of all sizes"
"""What a start at them is called."""
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


@torch.no_grad()
def mode_doubts(target: Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    """Whether chains from counts of several sizes settle apart: particles may lose some modes.

    Args:
        target: p̃, on a ``poe.Count``.
        generator: Of the chains.

    Returns:
        One doubt, or none.
    """
    if target.space.event_shape.numel() > MAX_ELEMENTS:
        return ()
    asked, kernel = Guarded(target, Raised()), LatticeGibbs(target.space)
    x = exact_sample(
        counts_of_sizes(target.space, number_like(target), SIZES_COMPARED), NUM_CHAINS, generator
    )
    x = x[asked(x).isfinite()]
    if len(x) < 2:
        return ()
    state, states = kernel.init(asked, x), []
    for _ in range(SWEEPS):
        state, _ = kernel.step(asked, state, generator=generator)
        states.append(state)
    states = states[-MIN_COMPARED * EVERY :: EVERY]
    has_arrived = _has_arrived(torch.stack([state.log_density for state in states]).double())
    visited = torch.stack([state.position for state in states])[:, has_arrived]
    if not r_hat_of_settled(visited) > APART:
        return ()
    text = (
        f"chains from counts of {SIZES_COMPARED[0]:.0f} to {SIZES_COMPARED[-1]:.0f} settle apart, "
        "so there are modes that particles may have lost on their way: give a start that covers "
        "them, by `start=`"
    )
    return (Doubt(Kind.UNSEEN, text),)


def _has_arrived(log_density: Tensor) -> Tensor:
    """Which chains do not move up or down any more: ``(steps, chains) -> (chains,)``.

    The halves of a line differ by 3.5 standard deviations of either, those of chance by one half.

    >>> steps = torch.arange(20.0)
    >>> _has_arrived(torch.stack([steps, (7 * steps).sin()], 1))
    tensor([False,  True])
    """
    early, late = log_density.tensor_split(2)
    return (late.mean(0) - early.mean(0)).abs() <= ON_ITS_WAY * late.std(0)
