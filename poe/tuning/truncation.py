"""Densities on counts as tables: where nearly all of the mass is, and at most how much is beyond.

What is known of how a density falls off is what it shows: between the counts at which it is asked
it is taken to be monotone, and beyond the last of them not to fall off more slowly with every
doubling than it did at the last. So a power law's tail is bounded, and a geometric one's all the
more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.core.errors import NonFiniteError, PoeError
from poe.core.randomness import resolve
from poe.core.space import Count
from poe.density.checks import number_like
from poe.density.conditional import is_batch
from poe.density.expert import Expert, Sampler, Wrapper, sampler_of
from poe.density.trials import (
    require_evaluation_mode,
    require_function,
    require_no_batch_statistics,
)
from poe.samplers.guarded import Guarded, Raised
from poe.structure.elements import InFloat64, element_log_density

LARGEST = 2**24
"""The last count that float32 tells from the next: nothing is asked beyond."""
DENSE, SPACING = 256, 0.25
"""Up to here every count is asked, beyond one every quarter of a unit of its square root, which is
half of a Poisson's standard deviation."""
MAX_PEAKS = 16
MAX_STATES = 2**22
"""The most numbers of a table."""
ROWS_AT_ONCE = 2**14
LEFT_OUT = 1e-13
"""So much of the mass may lie beyond a table on each side, where it need not be larger for that."""
FEW_DIMENSIONS = 3
"""In so many, a table is made of elements that depend on each other."""
TOO_MUCH = 0.01
"""Where more than this share of the mass may lie beyond it, a table is no answer."""
NEGLIGIBLE = 1e-9
"""Draws from a table that leaves out no more than this are exact, for all that can be told."""
POINTS = {2: 1.2, 3: 1.6}
"""The ratio of counts at which a density of so many dimensions is asked first."""
MODES = 64
HEIGHT = 40.0
"""Summits lower than the highest by more nats than this have no mass to speak of."""


class Mass(NamedTuple):
    """log Z of a table, with the middle of what may lie beyond, and bounds on it: ``()`` each."""

    value: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def std_error(self) -> Tensor:
        """Half of what is not known; 0 where that is less than rounding."""
        return 0.5 * (self.upper - self.lower)


class Table(NamedTuple):
    """The log-density of counts from ``low`` on, box by box: blocks that are independent.

    Shapes: low ``(n,)``; log_density ``(w, n)``, a column for each element, −inf beyond its last
    count; or where the elements depend on each other ``(w₁, …, w_n)``, the density of all of them.
    ``log_beyond`` ``(2, blocks)``: least and most of what lies beyond.
    """

    low: Tensor
    log_density: Tensor
    log_beyond: Tensor
    are_independent: bool
    num_evaluations: int

    @property
    def _columns(self) -> Tensor:
        """``(states, blocks)``."""
        return self.log_density if self.are_independent else self.log_density.reshape(-1, 1)

    @property
    def num_states(self) -> int:
        """How many numbers it has."""
        return self.log_density.numel()

    @property
    def highest(self) -> int:
        """The largest count in it."""
        if self.are_independent:
            inside = (self.log_density > -torch.inf).int()
            places = torch.arange(len(inside), device=inside.device)[:, None]
            return int((self.low + (inside * places).amax(0)).amax())
        return int((self.low + torch.tensor(self.log_density.shape).to(self.low) - 1).amax())

    def mass(self) -> Mass:
        """log Z, the sum over all."""
        inside = self._columns.logsumexp(0)
        least, most = (torch.logaddexp(inside, beyond) for beyond in self.log_beyond)
        middle = torch.logaddexp(least, most) - math.log(2)
        return Mass(middle.sum(), least.sum(), most.sum())

    def left_out(self) -> float:
        """The share of the mass that may lie beyond, of all elements together."""
        shares = self.log_beyond[1] - self._columns.logsumexp(0)
        return float(shares.exp().sum())

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Independent draws by inversion: ``(num_samples, n)``, float64."""
        columns = self._columns
        below = columns.softmax(0).cumsum(0).mT.contiguous()
        shape = (len(below), num_samples)
        u = torch.rand(shape, dtype=below.dtype, device=below.device, generator=generator)
        place = torch.searchsorted(below, u * below[:, -1:], right=True)
        place = place.clamp(max=len(columns) - 1)
        if self.are_independent:
            return (self.low[:, None] + place).mT.double()
        indices = torch.unravel_index(place[0], self.log_density.shape)
        return (self.low + torch.stack(indices, 1)).double()


class Tabulated(Wrapper):
    """A density on counts with its table, from which draws are made.

    Args:
        expert: The density.
        table: Of it.
    """

    def __init__(self, expert: Expert, table: Table) -> None:
        super().__init__()
        self.space, self.expert, self.table = expert.space, expert, table
        self.like = number_like(expert)

    def inner(self) -> Expert:
        """The density."""
        return self.expert

    def forward(self, x: Tensor) -> Tensor:
        return self.expert(x)

    def draw(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws, ``(num_samples, *event)``."""
        x = self.table.draw(num_samples, resolve(generator, self.like.device))
        return x.to(self.like.dtype).reshape(num_samples, *self.space.event_shape)

    @property
    def why(self) -> str:
        """In words, how draws are made."""
        return (
            f"from a table of {self.table.num_states} states, up to a count of "
            f"{self.table.highest}: what lies beyond has at most {self.table.left_out():.0e} of "
            "the mass"
        )


@sampler_of.register
def _(expert: Tabulated) -> Sampler | None:
    return expert.draw


def tabulated(target: Expert) -> Tabulated | None:
    """A target on counts with a table that leaves out next to nothing; None where there is none.

    Args:
        target: p̃.

    Returns:
        What can be sampled exactly, for all that can be told.

    Raises:
        NonFiniteError: Where its log-density is NaN or +inf where its mass is.

    Example:
        >>> found = tabulated(experts.Poisson([3.0]) * experts.Poisson([5.0]))
        >>> found.draw(2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1])
        >>> round(float(found.table.mass().value), 6)  # −8 + log I₀(2 √15)
        -2.179199
    """
    table = table_of(target, Raised())
    if table is None or not table.left_out() <= NEGLIGIBLE:
        return None
    return Tabulated(target, table)


@torch.no_grad()
def table_of(target: Expert, raised: Raised) -> Table | None:
    """The table of a target on counts; None elsewhere, and where it would be too large.

    Args:
        target: p̃.
        raised: Where errors at some counts are kept, which have no probability.

    Returns:
        Of each element where they are independent, in any number, or of up to three together.

    Raises:
        NonFiniteError: Where its log-density is NaN or +inf where its mass is.
        PoeError: Where it is another than its elements' own add up to; for one that is random.
    """
    like = number_like(target)
    if not isinstance(target.space, Count) or is_batch(target) or like.is_meta:
        return None
    size = target.space.event_shape.numel()
    f = element_log_density(target)
    if f is None and size > FEW_DIMENSIONS:
        return None
    asked = _Asked(Guarded(InFloat64(target), raised), like)
    if f is not None:
        of_elements = f
        shape = target.space.event_shape

        def own(x: Tensor) -> Tensor:
            return of_elements(x.to(like.device).reshape(-1, *shape)).reshape(x.shape)

        found = _of_elements(own, size, like.device, asked)
        _require_same(target, own, found)
        return found if found.left_out() <= TOO_MUCH else None
    require_evaluation_mode(target)
    require_no_batch_statistics(target)
    asked.find_largest(size)
    together = _of_one(asked) if size == 1 else _of_few(asked, size)
    if together is None or not together.left_out() <= TOO_MUCH:
        return None
    _require_function(target, together)
    return together


@torch.no_grad()
def summit_doubts(target: Expert) -> tuple[Doubt, ...]:
    """On a few counts: whether summits are so far apart that no table holds them, nor chains meet.

    Args:
        target: p̃, of which no table was made.

    Returns:
        One doubt, or none.
    """
    size, like = target.space.event_shape.numel(), number_like(target)
    is_tried = isinstance(target.space, Count) and 1 < size <= FEW_DIMENSIONS
    if not is_tried or is_batch(target) or element_log_density(target) is not None:
        return ()
    asked = _Asked(Guarded(InFloat64(target), Raised()), like)
    asked.find_largest(size)
    modes = _modes(asked, size)
    if not bool(asked(modes).isfinite().all()) or _around(modes).num_states <= MAX_STATES:
        return ()
    highest, farthest = modes[0], modes[(modes - modes[0]).abs().sum(1).argmax()]
    text = (
        f"it has summits at {highest.tolist()} and at {farthest.tolist()}, farther apart than "
        "chains or particles go: one of them may be missing"
    )
    return (Doubt(Kind.UNSEEN, text),)


@dataclass
class _Asked:
    """A target as it is asked for tables: rows ``(m, n)`` of counts to float64 ``(m,)``."""

    target: Guarded
    like: Tensor
    num_evaluations: int = 0
    largest: int = LARGEST
    """Where it raises an error at a power of 2, as a list of few values does, no further."""

    def __call__(self, x: Tensor) -> Tensor:
        self.num_evaluations += len(x)
        shape = self.target.space.event_shape
        rows = x.to(self.like).reshape(-1, *shape)
        return torch.cat([self.target(part).double() for part in rows.split(ROWS_AT_ONCE)])

    def find_largest(self, size: int) -> None:
        """Ask at 0 and powers of 2, one by one, until one raises an error."""
        self(torch.zeros((1, size), device=self.like.device))
        for power in range(24):
            before = self.target.raised.count
            self(torch.full((1, size), 2.0**power, device=self.like.device))
            if self.target.raised.count > before:
                self.largest = 2**power
                return


def _require_same(target: Expert, f: Callable[[Tensor], Tensor], table: Table) -> None:
    """Refuse elements' log-densities that are not those of the target."""
    like = number_like(target)
    x = table.draw(4, torch.Generator(table.low.device).manual_seed(0))
    value, said = target(x.to(like).reshape(-1, *target.space.event_shape)), f(x).sum(1)
    size = 1 + f(x).abs().sum(1) + torch.lgamma(x + 1).sum(1)
    if bool(((value - said).abs() > torch.finfo(like.dtype).eps ** 0.5 * size).any()):
        raise PoeError(
            f"expected the log-density of {type(target).__name__} to be the sum of its elements' "
            f"own, got {value[0].item():g} and {said[0].item():g}"
        )


def _require_function(target: Expert, table: Table) -> None:
    """Refuse a log-density that is random, or goes by what other rows are."""
    x = Tabulated(target, table).draw(8, generator=torch.Generator(table.low.device))
    tried = partial(Guarded, raised=Raised())
    require_function(target, tried(target), tried, x)


def _require_finite(value: Tensor, target: Guarded) -> None:
    if bool((value.isnan() | value.isposinf()).any()):
        raise NonFiniteError(
            f"expected a log-density that is a number, got NaN or +inf on {target.space} where its "
            "mass is"
        )


# Elements that are independent, each with a column


def _of_elements(
    f: Callable[[Tensor], Tensor], size: int, device: torch.device, asked: _Asked
) -> Table:
    """Of fᵢ(xᵢ), ``(m, n)`` each: columns from where the mass begins to where it ends."""
    x, value = _nodes(f, size, device, asked.largest)
    cells = (x.diff(dim=0)).log() + torch.maximum(value[1:], value[:-1])
    least = (x.diff(dim=0)).log() + torch.minimum(value[1:], value[:-1])
    nothing = torch.full_like(cells[:1], -torch.inf)
    before = torch.cat([nothing, cells.logcumsumexp(0)])
    after = torch.cat([_beyond(x, value)[None], cells.flip(0)]).logcumsumexp(0).flip(0)
    limit = value.amax(0) + math.log(LEFT_OUT)
    first = ((before <= limit).sum(0) - 1).clamp(min=0)
    last = (after > limit).sum(0).clamp(max=len(x) - 1)
    low = x.gather(0, first[None])[0]
    # Where a tail is heavy the table ends before it: what is left is bounded cell by cell.
    reach = (x <= low + MAX_STATES // size - 1).sum(0) - 1
    last = torch.minimum(last, reach)
    width = int((x.gather(0, last[None])[0] - low).amax()) + 1
    rows = low + torch.arange(width, device=device)[:, None]
    is_inside = rows <= x.gather(0, last[None])[0]
    table = torch.where(is_inside, _in_parts(f, rows), -torch.inf)
    _require_finite(table, asked.target)
    fewest = torch.cat([least.flip(0).logcumsumexp(0).flip(0), nothing])
    # A cell begins with a count that the table has.
    beyond = torch.stack([fewest.gather(0, last[None])[0], after.gather(0, last[None])[0]])
    lost = before.gather(0, first[None])[0]
    most = torch.logaddexp(beyond[1], lost)
    low = low.long()
    return Table(low, table, torch.stack([beyond[0], most]), True, asked.num_evaluations)


def _of_one(asked: _Asked) -> Table:
    return _of_elements(lambda x: asked(x)[:, None], 1, asked.like.device, asked)


def _nodes(
    f: Callable[[Tensor], Tensor], size: int, device: torch.device, largest: int
) -> tuple[Tensor, Tensor]:
    """Counts, ever wider apart, with the summits near them, and the log-densities there: (m, n).

    Of many elements, which are of families that are smooth, fewer.
    """
    spacing = min(2.0, SPACING * size**0.5)
    roots = torch.arange(DENSE**0.5, LARGEST**0.5 + spacing, spacing, dtype=torch.float64)
    counts = torch.cat([torch.arange(DENSE, dtype=torch.float64), roots.square().floor()])
    grid = counts.clamp(max=largest).unique().to(device)
    x = grid[:, None].expand(-1, size)
    value = _known(_in_parts(f, x))
    peaks = _summits(f, x, value)
    x, order = torch.cat([x, peaks]).sort(0)
    return x, torch.cat([value, _known(f(peaks))]).gather(0, order)


def _known(value: Tensor) -> Tensor:
    """−inf where it is no number: whether that is where the mass is, the table will tell."""
    return value.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _summits(f: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> Tensor:
    """Where climbing leads from the largest of the local maxima: ``(peaks, n)``."""
    lowest = torch.full_like(value[:1], -torch.inf)
    ahead, behind = torch.cat([value[1:], lowest]), torch.cat([lowest, value[:-1]])
    height = value.masked_fill((value < ahead) | (value < behind), -torch.inf)
    place = height.topk(min(MAX_PEAKS, len(x)), 0).indices
    at, last = x.gather(0, place), len(x) - 1
    reach = x.gather(0, (place + 1).clamp(max=last)) - x.gather(0, (place - 1).clamp(min=0))
    best = _known(f(at))
    for stride in reversed([2.0**k for k in range(12)]):
        for step in (stride, -stride):
            other = torch.minimum((at + step).clamp(min=0), x[-1])
            found = _known(f(other))
            is_better = (found > best) & (stride <= reach)
            at, best = torch.where(is_better, other, at), torch.where(is_better, found, best)
    return at


def _beyond(x: Tensor, value: Tensor) -> Tensor:
    """log of the most that lies beyond the last node, ``(n,)``; +inf where it may be anything.

    Doubling N takes off at least Δ = log p̃(N / 2) − log p̃(N), again and again: what lies beyond
    is at most Σ_k 2^k N p̃(N) e^(−k Δ).
    """
    if float(x[-1, 0]) < LARGEST:  # beyond it raises errors
        return torch.full_like(value[-1], -torch.inf)
    middle = int((x[:, 0] <= LARGEST // 2).sum()) - 1
    return log_tail(x[-1].log(), value[-1], value[middle] - value[-1])


def log_tail(log_distance: Tensor, last: Tensor, fall: Tensor) -> Tensor:
    """log(N p̃(N) / (1 − 2 e^(−Δ))), −inf where the last is, +inf where Δ ≤ log 2: as each of them.

    >>> log_tail(torch.tensor(4.0).log(), torch.tensor(-3.0), torch.tensor([1.0, 0.5]))
    tensor([-0.2828,     inf])
    """
    excess = fall - math.log(2)
    bounded = log_distance + last - torch.log1p(-(-excess).exp())
    bounded = torch.where(excess > 0, bounded, torch.inf)
    return torch.where(last == -torch.inf, last, bounded)


def _in_parts(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([f(part) for part in x.split(max(1, 2**20 // x.shape[1]))])


# A few elements that depend on each other, in a box


class _Box(NamedTuple):
    """Counts from ``low`` to ``high``, both ``(n,)``, around ``centre``: the highest summit."""

    low: Tensor
    high: Tensor
    centre: Tensor

    @property
    def num_states(self) -> float:
        return float((self.high - self.low + 1).double().prod())


def _of_few(asked: _Asked, size: int) -> Table | None:
    """A box that grows from the summits until what lies beyond its faces is nothing to speak of."""
    box, found = _around(_modes(asked, size)), None
    while box.num_states <= MAX_STATES:
        value = _table(asked, box)
        faces = _faces(value, box)
        found = Table(box.low, value, _of_faces(faces), False, asked.num_evaluations)
        limit = value.logsumexp(tuple(range(size))) + math.log(LEFT_OUT)
        low, high = (face > limit for face in faces)
        if not bool((low | high).any()):
            break
        box = _grown(box, low, high)
    return found


def _of_faces(faces: Tensor) -> Tensor:
    """Between nothing and all of it: ``(2, 1)``."""
    most = faces.flatten().logsumexp(0)
    return torch.stack([torch.full_like(most, -torch.inf), most])[:, None]


def _modes(asked: _Asked, size: int) -> Tensor:
    """Summits that climbing reaches from counts of all sizes: ``(m, n)``, the highest first."""
    ratio = POINTS[size]
    counts = ratio ** torch.arange(math.log(LARGEST) / math.log(ratio), dtype=torch.float64)
    axis = torch.cat([torch.zeros(1), counts.floor().clamp(max=asked.largest)]).double()
    axis = axis.unique().to(asked.like.device)
    grid = torch.cartesian_prod(*[axis] * size)
    value = _known(asked(grid))
    at = grid[value.topk(min(MODES, len(value))).indices]
    peaks = _local_maxima(value.reshape([len(axis)] * size))
    at = torch.cat([at, grid[peaks[:MODES]]])
    best, reach = _known(asked(at)), (ratio - 1 / ratio) * at + 2
    for stride in reversed([2.0**k for k in range(23)]):
        for place in range(size):
            # Farther than to the next ones asked it would leave a summit for a higher one.
            step = stride * (stride <= reach[:, place])
            at, best = _climbed(asked, at, best, step, place)
    is_high = best >= best.max() - HEIGHT
    return at[is_high][best[is_high].argsort(descending=True)]


def _local_maxima(value: Tensor) -> Tensor:
    """The places of those along all axes, the highest first: flat indices."""
    is_peak = value > -torch.inf
    for axis in range(value.ndim):
        gain = value.diff(dim=axis).nan_to_num(nan=0.0)
        ends = torch.zeros_like(value.narrow(axis, 0, 1))
        is_peak = is_peak & (torch.cat([ends, gain], axis) >= 0)
        is_peak = is_peak & (torch.cat([gain, ends], axis) <= 0)
    places = is_peak.flatten().nonzero().flatten()
    return places[value.flatten()[places].argsort(descending=True)]


def _climbed(
    asked: _Asked, at: Tensor, best: Tensor, step: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """A step ``(m,)`` along an axis where that is higher, and again, either way."""
    for signed in (step, step, -step, -step):
        moved = at[:, axis] + signed
        other = at.index_copy(1, torch.tensor([axis], device=at.device), moved[:, None])
        other = other.clamp(0, asked.largest)
        found = _known(asked(other))
        is_better = found > best
        at = torch.where(is_better[:, None], other, at)
        best = torch.where(is_better, found, best)
    return at, best


def _around(modes: Tensor) -> _Box:
    at = modes.long()
    return _Box((at.amin(0) - 8).clamp(min=0), at.amax(0) + 8, at[0])


def _grown(box: _Box, low: Tensor, high: Tensor) -> _Box:
    """Faces that hold too much moved half as far again from the centre."""
    below, above = (box.centre - box.low).double(), (box.high - box.centre).double()
    further = [(side * 1.5).ceil().long() + 4 for side in (below, above)]
    return box._replace(
        low=torch.where(low, (box.centre - further[0]).clamp(min=0), box.low),
        high=torch.where(high, box.centre + further[1], box.high),
    )


def _table(asked: _Asked, box: _Box) -> Tensor:
    """log p̃ in all of the box: ``(w₁, …, w_n)``."""
    sizes = (box.high - box.low + 1).tolist()
    count, parts = math.prod(sizes), []
    for first in range(0, count, 2**18):
        place = torch.arange(first, min(first + 2**18, count), device=box.low.device)
        indices = torch.unravel_index(place, sizes)
        parts.append(asked(box.low + torch.stack(indices, 1)))
    value = torch.cat(parts)
    _require_finite(value, asked.target)
    return value.reshape(sizes)


def _faces(value: Tensor, box: _Box) -> Tensor:
    """log of the most that lies beyond each face, low and high: ``(2, n)``."""
    faces = torch.full((2, value.ndim), -torch.inf, dtype=value.dtype, device=value.device)
    for axis in range(value.ndim):
        others = [other for other in range(value.ndim) if other != axis]
        marginal = value.logsumexp(others)
        centre = int(box.centre[axis] - box.low[axis])
        faces[1, axis] = _beyond_face(marginal[centre:])
        if int(box.low[axis]) > 0:
            faces[0, axis] = _beyond_face(marginal[: centre + 1].flip(0))
    return faces


def _beyond_face(marginal: Tensor) -> Tensor:
    """Of a marginal from the centre outwards; the largest of its last values, lest one be 0."""
    distance = len(marginal) - 1
    few = max(1, distance // 8)
    last = marginal[-few:].max()
    middle = marginal[distance // 2 :][: max(1, few)].max()
    return log_tail(marginal.new_tensor(float(distance)).log(), last, middle - last)
