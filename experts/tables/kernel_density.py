"""The kernel density estimate: a bump at every stored row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Beta, Gamma

from experts.parameters import ArrayLike, keep, number, positive, probabilities, real
from poe import Expert, PoeError, Real, ShapeError
from poe.core.arguments import checked
from poe.core.randomness import borrowed, choose, resolve
from poe.io import register

_CHUNK_SIZE = 1024  # rows at once, which bounds the memory of their distances to all points
LogKernel = Callable[[Tensor], Tensor]


def _within(log_kernel: LogKernel) -> LogKernel:
    """The same below r = 1, and −inf beyond, with a gradient of 0."""

    def masked(r: Tensor) -> Tensor:
        inside = r < 1
        return log_kernel(torch.where(inside, r, 0.0)).masked_fill(~inside, -torch.inf)

    return masked


# log K(r) up to its constant, r the distance in bandwidths.
LOG_KERNELS: dict[str, LogKernel] = {
    "gaussian": lambda r: -0.5 * r.square(),
    "exponential": lambda r: -r,
    "tophat": _within(torch.zeros_like),
    "epanechnikov": _within(lambda r: torch.log1p(-r.square())),
    "linear": _within(lambda r: torch.log1p(-r)),
    "cosine": _within(lambda r: torch.cos(0.5 * math.pi * r).log()),
}


class KernelDensity(Expert):
    r"""The density that has a bump K at every row of ``points``, normalised.

    .. math:: \log p(x) = \log \sum_i w_i \frac{1}{h^d} K(|x - x_i| / h)

    Exact draws: a row, then a step from it.

    Args:
        points: x_i, ``(n, d)``; an ``nn.Parameter`` stays one.
        bandwidth: h, positive, in the units of x.
        kernel: K, of the Euclidean distance r in bandwidths: ``"gaussian"`` exp(−r²/2),
            ``"exponential"`` exp(−r), or of those that are 0 beyond r = 1 ``"tophat"`` 1,
            ``"epanechnikov"`` 1 − r², ``"linear"`` 1 − r, ``"cosine"`` cos(πr/2).
        weights: w, ``(n,)``, made to sum to 1; alike if left out.

    Raises:
        ShapeError: For points that are no table, and weights of another number.
        PoeError: For other kernels, bandwidths or weights.

    References:
        Silverman (1986), Density estimation for statistics and data analysis, section 4.2.

    Example:
        >>> expert = KernelDensity([[0.0], [1.0]], bandwidth=0.5)
        >>> expert.log_prob(torch.tensor([[0.0], [3.0]]))
        tensor([-0.7920, -8.9189])
    """

    points: Tensor
    weights: Tensor
    may_be_infinite = ()

    @checked
    def __init__(
        self,
        points: ArrayLike,
        bandwidth: float,
        kernel: str = "gaussian",
        weights: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        table = real("points", points)
        if table.ndim != 2 or not len(table):
            raise ShapeError(f"expected points of shape (n, d), got {tuple(table.shape)}")
        if kernel not in LOG_KERNELS:
            raise PoeError(f"expected a kernel among {', '.join(LOG_KERNELS)}, got {kernel!r}")
        self.space = Real(table.shape[1])
        self.kernel = kernel
        self.bandwidth = number("bandwidth", bandwidth, positive)
        keep(self, "points", table)
        self.register_buffer("weights", _as_weights(weights, table))

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: ``(*batch, d)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        rows = x.reshape(-1, x.shape[-1])
        parts = [self._log_prob_of(chunk) for chunk in rows.split(_CHUNK_SIZE)]
        return torch.cat(parts).reshape(x.shape[:-1])

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x); equals the log-density.

        Args:
            x: ``(*batch, d)``.

        Returns:
            ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws.

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, d)``.
        """
        generator = resolve(generator, self.points.device)
        row = choose(self.weights, num_samples, generator=generator)
        center = self.points[row]
        step = torch.empty_like(center).normal_(generator=generator)
        if self.kernel != "gaussian":
            with borrowed(generator):
                length = _draw_lengths(self.kernel, center)
            step = step * (length / step.norm(dim=-1))[:, None]
        return center + self.bandwidth * step

    def extra_repr(self) -> str:
        n, d = self.points.shape
        return f"{n} rows in Real({d}), {self.kernel}, bandwidth={self.bandwidth:g}"

    def _log_prob_of(self, x: Tensor) -> Tensor:
        # By differences: a matrix product's rounding would put rows beside themselves.
        distance = torch.cdist(x, self.points.to(x), compute_mode="donot_use_mm_for_euclid_dist")
        values = LOG_KERNELS[self.kernel](distance / self.bandwidth) + self.weights.log().to(x)
        highest = values.detach().amax(-1)
        nowhere = highest == -torch.inf
        # The gradient of a sum of zeros would be NaN: there it is 0.
        total = values.masked_fill(nowhere[:, None], 0).logsumexp(-1)
        size = x.shape[-1]
        constant = log_volume(self.kernel, size) + size * math.log(self.bandwidth)
        return total.masked_fill(nowhere, -torch.inf) - constant


def log_volume(kernel: str, size: int) -> float:
    """log ∫ K(|u|) du.

    Args:
        kernel: As of ``KernelDensity``.
        size: Of the vectors u.

    Returns:
        The logarithm.

    Example:
        >>> math.exp(log_volume("tophat", 2))  # the unit disc
        3.14159...
    """
    ball = 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size + 1)
    match kernel:
        case "gaussian":
            return 0.5 * size * math.log(2 * math.pi)
        case "exponential":
            return ball + math.lgamma(size + 1)
        case "epanechnikov":
            return ball + math.log(2 / (size + 2))
        case "linear":
            return ball - math.log(size + 1)
        case "cosine":
            return ball + math.log(size * _cosine_moment(size - 1))
    return ball


def _cosine_moment(n: int) -> float:
    """∫ rⁿ cos(πr/2) dr from 0 to 1: Σₖ (−1)ᵏ (π/2)²ᵏ⁺¹ n! / (n + 2k + 2)!

    The series of sin(π(1 − r)/2), whose terms are Beta functions. They fall by more than 4 each,
    while a recursion from the moment before the last multiplies its rounding by n².
    """
    term = 0.5 * math.pi / ((n + 1) * (n + 2))
    total, k = term, 0
    while abs(term) > 1e-17 * total:
        k += 1
        term *= -((0.5 * math.pi) ** 2) / ((n + 2 * k + 1) * (n + 2 * k + 2))
        total += term
    return total


def _draw_lengths(kernel: str, like: Tensor) -> Tensor:
    """Lengths r of density r^(d−1) K(r): ``(n,)`` for rows ``(n, d)``, by the generator lent."""
    size, one = float(like.shape[1]), torch.ones_like(like[:, 0])
    match kernel:
        case "exponential":
            return Gamma(size * one, one).sample()
        case "tophat":
            return Beta(size * one, one).sample()
        case "epanechnikov":
            return Beta(0.5 * size * one, 2 * one).sample().sqrt()
        case "linear":
            return Beta(size * one, 2 * one).sample()
    return _draw_cosine_lengths(size * one)


def _draw_cosine_lengths(size: Tensor) -> Tensor:
    """By rejection from the linear kernel: cos(πr/2) <= (1 − r) π/2 on [0, 1]."""
    length = torch.full_like(size, torch.nan)
    while bool((missing := length.isnan()).any()):
        r = Beta(size, torch.full_like(size, 2.0)).sample()
        chance = torch.cos(0.5 * math.pi * r) / ((1 - r) * 0.5 * math.pi)
        accepted = missing & (torch.rand_like(r) < chance)
        length = torch.where(accepted, r, length)
    return length


def _as_weights(weights: ArrayLike | None, points: Tensor) -> Tensor:
    n = len(points)
    if weights is None:
        return torch.full_like(points[:, 0], 1 / n, requires_grad=False)
    given = probabilities("weights", weights, like=points)
    if given.shape != (n,):
        raise ShapeError(f"expected weights of shape ({n},), got {tuple(given.shape)}")
    return given


register(
    KernelDensity,
    lambda k: {
        "points": k.points,
        "bandwidth": k.bandwidth,
        "kernel": k.kernel,
        "weights": k.weights,
    },
    lambda f: KernelDensity(**f),
    name="experts.KernelDensity",
    formerly=("experts.kernel_density.KernelDensity",),
)
