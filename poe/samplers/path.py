"""The geometric path between two densities, both of which are evaluated once at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.expert import Expert, Product, is_power
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.kernel import Density, Kernel, is_low
from poe.samplers.questions import needs_score, says_whether_it_needs_score

SAME_PLACE = 100.0
"""Positions that differ by this many units of rounding went through a change of coordinates."""


@checked
def geometric_ladder(
    target: Expert, start: Expert, exponents: Sequence[float]
) -> tuple[Expert, ...]:
    """The experts start^(1 − β) target^β, one for each exponent β.

    Args:
        target: The density at β = 1.
        start: The density at β = 0, on the same space.
        exponents: β, in any order.

    Returns:
        As many experts.

    Example:
        >>> import poe
        >>> broad, sharp = (
        ...     poe.FromLogDensity(lambda x, p=p: -p * x.square().sum(-1), space=poe.Real(1))
        ...     for p in (1.0, 9.0)
        ... )
        >>> ladder = geometric_ladder(sharp, broad, (0.0, 0.5, 1.0))
        >>> [level(torch.ones(1)).item() for level in ladder]
        [-1.0, -5.0, -9.0]
    """
    return tuple(start ** (1.0 - exponent) * target**exponent for exponent in exponents)


class Parts(NamedTuple):
    """What both parts of a path say at some positions: enough for every temperature.

    Shapes: position ``(rows, *event)``; of start and rest, log_density ``(2, rows)`` and score
    ``(2, rows, *event)``, one-hot ``(2, rows, *event, k)``, or ``(2, rows, 0)`` where no gradient
    was asked for.
    """

    position: Tensor
    log_density: Tensor
    score: Tensor

    @property
    def has_score(self) -> bool:
        """Whether the gradients were asked for."""
        event = self.position.shape[1:]
        is_empty = self.score.shape[2:] == (0,) != event
        return not is_empty and self.score.shape[2 : 2 + len(event)] == event

    def at(self, rows: Tensor | slice) -> Parts:
        """Those of some rows."""
        return Parts(self.position[rows], self.log_density[:, rows], self.score[:, rows])

    def where(self, mask: Tensor, other: Parts) -> Parts:
        """These where the mask ``(rows,)`` is true, else the others'; scores if both have."""
        position = torch.where(_trailing(mask, self.position.ndim), self.position, other.position)
        log_density = torch.where(mask, self.log_density, other.log_density)
        if self.has_score and other.has_score:
            score = torch.where(_trailing(mask, self.score.ndim - 1), self.score, other.score)
        else:
            score = log_density.new_empty((*log_density.shape, 0))
        return Parts(position, log_density, score)


def _trailing(mask: Tensor, ndim: int) -> Tensor:
    return mask.reshape(-1, *([1] * (ndim - 1)))


def join_parts(series: Sequence[Parts]) -> Parts:
    """The rows of each, one after the other."""
    position, *others = zip(*series, strict=True)
    return Parts(torch.cat(position), *(torch.cat(column, 1) for column in others))


def stack_parts(series: Sequence[Parts]) -> Parts:
    """Several positions of the same n chains in one: ``(n * len(series), ...)``, chain by chain."""
    position, *others = zip(*series, strict=True)
    columns = (torch.stack(column, 2).flatten(1, 2) for column in others)
    return Parts(torch.stack(position, 1).flatten(0, 1), *columns)


@dataclass(frozen=True, eq=False)
class GeometricPath:
    """log γ_t = (1 − t) log p₀ + t log p̃, from p₀ at t = 0 to p̃ at t = 1.

    Written as (1 − t + w t) log p₀ + t log r for p̃ = p₀^w r: where p₀ is a factor of p̃, as the
    prior of a posterior is, it is not evaluated twice, and with w = 1 only the rest is tempered.
    A density of 0 excludes x at every t where it has a say; with exponent 0 it has none, even where
    it is infinite or NaN. A temperature t is a number, or one for each row: ``(rows,)``.

    Args:
        start: p₀.
        rest: r; None where p̃ is a power of p₀.
        exponent: w.

    References:
        Gelman & Meng (1998), Simulating normalizing constants, section 2.1,
        doi:10.1214/ss/1028905934; Neal (2001), Annealed importance sampling, eq. 3,
        arXiv:physics/9803008.

    Example:
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
    raised: Raised | None = None
    """Where errors of both are kept, if they are asked as `Guarded`."""

    @cached_property
    def asked(self) -> tuple[Density, Density | None]:
        """Both parts, as they are asked."""
        return self._guarded(self.start), None if self.rest is None else self._guarded(self.rest)

    def _guarded(self, part: Density) -> Density:
        is_bare = self.raised is not None and isinstance(part, Expert)
        return Guarded(part, self.raised) if is_bare else part  # type: ignore[arg-type]

    def evaluate(self, x: Tensor, with_score: bool = True) -> Parts:
        """Both parts at ``x`` ``(rows, *event)``, detached: each is evaluated once."""
        start, rest = self.asked
        answers = [_ask(start, x, with_score)]
        if rest is None:
            answers.append(tuple(map(torch.zeros_like, answers[0])))  # type: ignore[arg-type]
        else:
            answers.append(_ask(rest, x, with_score))
        log_density, score = zip(*answers, strict=True)
        # A copy of the position, which a kernel cannot change.
        return Parts(x.clone(), torch.stack(log_density), torch.stack(score))

    def log_density(self, parts: Parts, temperature: Tensor | float) -> Tensor:
        """log γ_t: ``(rows,)``."""
        weighted = self._weighted(parts.log_density, temperature)
        is_excluded = (weighted == -torch.inf).any(0)
        return weighted.sum(0).masked_fill(is_excluded, -torch.inf)

    def score(self, parts: Parts, temperature: Tensor | float) -> Tensor:
        """∇ log γ_t: ``(rows, *event)``. Raises PoeError where the parts have no scores."""
        if not parts.has_score:
            raise PoeError("expected parts with scores, got none: evaluate(x, with_score=True)")
        return self._weighted(parts.score, temperature).sum(0)

    def at(self, temperature: float) -> Expert:
        """γ_t as an expert, which says what it is made of. Its ends are experts."""
        assert isinstance(self.start, Expert)
        start = self.start ** (1.0 + (self.exponent - 1.0) * temperature)
        if self.rest is None:
            return start
        assert isinstance(self.rest, Expert)
        return Product(start, self.rest**temperature)

    def tilt(self, parts: Parts) -> Tensor:
        """d/dt log γ_t, which all weights are made of, in float64: ``(rows,)``.

        A position that is not finite has no weight.
        """
        start, rest = parts.log_density.double()
        tilt = rest if self.exponent == 1.0 else (self.exponent - 1.0) * start + rest
        is_nowhere = is_low(parts.log_density) & (parts.log_density > -torch.inf)
        return tilt.masked_fill(is_nowhere.any(0), -torch.inf)

    def _weighted(self, values: Tensor, temperature: Tensor | float) -> Tensor:
        """Without a say for weight 0."""
        if not isinstance(temperature, Tensor):
            temperature = values.new_full((1,), temperature)
        weights = torch.stack([1.0 + (self.exponent - 1.0) * temperature, temperature])
        weights = weights.reshape(*weights.shape, *([1] * (values.ndim - 2)))
        return (weights * values).masked_fill(weights == 0, 0.0)


def _ask(density: Density, x: Tensor, with_score: bool) -> tuple[Tensor, Tensor]:
    if with_score:
        return density.log_density_and_score(x)
    with torch.no_grad():
        log_density = density.log_density(x)
    return log_density, log_density.new_empty((len(x), 0))


def geometric_path(start: Expert, target: Expert, raised: Raised | None = None) -> GeometricPath:
    """The path from ``start`` to ``target``, whose errors at some positions are kept in ``raised``.

    A factor of the target is recognised by being the same object, under any powers.
    """
    exponent, rest = 0.0, []
    for _, factor in target._factors():
        power, expert = _unwrapped(factor)
        if expert is start:
            exponent += power
        else:
            rest.append(factor)
    if exponent == 0.0:
        return GeometricPath(start, target, raised=raised)
    if not rest:
        return GeometricPath(start, None, exponent, raised)
    return GeometricPath(start, rest[0] if len(rest) == 1 else Product(*rest), exponent, raised)


def _unwrapped(factor: Expert) -> tuple[float, Expert]:
    power = 1.0
    while is_power(factor):
        power, factor = power * factor.exponent.item(), factor.expert
    return power, factor


@dataclass(frozen=True, eq=False)
class Known:
    """γ_t at positions where the parts are at hand.

    A kernel that starts there evaluates nothing, save for a score that nobody has asked for yet.
    It answers every question as one about the positions of ``parts``.
    """

    path: GeometricPath
    parts: Parts
    temperature: Tensor | float

    def log_density(self, x: Tensor) -> Tensor:
        """log γ_t: ``(rows,)``."""
        return self.path.log_density(self.parts, self.temperature)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log γ_t and its gradient."""
        parts = self.parts if self.parts.has_score else self.path.evaluate(self.parts.position)
        return self.log_density(x), self.path.score(parts, self.temperature)


class Level:
    """γ_t of a path as a density for kernels, which remembers what the parts said last.

    A kernel keeps the log-density of the position that it ends at. Another temperature needs its
    parts, which the kernel has asked for already: a level costs no evaluation but those of the
    moves. ``temperature`` is a number, or one for each row; a kernel that asks for m positions of
    each row at once has them one row after the other.
    """

    def __init__(self, path: GeometricPath, temperature: Tensor | float) -> None:
        self.path, self.temperature = path, temperature
        self.latest: Parts | None = None
        self.num_evaluations = 0
        """Of positions."""

    def log_density(self, x: Tensor) -> Tensor:
        """log γ_t(x): ``(rows, *event) -> (rows,)``."""
        return Known(self.path, self.evaluate(x, False), self._temperatures(x)).log_density(x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log γ_t(x) and its gradient."""
        known = Known(self.path, self.evaluate(x), self._temperatures(x))
        return known.log_density_and_score(x)

    def _temperatures(self, x: Tensor) -> Tensor | float:
        """That of each position: ``(len(x),)``, or one for all."""
        if not isinstance(self.temperature, Tensor) or self.temperature.ndim == 0:
            return self.temperature
        return self.temperature.repeat_interleave(len(x) // len(self.temperature))

    def known(self, parts: Parts) -> Known:
        """This density where the parts are at hand."""
        return Known(self.path, parts, self.temperature)

    def evaluate(self, x: Tensor, with_score: bool = True) -> Parts:
        """The parts at ``x``, counted and remembered."""
        self.num_evaluations += len(x)
        self.latest = self.path.evaluate(x, with_score)
        return self.latest

    def take_count(self) -> int:
        """The evaluations since this was asked last."""
        count, self.num_evaluations = self.num_evaluations, 0
        return count

    def parts_at(self, x: Tensor) -> Parts:
        """The parts at ``x``, where a kernel has just begun: mostly what it asked for there."""
        latest = self.latest
        if latest is None or latest.position.shape != x.shape:
            return self.evaluate(x)
        is_there = x.is_meta or bool(_is_same_place(latest.position, x).all())
        return latest if is_there else self.evaluate(x, latest.has_score)

    def follow(self, current: Parts, is_accepted: Tensor, position: Tensor) -> Parts:
        """The parts at the positions to which a kernel has moved the chains.

        A chain that accepted is where the kernel asked last, the others are where they were. Of a
        chain for which that is not so they are NaN: a decision on the host would hold up a device.
        """
        followed, is_there = self._followed(current, is_accepted, position)
        unknown = (torch.full_like(part, torch.nan) for part in followed[1:])
        return followed.where(is_there, Parts(position, *unknown))

    def follow_or_evaluate(self, current: Parts, is_accepted: Tensor, position: Tensor) -> Parts:
        """The same, where the positions are evaluated anew if a chain is anywhere else."""
        followed, is_there = self._followed(current, is_accepted, position)
        return followed if is_there.all() else self.evaluate(position, current.has_score)

    def _followed(
        self, current: Parts, is_accepted: Tensor, position: Tensor
    ) -> tuple[Parts, Tensor]:
        """What a kernel would have left, and whether each chain is there."""
        latest = self.latest
        if latest is None or latest.position.shape != position.shape:
            latest = current
        followed = latest.where(is_accepted, current)
        return followed, _is_same_place(followed.position, position)


def starts_by_score(kernel: Kernel, path: GeometricPath, x: Tensor) -> bool:
    """Whether the kernel's start at ``x``, draws of the path's start, asks for scores.

    As it says; of one that does not say, what it asks for there is seen.
    """
    if says_whether_it_needs_score(kernel):
        return needs_score(kernel)
    level = Level(path, 0.0)
    kernel.init(level, x)
    return level.latest is not None and level.latest.has_score


def _is_same_place(one: Tensor, other: Tensor) -> Tensor:
    """Whether rows are equal up to what a change of coordinates and back does to them: ``(rows,)``.

    Its rounding is that of the largest position, since a map adds and takes away its centre.
    """
    if not one.is_floating_point() or one.numel() == 0:
        return (one == other).reshape(len(one), -1).all(1)
    scale = other.abs().masked_fill(~other.isfinite(), 0.0).amax()
    tolerance = SAME_PLACE * torch.finfo(one.dtype).eps * scale
    return ((one - other).abs() <= tolerance).reshape(len(one), -1).all(1)
