"""The standard exponential families, by the parameters that people know them by."""

from __future__ import annotations

import math
from collections.abc import Set

import torch
from torch import Tensor
from torch import distributions as D
from torch.nn import functional as F

import poe
from experts.exponential import Samplable
from experts.parameters import ArrayLike, alike, number, positive, real
from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import borrowed
from poe.density.capabilities import (
    Conditionals,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
    widen,
)
from poe.io import register


class Exponential(Samplable):
    """p(x) = λ e^(−λ x) for x > 0, independently for each element of ``rate`` λ ``(*event)``.

    θ = −λ, T = x. Raises PoeError where a rate is not positive.

    >>> product = Exponential([1.0]) * Exponential([2.0])
    >>> poe.simplify(product).expert.rate
    tensor([3.])
    """

    def __init__(self, rate: ArrayLike) -> None:
        (rate,) = alike(positive, rate=rate)
        super().__init__(-rate, poe.Positive(tuple(rate.shape)))

    @property
    def rate(self) -> Tensor:
        """λ ``(*event)``"""
        return -self.natural

    def statistics(self, x: Tensor) -> Tensor:
        """x"""
        return x

    def log_partition(self, natural: Tensor) -> Tensor:
        """−Σ log λ"""
        return -(-natural).log().sum()

    def tails(self, natural: Tensor) -> Tensor:
        """0 at 0, λ at infinity"""
        return torch.cat([0 * natural.flatten(), -natural.flatten()])

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        unit = self.natural.new_empty((num_samples, *self.natural.shape))
        return _above_zero(unit.exponential_(generator=generator) / self.rate)


class Gamma(Samplable):
    """p(x) ∝ x^(α−1) e^(−β x) for x > 0, independently for each element.

    θ = (α − 1, −β), T = (log x, x). ``concentration`` α and ``rate`` β ``(*event)``. Raises
    PoeError where one is not positive.

    >>> product = Gamma([2.0], [1.0]) * Gamma([3.0], [0.5])
    >>> poe.simplify(product).expert.concentration, poe.log_partition(product).value
    (tensor([4.]), tensor(-2.6027))
    """

    def __init__(self, concentration: ArrayLike, rate: ArrayLike) -> None:
        concentration, rate = alike(positive, concentration=concentration, rate=rate)
        natural = torch.stack([concentration - 1, -rate], -1)
        super().__init__(natural, poe.Positive(tuple(rate.shape)))

    @property
    def concentration(self) -> Tensor:
        """α ``(*event)``"""
        return self.natural[..., 0] + 1

    @property
    def rate(self) -> Tensor:
        """β ``(*event)``"""
        return -self.natural[..., 1]

    def statistics(self, x: Tensor) -> Tensor:
        """(log x, x)"""
        return torch.stack([x.log(), x], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log Γ(α) − α log β"""
        concentration, rate = natural[..., 0] + 1, -natural[..., 1]
        return (concentration.lgamma() - concentration * rate.log()).sum()

    def is_natural(self, natural: Tensor) -> bool:
        """α > 0 and β > 0"""
        return bool(((natural[..., 0] > -1) & (natural[..., 1] < 0)).all())

    def tails(self, natural: Tensor) -> Tensor:
        """α − 1 at 0, β at infinity"""
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

    θ = (α − 1, β − 1), T = (log x, log(1 − x)). ``concentration1`` α and ``concentration0`` β
    ``(*event)``. Raises PoeError where one is not positive.

    >>> product = Beta([2.0], [3.0]) * Beta([4.0], [1.0])
    >>> poe.simplify(product).expert.concentration1
    tensor([5.])
    """

    def __init__(self, concentration1: ArrayLike, concentration0: ArrayLike) -> None:
        one, zero = alike(positive, concentration1=concentration1, concentration0=concentration0)
        super().__init__(torch.stack([one, zero], -1) - 1, poe.Interval(tuple(one.shape), 0, 1))

    @property
    def concentration1(self) -> Tensor:
        """α ``(*event)``"""
        return self.natural[..., 0] + 1

    @property
    def concentration0(self) -> Tensor:
        """β ``(*event)``"""
        return self.natural[..., 1] + 1

    def statistics(self, x: Tensor) -> Tensor:
        """(log x, log(1 − x))"""
        return torch.stack([x.log(), (-x).log1p()], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log Γ(α) + log Γ(β) − log Γ(α + β)"""
        return (natural + 1).lgamma().sum() - (natural.sum(-1) + 2).lgamma().sum()

    def is_natural(self, natural: Tensor) -> bool:
        """α > 0 and β > 0"""
        return bool((natural > -1).all())

    def tails(self, natural: Tensor) -> Tensor:
        """α − 1 at 0, β − 1 at 1"""
        return torch.cat([natural[..., 0].flatten(), natural[..., 1].flatten()])

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return _dirichlet(self.natural + 1, num_samples, generator)[..., 0]


class Dirichlet(Samplable):
    """p(x) ∝ ∏ xᵢ^(αᵢ−1) on the simplex.

    θ = α − 1, T = log x. ``concentration`` α ``(k,)``. Raises PoeError where one is not positive,
    and ShapeError for another shape.

    >>> product = Dirichlet([1.0, 2.0, 3.0]) * Dirichlet([2.0, 2.0, 2.0])
    >>> poe.simplify(product).expert.concentration
    tensor([2., 3., 4.])
    """

    def __init__(self, concentration: ArrayLike) -> None:
        (concentration,) = alike(positive, concentration=concentration)
        if concentration.ndim != 1:
            raise ShapeError(
                f"expected a concentration of shape (k,), got {tuple(concentration.shape)}"
            )
        super().__init__(concentration - 1, poe.Simplex(len(concentration)))

    @property
    def concentration(self) -> Tensor:
        """α ``(k,)``"""
        return self.natural + 1

    def statistics(self, x: Tensor) -> Tensor:
        """log x"""
        return x.log()

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log Γ(αᵢ) − log Γ(Σ αᵢ)"""
        return (natural + 1).lgamma().sum() - (natural + 1).sum().lgamma()

    def is_natural(self, natural: Tensor) -> bool:
        """Every α > 0"""
        return bool((natural > -1).all())

    def tails(self, natural: Tensor) -> Tensor:
        """α − 1 at 0"""
        return natural

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return _dirichlet(self.concentration, num_samples, generator)


class Bernoulli(Samplable):
    """p(x) = σ(θ)^x (1 − σ(θ))^(1−x) for x in {0, 1}, independently for each element.

    θ = ``logits`` ``(*event)``, T = x. Raises PoeError where one is not finite: a probability of 0
    or 1 is no member.

    >>> Bernoulli([0.0]).log_prob(torch.tensor([[1.0]]))
    tensor([-0.6931])
    """

    def __init__(self, logits: ArrayLike) -> None:
        (logits,) = alike(real, logits=logits)
        super().__init__(logits, poe.Binary(tuple(logits.shape)))

    @property
    def logits(self) -> Tensor:
        """log p(1) − log p(0), ``(*event)``"""
        return self.natural

    def statistics(self, x: Tensor) -> Tensor:
        """x"""
        return x.to(self.natural.dtype)

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log(1 + e^θ)"""
        return torch.logaddexp(natural, torch.zeros_like(natural)).sum()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        shape = (num_samples, *self.natural.shape)
        return torch.bernoulli(self.natural.sigmoid().expand(shape), generator=generator)


@conditionals.register
def _(expert: Bernoulli) -> Conditionals:
    """The logits, whatever the other elements are."""
    edges = torch.empty((2, 0), dtype=torch.int64, device=expert.logits.device)
    return Conditionals(edges, 0, lambda x, uniforms: expert.logits.expand_as)


@spin_pairs.register
def _(expert: Bernoulli) -> SpinPairs:
    """θx = (θ/2) s + θ/2: half the logits as fields, and no couplings."""
    logits = expert.logits.detach().flatten()
    edges = torch.empty((2, 0), dtype=torch.int64, device=logits.device)
    return SpinPairs(edges, logits.new_empty(0), logits / 2)


class Categorical(Samplable):
    """p(x) = softmax(θ)ₓ for x in 0 ... k − 1, independently for each element.

    θ = ``logits`` ``(*event, k)``, T = the one-hot vector of x. Raises PoeError where a logit is
    not finite, and ShapeError where there is no dimension for the classes.

    >>> Categorical([0.0, 0.0]).log_prob(torch.tensor([1]))
    tensor([-0.6931])
    """

    def __init__(self, logits: ArrayLike) -> None:
        (logits,) = alike(real, logits=logits)
        if logits.ndim == 0:
            raise ShapeError("expected logits of shape (*event, k), got ()")
        super().__init__(logits, poe.Categorical(tuple(logits.shape[:-1]), logits.shape[-1]))

    @property
    def logits(self) -> Tensor:
        """log p up to a constant, ``(*event, k)``"""
        return self.natural

    def statistics(self, x: Tensor) -> Tensor:
        """The one-hot vector"""
        k = self.natural.shape[-1]
        return F.one_hot(x.long().clamp(0, k - 1), k).to(self.natural.dtype)

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """θ'z − log Σ e^θ: ``(*batch, *event, k) -> (*batch,)``."""
        natural = self.natural
        terms = z.reshape(*z.shape[: z.ndim - natural.ndim], -1) @ natural.flatten()
        return terms - self.log_partition(natural)

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log Σ e^θ"""
        return natural.logsumexp(-1).sum()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        rows = self.natural.softmax(-1).reshape(-1, self.natural.shape[-1])
        draws = torch.multinomial(rows, num_samples, replacement=True, generator=generator)
        return draws.T.reshape(num_samples, *self.natural.shape[:-1])


@label_pairs.register
def _(expert: Categorical) -> LabelPairs:
    """The logits as fields, and no couplings."""
    fields = expert.logits.detach().reshape(-1, expert.logits.shape[-1])
    edges = torch.empty((2, 0), dtype=torch.int64, device=fields.device)
    return LabelPairs(edges, fields.new_empty(0), fields)


class Poisson(Samplable):
    """p(x) = λ^x e^(−λ) / x! for counts x, independently for each element of ``rate`` ``(*event)``.

    θ = log λ, T = x, h = 1 / x!. Exponents that sum to 1 give a Poisson, others do not, as h does
    not come out as h. Raises PoeError where a rate is not positive.

    >>> product = Poisson([1.0]) ** 0.5 * Poisson([4.0]) ** 0.5
    >>> poe.simplify(product).expert.rate
    tensor([2.])
    """

    def __init__(self, rate: ArrayLike) -> None:
        (rate,) = alike(positive, rate=rate)
        super().__init__(rate.log(), poe.Count(tuple(rate.shape)))

    @property
    def rate(self) -> Tensor:
        """λ ``(*event)``"""
        return self.natural.exp()

    def statistics(self, x: Tensor) -> Tensor:
        """x"""
        return x.to(self.natural.dtype)

    @property
    def has_base_measure(self) -> bool:
        """1 / x!"""
        return True

    def log_base_measure(self, x: Tensor) -> Tensor:
        """−Σ log x!"""
        return -(self.statistics(x) + 1).lgamma().sum(tuple(range(-self.natural.ndim, 0)))

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ λ"""
        return natural.exp().sum()

    def tails(self, natural: Tensor) -> Tensor:
        """1 at infinity, in units of x log x"""
        return torch.ones_like(natural).flatten()

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.rate.expand(num_samples, *self.rate.shape), generator=generator)


class VonMises(Samplable):
    """p(x) ∝ exp(κ cos(x − μ)) on [−π, π], independently for each element.

    θ = κ (cos μ, sin μ), T = (cos x, sin x). ``loc`` μ and ``concentration`` κ ``(*event)``. Raises
    PoeError where κ is not positive.

    >>> product = VonMises([0.0], [1.0]) * VonMises([math.pi / 2], [1.0])
    >>> poe.simplify(product).expert.loc, poe.simplify(product).expert.concentration
    (tensor([0.7854]), tensor([1.4142]))
    """

    def __init__(self, loc: ArrayLike, concentration: ArrayLike) -> None:
        loc, concentration = alike(real, loc=loc, concentration=concentration)
        positive("concentration", concentration)
        direction = torch.stack([loc.cos(), loc.sin()], -1)
        space = poe.Interval(tuple(loc.shape), -math.pi, math.pi)
        super().__init__(concentration[..., None] * direction, space)

    @property
    def loc(self) -> Tensor:
        """μ ``(*event)``, in [−π, π]"""
        return torch.atan2(self.natural[..., 1], self.natural[..., 0])

    @property
    def concentration(self) -> Tensor:
        """κ ``(*event)``"""
        return torch.linalg.vector_norm(self.natural, dim=-1)

    def statistics(self, x: Tensor) -> Tensor:
        """(cos x, sin x)"""
        return torch.stack([x.cos(), x.sin()], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        """Σ log 2π I₀(κ)"""
        concentration = torch.linalg.vector_norm(natural, dim=-1)
        log_bessel = torch.special.i0e(concentration).log() + concentration
        return (log_bessel + math.log(2 * math.pi)).sum()

    def tails(self, natural: Tensor) -> Tensor:
        """0: it is bounded"""
        return natural.new_zeros(natural.numel())

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        concentration = self.concentration.clamp(min=torch.finfo(self.natural.dtype).eps)
        with borrowed(generator):
            return D.VonMises(self.loc, concentration).sample((num_samples,))


class Wishart(Samplable):
    """p(X) ∝ |X|^((ν−k−1)/2) exp(−tr(V⁻¹ X) / 2) on positive definite k × k matrices.

    θ = ((ν − k − 1) / 2, −V⁻¹ / 2), T = (log |X|, X), in one vector of 1 + k² numbers.
    ``degrees_of_freedom`` ν > k − 1, ``scale`` V ``(k, k)``, of which the mean is ν V. Raises
    ShapeError for other shapes, and PoeError where V is not positive definite or ν too small.

    >>> product = Wishart(4.0, torch.eye(2)) * Wishart(5.0, torch.eye(2))
    >>> poe.simplify(product).expert.degrees_of_freedom
    tensor(6.)
    """

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
        """ν ``()``"""
        return 2 * self.natural[0] + self._size + 1

    @property
    def scale(self) -> Tensor:
        """V ``(k, k)``"""
        return torch.cholesky_inverse(torch.linalg.cholesky(self._precision(self.natural)))

    def statistics(self, x: Tensor) -> Tensor:
        """(log |X|, X)"""
        return torch.cat([torch.linalg.slogdet(x).logabsdet[..., None], x.flatten(-2)], -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        """ν k / 2 log 2 + ν / 2 log |V| + log Γ_k(ν / 2)"""
        half = natural[0] + (self._size + 1) / 2
        log_determinant = torch.linalg.slogdet(self._precision(natural)).logabsdet
        steps = torch.arange(self._size, dtype=natural.dtype, device=natural.device) / 2
        log_gamma = (half - steps).lgamma().sum() + steps.sum() * math.log(math.pi)
        return half * (self._size * math.log(2) - log_determinant) + log_gamma

    def is_natural(self, natural: Tensor) -> bool:
        """ν > k − 1 and V positive definite"""
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


def data_log_odds(data: Tensor) -> Tensor:
    """log p̂ − log(1 − p̂) of each column of bits, with half a row of each value added.

    Args:
        data: Rows of 0 and 1, ``(n, v)``, of any dtype.

    Returns:
        The log-odds ``(v,)``, float32, finite where a column has one value alone too.

    >>> data_log_odds(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([1.6094, 0.0000])
    """
    ones = data.sum(0, dtype=torch.float64)
    return torch.log((ones + 0.5) / (len(data) - ones + 0.5)).float()


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
