"""Adaptive quadrature of a density in one, two or three continuous dimensions.

Cells of coordinates t (``poe.normalizers.charts``) are split where the 7-point Gauss and the
15-point Kronrod rule disagree (Piessens et al. 1983, QUADPACK, QAG), and no more where splitting
shows mere rounding. Everything is relative to the largest log-density seen, so that a narrow peak
draws the cells to itself long before its density is more than zero in floating point. Powers of
the density are integrated beside it: they are broader, and lead to peaks that lie between the
nodes, which a better placed peak would have made look like nothing. A needle on top of a peak is
found by climbing; one on the slope of a much broader peak (30 times, in two dimensions) leaves no
trace, and may be missed. What lies beyond
the ends of t is taken to die out as it does before them: by a power law.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import ImproperError, NonFiniteError, NormalizationError, PoeError
from poe.core.space import Interval
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.normalizers.charts import Axis, Chart, chart_of
from poe.samplers.guarded import Guarded, Raised

MAX_EVALUATIONS = 4_000_000
EVALUATIONS_AT_ONCE = 2**16
Report = Callable[[float, float], None]
CELLS_OF_EVALUATIONS = 2**19
POWERS = (1.0, 0.1, 0.01, 0.001, 0.0001)
"""The density itself, and what leads to its peaks."""
NUM_TYPICAL = 64
"""Positions that tell where the mass is."""
ROUGHLY = 1e-2
"""The relative error to which those others are integrated."""
NUM_CLIMBS, MAX_CLIMBING, NUM_SIZES = 6, 40, 20
"""So many climbs of so many steps, each the best of sizes 1, 1/4, 1/16, ..."""
SEEN, NUM_HALVINGS = 8.0, 50
"""Nodes see a summit that is no narrower than this part of a cell."""
REACH = 3.0
"""Around a summit, in its own widths."""
NEGLIGIBLE = 1e-14
"""A share of the mass that is none."""
SLOWEST = 1 - 1e-4
"""What a window has of the mass of the one before it, at most, where mass dies out."""
MAX_ERROR = 0.05
"""A larger relative error is none that log Z could be stated with."""
STILL = 0.7
"""Halves of a cell whose errors come to more than this part of its own are no better than it: of a
smooth density they come to next to nothing, of one with a jump to a half, and of rounding to 1."""
SMALL = 0.02
"""The largest relative error, of a cell, that may be rounding."""
MAX_STILL = 3
"""So often may halves be no better, before what is left is taken for rounding."""
# Half of the nodes of the 15-point Kronrod rule with its weights, and those of the 7-point Gauss.
_NODES = (
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144838258730,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
    0.0,
)
_KRONROD = (
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
    0.209482141084727828012999174891714,
)
_GAUSS = (
    0.0,
    0.129484966168869693270611432679082,
    0.0,
    0.279705391489276667901467771423780,
    0.0,
    0.381830050505118944950369775488975,
    0.0,
    0.417959183673469387755102040816327,
)


class _Rule(NamedTuple):
    nodes: Tensor  # (points, d) in [-1, 1]
    kronrod: Tensor  # (points,)
    gauss: Tensor  # (points,)


class _Cells(NamedTuple):
    centers: Tensor  # (cells, d)
    half_widths: Tensor  # (cells, d)
    log_kronrod: Tensor  # (cells, powers) log integrals
    log_gauss: Tensor
    log_noise: Tensor  # how far rounding alone may move them
    num_still: Tensor  # (cells,) how often a split was no better


class Integral(NamedTuple):
    """log of an integral with its estimated error, both `()`, and what it cost.

    - ``position`` ``(n, *event)``: where the mass is, alike in number where it is alike;
    - ``beyond``: the share of the mass that is nearer to an edge than was looked.
    """

    value: Tensor
    error: Tensor
    num_evaluations: int
    position: Tensor
    beyond: float

    @property
    def has_converged(self) -> bool:
        """Whether log Z can be stated with such an error."""
        return bool(self.error <= MAX_ERROR)


def integrate(
    target: Expert,
    raised: Raised | None = None,
    max_evaluations: int = MAX_EVALUATIONS,
    report: Report | None = None,
) -> Integral:
    """log of the integral of p̃.

    Args:
        target: p̃, in one to three continuous dimensions.
        raised: Where errors at some positions are kept, which have no density there.
        max_evaluations: Of p̃, beyond those of the first cells.
        report: Called with the share of these that were made, and 1.

    Returns:
        The value, its error, how often p̃ was evaluated, and where its mass is. The error may be so
        large that it says nothing.

    Raises:
        ImproperError: Where the mass does not die out towards infinity, or an edge.
        NonFiniteError: Where a log-density is NaN or +inf or all are -inf.
        NormalizationError: Where the space has no chart.
    """
    tolerance = max(1e-10, 8 * torch.finfo(reference(target).dtype).eps)
    asked = Guarded(target, Raised() if raised is None else raised)
    budget = _Budget(max_evaluations, report or (lambda share, rate: None))
    problem, cells, beyond = _found(asked, tolerance, budget)
    total, share = _log_total(target, cells), sum(part.mass for part in beyond)
    error = _relative_error(cells, total) + sum(part.error for part in beyond)
    return Integral(
        (total + math.log1p(share)).to(problem.like),
        torch.tensor(error / (1 + share)).to(problem.like),
        budget.spent,
        _typical(problem, cells),
        share / (1 + share),
    )


class Nodes(NamedTuple):
    """Points of a space, and the logs of their weights: ``(n, *event)`` and ``(n,)``."""

    x: Tensor
    log_weights: Tensor


def nodes(target: Expert, tolerance: float) -> Nodes:
    """Nodes by which log Z is logsumexp(log_weights + log p̃(x)), to that relative error.

    For densities near the target they serve as well.

    Args:
        target: p̃, in one to three continuous dimensions.
        tolerance: The relative error of Z.

    Returns:
        Points and the logs of their weights.

    Raises:
        ImproperError: Where the mass does not die out towards infinity.
        NonFiniteError: Where a log-density is NaN or +inf or all are -inf.
        NormalizationError: Where the space has no chart or the cells do not converge.

    Example:
        >>> x, log_weights = nodes(experts.Gaussian([0.0], scale=[1.0]), 1e-5)
        >>> area = (log_weights - x[:, 0].double().square() / 2).exp().sum()
        >>> bool((area - (2 * torch.pi) ** 0.5).abs() < 2e-5)
        True
    """
    budget = _Budget(MAX_EVALUATIONS, lambda share, rate: None)
    problem, cells, _ = _found(Guarded(target, Raised()), tolerance, budget)
    error = _relative_error(cells, _log_total(target, cells))
    if not error <= MAX_ERROR:
        raise not_converged(target, error, budget.spent)
    rule = _rule(cells.centers.shape[1], cells.centers.device)
    t = (cells.centers[:, None] + cells.half_widths[:, None] * rule.nodes).flatten(0, 1)
    log_volume = cells.half_widths.log().sum(-1)[:, None] + rule.kronrod.log()
    return Nodes(problem.to_x(t), log_volume.flatten() + problem.chart.log_jacobian(t))


def not_converged(target: Expert, error: float, num_evaluations: int) -> NormalizationError:
    """The refusal, in words."""
    told = f"a relative error of {error:.2g}" if error < 1 else "no digit that is sure"
    return NormalizationError(
        f"quadrature of {type(target).__name__} did not converge: {num_evaluations} evaluations "
        f"leave {told}; leave `method` out, or use poe.normalizers.MBAR()"
    )


class _Budget:
    """How many evaluations are left."""

    def __init__(self, most: int, report: Report) -> None:
        self.most, self.spent, self.report = most, 0, report

    @property
    def left(self) -> int:
        return self.most - self.spent

    def add(self, count: int) -> None:
        """Allow so many more."""
        self.most += count

    def spend(self, count: int) -> None:
        """Count some, and tell of it."""
        self.spent += count
        self.report(min(1.0, self.spent / self.most), 1.0)


class _Problem(NamedTuple):
    """What is integrated, as a function of t."""

    target: Guarded
    chart: Chart
    like: Tensor

    def to_x(self, t: Tensor) -> Tensor:
        """Positions, ``(points, *event)``."""
        return self.chart.to_x(t, self.like).reshape(-1, *self.target.space.event_shape)

    def values(self, t: Tensor) -> Tensor:
        """The log-density over t in float64: ``(points, d) -> (points,)``."""
        x = self.to_x(t)
        values = _log_density(self.target, x)
        is_broken = values.isnan() | values.isposinf()
        if bool(is_broken.any()):
            raise NonFiniteError(
                f"the log-density of {type(self.target.expert).__name__} is NaN or +inf at "
                f"x = {x[is_broken][0].tolist()}; look at its contributions there"
            )
        return values


class _Beyond(NamedTuple):
    """The mass beyond an end of an axis, and its error, relative to what was found before it."""

    mass: float
    error: float
    is_finite: bool


def _found(
    target: Guarded, tolerance: float, budget: _Budget
) -> tuple[_Problem, _Cells, list[_Beyond]]:
    """Cells split until the rules agree, and what is beyond them; farther out where mass is."""
    like = reference(target.expert)

    def at(x: Tensor) -> Tensor:
        budget.spend(len(x))
        return _log_density(target, x.to(like).reshape(-1, *target.space.event_shape))

    problem = _Problem(target, chart_of(target.space, like, at), like)
    cells = _integrated(problem, tolerance, budget)
    beyond = _beyond(problem.chart, cells)
    if all(part.is_finite for part in beyond):
        return problem, cells, beyond
    if isinstance(target.space, Interval):
        raise _improper(target.expert)
    problem = problem._replace(chart=chart_of(target.space, like, at, is_wide=True))
    try:
        cells = _integrated(problem, tolerance, budget)
    except NonFiniteError as error:
        raise _improper(target.expert) from error
    beyond = _beyond(problem.chart, cells)
    if not all(part.is_finite for part in beyond):
        raise _improper(target.expert)
    return problem, cells, beyond


def _improper(target: Expert) -> ImproperError:
    return ImproperError(
        f"expected the mass of {type(target).__name__} to die out towards infinity, and towards "
        "edges, and it does not: the density has no finite normaliser, or too heavy a tail; "
        "multiply by what falls off there, such as a broad prior"
    )


def _integrated(problem: _Problem, tolerance: float, budget: _Budget) -> _Cells:
    """Cells in which the rules agree, those at summits too; or evaluations ran out."""
    centers, half_widths = problem.chart.cells()
    budget.add(len(centers) * 15 ** centers.shape[1])
    cells = _evaluate(problem, centers, half_widths, budget)
    _log_total(problem.target.expert, cells)
    return _refined(problem, _split_at_summits(problem, cells, budget), tolerance, budget)


def _refined(problem: _Problem, cells: _Cells, tolerance: float, budget: _Budget) -> _Cells:
    """Cells split until the rules agree, or evaluations run out."""
    each = (2 * 15) ** cells.centers.shape[1]
    while True:
        unsure = _unsure(cells, tolerance)[: max(0, budget.left // each)]
        if len(unsure) == 0:
            return cells
        cells = _split_some(problem, cells, unsure, budget)


def _split_some(problem: _Problem, cells: _Cells, rows: Tensor, budget: _Budget) -> _Cells:
    """The cells, some of them replaced by their halves."""
    parents = _Cells(*(column[rows] for column in cells))
    children = _evaluate(problem, *_split(parents.centers, parents.half_widths), budget)
    children = children._replace(num_still=_num_still(parents, children))
    is_kept = torch.ones(len(cells.centers), dtype=torch.bool, device=rows.device)
    is_kept[rows] = False
    kept = (old[is_kept] for old in cells)
    return _Cells(*(torch.cat(pair) for pair in zip(kept, children, strict=True)))


def _split_at_summits(problem: _Problem, cells: _Cells, budget: _Budget) -> _Cells:
    """Cells at summits split until nodes see how narrow these are: a peak may bear a needle.

    All cells around a summit: on a border between them, the others would see nothing of it.
    """
    summits, scales = _summits(problem, cells, budget)
    around = torch.cartesian_prod(*[summits.new_tensor([0.0, -REACH, REACH])] * summits.shape[1])
    around = around.reshape(-1, summits.shape[1])
    for summit, scale in zip(summits, scales, strict=True):
        reach = scale.nan_to_num(posinf=0.0)
        for place in summit + reach * around:
            cells = _split_at(problem, cells, place, scale, budget)
    return cells


def _split_at(
    problem: _Problem, cells: _Cells, place: Tensor, scale: Tensor, budget: _Budget
) -> _Cells:
    """The cell around a place split until it is as narrow as what is there."""
    for _ in range(NUM_HALVINGS):
        inside = ((cells.centers - place).abs() <= cells.half_widths).all(-1)
        rows = inside.nonzero()[:1, 0]
        is_seen = bool((cells.half_widths[rows].amax(-1) <= SEEN * scale).all())
        if is_seen or budget.left <= 0:
            break
        cells = _split_some(problem, cells, rows, budget)
    return cells


def _summits(problem: _Problem, cells: _Cells, budget: _Budget) -> tuple[Tensor, Tensor]:
    """Where steps along axes lead up to, from cells of mass: ``(n, d)``, and how narrow: ``(n,)``.

    The width of a summit is the least step of which both directions lead down by half a nat.
    """
    d = cells.centers.shape[1]
    t = cells.centers[_typical_rows(cells, NUM_CLIMBS)]
    sizes = 4.0 ** -torch.arange(NUM_SIZES, dtype=t.dtype, device=t.device)
    axes = torch.eye(d, dtype=t.dtype, device=t.device)
    steps = (sizes[:, None, None] * torch.stack([axes, -axes], 1).flatten(0, 1)).flatten(0, 1)
    low, high = (torch.stack([axis.breaks[end] for axis in problem.chart.axes]) for end in (0, -1))
    for _ in range(MAX_CLIMBING):
        tried = torch.cat([t[:, None], t[:, None] + steps], 1).clamp(low, high)
        heights = _heights(problem, tried.flatten(0, 1), budget).reshape(len(t), -1)
        best = heights.argmax(1)
        if not bool(best.any()) or budget.left <= 0:
            break
        t = tried[torch.arange(len(t), device=t.device), best]
    falls = (heights[:, :1] - heights[:, 1:]).reshape(len(t), NUM_SIZES, d, 2).amin(-1) > 0.5
    return t, torch.where(falls, sizes[:, None], torch.inf).flatten(1).amin(1)


def _heights(problem: _Problem, t: Tensor, budget: _Budget) -> Tensor:
    """The log-density of x, whose peaks lie where they were put: ``(points, d) -> (points,)``."""
    budget.spend(len(t))
    values = _log_density(problem.target, problem.to_x(t))
    return values.nan_to_num(-torch.inf, -torch.inf, -torch.inf)


def _num_still(parents: _Cells, children: _Cells) -> Tensor:
    """How often splits have left the error what it was, of each child: ``(children,)``.

    A cell's own, or that of all of small error together, which is less a matter of chance.
    """
    log_whole = parents.log_kronrod[:, :1]
    log_parts = children.log_kronrod[:, 0].reshape(len(log_whole), -1) - log_whole
    parts = log_parts.exp()
    errors = _own_errors(children)[:, 0].reshape(parts.shape) * parts
    error, before = errors.nansum(1), _own_errors(parents)[:, 0]
    is_small = (before < SMALL) & ((parts.nansum(1) - 1).abs() < 3 * before)
    mass = torch.softmax(log_whole[:, 0], 0).masked_fill(~is_small, 0.0)
    is_still = (error > STILL * before) | (mass @ error > STILL * (mass @ before.nan_to_num()))
    counts = torch.where(is_small, parents.num_still + is_still, 0)
    return counts.repeat_interleave(parts.shape[1])


def _own_errors(cells: _Cells) -> Tensor:
    """Each cell's error relative to its own integral: ``(cells, powers)``."""
    return torch.expm1(cells.log_gauss - cells.log_kronrod).abs()


def _log_total(target: Expert, cells: _Cells) -> Tensor:
    total = cells.log_kronrod[:, 0].logsumexp(0)
    if not bool(total.isfinite()):
        raise NonFiniteError(
            f"the log-density of {type(target).__name__} is -inf wherever it was looked at in "
            f"{target.space}; check the signs and the support of its experts"
        )
    return total


def _relative_error(cells: _Cells, total: Tensor) -> float:
    rounding = (cells.log_noise[:, 0] - total).exp()
    return float((_errors(cells)[0][:, 0] + rounding).sum())


def _typical(problem: _Problem, cells: _Cells) -> Tensor:
    """Where the mass is."""
    return problem.to_x(cells.centers[_typical_rows(cells, NUM_TYPICAL)])


def _typical_rows(cells: _Cells, count: int) -> Tensor:
    """Cells by their shares of the mass, at equal steps of the sum of these: ``(count,)``."""
    shares = torch.softmax(cells.log_kronrod[:, 0], 0).cumsum(0)
    steps = (torch.arange(count, device=shares.device).to(shares) + 0.5) / count
    return torch.searchsorted(shares, steps).clamp(max=len(shares) - 1)


def _beyond(chart: Chart, cells: _Cells) -> list[_Beyond]:
    """What lies beyond the open ends of all axes."""
    total = cells.log_kronrod[:, 0].logsumexp(0)
    return [
        _beyond_end(axis, is_high, cells.centers[:, element], cells, total)
        for element, axis in enumerate(chart.axes)
        for is_high in (False, True)
        if axis.is_open[is_high]
    ]


def _beyond_end(
    axis: Axis, is_high: bool, centers: Tensor, cells: _Cells, total: Tensor
) -> _Beyond:
    """The mass beyond an end, a geometric series as that of three windows before it.

    Its error is twice as far as that is from what the windows farther in tell of it.
    """
    ends = (axis.breaks.flip(0) if is_high else axis.breaks)[:: axis.window]
    sign = -1 if is_high else 1
    place = sign * centers
    masses = []
    for near, far in zip(sign * ends[1:4], sign * ends[:3], strict=True):
        inside = (place > far) & (place < near)
        masses.append(float((cells.log_kronrod[inside, 0] - total).exp().sum()))
    first, second, third = masses
    if first < NEGLIGIBLE:
        return _Beyond(0.0, first, True)
    ratio, before = first / max(second, first), second / max(third, second, NEGLIGIBLE)
    if not ratio < SLOWEST:
        return _Beyond(0.0, 0.0, False)
    mass = first * ratio / (1 - ratio)
    told = second * before / (1 - before) - first if before < SLOWEST else math.inf
    return _Beyond(mass, min(2 * abs(mass - told), mass), True)


def _errors(cells: _Cells) -> tuple[Tensor, Tensor]:
    """Each cell's error, and what of it may be rounding, over the whole: both (cells, powers)."""
    total = cells.log_kronrod.logsumexp(0)
    scale = torch.where(total.isfinite(), total, 0.0)
    errors = ((cells.log_kronrod - scale).exp() - (cells.log_gauss - scale).exp()).abs()
    return errors, (cells.log_noise - scale).exp()


def _unsure(cells: _Cells, tolerance: float) -> Tensor:
    """The rows of the cells that are worth a split, the worst of them first."""
    errors, noise = _errors(cells)
    goals = errors.new_tensor([tolerance if power == 1.0 else ROUGHLY for power in POWERS])
    share = (errors.sum(0) * 0.05).clamp(min=1e-13) / len(errors)
    is_open = (errors.sum(0) > goals) & (errors > share) & (errors > noise)
    is_open[:, 0] &= cells.num_still < MAX_STILL
    is_coarse = cells.half_widths.amax(-1) > 1e-13
    rows = (is_open.any(-1) & is_coarse).nonzero()[:, 0]
    worst = (errors / goals).masked_fill(~is_open, 0.0).amax(-1)[rows]
    return rows[worst.argsort(descending=True)]


def _evaluate(problem: _Problem, centers: Tensor, half_widths: Tensor, budget: _Budget) -> _Cells:
    rule = _rule(centers.shape[1], centers.device)
    count = max(1, CELLS_OF_EVALUATIONS // len(rule.nodes))
    parts = []
    for pair in zip(centers.split(count), half_widths.split(count), strict=True):
        parts.append(_evaluate_some(problem, rule, *pair))
        budget.spend(len(pair[0]) * len(rule.nodes))
    return _Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _evaluate_some(problem: _Problem, rule: _Rule, centers: Tensor, half_widths: Tensor) -> _Cells:
    t = (centers[:, None] + half_widths[:, None] * rule.nodes).flatten(0, 1)
    log_density = problem.values(t).reshape(len(centers), -1)
    log_jacobian = problem.chart.log_jacobian(t).reshape(len(centers), -1)
    log_volume = half_widths.log().sum(-1)
    ulp = 4 * torch.finfo(problem.like.dtype).eps
    blur = problem.chart.blur(t).reshape(len(centers), -1)
    columns = []
    for power in POWERS:
        values = power * log_density + log_jacobian
        log_kronrod = torch.logsumexp(values + rule.kronrod.log(), -1) + log_volume
        log_gauss = torch.logsumexp(values + rule.gauss.log(), -1) + log_volume
        noise = ulp * (1 + values.masked_fill(values == -torch.inf, 0).abs()) + blur
        log_noise = torch.logsumexp(values + noise.log() + rule.kronrod.log(), -1) + log_volume
        columns.append((log_kronrod, log_gauss, log_noise))
    kronrod, gauss, noise = (torch.stack(c, -1) for c in zip(*columns, strict=True))
    num_still = torch.zeros(len(centers), dtype=torch.long, device=centers.device)
    return _Cells(centers, half_widths, kronrod, gauss, noise, num_still)


@torch.no_grad()
def _log_density(target: Guarded, x: Tensor) -> Tensor:
    """Of positions ``(points, *event)``, some at a time, in float64."""
    return torch.cat([target(part).double() for part in x.split(EVALUATIONS_AT_ONCE)])


def _split(centers: Tensor, half_widths: Tensor) -> tuple[Tensor, Tensor]:
    d = centers.shape[1]
    corners = torch.cartesian_prod(*[centers.new_tensor([-0.5, 0.5])] * d).reshape(-1, d)
    moved = centers[:, None] + corners * half_widths[:, None]
    return moved.flatten(0, 1), (half_widths / 2).repeat_interleave(len(corners), 0)


def _rule(d: int, device: torch.device) -> _Rule:
    def symmetric(values: tuple[float, ...], sign: float) -> Tensor:
        half = torch.tensor(values, dtype=torch.float64, device=device)
        return torch.cat([sign * half, half[:-1].flip(0)])

    def product(values: Tensor) -> Tensor:
        return torch.cartesian_prod(*[values] * d).reshape(-1, d)

    return _Rule(
        product(symmetric(_NODES, -1)),
        product(symmetric(_KRONROD, 1)).prod(-1),
        product(symmetric(_GAUSS, 1)).prod(-1),
    )


def reference(target: Expert) -> Tensor:
    """A tensor of the dtype and device at which the target wants x; float64 where it takes that."""
    tensors = itertools.chain(target.parameters(), target.buffers())
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    # 0-d tensors (exponents) adapt to any dtype, so they do not decide.
    known = next((tensor for tensor in floats if tensor.ndim), None)
    return _tried(target) if known is None else known.detach()


@torch.no_grad()
def _tried(target: Expert) -> Tensor:
    """That of a target without arrays of its own: numbers in a closure may be of any dtype."""
    coordinates = Coordinates(target.space)
    rows = torch.linspace(-1, 1, 2).reshape(-1, *[1] * len(coordinates.u_space.event_shape))
    x = coordinates.to_x(rows.expand(-1, *coordinates.u_space.event_shape))
    for dtype in (torch.float64, torch.float32):
        try:
            target(x.to(dtype))
        except (RuntimeError, PoeError):  # of the dtype, or one that comes again where it is told
            continue
        return x.new_zeros((), dtype=dtype)
    return x.new_zeros((), dtype=torch.float64)
