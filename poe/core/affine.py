"""Affine maps x = μ + L u that whiten a density, and the fit of one to positions and scores.

Chains that move in u see a density close to N(0, I), whatever scales and correlations x has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError

MAX_DENSE_DIMENSION = 512
"""Above this a full L costs more than most experts, and its fit needs more draws than there are."""
RANK = 32
"""The most directions that a low-rank map corrects."""
NOTICEABLE = 2.0
"""A direction whose variance is off by less than this factor is not worth correcting."""
REGULARIZATION = 1e-3


@runtime_checkable
class Affine(Protocol):
    """x = μ + L u, with |det L| > 0. Events are flattened to d numbers on the way."""

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's: μ + L u.

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones: L⁻¹ (x − μ).

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """

    def pull_score(self, score: Tensor) -> Tensor:
        """The gradient in u of a function whose gradient in x is ``score``: Lᵀ ∇.

        Args:
            score: The gradient in x, ``(n, *event)``.

        Returns:
            The gradient in u, of the same shape.
        """

    def push_score(self, score: Tensor) -> Tensor:
        """The gradient in x of a function whose gradient in u is ``score``: L⁻ᵀ ∇.

        Args:
            score: The gradient in u, ``(n, *event)``.

        Returns:
            The gradient in x, of the same shape.
        """

    def log_abs_det(self) -> Tensor:
        """log |det L|: ()."""


@checked
@dataclass(frozen=True, eq=False)
class Diagonal:
    """x = μ + s ∘ u: each component on its own scale.

    Args:
        loc: μ, ``(d,)``.
        scale: s, ``(d,)``, positive.

    Example:
        >>> affine = Diagonal(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 3.0]))
        >>> affine.to_x(torch.tensor([[1.0, 1.0]]))
        tensor([[3., 3.]])
    """

    loc: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        _require_finite(self)

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's: μ + s ∘ u.

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """
        return torch.addcmul(_like(self.loc, u), u, _like(self.scale, u))

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones: (x − μ) / s.

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """
        return (x - _like(self.loc, x)) / _like(self.scale, x)

    def pull_score(self, score: Tensor) -> Tensor:
        """The gradient in u of a function with this gradient in x: s ∘ ∇.

        Args:
            score: The gradient in x, ``(n, *event)``.

        Returns:
            The gradient in u, of the same shape.
        """
        return score * _like(self.scale, score)

    def push_score(self, score: Tensor) -> Tensor:
        """The gradient in x of a function with this gradient in u: ∇ / s.

        Args:
            score: The gradient in u, ``(n, *event)``.

        Returns:
            The gradient in x, of the same shape.
        """
        return score / _like(self.scale, score)

    def log_abs_det(self) -> Tensor:
        """Σ log s."""
        return self.scale.log().sum()


@checked
@dataclass(frozen=True, eq=False)
class Dense:
    """x = μ + L u with a lower-triangular L.

    Args:
        loc: μ, ``(d,)``.
        factor: L, ``(d, d)``, lower-triangular with a positive diagonal.

    Example:
        >>> affine = Dense(torch.zeros(2), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        >>> affine.to_u(affine.to_x(torch.tensor([[1.0, 3.0]])))
        tensor([[1., 3.]])
    """

    loc: Tensor
    factor: Tensor

    def __post_init__(self) -> None:
        _require_finite(self)

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's: μ + L u.

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """
        return torch.addmm(self.loc, _flat(u), self.factor.mT).reshape(u.shape)

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones: L⁻¹ (x − μ).

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """
        centred = (_flat(x) - self.loc).mT
        u = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        return u.mT.reshape(x.shape)

    def pull_score(self, score: Tensor) -> Tensor:
        """The gradient in u of a function with this gradient in x: Lᵀ ∇.

        Args:
            score: The gradient in x, ``(n, *event)``.

        Returns:
            The gradient in u, of the same shape.
        """
        return (_flat(score) @ self.factor).reshape(score.shape)

    def push_score(self, score: Tensor) -> Tensor:
        """The gradient in x of a function with this gradient in u: L⁻ᵀ ∇.

        Args:
            score: The gradient in u, ``(n, *event)``.

        Returns:
            The gradient in x, of the same shape.
        """
        pushed = torch.linalg.solve_triangular(self.factor.mT, _flat(score).mT, upper=True)
        return pushed.mT.reshape(score.shape)

    def log_abs_det(self) -> Tensor:
        """Σ log L_ii."""
        return self.factor.diagonal().log().sum()


@checked
@dataclass(frozen=True, eq=False)
class LowRank:
    """x = μ + s ∘ (u + V (a − 1) Vᵀ u): a diagonal, stretched by aₖ along k orthonormal directions.

    Costs d k, where a dense map costs d².

    Args:
        loc: μ, ``(d,)``.
        scale: s, ``(d,)``, positive.
        directions: V, ``(d, k)``, of orthonormal columns.
        stretch: a, ``(k,)``, positive.

    Example:
        >>> v = torch.tensor([[0.6], [0.8]])
        >>> affine = LowRank(torch.zeros(2), torch.ones(2), v, torch.tensor([10.0]))
        >>> affine.to_x(torch.tensor([[0.6, 0.8]]))
        tensor([[6., 8.]])
    """

    loc: Tensor
    scale: Tensor
    directions: Tensor
    stretch: Tensor

    def __post_init__(self) -> None:
        _require_finite(self)

    def to_x(self, u: Tensor) -> Tensor:
        """From the whitened coordinates to the target's: μ + s ∘ (u + V (a − 1) Vᵀ u).

        Args:
            u: ``(n, *event)``.

        Returns:
            x, of the same shape.
        """
        stretched = self._stretched(_flat(u), self.stretch)
        return torch.addcmul(self.loc, stretched, self.scale).reshape(u.shape)

    def to_u(self, x: Tensor) -> Tensor:
        """From the target's coordinates to the whitened ones, the inverse: stretched by 1 / a.

        Args:
            x: ``(n, *event)``.

        Returns:
            u, of the same shape.
        """
        centred = (_flat(x) - self.loc) / self.scale
        return self._stretched(centred, 1.0 / self.stretch).reshape(x.shape)

    def pull_score(self, score: Tensor) -> Tensor:
        """The gradient in u of a function with this gradient in x.

        By the transpose, which is the same stretch after the scale.

        Args:
            score: The gradient in x, ``(n, *event)``.

        Returns:
            The gradient in u, of the same shape.
        """
        return self._stretched(_flat(score) * self.scale, self.stretch).reshape(score.shape)

    def push_score(self, score: Tensor) -> Tensor:
        """The gradient in x of a function with this gradient in u, by the inverse of the transpose.

        Args:
            score: The gradient in u, ``(n, *event)``.

        Returns:
            The gradient in x, of the same shape.
        """
        return (self._stretched(_flat(score), 1.0 / self.stretch) / self.scale).reshape(score.shape)

    def log_abs_det(self) -> Tensor:
        """Σ log s + Σ log a."""
        return self.scale.log().sum() + self.stretch.log().sum()

    def _stretched(self, u: Tensor, stretch: Tensor) -> Tensor:
        return u + ((u @ self.directions) * (stretch - 1.0)) @ self.directions.mT


AFFINE_MAPS = {kind.__name__: kind for kind in (Diagonal, Dense, LowRank)}


@checked
def fit_affine(x: Tensor, score: Tensor | None = None) -> Diagonal | Dense | LowRank:
    """The map whose N(μ, L Lᵀ) has, on these positions, the scores most like the target's.

    It minimises the Fisher divergence E |Lᵀ (∇ log p̃(x) + (L Lᵀ)⁻¹ (x − μ))|². With C_x and C_g the
    covariances of positions and of scores, Σ = L Lᵀ solves Σ C_g Σ = C_x, and μ = x̄ + Σ ḡ. For a
    Gaussian target that is its own mean and covariance from **any** d + 1 positions, drawn from it
    or not. Dense up to 512 dimensions; above, or with fewer than 2 d positions, a diagonal with up
    to 32 directions corrected.

    Without scores: the mean and covariance of the positions, or above 512 dimensions, or with fewer
    than 2 d of them, their variances.

    Args:
        x: Positions, ``(n, *event)``, n >= 2.
        score: ∇ log p̃ there, ``(n, *event)``; None to go by the positions alone.

    Returns:
        The map, of events flattened to d numbers, in the dtype of x.

    Raises:
        ShapeError: Where the shapes of x and of the score differ.
        PoeError: Below two positions.

    References:
        Seyboldt, Carlson & Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing
        Fisher divergence, section 3, arXiv:2603.18845.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = 5.0 + torch.randn(50, 2, generator=g)  # not draws of the target, N(1, 0.1²)
        >>> affine = fit_affine(x, -(x - 1.0) / 0.01)
        >>> affine.loc, (affine.factor @ affine.factor.T).diagonal()
        (tensor([1.0000, 1.0000]), tensor([0.0100, 0.0100]))
    """
    if score is not None and x.shape != score.shape:
        raise ShapeError(
            f"expected a score of the shape of x, {tuple(x.shape)}, got {tuple(score.shape)}"
        )
    if len(x) < 2:
        raise PoeError(f"expected at least 2 positions to fit a map to, got {len(x)}")
    if not bool(x.isfinite().all()) or (score is not None and not bool(score.isfinite().all())):
        raise PoeError("expected finite positions and scores to fit a map to, got others")
    n, d = len(x), x[0].numel()
    can_be_dense = d <= MAX_DENSE_DIMENSION and n >= 2 * d
    flat_x = _flat(x).double()
    if score is None:
        return _cast(_fit_moments(flat_x, can_be_dense), x.dtype)
    flat_score = _flat(score).double()
    diagonal = _fit_diagonal(flat_x, flat_score)
    u, pulled = diagonal.to_u(flat_x), diagonal.pull_score(flat_score)
    fit = _fit_dense if can_be_dense else _fit_low_rank
    return _cast(fit(diagonal, u, pulled), x.dtype)


def fit_moments(x: Tensor) -> Diagonal:
    """Mean and standard deviation of each component of x ``(n, *event)``; 1 where constant."""
    flat = _flat(x)
    sd = flat.std(0)
    return Diagonal(flat.mean(0), torch.where(sd > 0, sd, torch.ones_like(sd)))


def _fit_moments(x: Tensor, can_be_dense: bool) -> Diagonal | Dense:
    diagonal = fit_moments(x)
    if not can_be_dense:
        return diagonal
    covariance = _ridged(torch.cov(diagonal.to_u(x).mT), len(x))
    return Dense(diagonal.loc, diagonal.scale[:, None] * torch.linalg.cholesky(covariance))


def _fit_diagonal(x: Tensor, score: Tensor) -> Diagonal:
    """s² = sd(x) / sd(∇): the Fisher solution of each component by itself."""
    sd_x, sd_score = x.std(0), score.std(0)
    is_usable = (sd_x > 0) & (sd_score > 0)
    scale = torch.where(is_usable, sd_x / sd_score, torch.ones_like(sd_x)).sqrt()
    return Diagonal(x.mean(0), scale)


def _fit_dense(diagonal: Diagonal, u: Tensor, score: Tensor) -> Dense:
    covariance = _fisher_covariance(u, score)
    factor = torch.linalg.cholesky(covariance)
    loc = diagonal.to_x((u.mean(0) + covariance @ score.mean(0))[None])[0]
    return Dense(loc, diagonal.scale[:, None] * factor)


def _fit_low_rank(diagonal: Diagonal, u: Tensor, score: Tensor) -> LowRank:
    """The dense solution within the span of the leading directions of positions and scores."""
    rank = min(RANK, (len(u) - 1) // 2, u.shape[1] // 2)
    leading = torch.cat([_leading_directions(u, rank), _leading_directions(score, rank)], 1)
    basis = torch.linalg.qr(leading).Q
    inside = _fisher_covariance(u @ basis, score @ basis)
    variances, rotation = torch.linalg.eigh(inside)
    # Only the directions furthest from the diagonal's 1 are kept, and only where it matters.
    furthest = variances.log().abs().argsort(descending=True)[:rank]
    kept = furthest[variances[furthest].log().abs() > torch.tensor(NOTICEABLE).log()]
    stretch, directions = variances[kept].sqrt(), basis @ rotation[:, kept]
    origin, ones = torch.zeros_like(diagonal.loc), torch.ones_like(diagonal.scale)
    correction = LowRank(origin, ones, directions, stretch)
    newton = correction.to_x(correction.pull_score(score.mean(0)[None]))[0]
    loc = diagonal.to_x((u.mean(0) + newton)[None])[0]
    return LowRank(loc, diagonal.scale, directions, stretch)


def _leading_directions(x: Tensor, rank: int) -> Tensor:
    """Orthonormal directions of largest variance: ``(n, d) -> (d, rank)``."""
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:rank].mT


def _fisher_covariance(u: Tensor, score: Tensor) -> Tensor:
    """The Σ with Σ C_g Σ = C_u: the geometric mean of C_u and C_g⁻¹."""
    root, inverse_root = _square_roots(_ridged(torch.cov(score.mT), len(u)))
    middle, _ = _square_roots(root @ _ridged(torch.cov(u.mT), len(u)) @ root)
    covariance = inverse_root @ middle @ inverse_root
    return 0.5 * (covariance + covariance.mT)


def _ridged(covariance: Tensor, n: int) -> Tensor:
    """A covariance of standardised numbers, kept away from singular where n draws are few."""
    d = covariance.numel() ** 0.5
    covariance = covariance.reshape(round(d), round(d))
    return covariance + REGULARIZATION * d / n * torch.eye(round(d)).to(covariance)


def _square_roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a positive-definite matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    values = values.clamp(min=1e-12 * values[-1:]).sqrt()  # in ascending order; there may be none
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT


def _cast(affine: Diagonal | Dense | LowRank, dtype: torch.dtype) -> Diagonal | Dense | LowRank:
    parts = {name: part.to(dtype).contiguous() for name, part in vars(affine).items()}
    return type(affine)(**parts)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _like(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(x.shape[1:])


def _require_finite(affine: Diagonal | Dense | LowRank) -> None:
    """Where it costs no synchronisation with a device."""
    for name, value in vars(affine).items():
        if value.device.type == "cpu" and not bool(value.isfinite().all()):
            raise PoeError(f"expected a finite {name} of a {type(affine).__name__}, got {value}")
