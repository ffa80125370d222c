"""Exponential families on the real line, intervals, simplices and cones."""

from __future__ import annotations

import math
from collections.abc import Set

import torch
from torch import Tensor, distributions as D

import poe
from experts.families.discrete import Bernoulli, Categorical, Poisson
from experts.families.exponential_family import Samplable
from experts.parameters import ArrayLike, alike, number, positive, real
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import borrowed
from poe.density.capabilities import (
    widen,
)
from poe.io import register


class Exponential(Samplable):
    """p(x) = λ e^(−λ x) for x > 0, independently for each element.

    θ = −λ, T = x, A = −Σ log λ.

    Args:
        rate: λ, ``(*event)``, positive.

    Raises:
        PoeError: Where a rate is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.

    Example:
        >>> product = Exponential([1.0]) * Exponential([2.0])
        >>> poe.simplify(product).expert.rate
        tensor([3.])
    """

    @checked
    def __init__(self, rate: ArrayLike) -> None:
        (rate,) = alike(positive, rate=rate)
        super().__init__(-rate, poe.Positive(tuple(rate.shape)))

    @property
    def rate(self) -> Tensor:
        """λ, ``(*event)``."""
        return -self.natural

    def statistics(self, x: Tensor) -> Tensor:
        return x

    def log_partition(self, natural: Tensor) -> Tensor:
        return -(-natural).log().sum()

    def tails(self, natural: Tensor) -> Tensor:
        return torch.cat([0 * natural.flatten(), -natural.flatten()])  # at 0, at infinity

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        unit = self.natural.new_empty((num_samples, *self.natural.shape))
        return _above_zero(unit.exponential_(generator=generator) / self.rate)


class Gamma(Samplable):
    """p(x) ∝ x^(α−1) e^(−β x) for x > 0, independently for each element.

    θ = (α − 1, −β), T = (log x, x), A = Σ log Γ(α) − α log β.

    Args:
        concentration: α, ``(*event)`` or a number for all, positive.
        rate: β, ``(*event)`` or a number for all, positive.

    Raises:
        PoeError: Where one is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.
        ShapeError: Where the two shapes do not fit.

    Example:
        >>> product = Gamma([2.0], [1.0]) * Gamma([3.0], [0.5])
        >>> poe.simplify(product).expert.concentration, poe.log_partition(product).value
        (tensor([4.]), tensor(-2.6027))
    """

    @checked
    def __init__(self, concentration: ArrayLike, rate: ArrayLike) -> None:
        concentration, rate = alike(positive, concentration=concentration, rate=rate)
        natural = torch.stack([concentration - 1, -rate], -1)
        super().__init__(natural, poe.Positive(tuple(rate.shape)))

    @property
    def concentration(self) -> Tensor:
        """α, ``(*event)``."""
        return self.natural[..., 0] + 1

    @property
    def rate(self) -> Tensor:
        """β, ``(*event)``."""
        return -self.natural[..., 1]

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.log(), x], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        concentration, rate = natural[..., 0] + 1, -natural[..., 1]
        return (concentration.lgamma() - concentration * rate.log()).sum()

    def is_natural(self, natural: Tensor) -> bool:
        return bool(((natural[..., 0] > -1) & (natural[..., 1] < 0)).all())

    def tails(self, natural: Tensor) -> Tensor:
        # At 0, at infinity.
        return torch.cat([natural[..., 0].flatten(), -natural[..., 1].flatten()])

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        unit = _standard_gamma(self.concentration, num_samples, generator)
        return _above_zero(unit / self.rate)


@widen.register
def _(expert: Exponential, families: Set[type[poe.Expert]]) -> poe.Expert:
    """A Gamma of concentration 1."""
    if Gamma not in families:
        return expert
    natural = torch.stack([torch.zeros_like(expert.natural), expert.natural], -1)
    return Gamma.from_natural(natural, expert.space)


class Beta(Samplable):
    """p(x) ∝ x^(α−1) (1 − x)^(β−1) on [0, 1], independently for each element.

    θ = (α − 1, β − 1), T = (log x, log(1 − x)), A = Σ log Γ(α) + log Γ(β) − log Γ(α + β).

    Args:
        concentration1: α, ``(*event)`` or a number for all, positive.
        concentration0: β, ``(*event)`` or a number for all, positive.

    Raises:
        PoeError: Where one is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.
        ShapeError: Where the two shapes do not fit.

    Example:
        >>> product = Beta([2.0], [3.0]) * Beta([4.0], [1.0])
        >>> poe.simplify(product).expert.concentration1
        tensor([5.])
    """

    @checked
    def __init__(self, concentration1: ArrayLike, concentration0: ArrayLike) -> None:
        one, zero = alike(positive, concentration1=concentration1, concentration0=concentration0)
        super().__init__(torch.stack([one, zero], -1) - 1, poe.Interval(tuple(one.shape), 0, 1))

    @property
    def concentration1(self) -> Tensor:
        """α, ``(*event)``."""
        return self.natural[..., 0] + 1

    @property
    def concentration0(self) -> Tensor:
        """β, ``(*event)``."""
        return self.natural[..., 1] + 1

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.log(), (-x).log1p()], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        return (natural + 1).lgamma().sum() - (natural.sum(-1) + 2).lgamma().sum()

    def is_natural(self, natural: Tensor) -> bool:
        return bool((natural > -1).all())

    def tails(self, natural: Tensor) -> Tensor:
        return torch.cat([natural[..., 0].flatten(), natural[..., 1].flatten()])  # at 0, at 1

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return _dirichlet(self.natural + 1, num_samples, generator)[..., 0]


class Dirichlet(Samplable):
    """p(x) ∝ ∏ xᵢ^(αᵢ−1) on the simplex.

    θ = α − 1, T = log x, A = Σ log Γ(αᵢ) − log Γ(Σ αᵢ).

    Args:
        concentration: α, ``(k,)``, positive.

    Raises:
        PoeError: Where one is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.
        ShapeError: Where it is of another shape.

    Example:
        >>> product = Dirichlet([1.0, 2.0, 3.0]) * Dirichlet([2.0, 2.0, 2.0])
        >>> poe.simplify(product).expert.concentration
        tensor([2., 3., 4.])
    """

    @checked
    def __init__(self, concentration: ArrayLike) -> None:
        (concentration,) = alike(positive, concentration=concentration)
        if concentration.ndim != 1:
            raise ShapeError(
                f"expected a concentration of shape (k,), got {tuple(concentration.shape)}"
            )
        super().__init__(concentration - 1, poe.Simplex(len(concentration)))

    @property
    def concentration(self) -> Tensor:
        """α, ``(k,)``."""
        return self.natural + 1

    def statistics(self, x: Tensor) -> Tensor:
        return x.log()

    def log_partition(self, natural: Tensor) -> Tensor:
        return (natural + 1).lgamma().sum() - (natural + 1).sum().lgamma()

    def is_natural(self, natural: Tensor) -> bool:
        return bool((natural > -1).all())

    def tails(self, natural: Tensor) -> Tensor:
        return natural  # at 0

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return _dirichlet(self.concentration, num_samples, generator)


class VonMises(Samplable):
    """p(x) ∝ exp(κ cos(x − μ)) on [−π, π], independently for each element.

    θ = κ (cos μ, sin μ), T = (cos x, sin x), A = Σ log 2π I₀(κ).

    Args:
        loc: μ, in radians, ``(*event)`` or a number for all.
        concentration: κ, ``(*event)`` or a number for all, positive.

    Raises:
        PoeError: Where κ is not positive, or requires a gradient: what is learned goes to
            ``with_natural``.
        ShapeError: Where the two shapes do not fit.

    Example:
        >>> product = VonMises([0.0], [1.0]) * VonMises([math.pi / 2], [1.0])
        >>> poe.simplify(product).expert.loc, poe.simplify(product).expert.concentration
        (tensor([0.7854]), tensor([1.4142]))
    """

    @checked
    def __init__(self, loc: ArrayLike, concentration: ArrayLike) -> None:
        loc, concentration = alike(real, loc=loc, concentration=concentration)
        positive("concentration", concentration)
        direction = torch.stack([loc.cos(), loc.sin()], -1)
        space = poe.Interval(tuple(loc.shape), -math.pi, math.pi)
        super().__init__(concentration[..., None] * direction, space)

    @property
    def loc(self) -> Tensor:
        """μ, ``(*event)``, in [−π, π]."""
        return torch.atan2(self.natural[..., 1], self.natural[..., 0])

    @property
    def concentration(self) -> Tensor:
        """κ, ``(*event)``."""
        return torch.linalg.vector_norm(self.natural, dim=-1)

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.cos(), x.sin()], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        concentration = torch.linalg.vector_norm(natural, dim=-1)
        log_bessel = torch.special.i0e(concentration).log() + concentration
        return (log_bessel + math.log(2 * math.pi)).sum()

    def tails(self, natural: Tensor) -> Tensor:
        return natural.new_zeros(natural.numel())  # it is bounded

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        concentration = self.concentration.clamp(min=torch.finfo(self.natural.dtype).eps)
        with borrowed(generator):
            return D.VonMises(self.loc, concentration).sample((num_samples,))


class Wishart(Samplable):
    """p(X) ∝ |X|^((ν−k−1)/2) exp(−tr(V⁻¹ X) / 2) on positive definite k × k matrices.

    θ = ((ν − k − 1) / 2, −V⁻¹ / 2), T = (log |X|, X), in one vector of 1 + k² numbers.

    A = ν k / 2 log 2 + ν / 2 log |V| + log Γ_k(ν / 2)

    Args:
        degrees_of_freedom: ν, a number above k − 1.
        scale: V, ``(k, k)``, symmetric and positive definite; the mean is ν V.

    Raises:
        PoeError: Where V is not positive definite, ν is too small, or V requires a gradient: what
            is learned goes to ``with_natural``.
        ShapeError: Where V is of another shape.

    Example:
        >>> product = Wishart(4.0, torch.eye(2)) * Wishart(5.0, torch.eye(2))
        >>> poe.simplify(product).expert.degrees_of_freedom
        tensor(6.)
    """

    @checked
    def __init__(self, degrees_of_freedom: float, scale: ArrayLike) -> None:
        (matrix,) = alike(real, scale=scale)
        k = len(matrix) if matrix.ndim else 0
        if matrix.shape != (k, k) or k == 0:
            raise ShapeError(f"expected a scale of shape (k, k), got {tuple(matrix.shape)}")
        degrees_of_freedom = number("degrees_of_freedom", degrees_of_freedom, real)
        if not degrees_of_freedom > k - 1:
            raise PoeError(
                f"expected more than {k - 1} degrees of freedom, got {degrees_of_freedom}"
            )
        factor, info = torch.linalg.cholesky_ex(matrix)
        if not matrix.is_meta and (info != 0 or not torch.allclose(matrix, matrix.mT)):
            raise PoeError(f"expected a symmetric positive definite scale, got {matrix.tolist()}")
        precision = torch.cholesky_inverse(factor)
        power = matrix.new_full((1,), (degrees_of_freedom - k - 1) / 2)
        super().__init__(torch.cat([power, -0.5 * precision.flatten()]), poe.PositiveDefinite(k))

    @property
    def degrees_of_freedom(self) -> Tensor:
        """ν, ``()``."""
        return 2 * self.natural[0] + self._size + 1

    @property
    def scale(self) -> Tensor:
        """V, ``(k, k)``."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self._precision(self.natural)))

    def statistics(self, x: Tensor) -> Tensor:
        return torch.cat([torch.linalg.slogdet(x).logabsdet[..., None], x.flatten(-2)], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        half = natural[0] + (self._size + 1) / 2
        log_determinant = torch.linalg.slogdet(self._precision(natural)).logabsdet
        steps = torch.arange(self._size, dtype=natural.dtype, device=natural.device) / 2
        log_gamma = (half - steps).lgamma().sum() + steps.sum() * math.log(math.pi)
        return half * (self._size * math.log(2) - log_determinant) + log_gamma

    def is_natural(self, natural: Tensor) -> bool:
        info = torch.linalg.cholesky_ex(self._precision(natural)).info
        return bool((natural[0] > -1) & (info == 0))

    @property
    def _size(self) -> int:
        return self.space.event_shape[0]

    def _precision(self, natural: Tensor) -> Tensor:
        matrix = -2 * natural[1:].reshape(self._size, self._size)
        return 0.5 * (matrix + matrix.mT)

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """By Bartlett's decomposition: X = L A Aᵀ Lᵀ."""
        k, natural = self._size, self.natural
        steps = torch.arange(k, dtype=natural.dtype, device=natural.device)
        halves = (self.degrees_of_freedom - steps) / 2
        diagonal = (2 * _standard_gamma(halves, num_samples, generator)).sqrt()
        normal = natural.new_empty((num_samples, k, k)).normal_(generator=generator)
        factor = torch.linalg.cholesky(self.scale) @ (normal.tril(-1) + torch.diag_embed(diagonal))
        return factor @ factor.mT


def _above_zero(x: Tensor) -> Tensor:
    """Draws that were rounded to 0, which is outside of the space."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _standard_gamma(concentration: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    shape = (num_samples, *concentration.shape)
    return torch._standard_gamma(concentration.expand(shape), generator=generator)


def _dirichlet(concentration: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    shape = (num_samples, *concentration.shape)
    return torch._sample_dirichlet(concentration.expand(shape), generator=generator)


FAMILIES = (
    Exponential, Gamma, Beta, Dirichlet, Bernoulli, Categorical, Poisson, VonMises, Wishart,
)  # fmt: skip


def _register(family: type[Samplable]) -> None:
    register(
        family,
        lambda member: {"natural": member.natural, "space": member.space},
        lambda fields: family.from_natural(fields["natural"], fields["space"]),
        name=f"experts.{family.__name__}",
        formerly=(f"experts.families.{family.__name__}",),
    )


for _family in FAMILIES:
    _register(_family)
