"""The fit of a map that bends to positions and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, Dense, Diagonal, LowRank, fit_affine
from poe.core.transport import (
    Bent,
    Density,
    Transport,
    curve_basis,
    flat,
    mean_basis,
    scale_basis,
    turned,
)

MAX_DIMENSION = 70
"""Above this the fit, whose cost grows like d³, takes longer than it saves."""
MAX_ROWS = 2000
FEW_ROWS = 500
"""So many positions choose between starts of the fit."""
ROWS_PER_DIMENSION = 20
"""With fewer positions a map that bends is not fitted."""
MIN_GAIN = 0.2
"""Nats by which the log-likelihood of a position must exceed that of an affine map."""
MIN_GAIN_OF_CURVES = 0.5
EXPLAINED, UNEXPLAINED = 0.25, 0.1
"""Of what scores miss without one, a parabola that leaves but a quarter is taken as well; none is
looked for where so little is missed."""
SLIGHT = 0.3
"""Where scores miss a normal's by so little in all coordinates together, bending gains little."""
PROMISING = 0.7
"""A short search must leave less than this of what scores miss, or no longer one follows."""
GOOD = 0.05
"""Of what scores miss, in the mean over coordinates."""
WORTHWHILE = 0.5
"""A map that bends must leave less than this of what an affine one leaves."""
MAX_LAYERS, GAINED = 4, 0.7
"""Each of which must leave less than this of what scores miss without it."""
VALLEY, STRAIGHT = 0.01, 1e-3
"""A parabola leaves so little of what is not linear in a score where there is a valley; and a score
is linear but for so small a variance, where that of a normal's is 1."""
ROWS_A_TERM, CONCENTRATIONS, ROUNDS_OF_VALLEY = 2, 5, 6
NUM_STARTS = 2
MAX_ROUNDS = 6
ROUGH, IMPROVED = 0.5, 0.8
"""Of what scores miss, over all coordinates, and as a part of the round before."""
NECK = 1.0
"""The log of how much a scale varies within 1.5 standard deviations of z₁."""
AHEAD = (1.0, 1.2, 1.4, 1.7, 2.0)
"""How far a map looks ahead into a neck, by how far positions have been."""
NUM_AHEAD = 600
WORSE, BARELY = 1.5, 0.1
"""How much more of the scores at positions may be missed for it."""
NUM_PLACES = 20
"""Of z₁, at each of which as many positions count."""
RIDGE, UNIT_RIDGE = 1e-4, 1e-3
MEAN_LOG = 0.635
"""−E log |z| of z ~ N(0, 1)."""


def fit_transport(
    x: Tensor, score: Tensor, target: Density | None = None
) -> Transport | Diagonal | Dense | LowRank:
    """The map that bends as far as positions ask for, or the affine one where that serves as well.

    By maximum likelihood of the positions: z₁ is standard normal, and the others are normal given
    it. So it is right even where chains have not yet been everywhere in z₁, for what is fitted is
    how the others depend on it. Begun at several z₁: each coordinate of x, and the direction along
    which the scale of the score varies. Where the others become narrow, and the target can be
    asked, scores ahead count as well: at places further on than any position, to which the map
    itself leads. Before that, parabolas that scores show, side by side or in a chain, are undone
    one by one. An affine map is fitted to what is left, by positions and scores (``fit_affine``),
    and a further layer to what that leaves.

    Args:
        x: Positions, ``(n, *event)``, n >= 2.
        score: ∇ log p̃ there, ``(n, *event)``.
        target: What they are positions of, to be asked for scores ahead: some 3000 times a layer.

    Returns:
        A ``Transport`` where the log-likelihood of a position gains more than 0.2 by bending, and
        scores come out at least twice as near to a normal's; else, and of one or more than 70
        dimensions, or of fewer than 20 d positions, what ``fit_affine`` returns.

    Raises:
        ShapeError: Where the shapes of x and of the score differ.
        PoeError: Below two positions, or where one is not finite.

    References:
        Parno & Marzouk (2018), Transport map accelerated Markov chain Monte Carlo, section 4,
        doi:10.1137/17M1134640.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> v, z = torch.randn(2, 500, generator=g)
        >>> x = torch.stack([3 * v, (1.5 * v).exp() * z], 1)  # Neal's funnel
        >>> score = torch.stack([-v / 3 + 0.5 * (z.square() - 1), -z * (-1.5 * v).exp()], 1)
        >>> transport = fit_transport(x, score)
        >>> misfit(transport, x, score) < 0.01 * misfit(fit_affine(x, score), x, score)
        True
    """
    affine = fit_affine(x, score)
    n, d = len(x), x[0].numel()
    if not 2 <= d <= MAX_DIMENSION or n < ROWS_PER_DIMENSION * d:
        return affine
    before = misfit(affine, x, score)
    layers, left = _layers(
        Rows.of(x, score), None if target is None else Rowwise(target, x), before
    )
    return _joined(layers) if left < WORTHWHILE * before else affine


def _layers(rows: Rows, target: Density | None, left: float) -> tuple[list[Transport], float]:
    """Layers, each of what those before have left, and how much is missed at last."""
    layers: list[Transport] = []
    while len(layers) < MAX_LAYERS and left > (GOOD if layers else SLIGHT / rows.y.shape[1]):
        undone = _valleys(rows, MAX_LAYERS - len(layers))
        if not undone.gains(left):
            undone = _layer(rows, target)
        if not undone.gains(left):
            break
        layers += undone.layers
        rows, left = undone.rest, undone.rest.misfit()
        for layer in undone.layers:
            target = None if target is None else layer.whitened(target)
    return layers, left


def _layer(every: Rows, target: Density | None) -> Undone:
    """The bend of which positions are likeliest; none where that gains little."""
    outer = _whitening(every.thinned(MAX_ROWS).y)
    rows = Rows(outer.to_u(every.y), outer.pull_score(every.score))
    fit, loss = _best(outer, rows)
    if not loss < _affine_loss(rows.thinned(MAX_ROWS)) - MIN_GAIN:
        return Undone([], every)
    if target is not None:
        fit = _led_on(fit, outer, every, target)
    return Undone([], every).by(_transport(outer, fit, every.thinned(MAX_ROWS)))


def _joined(layers: Sequence[Transport]) -> Transport:
    """All of them as one map."""
    if len(layers) == 1:
        return layers[0]
    parts = zip(*(vars(layer).values() for layer in layers), strict=True)
    return Transport(*map(torch.stack, parts))


def still_fits(affine: Affine | Transport | None, x: Tensor, score: Tensor) -> bool:
    """Whether a map that bends leaves so little at new positions that no other is asked for.

    Args:
        affine: The map, if there is one.
        x: Positions, ``(n, *event)``.
        score: ∇ log p̃ there, ``(n, *event)``.

    Returns:
        True where its ``misfit`` is below .05.

    Example:
        >>> x = torch.zeros(9, 2)
        >>> still_fits(Diagonal(x[0], x[0] + 1.0), x, x)  # does not bend
        False
    """
    return isinstance(affine, Transport) and misfit(affine, x, score) < GOOD


def misfit(affine: Affine | Transport, x: Tensor, score: Tensor) -> float:
    """How far scores in a map's coordinates are from those of N(0, I).

    The mean over positions and coordinates of √(1 + (∇ log p̃(u) + u)²) − 1: 0 where the density of
    u is N(0, I), whatever the positions.

    Args:
        affine: The map.
        x: Positions, ``(n, *event)``.
        score: ∇ log p̃ there, ``(n, *event)``.

    Returns:
        At least 0.

    Example:
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> misfit(Diagonal(torch.zeros(2), torch.ones(2)), x, -x)
        0.0
    """
    u = affine.to_u(x)
    if isinstance(affine, Transport):
        pulled = affine.pull_score_at(u, score)
    else:
        pulled = affine.pull_score(score)
    return Rows.of(u, pulled).misfit()


class Rows(NamedTuple):
    """Positions, and the scores there, ``(n, d)``."""

    y: Tensor
    score: Tensor

    @classmethod
    def of(cls, x: Tensor, score: Tensor) -> Rows:
        """Of events of any shape."""
        return cls(flat(x).double(), flat(score).double())

    def misfit(self) -> float:
        """How far the scores are from those of N(0, I)."""
        return ((1.0 + (self.score + self.y).square()).sqrt() - 1.0).mean().item()

    def thinned(self, most: int) -> Rows:
        """No more than so many of them."""
        every = math.ceil(len(self.y) / most)
        return Rows(self.y[::every], self.score[::every])


class Undone(NamedTuple):
    """Layers, and what they leave of rows to the next."""

    layers: list[Transport]
    rest: Rows

    def by(self, layer: Transport) -> Undone:
        """With one layer more."""
        u = layer.to_u(self.rest.y)
        return Undone([*self.layers, layer], Rows(u, layer.pull_score_at(u, self.rest.score)))

    def gains(self, left: float) -> bool:
        """Whether there are layers, and they leave enough less than so much."""
        return bool(self.layers) and self.rest.misfit() < GAINED * left


class Fit(NamedTuple):
    """z = K y of whitened positions y, and how the first of z sets means and log-scales."""

    unmixing: Tensor
    """K, ``(d, d)``."""
    curves: Tensor
    means: Tensor
    log_scales: Tensor


class Fitted(NamedTuple):
    """A fit, and its loss at some positions."""

    fit: Fit
    loss: float


def _best(outer: Dense, rows: Rows) -> Fitted:
    """The better of straight and of curved offsets; of infinite loss where neither gains much.

    A parabola fits nearly everything where there are positions, and goes astray beyond: into a
    neck that chains have not reached yet it is taken only where it says a lot, or where it explains
    the scores that straight offsets do not.
    """
    some = rows.thinned(MAX_ROWS)
    straight = _searched(outer, rows, is_curved=False)
    without = _missed(straight.fit, some)
    if math.isfinite(straight.loss) and without < UNEXPLAINED:
        return straight
    curved = _searched(outer, rows, is_curved=True)
    if curved.loss < straight.loss - MIN_GAIN_OF_CURVES:
        return curved
    if not math.isfinite(curved.loss):
        return straight
    return curved if _missed(curved.fit, some) < EXPLAINED * without else straight


def _searched(outer: Dense, rows: Rows, *, is_curved: bool) -> Fitted:
    """The best fit, of those begun at the most promising first coordinates."""
    some = rows.thinned(MAX_ROWS)
    few = some.thinned(FEW_ROWS)
    directions = torch.cat([outer.factor, _direction_of_scale(*some)[None]])
    begun = [_tried(each / each.norm(), few, is_curved=is_curved) for each in directions]
    usable = sorted((one for one in begun if math.isfinite(one.loss)), key=lambda one: one.loss)
    if not usable:
        return begun[0]._replace(loss=math.inf)
    tried = [_refined(fit, few, 15, is_curved=is_curved) for fit, _ in usable[:NUM_STARTS]]
    near, loss = min(tried, key=lambda one: one.loss)
    is_gain = loss < _affine_loss(few) - MIN_GAIN  # at the least: few positions flatter a fit
    if not (is_gain and _missed(near, few) < PROMISING * _missed(_unbent(few.y), few)):
        return Fitted(near, math.inf)
    near = _refined(near, some, 60, is_curved=is_curved).fit
    return _with_loss(_by_scores(near, evenly(near, rows), 100, is_curved=is_curved), some)


def _tried(direction: Tensor, rows: Rows, *, is_curved: bool) -> Fitted:
    """The fit begun there; of infinite loss where its algebra fails, as of repeated rows."""
    try:
        return _with_loss(_begun(direction, rows.y, is_curved=is_curved), rows)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return Fitted(_unbent(rows.y), math.inf)


def _by_scores(fit: Fit, rows: Rows, iterations: int, *, is_curved: bool) -> Fit:
    """The fit that scores ask for, searched on while it is rough and improves."""
    left = _missed(fit, rows)
    for _ in range(MAX_ROUNDS):
        fit = _refined(fit, rows, iterations, is_curved=is_curved, likelihood=0.01).fit
        before, left = left, _missed(fit, rows)
        if left < ROUGH or left > IMPROVED * before:
            break
    return fit


def _valleys(rows: Rows, most: int) -> Undone:
    """Layers that undo one valley each, as many as leave least.

    A chain of them is judged as a whole: between, what is missed may even grow.
    """
    found = [Undone([], rows)]
    while len(found) <= most and (layer := _straightened(found[-1].rest)) is not None:
        found.append(found[-1].by(layer))
    return min(found[1:], key=lambda undone: undone.rest.misfit(), default=found[0])


def _straightened(every: Rows) -> Transport | None:
    """The map that undoes one valley y + w (a·y)², where scores show one; else None.

    Along w the score is linear but for a multiple of (a·y)², whatever the density of all else: so
    of valleys within valleys the innermost shows by itself. That is so wherever positions are, and
    seen best among the central ones.
    """
    rows = every.thinned(MAX_ROWS)
    outer, central = _central(rows)
    line, products = _linear(central.y), _products(central.y)
    if len(line) < ROWS_A_TERM * (line.shape[1] + products.shape[1]):
        return None
    within = _apart(line, central.score)
    found = _parabola(central._replace(score=central.score @ within))
    if found is None:
        return None
    first, along = found
    return _transport(outer, _valley(first, within @ along, central), rows)


def _parabola(rows: Rows) -> tuple[Tensor, Tensor] | None:
    """a, and along which directions scores are linear but for (a·y)²; None where none are.

    Begun at all products of coordinates. Of several valleys side by side any mixture shows there:
    a of the mixture, and what a explains, in turn, lead to one of them.
    """
    line = _linear(rows.y)
    bent, products = _beyond(line, rows.score), _beyond(line, _products(rows.y))
    forms = _solved(products, bent)
    shares, along = _left_along(bent, bent - products @ forms)
    if not bool((shares < VALLEY).any()):
        return None
    for _ in range(ROUNDS_OF_VALLEY):
        first = _main_axis(forms @ along[:, 0])
        square = _beyond(line, (rows.y @ first[:, None]).square())
        shares, along = _left_along(bent, _beyond(square, bent))
    is_valley = shares < VALLEY
    return (first, along[:, is_valley]) if bool(is_valley.any()) else None


def _valley(first: Tensor, along: Tensor, rows: Rows) -> Fit:
    """The parabola in a·y without which scores along those directions are linear."""
    eye = torch.eye(len(first)).to(first)
    rotation = torch.linalg.qr(torch.cat([first[:, None], eye], 1)).Q.mT
    square = curve_basis(rows.y @ first[:, None])[:, 1:]
    found = _solved(torch.cat([_linear(rows.y), square], 1), rows.score @ along)
    bend = along @ torch.linalg.solve(found[1:-1].mT @ along, -found[-1])
    curve = rotation[1:] @ bend
    zeros = curve.new_zeros(3, len(curve))
    return Fit(rotation, torch.stack([zeros[0], curve]), zeros[:2], zeros)


def _central(rows: Rows) -> tuple[Dense, Rows]:
    """The half of all positions that lies closest, and the map by which it is white.

    By the concentration steps of Rousseeuw & Van Driessen (1999), A fast algorithm for the minimum
    covariance determinant estimator, doi:10.1080/00401706.1999.10485670.
    """
    outer = _whitening(rows.y)
    for _ in range(CONCENTRATIONS):
        distance = outer.to_u(rows.y).square().sum(1)
        is_central = distance <= distance.median()
        outer = _whitening(rows.y[is_central])
    return outer, Rows(outer.to_u(rows.y[is_central]), outer.pull_score(rows.score[is_central]))


def _apart(line: Tensor, score: Tensor) -> Tensor:
    """A basis of directions conjugate, by the Hessian, to those along which scores are linear.

    Only one of them is the valley's w, for w with any multiple of the others shows it as well.
    """
    found = _solved(line, score)
    bent = score - line @ found
    variances, directions = torch.linalg.eigh(bent.mT @ bent / len(bent))
    straight = directions[:, variances < STRAIGHT]
    return torch.linalg.qr(found[1:] @ straight, mode="complete").Q[:, straight.shape[1] :]


def _left_along(values: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Which shares of values are left, and along which directions, from the least on."""
    total, remaining = (each.mT @ each / len(each) for each in (values, left))
    variances, directions = torch.linalg.eigh(total)
    is_bent = variances > STRAIGHT
    unit = directions[:, is_bent] / variances[is_bent].sqrt()
    shares, vectors = torch.linalg.eigh(unit.mT @ remaining @ unit)
    return shares, unit @ vectors


def _main_axis(coefficients: Tensor) -> Tensor:
    """a, of the multiple of (a·y)² that is nearest to a quadratic form of such coefficients."""
    d = (math.isqrt(8 * len(coefficients) + 1) - 1) // 2
    form = coefficients.new_zeros(d, d)
    form[*torch.triu_indices(d, d)] = coefficients
    values, vectors = torch.linalg.eigh(form + form.mT)
    return vectors[:, values.abs().argmax()]


def _products(y: Tensor) -> Tensor:
    """Of any two coordinates: ``(n, d) -> (n, d (d + 1) / 2)``."""
    one, other = torch.triu_indices(y.shape[1], y.shape[1])
    return y[:, one] * y[:, other]


def _linear(y: Tensor) -> Tensor:
    """With a constant: ``(n, d) -> (n, d + 1)``."""
    return torch.cat([torch.ones_like(y[:, :1]), y], 1)


def _beyond(design: Tensor, values: Tensor) -> Tensor:
    """What of values a regression does not explain."""
    return values - design @ _solved(design, values)


class Rowwise:
    """A density as one of flat rows of doubles."""

    def __init__(self, density: Density, like: Tensor) -> None:
        self.density, self.like = density, like

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x): ``(n, d) -> (n,)``."""
        return self.density.log_density(self._event(x)).double()

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient."""
        log_density, score = self.density.log_density_and_score(self._event(x))
        return log_density.double(), flat(score).double()

    def _event(self, x: Tensor) -> Tensor:
        return x.to(self.like.dtype).reshape(-1, *self.like.shape[1:])


def _led_on(fit: Fit, outer: Dense, every: Rows, target: Density) -> Fit:
    """The fit that holds as well where a neck leads on, beyond all positions.

    Step by step, each by the map of the one before; for a small error of what goes with the
    positions is an error of many scales ahead.
    """
    is_curved = bool((fit.curves[1] != 0).any())
    even = evenly(fit, Rows(outer.to_u(every.y), outer.pull_score(every.score)))
    most = WORSE * _missed(fit, even) + BARELY
    for reach in AHEAD:
        x = _ahead(_transport(outer, fit, every.thinned(MAX_ROWS)), every, reach)
        if x is None:
            break
        y, score = _usable(x, *target.log_density_and_score(x))
        both = torch.cat([even.y, outer.to_u(y)]), torch.cat([even.score, outer.pull_score(score)])
        further = _by_scores(fit, Rows(*both), 40, is_curved=is_curved)
        if not _missed(further, even) < most:
            break
        fit = further
    return fit


def _usable(x: Tensor, log_density: Tensor, score: Tensor) -> Rows:
    """Where there is a density and a score."""
    is_usable = log_density.isfinite() & score.isfinite().all(1)
    return Rows(x[is_usable], score[is_usable].detach())


def _ahead(transport: Transport, every: Rows, reach: float) -> Tensor | None:
    """Places evenly along the first coordinate, so many times as far as positions have been.

    Only to where the others become narrow; None where they do not.
    """
    u = transport.to_u(every.thinned(NUM_AHEAD).y)
    ends = torch.zeros_like(u[:3])
    ends[1, 0], ends[2, 0] = u[:, 0].amin(), u[:, 0].amax()
    log_scale = transport.log_abs_det_at(ends)
    is_neck = log_scale[1:] < log_scale[0] - NECK
    if not bool(is_neck.any()):
        return None
    low, high = (reach * is_neck * ends[1:, 0]).tolist()
    u[:, 0] = torch.linspace(low, high, len(u)).to(u)
    x = transport.to_x(u)
    return x[x.isfinite().all(1)]


def evenly(fit: Fit, rows: Rows) -> Rows:
    """As many positions at each z₁, as far as there are, so that the far end of a neck counts.

    Scores show a normal wherever they are asked for, and those from where it is narrowest show
    best where it leads to.
    """
    first = rows.y @ fit.unmixing[0]
    part = (first - first.min()) / (first.max() - first.min()).clamp(min=1e-300)
    place = (NUM_PLACES * part).long().clamp(max=NUM_PLACES - 1)
    counts = torch.bincount(place, minlength=NUM_PLACES)
    order = place.argsort(stable=True)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[place[order]]
    every = (counts / (MAX_ROWS // NUM_PLACES)).ceil().long()[place[order]]
    kept = order[rank % every == 0]
    return Rows(rows.y[kept], rows.score[kept])


def _direction_of_scale(y: Tensor, score: Tensor) -> Tensor:
    """Along which log |score_j|² changes most, over all j together, by least squares: ``(d,)``."""
    squares = score.square()
    logs = (squares + 1e-12 * squares.mean(0).clamp(min=1e-300)).log()
    centred = y - y.mean(0)
    slopes = _solved(centred, logs - logs.mean(0))
    return torch.linalg.svd(slopes, full_matrices=False).U[:, 0]


def _begun(direction: Tensor, y: Tensor, *, is_curved: bool) -> Fit:
    """The fit whose first coordinate is that direction's, by least squares of means and scales.

    The others are those in which both halves of the positions, of small and of large first
    coordinate, have a diagonal covariance.
    """
    d = len(direction)
    eye = torch.eye(d, dtype=y.dtype, device=y.device)
    rotation = torch.linalg.qr(torch.cat([direction[:, None], eye], 1)).Q.mT
    first, rest = y @ direction[:, None], y @ rotation[1:].mT
    left = rest - _regressed(first, rest, is_curved).mean
    is_low = (first < first.median()).squeeze(1)
    unmixing = _diagonalising(_covariance(left[is_low]), _covariance(left[~is_low]))
    rest = rest @ unmixing.mT
    unmixing = unmixing / rest.std(0)[:, None]
    found = _regressed(first, rest / rest.std(0), is_curved)
    rows = torch.cat([direction[None], unmixing @ rotation[1:]])
    return Fit(rows, found.curves, found.means, found.log_scales)


class Regressed(NamedTuple):
    """How means and log-scales of some coordinates depend on a first one."""

    curves: Tensor
    means: Tensor
    log_scales: Tensor
    mean: Tensor
    """At each position: ``(n, k)``."""


def _regressed(first: Tensor, rest: Tensor, is_curved: bool) -> Regressed:
    """Means by weighted least squares, log-scales by Fisher scoring, in turn."""
    basis, ones = scale_basis(first), torch.ones_like(rest)
    curves = curve_basis(first) if is_curved else basis[:, :1]
    full = torch.cat([curves, mean_basis(first)], 1)
    gram = basis.mT @ basis
    gram = gram + 1e-6 * len(basis) * torch.eye(3).to(gram)
    square = (rest - full @ _solved(full, rest)).square()
    logs = 0.5 * (square + 1e-12 * square.mean(0).clamp(min=1e-300)).log() + MEAN_LOG
    log_scales = torch.linalg.solve(gram, basis.mT @ logs)
    for _ in range(8):
        scale = (basis @ log_scales).exp()
        # In units of the scale: offsets that shrink with it, and means that do not.
        offsets = [column[:, None] / scale for column in curves.mT]
        means = [column[:, None] * ones for column in mean_basis(first).mT]
        design = torch.stack([*offsets, *means], 1)
        solved = _least_squares(design, rest / scale)
        left = rest / scale - (design * solved).sum(1)
        excess = 0.5 * (left.square() - 1.0)
        log_scales = log_scales + torch.linalg.solve(gram, basis.mT @ excess.clamp(max=1.0))
    of_curves, of_means = solved[:-2], solved[-2:]
    of_curves = torch.cat([of_curves, 0.0 * of_curves[:1]])[:2]
    return Regressed(of_curves, of_means, log_scales, rest - scale * left)


def _solved(design: Tensor, values: Tensor) -> Tensor:
    """Least squares by the normal equations: ``(n, p), (n, k) -> (p, k)``.

    LAPACK's solvers for it, as ``torch.linalg.lstsq`` calls them, give other last bits in another
    process, and chains that differ in a bit part soon. Solved again for what is left: of towers of
    squares, the next is seen only as well as the one before is undone.
    """
    gram = design.mT @ design
    ridge = 1e-10 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    found = torch.linalg.solve(gram + ridge, design.mT @ values)
    return found + torch.linalg.solve(gram + ridge, design.mT @ (values - design @ found))


def _least_squares(design: Tensor, values: Tensor) -> Tensor:
    """Of each column by a design of its own: ``(n, p, k), (n, k) -> (p, k)``."""
    gram = torch.einsum("npk,nqk->kpq", design, design)
    trace = gram.diagonal(dim1=1, dim2=2).mean(1)
    ridge = 1e-8 * trace[:, None, None] * torch.eye(design.shape[1]).to(gram)
    right = torch.einsum("npk,nk->kp", design, values)
    return torch.linalg.solve(gram + ridge, right).mT


def _diagonalising(one: Tensor, other: Tensor) -> Tensor:
    """The rows by which both covariances become diagonal, the other one the unit.

    Of a regression that went astray they are not finite: its loss will say so.
    """
    if not bool(one.isfinite().all() & other.isfinite().all()):
        return torch.eye(len(one)).to(one)
    inverse = torch.linalg.inv(torch.linalg.cholesky(other))
    between = inverse @ one @ inverse.mT
    vectors = torch.linalg.eigh(0.5 * (between + between.mT)).eigenvectors
    return vectors.mT @ inverse


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    covariance = centred.mT @ centred / len(x)
    ridge = 1e-6 * covariance.diagonal().mean().clamp(min=1e-300)
    return covariance + ridge * torch.eye(len(covariance)).to(covariance)


def _loss(fit: Fit, rows: Rows, likelihood: float = 1.0) -> Tensor:
    """Minus the mean log-likelihood of positions, and how far scores are from a normal's: ().

    The second is 0 where the others are normal given z₁ and the fit is right, whatever the
    positions; far from there it grows no faster than the distance.
    """
    y, score = rows
    z = y @ fit.unmixing.mT
    first = z[:, :1]
    scaled = z[:, 1:] - curve_basis(first) @ fit.curves
    log_scale = scale_basis(first) @ fit.log_scales
    u = torch.cat([first, scaled * (-log_scale).exp() - mean_basis(first) @ fit.means], 1)
    rest = torch.linalg.solve_ex(fit.unmixing.mT, score.mT).result.mT  # inf where it is singular
    along, rest = rest[:, :1], rest[:, 1:]
    bent = Bent(first, log_scale, scaled)
    along = along + turned(bent, rest, *fit[1:])
    pulled = torch.cat([along, rest * log_scale.exp()], 1)
    energy = 0.5 * u.square().sum(1) + log_scale.sum(1)
    missed = ((1.0 + (pulled + u).square()).sqrt() - 1.0).sum(1)
    loss = energy.mean() - torch.linalg.slogdet(fit.unmixing).logabsdet
    return likelihood * loss + missed.mean()


def _with_loss(fit: Fit, rows: Rows) -> Fitted:
    return Fitted(fit, _loss(fit, rows).item())


def _refined(
    fit: Fit,
    rows: Rows,
    max_iterations: int,
    *,
    is_curved: bool,
    likelihood: float = 1.0,
) -> Fitted:
    """The fit after so many iterations of L-BFGS; as it was, where they lead nowhere."""
    d = rows.y.shape[1]
    if is_curved:
        fit = without_curved_necks(fit)
    may_bend = (fit.curves[1] != 0).to(fit.curves)
    units = _units(fit, rows.y, is_curved=is_curved)
    change = torch.zeros_like(units[:, 0])
    begun = (change, fit.unmixing[:1], fit.means, fit.log_scales)
    parts = [part.clone(memory_format=torch.contiguous_format) for part in begun]

    def changed() -> Fit:
        change, first, means, log_scales = parts
        by = torch.einsum("kp,kpq->kq", change, units)
        unmixing = torch.cat([first, fit.unmixing[1:] + by[:, :d]])
        curves = torch.cat([by[:, d:].mT, torch.zeros_like(fit.curves)])[:2]
        curves = torch.stack([curves[0], may_bend * curves[1]])
        return Fit(unmixing, fit.curves + curves, means, log_scales)

    def loss() -> Tensor:
        free = changed()
        penalty = sum(part[1:].square().sum() for part in free[1:])
        return _loss(free, rows, likelihood) + RIDGE * likelihood * penalty

    _minimise(loss, parts, max_iterations)
    found = _with_loss(changed(), rows)
    return found if math.isfinite(found.loss) else _with_loss(fit, rows)


def without_curved_necks(fit: Fit) -> Fit:
    """No parabola where a scale varies: far in, it would leave the neck by many scales."""
    ends = torch.tensor([[-1.5], [0.0], [1.5]]).to(fit.log_scales)
    log_scales = scale_basis(ends) @ fit.log_scales
    is_neck = log_scales.amax(0) - log_scales.amin(0) > NECK
    curves = torch.stack([fit.curves[0], fit.curves[1].masked_fill(is_neck, 0.0)])
    return fit._replace(curves=curves)


def _units(fit: Fit, y: Tensor, *, is_curved: bool) -> Tensor:
    """Changes of a row of K with its offsets by which each u_j moves as far: ``(d - 1, p, p)``.

    The inverse Cholesky factors of the mean square of what they multiply, over the scale. Where
    some positions are far in a neck, rows must be right to a part of the smallest scale, and a
    search in any other units takes thousands of steps.
    """
    first = y @ fit.unmixing[:1].mT
    design = torch.cat([y, -curve_basis(first)[:, : 1 + is_curved]], 1)
    weight = (-2.0 * (scale_basis(first) @ fit.log_scales)).exp()
    gram = torch.einsum("np,nk,nq->kpq", design, weight, design) / len(y)
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    ridge = (UNIT_RIDGE + 1e-8 * size) * torch.eye(design.shape[1]).to(gram)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge)
    is_usable = (failed == 0) & factor.isfinite().flatten(1).all(1)
    eye = torch.eye(design.shape[1]).to(gram)
    return torch.linalg.inv(torch.where(is_usable[:, None, None], factor, eye))


def _minimise(loss: Callable[[], Tensor], parts: Sequence[Tensor], max_iterations: int) -> None:
    """L-BFGS, in place."""
    for part in parts:
        part.requires_grad_()
    optimizer = torch.optim.LBFGS(
        parts, max_iter=max_iterations, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        value = loss()
        for part, gradient in zip(parts, torch.autograd.grad(value, parts), strict=True):
            part.grad = gradient.contiguous()
        return value.item()

    with torch.enable_grad():
        optimizer.step(closure)
    for part in parts:
        part.requires_grad_(False)


def _affine_loss(rows: Rows) -> float:
    """The loss of a map that does not bend."""
    return _loss(_unbent(rows.y), rows).item()


def _missed(fit: Fit, rows: Rows) -> float:
    """How far scores are from a normal's: that part of the loss."""
    return _loss(fit, rows, likelihood=0.0).item()


def _unbent(y: Tensor) -> Fit:
    zeros = y.new_zeros(3, y.shape[1] - 1)
    return Fit(torch.eye(y.shape[1]).to(y), zeros[:2], zeros[:2], zeros)


def _transport(outer: Dense, fit: Fit, rows: Rows) -> Transport:
    """The map of a fit, with an affine one within it fitted to what is left of rows of x."""
    matrix = outer.factor @ torch.linalg.inv(fit.unmixing)
    eye, zeros = torch.eye(len(matrix)).to(matrix), torch.zeros_like(outer.loc)
    bent = Transport(outer.loc, matrix, *fit[1:], zeros, eye)
    u = bent.to_u(rows.y)
    inner = fit_affine(u, bent.pull_score_at(u, rows.score))
    assert isinstance(inner, Dense)  # of so few dimensions and so many positions
    return Transport(outer.loc, matrix, *fit[1:], inner.loc, inner.factor)


def _whitening(x: Tensor) -> Dense:
    """By mean and covariance of the positions: the likeliest affine map."""
    centred = x - x.mean(0)
    sd = x.std(0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    factor = torch.linalg.cholesky(_covariance(centred / sd))
    return Dense(x.mean(0), sd[:, None] * factor)
