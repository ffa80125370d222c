"""Draws of priors that are read on parts of x, or through a map of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.joint_space import Joint
from poe.density.capabilities import can_sample_exactly
from poe.density.closed_forms import exact_sample
from poe.density.coordinates import Coordinates
from poe.density.expert import At, Expert, is_power
from poe.tuning.pathfinder import Paths

CLOSE = 100.0
"""What is read shall be within some hundredths of a standard deviation of what was drawn."""
MAX_EVALUATIONS = 100


def priors_of_parts(target: Expert) -> dict[str, At]:
    """The factors that are read through a map, and can be sampled where they are read.

    Those of negative exponents, and on discrete spaces, are left out.

    Args:
        target: p̃.

    Returns:
        By their names.

    Example:
        >>> first = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> prior = experts.Gaussian([0.0], scale=[1.0]).at(first, poe.Real(2))
        >>> rest = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(2))
        >>> list(priors_of_parts(poe.Product(prior=prior, rest=rest)))
        ['prior']
    """
    if target.space.is_discrete or isinstance(target.space, Joint):
        return {}
    named = {name: _read(factor) for name, factor in target._factors()}
    return {name: factor for name, factor in named.items() if factor is not None}


def _read(factor: Expert) -> At | None:
    while is_power(factor):
        if not factor.exponent.item() > 0:
            return None
        factor = factor.expert
    if not isinstance(factor, At) or factor.expert.space.is_discrete:
        return None
    return factor if can_sample_exactly(factor.expert) else None


def draw_as_read(
    priors: Sequence[At], coordinates: Coordinates, u: Tensor, generator: torch.Generator
) -> Tensor:
    """Positions that are read as draws of the priors, as nearly as that can be.

    From u, by the least change that paths of L-BFGS make of it: what is not read stays.

    Args:
        priors: What is read, and whose draws.
        coordinates: Of x.
        u: Where to begin, ``(n, *event)``.
        generator: Of the draws.

    Returns:
        In the coordinates of u, ``(n, *event)``.

    Example:
        >>> first = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
        >>> first.weight[0] = torch.tensor([1.0, 0.0])
        >>> prior = experts.Gaussian([50.0], scale=[1.0]).at(first, poe.Real(2))
        >>> g = torch.Generator().manual_seed(0)
        >>> u = draw_as_read([prior], Coordinates(prior.space), torch.zeros(100, 2), g)
        >>> u.mean(0).round()
        tensor([50.,  0.])
    """
    wanted = [exact_sample(prior.expert, len(u), generator).to(u.dtype) for prior in priors]
    paths = Paths(Misfit(priors, wanted, coordinates, u.shape[1:]), u.reshape(len(u), -1))
    while paths.num_evaluations < MAX_EVALUATIONS and not bool(paths.is_over.all()):
        paths.advance()
    return paths.position.reshape(u.shape)


class Misfit(NamedTuple):
    """−½ Σ |(G(x) − z) / s|² in hundredths of the draws' own spread, of rows ``(n, d)``."""

    priors: Sequence[At]
    wanted: list[Tensor]
    coordinates: Coordinates
    event_shape: torch.Size

    def log_density(self, u: Tensor) -> Tensor:
        """``(n, d) -> (n,)``."""
        x = self.coordinates.to_x(u.reshape(-1, *self.event_shape))
        parts = [
            _squares(prior.generator(x), wanted)
            for prior, wanted in zip(self.priors, self.wanted, strict=True)
        ]
        return -0.5 * torch.stack(parts).sum(0)

    @torch.enable_grad()
    def log_density_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient."""
        u = u.detach().requires_grad_()
        value = self.log_density(u)
        (score,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), score


def _squares(read: Tensor, wanted: Tensor) -> Tensor:
    """Σ of squares over the event, in units of the spread of what is wanted: ``(n,)``."""
    rows, wanted = read.reshape(len(read), -1), wanted.reshape(len(wanted), -1)
    low, high = wanted.quantile(0.25, dim=0), wanted.quantile(0.75, dim=0)
    spread = torch.where(high > low, high - low, 1.0)
    return (CLOSE * (rows - wanted) / spread).square().sum(1)
