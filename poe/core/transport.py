"""A map that un-centres funnels and straightens bananas, and its fit to positions and scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from poe.core.affine import Affine, Dense, Diagonal, LowRank, fit_affine
from poe.core.arguments import checked

MAX_DIMENSION = 50
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
"""Of what scores miss, and so much of it: a parabola that leaves but a quarter is taken as well."""
SLIGHT = 0.3
"""Where scores miss a normal's by so little in all coordinates together, bending gains little."""
PROMISING = 0.7
"""A short search must leave less than this of what scores miss, or no longer one follows."""
WORTHWHILE = 0.5
"""A map that bends must leave less than this of what an affine one leaves."""
EDGE = 6.0
"""Of z₁ ~ N(0, 1): beyond it scales and means go on as they are."""
NUM_STARTS = 2
RIDGE = 1e-4
SQRT_2 = math.sqrt(2.0)
MEAN_LOG = 0.635
"""−E log |z| of z ~ N(0, 1)."""


class Density(Protocol):
    """What a map pulls back."""

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x)."""

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient."""


@checked
@dataclass(frozen=True, eq=False)
class Transport:
    """x = μ + A z, where z₁ sets the mean and the scale of all other coordinates of z.

    (z₁, v) = c + C u;  z_j = a_j(z₁) + exp(s_j(z₁)) (v_j + m_j(z₁)), with offsets a_j linear in 1
    and t², log-scales s_j in 1, t and √(1 + t²), and bounded means m_j, in units of the scale, in
    t / √(1 + t²) and 1 / √(1 + t²); t is z₁, and for scales and means stays where |z₁| is beyond
    6, where no positions were. For Neal's funnel z₁ is v and s = v / 2; for a hierarchy in its
    centred form z₁ is the log of the scale that the effects share; for Rosenbrock's valley a is a
    parabola. One-to-one, with the density of u

        log p̃(x(u)) + Σ_j s_j(z₁)    up to a constant.

    Args:
        loc: μ, ``(d,)``.
        matrix: A, ``(d, d)``, invertible.
        curves: The coefficients of a in 1 and (t² − 1) / √2, ``(2, d - 1)``.
        means: Those of m, ``(2, d - 1)``.
        log_scales: Those of s in 1, t and (√(1 + t²) − 1.354) / 0.406, ``(3, d - 1)``.
        inner_loc: c, ``(d,)``.
        inner_factor: C, ``(d, d)``, lower-triangular with a positive diagonal.

    References:
        Parno & Marzouk (2018), Transport map accelerated Markov chain Monte Carlo,
        doi:10.1137/17M1134640; Papaspiliopoulos, Roberts & Sköld (2007), A general framework for
        the parametrization of hierarchical models, doi:10.1214/088342307000000014.

    Example:
        >>> eye = torch.eye(2)
        >>> log_scales = torch.tensor([[0.0], [0.5], [0.0]])  # of Neal's funnel: v / 2
        >>> zeros = torch.zeros(2)
        >>> means = torch.zeros(2, 1)
        >>> funnel = Transport(zeros, eye, means, means, log_scales, zeros, eye)
        >>> x = torch.tensor([[-4.0, 1.0], [4.0, 1.0]])
        >>> funnel.to_u(x)
        tensor([[-4.0000,  7.3891],
                [ 4.0000,  0.1353]])
    """

    loc: Tensor
    matrix: Tensor
    curves: Tensor
    means: Tensor
    log_scales: Tensor
    inner_loc: Tensor
    inner_factor: Tensor

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's.

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """
        bent = self._bent(u)
        z = torch.cat([bent.first, _curves(bent.first) @ self.curves + bent.scaled], 1)
        return torch.addmm(self.loc, z, self.matrix.mT).reshape(u.shape)

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones.

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """
        z = torch.linalg.solve(self.matrix, (_flat(x) - self.loc).mT).mT
        first = z[:, :1]
        shift, log_scale = _means(first) @ self.means, _scales(first) @ self.log_scales
        v = (z[:, 1:] - _curves(first) @ self.curves) * (-log_scale).exp() - shift
        inner = (torch.cat([first, v], 1) - self.inner_loc).mT
        u = torch.linalg.solve_triangular(self.inner_factor, inner, upper=False)
        return u.mT.reshape(x.shape)

    def log_abs_det_at(self, u: Tensor) -> Tensor:
        """Σ_j s_j(z₁), log |det ∂x/∂u| up to a constant.

        Args:
            u: ``(n, *event)``.

        Returns:
            ``(n,)``.
        """
        return self._bent(u).log_scale.sum(1)

    def pull_score_at(self, u: Tensor, score: Tensor) -> Tensor:
        """The gradient in u of log p̃(x(u)) + log |det ∂x/∂u|.

        Args:
            u: ``(n, *event)``.
            score: ∇ log p̃ at x(u), ``(n, *event)``.

        Returns:
            ``(n, *event)``.
        """
        bent = self._bent(u)
        along = _flat(score) @ self.matrix
        first, rest = along[:, :1], along[:, 1:]
        first = first + self._turned(bent, rest)
        pulled = torch.cat([first, rest * bent.log_scale.exp()], 1)
        return (pulled @ self.inner_factor).reshape(score.shape)

    def push_score_at(self, u: Tensor, score: Tensor) -> Tensor:
        """∇ log p̃ at x(u), from the gradient in u that ``pull_score_at`` makes of it.

        Args:
            u: ``(n, *event)``.
            score: The gradient in u, ``(n, *event)``.

        Returns:
            ``(n, *event)``.
        """
        bent = self._bent(u)
        upper = self.inner_factor.mT
        pulled = torch.linalg.solve_triangular(upper, _flat(score).mT, upper=True).mT
        rest = pulled[:, 1:] * (-bent.log_scale).exp()
        along = torch.cat([pulled[:, :1] - self._turned(bent, rest), rest], 1)
        return torch.linalg.solve(self.matrix.mT, along.mT).mT.reshape(score.shape)

    def whitened(self, target: Density) -> Transported:
        """The density of u.

        Args:
            target: The density of x.

        Returns:
            It, up to a constant.
        """
        return Transported(target, self)

    def cast(self, dtype: torch.dtype) -> Transport:
        """The same map in numbers of another kind.

        Args:
            dtype: Of its tensors.

        Returns:
            A copy.
        """
        return Transport(**{name: part.to(dtype).contiguous() for name, part in vars(self).items()})

    def _bent(self, u: Tensor) -> Bent:
        inner = torch.addmm(self.inner_loc, _flat(u), self.inner_factor.mT)
        first = inner[:, :1]
        log_scale = _scales(first) @ self.log_scales
        scaled = log_scale.exp() * (inner[:, 1:] + _means(first) @ self.means)
        return Bent(first, log_scale, scaled)

    def _turned(self, bent: Bent, rest: Tensor) -> Tensor:
        return _turned(self, bent, rest)


class Bent(NamedTuple):
    """What the first coordinate makes of the others: z₁ ``(n, 1)``, and ``(n, d - 1)`` each."""

    first: Tensor
    log_scale: Tensor
    scaled: Tensor
    """exp(s) (v + m)."""


def _turned(of: Transport | Fit, bent: Bent, rest: Tensor) -> Tensor:
    """How log-density and volume change with z₁ by way of means and scales: ``(n, 1)``.

    Shapes: rest ``(n, d - 1)``, the gradient in the others of z.
    """
    of_curve, of_scale = (
        SQRT_2 * bent.first * of.curves[1],
        _scale_slopes(bent.first) @ of.log_scales,
    )
    of_mean = bent.log_scale.exp() * (_mean_slopes(bent.first) @ of.means)
    change = rest * (of_curve + of_scale * bent.scaled + of_mean) + of_scale
    return change.sum(1, keepdim=True)


class Transported:
    """The density of u where x is its image under a ``Transport``, up to a constant."""

    def __init__(self, target: Density, transport: Transport) -> None:
        self.target, self.transport = target, transport

    def log_density(self, u: Tensor) -> Tensor:
        """log p̃(x(u)) + log |det ∂x/∂u|: ``(n, *event) -> (n,)``."""
        log_density = self.target.log_density(self.transport.to_x(u))
        return log_density + self.transport.log_abs_det_at(u)

    def log_density_and_score(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in u."""
        log_density, score = self.target.log_density_and_score(self.transport.to_x(u))
        log_abs_det = self.transport.log_abs_det_at(u)
        return log_density + log_abs_det, self.transport.pull_score_at(u, score)

    def in_x(self, u: Tensor, log_density: Tensor) -> Tensor:
        """log p̃(x), from the log-density of u: ``(n,)``."""
        return log_density - self.transport.log_abs_det_at(u)


def push_score(affine: Affine | Transport, x: Tensor, score: Tensor) -> Tensor:
    """∇ log p̃(x) from the score in whitened coordinates, whatever the map.

    Args:
        affine: The map.
        x: ``(n, *event)``, in the target's coordinates.
        score: The score at u(x) of the density of u, ``(n, *event)``.

    Returns:
        ``(n, *event)``.
    """
    if isinstance(affine, Transport):
        return affine.push_score_at(affine.to_u(x), score)
    return affine.push_score(score)


def fit_transport(x: Tensor, score: Tensor) -> Transport | Diagonal | Dense | LowRank:
    """The map that bends as far as positions ask for, or the affine one where that serves as well.

    By maximum likelihood of the positions: z₁ is standard normal, and the others are normal given
    it. So it is right even where chains have not yet been everywhere in z₁, for what is fitted is
    how the others depend on it. Begun at several z₁: each coordinate of x, and the direction along
    which the scale of the score varies. An affine map is fitted to what is left, by positions and
    scores (``fit_affine``).

    Args:
        x: Positions, ``(n, *event)``, n >= 2.
        score: ∇ log p̃ there, ``(n, *event)``.

    Returns:
        A ``Transport`` where the log-likelihood of a position gains more than 0.2 by bending, and
        scores come out at least twice as near to a normal's; else, and of one or more than 50
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
    if d * misfit(affine, x, score) < SLIGHT:
        return affine
    every = math.ceil(n / MAX_ROWS)
    flat_x, flat_score = (_flat(part)[::every].double() for part in (x, score))
    outer = _whitening(flat_x)
    y, pulled = outer.to_u(flat_x), outer.pull_score(flat_score)
    fitted = _best(outer, y, pulled)
    if not fitted.loss < _affine_loss(y, pulled) - MIN_GAIN:
        return affine
    bent = _transport(outer, fitted.fit, flat_x, flat_score).cast(x.dtype)
    return bent if misfit(bent, x, score) < WORTHWHILE * misfit(affine, x, score) else affine


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
    return ((1.0 + (pulled + u).double().square()).sqrt() - 1.0).mean().item()


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


def _best(outer: Dense, y: Tensor, score: Tensor) -> Fitted:
    """The better of straight and of curved offsets; of infinite loss where neither gains much.

    A parabola fits nearly everything where there are positions, and goes astray beyond: into a
    neck that chains have not reached yet it is taken only where it says a lot, or where it explains
    the scores that straight offsets do not.
    """
    straight, curved = (_searched(outer, y, score, is_curved=each) for each in (False, True))
    if curved.loss < straight.loss - MIN_GAIN_OF_CURVES:
        return curved
    if not math.isfinite(curved.loss):
        return straight
    left, without = _missed(curved.fit, y, score), _missed(straight.fit, y, score)
    return curved if left < EXPLAINED * without and without > UNEXPLAINED else straight


def _searched(outer: Dense, y: Tensor, score: Tensor, *, is_curved: bool) -> Fitted:
    """The best fit, of those begun at the most promising first coordinates."""
    every = math.ceil(len(y) / FEW_ROWS)
    few = y[::every], score[::every]
    directions = torch.cat([outer.factor, _direction_of_scale(y, score)[None]])
    starts = (_begun(each / each.norm(), few[0], is_curved=is_curved) for each in directions)
    begun = [_with_loss(start, *few) for start in starts]
    usable = sorted((one for one in begun if math.isfinite(one.loss)), key=lambda one: one.loss)
    if not usable:
        return begun[0]._replace(loss=math.inf)
    tried = [_refined(fit, *few, 15, is_curved=is_curved) for fit, _ in usable[:NUM_STARTS]]
    near, loss = min(tried, key=lambda one: one.loss)
    is_gain = loss < _affine_loss(*few) - MIN_GAIN  # at the least: few positions flatter a fit
    if not (is_gain and _missed(near, *few) < PROMISING * _missed(_unbent(y), *few)):
        return Fitted(near, math.inf)
    near = _refined(near, y, score, 60, is_curved=is_curved).fit
    return _refined(near, y, score, 100, is_curved=is_curved, likelihood=0.01)


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
    basis, ones = _scales(first), torch.ones_like(rest)
    curves = _curves(first) if is_curved else basis[:, :1]
    full = torch.cat([curves, _means(first)], 1)
    gram = basis.mT @ basis
    gram = gram + 1e-6 * len(basis) * torch.eye(3).to(gram)
    square = (rest - full @ _solved(full, rest)).square()
    logs = 0.5 * (square + 1e-12 * square.mean(0).clamp(min=1e-300)).log() + MEAN_LOG
    log_scales = torch.linalg.solve(gram, basis.mT @ logs)
    for _ in range(8):
        scale = (basis @ log_scales).exp()
        # In units of the scale: offsets that shrink with it, and means that do not.
        offsets = [column[:, None] / scale for column in curves.mT]
        means = [column[:, None] * ones for column in _means(first).mT]
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
    process, and chains that differ in a bit part soon.
    """
    gram = design.mT @ design
    ridge = 1e-10 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return torch.linalg.solve(gram + ridge, design.mT @ values)


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


def _loss(fit: Fit, y: Tensor, score: Tensor, likelihood: float = 1.0) -> Tensor:
    """Minus the mean log-likelihood of positions, and how far scores are from a normal's: ().

    The second is 0 where the others are normal given z₁ and the fit is right, whatever the
    positions; far from there it grows no faster than the distance.
    """
    z = y @ fit.unmixing.mT
    first = z[:, :1]
    scaled = z[:, 1:] - _curves(first) @ fit.curves
    log_scale = _scales(first) @ fit.log_scales
    u = torch.cat([first, scaled * (-log_scale).exp() - _means(first) @ fit.means], 1)
    rest = torch.linalg.solve(fit.unmixing.mT, score.mT).mT
    along, rest = rest[:, :1], rest[:, 1:]
    bent = Bent(first, log_scale, scaled)
    along = along + _turned(fit, bent, rest)
    pulled = torch.cat([along, rest * log_scale.exp()], 1)
    energy = 0.5 * u.square().sum(1) + log_scale.sum(1)
    missed = ((1.0 + (pulled + u).square()).sqrt() - 1.0).sum(1)
    loss = energy.mean() - torch.linalg.slogdet(fit.unmixing).logabsdet
    return likelihood * loss + missed.mean()


def _with_loss(fit: Fit, y: Tensor, score: Tensor) -> Fitted:
    return Fitted(fit, _loss(fit, y, score).item())


def _refined(
    fit: Fit,
    y: Tensor,
    score: Tensor,
    max_iterations: int,
    *,
    is_curved: bool,
    likelihood: float = 1.0,
) -> Fitted:
    """The fit after so many iterations of L-BFGS; as it was, where they lead nowhere."""
    parts = [part.clone(memory_format=torch.contiguous_format).requires_grad_() for part in fit]
    optimizer = torch.optim.LBFGS(
        parts, max_iter=max_iterations, history_size=50, line_search_fn="strong_wolfe"
    )

    flat = torch.tensor([[1.0], [0.0]]).to(y)  # no parabola

    def closure() -> float:
        free = Fit(*parts)
        if not is_curved:
            free = free._replace(curves=free.curves * flat)
        penalty = sum(part[1:].square().sum() for part in free[1:])
        loss = _loss(free, y, score, likelihood) + RIDGE * likelihood * penalty
        for part, gradient in zip(parts, torch.autograd.grad(loss, parts), strict=True):
            part.grad = gradient.contiguous()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    found = _with_loss(Fit(*(part.detach() for part in parts)), y, score)
    return found if math.isfinite(found.loss) else _with_loss(fit, y, score)


def _affine_loss(y: Tensor, score: Tensor) -> float:
    """The loss of a map that does not bend."""
    return _loss(_unbent(y), y, score).item()


def _missed(fit: Fit, y: Tensor, score: Tensor) -> float:
    """How far scores are from a normal's: that part of the loss."""
    return _loss(fit, y, score, likelihood=0.0).item()


def _unbent(y: Tensor) -> Fit:
    zeros = y.new_zeros(3, y.shape[1] - 1)
    return Fit(torch.eye(y.shape[1]).to(y), zeros[:2], zeros[:2], zeros)


def _transport(outer: Dense, fit: Fit, x: Tensor, score: Tensor) -> Transport:
    """The map of a fit, with an affine one within it fitted to what is left."""
    matrix = outer.factor @ torch.linalg.inv(fit.unmixing)
    eye, zeros = torch.eye(len(matrix)).to(matrix), torch.zeros_like(outer.loc)
    bent = Transport(outer.loc, matrix, *fit[1:], zeros, eye)
    u = bent.to_u(x)
    inner = fit_affine(u, bent.pull_score_at(u, score))
    assert isinstance(inner, Dense)  # of so few dimensions and so many positions
    return Transport(outer.loc, matrix, *fit[1:], inner.loc, inner.factor)


def _whitening(x: Tensor) -> Dense:
    """By mean and covariance of the positions: the likeliest affine map."""
    centred = x - x.mean(0)
    sd = x.std(0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))
    factor = torch.linalg.cholesky(_covariance(centred / sd))
    return Dense(x.mean(0), sd[:, None] * factor)


# Centred and scaled for t ~ N(0, 1), so that a search finds its way among their coefficients.


def _clipped(first: Tensor) -> tuple[Tensor, Tensor]:
    """t up to 6 and no further than 7, and its derivative: where there were no positions.

    There a small error of an offset, in units of a scale that goes on falling, would bend the
    neck away from where chains look for it; with a scale that stays it remains straight.
    """
    distance = first.abs()
    beyond = torch.tanh((distance - EDGE).clamp(min=0.0))
    return first.sign() * (distance.clamp(max=EDGE) + beyond), 1.0 - beyond.square()


def _scales(first: Tensor) -> Tensor:
    """1, t, (√(1 + t²) − 1.354) / 0.406: ``(n, 1) -> (n, 3)``."""
    t, _ = _clipped(first)
    root = ((1.0 + t.square()).sqrt() - 1.354) / 0.406
    return torch.cat([torch.ones_like(t), t, root], 1)


def _scale_slopes(first: Tensor) -> Tensor:
    """Their derivatives."""
    t, slope = _clipped(first)
    root = t * (1.0 + t.square()).rsqrt() / 0.406
    return slope * torch.cat([torch.zeros_like(t), torch.ones_like(t), root], 1)


def _curves(first: Tensor) -> Tensor:
    """1, (t² − 1) / √2: ``(n, 1) -> (n, 2)``."""
    return torch.cat([torch.ones_like(first), (first.square() - 1.0) / SQRT_2], 1)


def _means(first: Tensor) -> Tensor:
    """t / √(1 + t²) / 0.588, (1 / √(1 + t²) − 0.789) / 0.180: ``(n, 1) -> (n, 2)``."""
    t, _ = _clipped(first)
    root = (1.0 + t.square()).rsqrt()
    return torch.cat([t * root / 0.588, (root - 0.789) / 0.180], 1)


def _mean_slopes(first: Tensor) -> Tensor:
    """Their derivatives."""
    t, slope = _clipped(first)
    cube = (1.0 + t.square()).rsqrt() ** 3
    return slope * torch.cat([cube / 0.588, -t * cube / 0.180], 1)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)
