"""Adaptive quadrature of a density in one, two or three continuous dimensions.

Real and positive half lines are folded onto a finite interval (x = sinh t, x = exp t), and cells
are split where the 7-point Gauss and the 15-point Kronrod rule disagree (Piessens et al. 1983,
QUADPACK, QAG). Everything is relative to the largest log-density seen, so that a narrow peak
draws the cells to itself long before its density is more than zero in floating point. Powers of
the density are integrated beside it: they are broader, and lead to peaks that lie between the
nodes, which a better placed peak would have made look like nothing. A needle on the slope of a much
broader peak (30 times, in two dimensions) leaves no such trace, and may be missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import ImproperError, NonFiniteError, NormalizationError, PoeError
from poe.core.space import (
    Interval,
    Positive,
    Real,
    Space,
)
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.samplers.guarded import Guarded, Raised

MAX_EVALUATIONS = 4_000_000
EVALUATIONS_AT_ONCE = 2**16
CELLS_OF_EVALUATIONS = 2**19
INITIAL_CELLS = {1: 512, 2: 24, 3: 8}
"""In each of so many dimensions."""
POWERS = (1.0, 0.1, 0.01, 0.001, 0.0001)
"""The density itself, and what leads to its peaks."""
NUM_TYPICAL = 64
"""Positions that tell where the mass is."""
ROUGHLY = 1e-2
"""The relative error to which those others are integrated."""
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


class _Chart(NamedTuple):
    """t in [low, high] to x, elementwise, with log dx/dt; `is_folded` marks ends at infinity."""

    low: float
    high: float
    to_x: Callable[[Tensor], Tensor]
    log_jacobian: Callable[[Tensor], Tensor]
    is_folded: bool


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


class Integral(NamedTuple):
    """log of an integral with its estimated error, both `()`, and what it cost.

    ``position`` ``(n, *event)``: where the mass is, alike in number where it is alike.
    """

    value: Tensor
    error: Tensor
    num_evaluations: int
    position: Tensor


def integrate(target: Expert, raised: Raised | None = None) -> Integral:
    """log of the integral of p̃.

    Args:
        target: p̃, in one to three continuous dimensions.
        raised: Where errors at some positions are kept, which have no density there.

    Returns:
        The value, its error, how often p̃ was evaluated, and where its mass is.

    Raises:
        ImproperError: Where the mass does not die out towards infinity.
        NonFiniteError: Where a log-density is NaN or +inf or all are -inf.
        NormalizationError: Where the space has no chart or the cells run out.
    """
    chart, like = _chart(target.space), reference(target)
    tolerance = max(1e-10, 8 * torch.finfo(like.dtype).eps)
    asked = Guarded(target, Raised() if raised is None else raised)
    cells, num_evaluations = _refined(asked, chart, like, tolerance)
    value, error = _total(target, chart, cells, like)
    return Integral(value, error, num_evaluations, _typical(target, chart, cells, like))


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
        NormalizationError: Where the space has no chart or the cells run out.

    Example:
        >>> x, log_weights = nodes(experts.Gaussian([0.0], scale=[1.0]), 1e-5)
        >>> area = (log_weights - x[:, 0].double().square() / 2).exp().sum()
        >>> bool((area - (2 * torch.pi) ** 0.5).abs() < 2e-5)
        True
    """
    chart, like = _chart(target.space), reference(target)
    cells, _ = _refined(Guarded(target, Raised()), chart, like, tolerance)
    _total(target, chart, cells, like)
    rule = _rule(cells.centers.shape[1], cells.centers.device)
    t = (cells.centers[:, None] + cells.half_widths[:, None] * rule.nodes).flatten(0, 1)
    log_volume = cells.half_widths.log().sum(-1)[:, None] + rule.kronrod.log()
    x = chart.to_x(t).to(like).reshape(-1, *target.space.event_shape)
    return Nodes(x, log_volume.flatten() + chart.log_jacobian(t).sum(-1))


def _refined(target: Guarded, chart: _Chart, like: Tensor, tolerance: float) -> tuple[_Cells, int]:
    """Cells split until the rules agree, and the evaluations that took."""
    cells = _evaluate(target, chart, like, *_initial_cells(chart, target, like.device))
    evaluations = first = len(cells.centers) * 15 ** cells.centers.shape[1]
    while evaluations < first + MAX_EVALUATIONS:
        is_unsure = _is_unsure(cells, tolerance)
        if not bool(is_unsure.any()):
            break
        parts = _split(cells.centers[is_unsure], cells.half_widths[is_unsure])
        evaluations += len(parts[0]) * 15 ** parts[0].shape[1]
        finer = _evaluate(target, chart, like, *parts)
        kept = (old[~is_unsure] for old in cells)
        cells = _Cells(*(torch.cat(pair) for pair in zip(kept, finer, strict=True)))
    return cells, evaluations


def _total(target: Expert, chart: _Chart, cells: _Cells, like: Tensor) -> tuple[Tensor, Tensor]:
    total = cells.log_kronrod[:, 0].logsumexp(0)
    if not bool(total.isfinite()):
        raise NonFiniteError(
            f"the log-density of {type(target).__name__} is -inf wherever it was looked at in "
            f"{target.space}; check the signs and the support of its experts"
        )
    if chart.is_folded and _mass_at_ends(chart, cells, total) > 1e-6:
        raise ImproperError(
            f"expected the mass of {type(target).__name__} to die out towards infinity, and it "
            "does not: the density has no finite normaliser, or too heavy a tail; "
            "multiply by a broad prior"
        )
    rounding = (cells.log_noise[:, 0] - total).exp()
    error = float((_errors(cells)[0][:, 0] + rounding).sum())
    if error > 0.05:
        raise NormalizationError(
            f"quadrature of {type(target).__name__} did not converge in {MAX_EVALUATIONS} "
            f"evaluations (relative error {error:.2g})"
        )
    return total.to(like), torch.tensor(error).to(like)


def _typical(target: Expert, chart: _Chart, cells: _Cells, like: Tensor) -> Tensor:
    """Centres of cells by their shares of the mass, at equal steps of the sum of these."""
    shares = torch.softmax(cells.log_kronrod[:, 0], 0).cumsum(0)
    steps = (torch.arange(NUM_TYPICAL, device=shares.device).to(shares) + 0.5) / NUM_TYPICAL
    rows = torch.searchsorted(shares, steps).clamp(max=len(shares) - 1)
    x = chart.to_x(cells.centers[rows]).to(like)
    return x.reshape(-1, *target.space.event_shape)


def _mass_at_ends(chart: _Chart, cells: _Cells, total: Tensor) -> float:
    reach = cells.centers.abs() + cells.half_widths
    is_last = (reach > chart.high - 0.5).any(-1)
    return float((cells.log_kronrod[is_last, 0] - total).exp().sum())


def _errors(cells: _Cells) -> tuple[Tensor, Tensor]:
    """Each cell's error, and what of it may be rounding, over the whole: both (cells, powers)."""
    total = cells.log_kronrod.logsumexp(0)
    scale = torch.where(total.isfinite(), total, 0.0)
    errors = ((cells.log_kronrod - scale).exp() - (cells.log_gauss - scale).exp()).abs()
    return errors, (cells.log_noise - scale).exp()


def _is_unsure(cells: _Cells, tolerance: float) -> Tensor:
    """Which cells are worth a split: (cells,)."""
    errors, noise = _errors(cells)
    goals = errors.new_tensor([tolerance if power == 1.0 else ROUGHLY for power in POWERS])
    share = (errors.sum(0) * 0.05).clamp(min=1e-13) / len(errors)
    is_open = errors.sum(0) > goals
    is_coarse = cells.half_widths.amax(-1) > 1e-13
    return (is_open & (errors > share) & (errors > noise)).any(-1) & is_coarse


def _evaluate(
    target: Guarded, chart: _Chart, like: Tensor, centers: Tensor, half_widths: Tensor
) -> _Cells:
    rule = _rule(centers.shape[1], centers.device)
    count = max(1, CELLS_OF_EVALUATIONS // len(rule.nodes))
    pairs = zip(centers.split(count), half_widths.split(count), strict=True)
    parts = [_evaluate_some(target, chart, like, rule, *pair) for pair in pairs]
    return _Cells(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _evaluate_some(
    target: Guarded, chart: _Chart, like: Tensor, rule: _Rule, centers: Tensor, half_widths: Tensor
) -> _Cells:
    t = (centers[:, None] + half_widths[:, None] * rule.nodes).flatten(0, 1)
    log_density = _log_density(target, chart, t, like).reshape(len(centers), -1)
    log_jacobian = chart.log_jacobian(t).sum(-1).reshape(len(centers), -1)
    log_volume = half_widths.log().sum(-1)
    columns = []
    for power in POWERS:
        values = power * log_density + log_jacobian
        log_kronrod = torch.logsumexp(values + rule.kronrod.log(), -1) + log_volume
        log_gauss = torch.logsumexp(values + rule.gauss.log(), -1) + log_volume
        largest = values.masked_fill(values == -torch.inf, 0).abs().amax(-1)
        log_noise = log_kronrod + (4 * torch.finfo(like.dtype).eps * (1 + largest)).log()
        columns.append((log_kronrod, log_gauss, log_noise))
    return _Cells(centers, half_widths, *(torch.stack(c, -1) for c in zip(*columns, strict=True)))


def _log_density(target: Guarded, chart: _Chart, t: Tensor, like: Tensor) -> Tensor:
    """The log-density over t in float64: `(points, d) -> (points,)`."""
    x = chart.to_x(t).to(like).reshape(-1, *target.space.event_shape)
    with torch.no_grad():
        values = torch.cat([target(part).double() for part in torch.split(x, EVALUATIONS_AT_ONCE)])
    is_broken = values.isnan() | values.isposinf()
    if bool(is_broken.any()):
        raise NonFiniteError(
            f"the log-density of {type(target.expert).__name__} is NaN or +inf at "
            f"x = {x[is_broken][0].tolist()}; look at its contributions there"
        )
    return values


def _initial_cells(chart: _Chart, target: Expert, device: torch.device) -> tuple[Tensor, Tensor]:
    d = target.space.event_shape.numel()
    count = INITIAL_CELLS[d]
    half = (chart.high - chart.low) / (2 * count)
    middles = chart.low + half * (2 * torch.arange(count, dtype=torch.float64, device=device) + 1)
    centers = torch.cartesian_prod(*[middles] * d).reshape(-1, d)
    return centers, torch.full_like(centers, half)


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


def can_integrate(space: Space) -> bool:
    """Whether `integrate` knows this space: its kind, and one to three dimensions."""
    return has_chart(space) and space.event_shape.numel() in INITIAL_CELLS


def has_chart(space: Space) -> bool:
    """Whether `integrate` knows this kind of space."""
    return isinstance(space, Real | Positive | Interval)


def _chart(space: Space) -> _Chart:
    if isinstance(space, Real):
        return _Chart(-25, 25, torch.sinh, lambda t: t.cosh().log(), True)
    if isinstance(space, Positive):
        return _Chart(-80, 80, torch.exp, lambda t: t, True)
    if isinstance(space, Interval):
        return _Chart(space.low, space.high, lambda t: t, torch.zeros_like, False)
    raise NormalizationError(
        f"quadrature knows Real, Positive and Interval spaces, not {space}; "
        "move the expert there with Transformed(expert, bijection)"
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
