"""A map that un-centres funnels and straightens bananas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from poe.core.affine import Affine
from poe.core.arguments import checked

EDGE = 6.0
"""Of z₁ ~ N(0, 1): beyond it scales and means go on as they are."""
SQRT_2 = math.sqrt(2.0)


class Density(Protocol):
    """What a map pulls back."""

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x)."""

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient."""


class Bent(NamedTuple):
    """What the first coordinate makes of the others: z₁ ``(n, 1)``, and ``(n, d - 1)`` each."""

    first: Tensor
    log_scale: Tensor
    scaled: Tensor
    """exp(s) (v + m)."""


class Layer(NamedTuple):
    """One bend: flat rows ``(n, d)`` of u and x, and the parts of a ``Transport`` of one layer."""

    loc: Tensor
    matrix: Tensor
    curves: Tensor
    means: Tensor
    log_scales: Tensor
    inner_loc: Tensor
    inner_factor: Tensor

    def to_x(self, u: Tensor) -> Tensor:
        """x(u)."""
        bent = self.bent(u)
        z = torch.cat([bent.first, curve_basis(bent.first) @ self.curves + bent.scaled], 1)
        return torch.addmm(self.loc, z, self.matrix.mT)

    def to_u(self, x: Tensor) -> Tensor:
        """u(x)."""
        z = torch.linalg.solve(self.matrix, (x - self.loc).mT).mT
        first = z[:, :1]
        shift, log_scale = mean_basis(first) @ self.means, scale_basis(first) @ self.log_scales
        v = (z[:, 1:] - curve_basis(first) @ self.curves) * (-log_scale).exp() - shift
        inner = (torch.cat([first, v], 1) - self.inner_loc).mT
        return torch.linalg.solve_triangular(self.inner_factor, inner, upper=False).mT

    def pulled(self, u: Tensor, score: Tensor) -> Tensor:
        """The gradient in u of a density with this score at x(u), and of the volume."""
        bent = self.bent(u)
        along = score @ self.matrix
        first, rest = along[:, :1], along[:, 1:]
        first = first + self._turned(bent, rest)
        return torch.cat([first, rest * bent.log_scale.exp()], 1) @ self.inner_factor

    def pushed(self, u: Tensor, score: Tensor) -> Tensor:
        """The score at x(u), from that gradient in u."""
        bent = self.bent(u)
        pulled = torch.linalg.solve_triangular(self.inner_factor.mT, score.mT, upper=True).mT
        rest = pulled[:, 1:] * (-bent.log_scale).exp()
        along = torch.cat([pulled[:, :1] - self._turned(bent, rest), rest], 1)
        return torch.linalg.solve(self.matrix.mT, along.mT).mT

    def bent(self, u: Tensor) -> Bent:
        """What z₁ makes of the others."""
        inner = torch.addmm(self.inner_loc, u, self.inner_factor.mT)
        first = inner[:, :1]
        log_scale = scale_basis(first) @ self.log_scales
        scaled = log_scale.exp() * (inner[:, 1:] + mean_basis(first) @ self.means)
        return Bent(first, log_scale, scaled)

    def log_volume(self) -> Tensor:
        """log |det ∂x/∂u| but for what changes with u: ()."""
        inner = self.inner_factor.diagonal().log().sum()
        return inner + torch.linalg.slogdet(self.matrix).logabsdet

    def _turned(self, bent: Bent, rest: Tensor) -> Tensor:
        return turned(bent, rest, self.curves, self.means, self.log_scales)


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

    Of several layers, the u of each is the x of the next: two groups of effects have a scale each.
    x and u keep their dtype; in between, numbers are as precise as the map's.

    Args:
        loc: μ, ``(d,)``; this and all others with a leading ``(layers,)`` where there are several.
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

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the one next to x to the one next to u."""
        parts = tuple(vars(self).values())
        if self.loc.ndim == 1:
            return (Layer(*parts),)
        return tuple(map(Layer._make, zip(*(part.unbind(0) for part in parts), strict=True)))

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's.

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """
        rows = self._rows(u)
        for layer in reversed(self.layers):
            rows = layer.to_x(rows)
        return _like(rows, u)

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones.

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """
        rows = self._rows(x)
        for layer in self.layers:
            rows = layer.to_u(rows)
        return _like(rows, x)

    def log_abs_det_at(self, u: Tensor) -> Tensor:
        """Σ_j s_j(z₁) of all layers, log |det ∂x/∂u| up to a constant.

        Args:
            u: ``(n, *event)``.

        Returns:
            ``(n,)``.
        """
        parts = [layer.bent(rows).log_scale.sum(1) for layer, rows in self._passed(u)]
        return torch.stack(parts).sum(0).to(u.dtype)

    def log_volume(self) -> Tensor:
        """That constant.

        Returns:
            ``()``.
        """
        return torch.stack([layer.log_volume() for layer in self.layers]).sum()

    def pull_score_at(self, u: Tensor, score: Tensor) -> Tensor:
        """The gradient in u of log p̃(x(u)) + log |det ∂x/∂u|.

        Args:
            u: ``(n, *event)``.
            score: ∇ log p̃ at x(u), ``(n, *event)``.

        Returns:
            ``(n, *event)``.
        """
        pulled = self._rows(score)
        for layer, rows in self._passed(u):
            pulled = layer.pulled(rows, pulled)
        return _like(pulled, score)

    def push_score_at(self, u: Tensor, score: Tensor) -> Tensor:
        """∇ log p̃ at x(u), from the gradient in u that ``pull_score_at`` makes of it.

        Args:
            u: ``(n, *event)``.
            score: The gradient in u, ``(n, *event)``.

        Returns:
            ``(n, *event)``.
        """
        pushed = self._rows(score)
        for layer, rows in reversed(self._passed(u)):
            pushed = layer.pushed(rows, pushed)
        return _like(pushed, score)

    def whitened(self, target: Density) -> Transported:
        """The density of u.

        Args:
            target: The density of x.

        Returns:
            It, up to a constant.
        """
        return Transported(target, self)

    def _rows(self, x: Tensor) -> Tensor:
        """As precise as the map: far out in a valley all digits of single precision cancel."""
        return flat(x).to(torch.promote_types(x.dtype, self.loc.dtype))

    def _passed(self, u: Tensor) -> list[tuple[Layer, Tensor]]:
        """Each layer with its own u, from the one next to x on."""
        rows, passed = self._rows(u), []
        *others, last = self.layers
        passed.append((last, rows))
        for before in reversed(others):
            rows = passed[-1][0].to_x(rows)
            passed.append((before, rows))
        return passed[::-1]


def turned(bent: Bent, rest: Tensor, curves: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """How log-density and volume change with z₁ by way of means and scales.

    Args:
        bent: What z₁ makes of the others.
        rest: The gradient in these, ``(n, d - 1)``.
        curves: Coefficients of the offsets, ``(2, d - 1)``.
        means: Of the means, ``(2, d - 1)``.
        log_scales: Of the log-scales, ``(3, d - 1)``.

    Returns:
        ``(n, 1)``.
    """
    of_curve, of_scale = SQRT_2 * bent.first * curves[1], _scale_slopes(bent.first) @ log_scales
    of_mean = bent.log_scale.exp() * (_mean_slopes(bent.first) @ means)
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


# Centred and scaled for t ~ N(0, 1), so that a search finds its way among their coefficients.


def _clipped(first: Tensor) -> tuple[Tensor, Tensor]:
    """t up to 6 and no further than 7, and its derivative: where there were no positions.

    There a small error of an offset, in units of a scale that goes on falling, would bend the
    neck away from where chains look for it; with a scale that stays it remains straight.
    """
    distance = first.abs()
    beyond = torch.tanh((distance - EDGE).clamp(min=0.0))
    return first.sign() * (distance.clamp(max=EDGE) + beyond), 1.0 - beyond.square()


def scale_basis(first: Tensor) -> Tensor:
    """1, t, (√(1 + t²) − 1.354) / 0.406: ``(n, 1) -> (n, 3)``."""
    t, _ = _clipped(first)
    root = ((1.0 + t.square()).sqrt() - 1.354) / 0.406
    return torch.cat([torch.ones_like(t), t, root], 1)


def _scale_slopes(first: Tensor) -> Tensor:
    """Their derivatives."""
    t, slope = _clipped(first)
    root = t * (1.0 + t.square()).rsqrt() / 0.406
    return slope * torch.cat([torch.zeros_like(t), torch.ones_like(t), root], 1)


def curve_basis(first: Tensor) -> Tensor:
    """1, (t² − 1) / √2: ``(n, 1) -> (n, 2)``."""
    return torch.cat([torch.ones_like(first), (first.square() - 1.0) / SQRT_2], 1)


def mean_basis(first: Tensor) -> Tensor:
    """t / √(1 + t²) / 0.588, (1 / √(1 + t²) − 0.789) / 0.180: ``(n, 1) -> (n, 2)``."""
    t, _ = _clipped(first)
    root = (1.0 + t.square()).rsqrt()
    return torch.cat([t * root / 0.588, (root - 0.789) / 0.180], 1)


def _mean_slopes(first: Tensor) -> Tensor:
    """Their derivatives."""
    t, slope = _clipped(first)
    cube = (1.0 + t.square()).rsqrt() ** 3
    return slope * torch.cat([cube / 0.588, -t * cube / 0.180], 1)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """In the shape and the dtype that x had."""
    return rows.reshape(x.shape).to(x.dtype)


def flat(x: Tensor) -> Tensor:
    """An event a row: ``(n, *event) -> (n, d)``."""
    return x.reshape(len(x), -1)
