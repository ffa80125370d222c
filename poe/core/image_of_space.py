"""Where a bijection takes a space, and whether it is defined there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    IndependentTransform,
    ReshapeTransform,
    Transform,
    _InverseTransform,
)

from poe.core.errors import PoeError
from poe.core.space import (
    Interval,
    Positive,
    Real,
    Space,
    space_of,
)

Elementwise = Real | Positive | Interval


def moved(space: Space, bijection: Transform) -> Space | None:
    """The space that a bijection takes all of ``space`` to; None where that is none we know.

    >>> ends = torch.distributions.AffineTransform(-1.0, 2.0)
    >>> str(moved(poe.Interval(2, 0, 1), ends)), moved(poe.Positive(2), ends)
    ('Interval(2, -1, 1)', None)
    """
    inner = _inside(bijection)
    if inner is not None:
        return moved(space, inner)
    if isinstance(bijection, ComposeTransform):
        image: Space | None = space
        for part in bijection.parts:
            image = None if image is None else moved(image, part)
        return image
    if (shape := _new_shape(bijection)) is not None and isinstance(space, Elementwise):
        return dataclasses.replace(space, shape=shape)
    if (line := _line(bijection)) is not None and isinstance(space, Interval | Positive):
        return _along(space, line)
    if domain_of(bijection, space) != space:
        return None
    return space_of(bijection.codomain, bijection.forward_shape(space.event_shape))


def domain_of(bijection: Transform, space: Space) -> Space | None:
    """Where a bijection is defined, of the shape of ``space``; None where that is none we know."""
    try:
        return space_of(bijection.domain, space.event_shape)
    except PoeError:
        return None


def require_domain(bijection: Transform, space: Space) -> None:
    """Raise PoeError where a bijection is not defined on all of ``space``."""
    domain = domain_of(bijection, space)
    if domain is None or domain == space:
        return
    if isinstance(domain, Elementwise) and isinstance(space, Elementwise):
        (low, high), (least, most) = _bounds(domain), _bounds(space)
        if low <= least and most <= high:
            return
    raise PoeError(
        f"expected an expert on {domain}, where {type(bijection).__name__} is a bijection, got one "
        f"on {space}: bring it there first"
    )


def _inside(bijection: Transform) -> Transform | None:
    """What an IndependentTransform, or the inverse of one, does element by element."""
    if isinstance(bijection, IndependentTransform):
        return bijection.base_transform
    if isinstance(bijection, _InverseTransform) and isinstance(
        bijection._inv, IndependentTransform
    ):
        return bijection._inv.base_transform.inv
    return None


def _new_shape(bijection: Transform) -> torch.Size | None:
    if isinstance(bijection, ReshapeTransform):
        return bijection.out_shape
    if isinstance(bijection, _InverseTransform) and isinstance(bijection._inv, ReshapeTransform):
        return bijection._inv.in_shape
    return None


def _line(bijection: Transform) -> Callable[[float], float] | None:
    """The map of each element, where it is the same line for all of them and none is learned."""
    is_inverse = isinstance(bijection, _InverseTransform)
    affine = bijection._inv if is_inverse else bijection
    if not isinstance(affine, AffineTransform):
        return None
    loc, scale = _one_number(affine.loc), _one_number(affine.scale)
    if loc is None or scale is None:
        return None
    return (lambda y: (y - loc) / scale) if is_inverse else (lambda x: loc + scale * x)


def _one_number(value: Tensor | float) -> float | None:
    if not isinstance(value, Tensor):
        return float(value)
    if value.is_meta or value.requires_grad or value.numel() == 0:
        return None
    first = value.flatten()[0]
    return float(first) if bool((value == first).all()) else None


def _along(space: Interval | Positive, line: Callable[[float], float]) -> Space | None:
    if isinstance(space, Positive):
        return space if line(0.0) == 0 and line(1.0) > 0 else None
    return Interval(space.shape, *sorted((line(space.low), line(space.high))))


def _bounds(space: Elementwise) -> tuple[float, float]:
    if isinstance(space, Interval):
        return space.low, space.high
    return (0.0 if isinstance(space, Positive) else -math.inf), math.inf
