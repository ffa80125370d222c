"""The linear Gaussian conditional: what a Gaussian chain is made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experts.families.gaussian import Gaussian
from experts.parameters import ArrayLike, keep, positive, real
from poe import Conditional, Expert, Real, ShapeError, simplify
from poe.core.arguments import checked
from poe.core.randomness import resolve
from poe.density.capabilities import conditional_tails
from poe.density.questions import speaks_as
from poe.io import register


class LinearGaussian(Conditional):
    """The normal density N(y; W x + b, diag(s²)) of y given x, normalised.

    The condition is the batch of x, ``(n, d_x)``, for y of shape ``(n, d_y)``. What is an
    ``nn.Parameter`` stays one.

    Args:
        weight: W, ``(d_y, d_x)``.
        bias: b, ``(d_y,)``.
        scale: s, standard deviations, ``(d_y,)``, positive.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a scale is not positive, or a number is not finite.

    Example:
        >>> step = LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
        >>> step.given(torch.tensor([[0.0], [1.0]])).log_prob(torch.tensor([[1.0], [3.0]]))
        tensor([-0.2258, -0.2258])
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    may_be_infinite = ()
    is_normalized = True

    @checked
    def __init__(self, weight: ArrayLike, bias: ArrayLike, scale: ArrayLike) -> None:
        super().__init__()
        matrix = real("weight", weight)
        keep(self, "weight", matrix)
        keep(self, "bias", real("bias", bias, like=matrix))
        keep(self, "scale", positive("scale", scale, like=matrix))
        _check(self)
        self.space = Real(len(self.bias))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """The normalised log-density of y given x, one x for each y.

        Args:
            x: The y, ``(n, d_y)``.
            condition: The x that y is given, ``(n, d_x)``.

        Returns:
            log p(y | x), ``(n,)``.

        Raises:
            ShapeError: Where a condition has another last dimension than d_x.
        """
        whitened = (x - self._mean(condition)) / self.scale
        constant = self.scale.log().sum() + 0.5 * len(self.bias) * math.log(2 * math.pi)
        return -0.5 * whitened.square().sum(-1) - constant

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One y for each x, without a gradient.

        Args:
            condition: The x that y is given, ``(num_samples, d_x)``.
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws of y, ``(num_samples, d_y)``.

        Raises:
            ShapeError: Where a condition has another last dimension than d_x.
        """
        return self.rsample(condition, num_samples, generator=generator)

    def rsample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same draws with their gradients in x, weight, bias and scale: W x + b + s ε.

        Args:
            condition: The x that y is given, ``(num_samples, d_x)``.
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws of y, ``(num_samples, d_y)``.

        Raises:
            ShapeError: Where a condition has another last dimension than d_x.
        """
        mean = self._mean(condition)
        generator = resolve(generator, mean.device)
        shape = (num_samples, len(self.bias))
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.scale * noise

    def exact_marginal(self, prior: Expert) -> Expert | None:
        """N(W m + b, W S W' + diag(s²)), where the prior of x comes to the Gaussian N(m, S).

        Args:
            prior: The density of x, on ``Real(d_x)``.

        Returns:
            The Gaussian of y; None where the prior simplifies to none.

        Example:
            >>> step = LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
            >>> step.exact_marginal(Gaussian([3.0], scale=[1.0])).loc
            tensor([7.])
        """
        known = simplify(prior).expert
        if not speaks_as(known, Gaussian) or known.loc.ndim != 1:
            return None
        loc = self._mean(known.loc[None])[0]
        spread = self.weight @ known.covariance @ self.weight.mT
        covariance = (spread + spread.mT) / 2 + self.scale.square().diag()
        return Gaussian(loc, covariance=covariance)

    def _mean(self, condition: Tensor) -> Tensor:
        if condition.ndim == 0 or condition.shape[-1] != self.weight.shape[1]:
            raise ShapeError(
                f"expected a condition of shape (n, {self.weight.shape[1]}), one x for each y, got "
                f"{tuple(condition.shape)}"
            )
        return condition @ self.weight.mT + self.bias


@conditional_tails.register
def _(conditional: LinearGaussian) -> Tensor | None:
    """Of |y − W x|² / s²."""
    weight, scale = (
        t.detach().to("cpu", torch.float64) for t in (conditional.weight, conditional.scale)
    )
    residual = torch.cat([-weight, torch.eye(len(scale), dtype=torch.float64)], 1) / scale[:, None]
    return residual.mT @ residual


register(
    LinearGaussian,
    lambda c: {"weight": c.weight, "bias": c.bias, "scale": c.scale},
    lambda f: LinearGaussian(**f),
    name="experts.LinearGaussian",
    formerly=("experts.linear_gaussian.LinearGaussian",),
)


def _check(c: LinearGaussian) -> None:
    size = c.weight.shape[0] if c.weight.ndim == 2 else -1
    if c.bias.shape != (size,) or c.scale.shape != (size,):
        raise ShapeError(
            "expected weight of shape (d_y, d_x), bias and scale of shape (d_y,), got "
            f"{tuple(c.weight.shape)}, {tuple(c.bias.shape)} and {tuple(c.scale.shape)}"
        )
