"""Where chains start."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from poe.density.adapt import Uniform, as_expert
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample, samplable_factor
from poe.density.coordinates import Coordinates, require_chains
from poe.density.expert import Expert
from poe.density.nonfinite import require_start
from poe.density.transformed import Transformed

MAX_START_ATTEMPTS = 100
BROAD = 10.0
"""The standard deviation of a start that shall miss no mode, in unconstrained units."""


def start(
    target: Expert,
    num_chains: int,
    initial: Tensor | None,
    coordinates: Coordinates,
    generator: torch.Generator,
) -> tuple[Tensor, str]:
    """Start positions in the target's space, and where they come from in words."""
    if initial is None:
        source = _source(target, coordinates)
        x, where = _drawn_inside(target, source, num_chains, generator)
    else:
        require_chains(target.space, initial, "`initial`")
        x, where = initial.detach().clone(), "`initial`"
    with torch.no_grad():
        require_start(target, x, target(x))
    return x, where


class _Source(NamedTuple):
    """What starts are drawn from: in words, and as an expert; standard normals where it is None."""

    said: str
    expert: Expert | None
    like: Tensor
    coordinates: Coordinates

    def draw(self, num_chains: int, generator: torch.Generator) -> Tensor:
        if self.expert is not None:
            return exact_sample(self.expert, num_chains, generator)
        event_shape = self.coordinates.u_space.event_shape
        u = self.like.new_empty((num_chains, *event_shape)).normal_(generator=generator)
        return self.coordinates.to_x(u)


def _source(target: Expert, coordinates: Coordinates) -> _Source:
    like = number_like(target)
    factor = samplable_factor(target)
    if factor is not None:
        return _Source(f"draws of expert {factor[0]!r}", factor[1], like, coordinates)
    if target.space.is_discrete:
        return _Source("any state alike", Uniform(target.space, like), like, coordinates)
    return _Source("standard normals", None, like, coordinates)


@torch.no_grad()
def _drawn_inside(
    target: Expert, source: _Source, num_chains: int, generator: torch.Generator
) -> tuple[Tensor, str]:
    """Draws, repeated for the chains where the target's log-density is −inf, and what they are."""
    x = source.draw(num_chains, generator)
    for _ in range(MAX_START_ATTEMPTS):
        is_outside = target(x) == -torch.inf
        if not is_outside.any():
            break
        again = source.draw(num_chains, generator)
        x = torch.where(is_outside.reshape(-1, *([1] * (x.ndim - 1))), again, x)
    return x, source.said


def broad_start(target: Expert, like: Tensor) -> tuple[str, Expert]:
    """Where to start so as to miss no mode, in words and as an expert that can be sampled exactly.

    The first factor of the target that can be sampled, else N(0, 10² I) in unconstrained
    coordinates; on a discrete space the uniform distribution.

    Args:
        target: p̃.
        like: A tensor of the dtype and on the device that is asked for.

    Returns:
        What it is, in words, and the expert.

    Raises:
        PoeError: Where no such start exists.
    """
    factor = samplable_factor(target)
    if factor is not None:
        return f"expert {factor[0]!r}", factor[1]
    if target.space.is_discrete:
        return "all states alike", Uniform(target.space, like)
    coordinates = Coordinates(target.space)
    zeros = like.new_zeros(coordinates.u_space.event_shape)
    broad = as_expert(Independent(Normal(zeros, torch.full_like(zeros, BROAD)), zeros.ndim))
    if not coordinates.is_identity:
        broad = Transformed(broad, target.space.to_unconstrained.inv, space=target.space)
    return "a broad Gaussian", broad
