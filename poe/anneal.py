"""The geometric path between two densities, both of which are evaluated once at each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe.coordinates import Coordinates
from poe.errors import PoeError
from poe.expert import Expert, Product, Tempered
from poe.samplers.kernel import Density

SAME_PLACE = 100.0
"""Positions that differ by this many units of rounding went through a change of coordinates."""


class Parts(NamedTuple):
    """What both parts of a path say at some positions: enough for every temperature.

    Shapes: position and the scores ``(n, *event)``, the log-densities ``(n,)``; the scores are
    None where no gradient was asked for.
    """

    position: Tensor
    start: Tensor
    rest: Tensor
    start_score: Tensor | None
    rest_score: Tensor | None

    def at(self, rows: Tensor) -> Parts:
        """Those of some rows."""
        return Parts(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]

    def where(self, mask: Tensor, other: Parts) -> Parts:
        """These where the mask ``(n,)`` is true, else the others'."""
        return Parts(*map(_where, [mask] * len(self), self, other))  # type: ignore[arg-type]


def _where(mask: Tensor, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return None
    return torch.where(mask.reshape(-1, *([1] * (one.ndim - 1))), one, other)


def stack_parts(series: list[Parts]) -> Parts:
    """Several positions of the same n chains in one: ``(n * len(series), ...)``, chain by chain."""
    columns = zip(*series, strict=True)
    return Parts(*map(_stacked, columns))  # type: ignore[arg-type]


def _stacked(column: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in column if part is not None]
    return torch.stack(present, 1).flatten(0, 1) if len(present) == len(column) else None


@dataclass(frozen=True, eq=False)
class GeometricPath:
    """log γ_t = (1 − t) log p₀ + t log p̃, from p₀ at t = 0 to p̃ at t = 1.

    Written as (1 − t + w t) log p₀ + t log r for p̃ = p₀^w r: where p₀ is a factor of p̃, as the
    prior of a posterior is, it is not evaluated twice, and with w = 1 only the rest is tempered.
    A density of 0 excludes x at every t where it has a say; with exponent 0 it has none.

    - ``start`` p₀, ``rest`` r (None where p̃ is a power of p₀), ``exponent`` w.

    Source: Gelman & Meng 1998, section 2.1; Neal 2001, eq. 3.

    >>> import poe
    >>> a, b = (
    ...     poe.FromLogDensity(lambda x, c=c: -c * x.square().sum(-1), space=poe.Real(1))
    ...     for c in (1.0, 9.0)
    ... )
    >>> path = geometric_path(a, a * b)
    >>> path.exponent, path.log_density(path.evaluate(torch.ones(1, 1)), 0.5)
    (1.0, tensor([-5.5000]))
    """

    start: Density
    rest: Density | None
    exponent: float = 0.0

    def evaluate(self, x: Tensor, with_score: bool = True) -> Parts:
        """Both parts at ``x`` ``(n, *event)``, detached: each is evaluated once."""
        start, start_score = _ask(self.start, x, with_score)
        if self.rest is None:
            zero = None if start_score is None else torch.zeros_like(start_score)
            return Parts(x, start, torch.zeros_like(start), start_score, zero)
        rest, rest_score = _ask(self.rest, x, with_score)
        return Parts(x, start, rest, start_score, rest_score)

    def log_density(self, parts: Parts, temperature: float) -> Tensor:
        """log γ_t: ``(n,)``."""
        start = _weighted(self._start_weight(temperature), parts.start)
        rest = _weighted(temperature, parts.rest)
        is_excluded = (start == -torch.inf) | (rest == -torch.inf)
        return (start + rest).masked_fill(is_excluded, -torch.inf)

    def score(self, parts: Parts, temperature: float) -> Tensor:
        """∇ log γ_t: ``(n, *event)``. Raises PoeError where the parts have no scores."""
        if parts.start_score is None or parts.rest_score is None:
            raise PoeError("expected parts with scores, got none: evaluate(x, with_score=True)")
        start = _weighted(self._start_weight(temperature), parts.start_score)
        return start + _weighted(temperature, parts.rest_score)

    def tilt(self, parts: Parts) -> Tensor:
        """d/dt log γ_t, which all weights are made of, in float64: ``(n,)``."""
        start = _weighted(self.exponent - 1.0, parts.start.double())
        return start + parts.rest.double()

    def _start_weight(self, temperature: float) -> float:
        return 1.0 - temperature + self.exponent * temperature


def _weighted(weight: float, values: Tensor) -> Tensor:
    """Without a say for weight 0, even where the value is infinite."""
    return torch.zeros_like(values) if weight == 0.0 else weight * values


def _ask(density: Density, x: Tensor, with_score: bool) -> tuple[Tensor, Tensor | None]:
    if with_score:
        return density.log_density_and_score(x)
    with torch.no_grad():
        return density.log_density(x), None


def geometric_path(
    start: Expert, target: Expert, coordinates: Coordinates | None = None
) -> GeometricPath:
    """The path from ``start`` to ``target``, in unconstrained coordinates where these are given.

    A factor of the target is recognised by being the same object, under any powers. Where the
    coordinates have a Jacobian, the path is between the two densities as they are.
    """
    if coordinates is not None and not coordinates.is_identity:
        return GeometricPath(coordinates.pull(start), coordinates.pull(target))
    exponent, rest = 0.0, []
    for _, factor in target._factors():
        power, expert = _unwrapped(factor)
        if expert is start:
            exponent += power
        else:
            rest.append(factor)
    if exponent == 0.0:
        return GeometricPath(start, target)
    if not rest:
        return GeometricPath(start, None, exponent)
    return GeometricPath(start, rest[0] if len(rest) == 1 else Product(*rest), exponent)


def _unwrapped(factor: Expert) -> tuple[float, Expert]:
    power = 1.0
    while isinstance(factor, Tempered):
        power, factor = power * factor.exponent.item(), factor.expert
    return power, factor


class Level:
    """γ_t of a path as a density for kernels, which remembers what the parts said last.

    A kernel keeps the log-density of the position that it ends at. Another temperature needs its
    parts, which the kernel has asked for already: with them at hand a level costs no evaluation
    but those of the moves.

    - ``known``: parts to answer the first question with, where it is about their positions.
    """

    def __init__(self, path: GeometricPath, temperature: float, known: Parts | None = None) -> None:
        self.path, self.temperature = path, temperature
        self.known, self.latest = known, known
        self.num_evaluations = 0

    def log_density(self, x: Tensor) -> Tensor:
        """log γ_t(x): ``(chains, *event) -> (chains,)``."""
        return self.path.log_density(self._parts_at(x, with_score=False), self.temperature)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log γ_t(x) and its gradient."""
        parts = self._parts_at(x, with_score=True)
        return (
            self.path.log_density(parts, self.temperature),
            self.path.score(parts, self.temperature),
        )

    def follow(self, current: Parts, is_accepted: Tensor, position: Tensor) -> Parts:
        """The parts at the positions to which a kernel has moved the chains.

        A chain that accepted is where the kernel asked last, the others are where they were. Of a
        kernel for which that is not so, the positions are evaluated anew.
        """
        latest = self.latest
        if latest is not None and latest.position.shape == position.shape:
            followed = latest.where(is_accepted, current)
            if _is_same_place(followed.position, position):
                return followed
        self.num_evaluations += len(position)
        return self.path.evaluate(position, with_score=current.start_score is not None)

    def _parts_at(self, x: Tensor, with_score: bool) -> Parts:
        known, self.known = self.known, None
        if known is not None and _is_same_place(known.position, x):
            return known
        self.num_evaluations += len(x)
        self.latest = self.path.evaluate(x, with_score)
        return self.latest


def _is_same_place(one: Tensor, other: Tensor) -> bool:
    """Whether positions are equal up to what a change of coordinates and back does to them."""
    if one.shape != other.shape:
        return False
    scale = one.abs().amax().item() if one.numel() else 0.0
    tolerance = SAME_PLACE * torch.finfo(one.dtype).eps * scale if one.is_floating_point() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=tolerance)
