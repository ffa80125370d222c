"""What a degraded picture says of the clean one: likelihoods as experts on x."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experts.families.gaussian import Gaussian
from experts.images.operators import Identity, LinearOperator
from experts.parameters import ArrayLike, keep, positive, probability as between, real
from poe import Expert, Real, ShapeError
from poe.core.arguments import checked
from poe.io import register
from poe.structure.gaussian_factors import GaussianFactor, Independent, gaussian_factors


class GaussianLikelihood(Expert):
    """p(y | x) = N(y; A x, s² I) as an expert on x, normalised over y: y = A x + noise.

    A prior times it is the posterior of x. Of a ``Mask`` the pixels that were not seen add a
    constant.

    Args:
        operator: A (``Identity``: denoising, ``Mask``: inpainting, ``Blur``, ``BlockMean``:
            super-resolution).
        observed: y, ``(*out_shape)`` of the operator.
        scale: Standard deviation s of the noise, a positive number.

    Raises:
        ShapeError: For a y that A does not make, and a scale that is not one number.
        PoeError: For a scale that is not positive.

    Example:
        >>> seen = GaussianLikelihood(Identity((1, 2)), torch.tensor([[0.0, 1.0]]), scale=0.5)
        >>> seen(torch.tensor([[[0.0, 1.0]], [[0.5, 1.0]]]))
        tensor([-0.4516, -0.9516])
    """

    observed: Tensor
    scale: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, operator: LinearOperator, observed: ArrayLike, scale: ArrayLike) -> None:
        super().__init__()
        observed = real("observed", observed)
        if observed.shape != operator.out_shape:
            raise ShapeError(
                f"expected an observation of shape {tuple(operator.out_shape)}, as the operator "
                f"makes it, got {tuple(observed.shape)}"
            )
        self.operator = operator
        self.space = Real(tuple(operator.in_shape))
        keep(self, "observed", observed)
        keep(self, "scale", _one("scale", positive("scale", scale, like=observed)))

    def forward(self, x: Tensor) -> Tensor:
        """log p(y | x).

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        batch = self.space.batch_shape(x)
        rows = x.reshape(-1, *self.space.event_shape)
        squares = ((self.operator(rows) - self.observed) / self.scale).square()
        constant = self.observed.numel() * (self.scale.log() + 0.5 * math.log(2 * math.pi))
        return (-0.5 * squares.flatten(1).sum(1) - constant).reshape(batch)


class SaltAndPepper(Expert):
    """p(y | x) of pixels that were replaced, with probability p, by 0 or 1: as an expert on x.

    p(yᵢ | xᵢ) = (1 − p) N(yᵢ; xᵢ, s²) Δ + ½ p [yᵢ ∈ {0, 1}]

    for grey values in steps of Δ, those of kept pixels known to within s. A pixel that is neither 0
    nor 1 was kept; one that is may be either, and the prior decides.

    Args:
        observed: y, ``(*event)``, from 0 to 1.
        probability: p, of a pixel to be replaced, a number between 0 and 1.
        scale: s, in grey values.
        step: Δ, in grey values.

    Raises:
        PoeError: For a p that is not between 0 and 1, and a scale or step that is not positive.
        ShapeError: For a p, scale or step that is not one number.

    Example:
        >>> seen = SaltAndPepper(torch.tensor([0.5, 1.0]), probability=0.2)
        >>> seen(torch.tensor([[0.5, 1.0], [0.5, 0.3]]))
        tensor([-2.0116, -3.4447])
    """

    observed: Tensor
    probability: Tensor
    scale: Tensor
    step: Tensor
    may_be_infinite = ()

    @checked
    def __init__(
        self,
        observed: ArrayLike,
        probability: ArrayLike,
        *,
        scale: ArrayLike = 1 / 255,
        step: ArrayLike = 1 / 255,
    ) -> None:
        super().__init__()
        observed = real("observed", observed)
        chance = between("probability", probability, like=observed)
        self.space = Real(tuple(observed.shape))
        keep(self, "observed", observed)
        keep(self, "probability", _one("probability", chance))
        for name, value in (("scale", scale), ("step", step)):
            keep(self, name, _one(name, positive(name, value, like=observed)))

    def forward(self, x: Tensor) -> Tensor:
        """log p(y | x).

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        return (
            torch.logaddexp(self._log_kept(x), self._log_replaced())
            .flatten(x.ndim - self.observed.ndim)
            .sum(-1)
        )

    def draw_precisions(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """1 / s² of a pixel that is drawn to be kept, else 0.

        Args:
            x: ``(*batch, *event)``.
            uniforms: Of [0, 1), as many.

        Returns:
            As many.
        """
        is_kept = uniforms < torch.sigmoid(self._log_kept(x) - self._log_replaced())
        return is_kept / self.scale.square()

    def _log_kept(self, x: Tensor) -> Tensor:
        log_bin = (self.step / self.scale).log() - 0.5 * math.log(2 * math.pi)
        whitened = (self.observed - x) / self.scale
        return torch.log1p(-self.probability) + log_bin - 0.5 * whitened.square()

    def _log_replaced(self) -> Tensor:
        is_extreme = (self.observed == 0) | (self.observed == 1)
        return (0.5 * self.probability * is_extreme).log()


@gaussian_factors.register
def _(expert: GaussianLikelihood) -> tuple[GaussianFactor, ...]:
    def draw(responses: Tensor, uniforms: Tensor) -> Independent:
        precisions = torch.ones_like(responses) / expert.scale.square()
        return Independent(expert.operator, precisions)

    return (GaussianFactor(expert.operator, expert.observed, draw, is_fixed=True),)


@gaussian_factors.register
def _(expert: SaltAndPepper) -> tuple[GaussianFactor, ...]:
    pixels = Identity(tuple(expert.space.event_shape))

    def draw(responses: Tensor, uniforms: Tensor) -> Independent:
        return Independent(pixels, expert.draw_precisions(responses, uniforms))

    return (GaussianFactor(pixels, expert.observed, draw),)


@gaussian_factors.register
def _(expert: Gaussian) -> tuple[GaussianFactor, ...] | None:
    """Of independent elements only."""
    if expert.scale is None:
        return None
    scale, pixels = expert.scale, Identity(tuple(expert.space.event_shape))

    def draw(responses: Tensor, uniforms: Tensor) -> Independent:
        return Independent(pixels, torch.ones_like(responses) / scale.square())

    return (GaussianFactor(pixels, expert.loc, draw, is_fixed=True),)


register(
    GaussianLikelihood,
    lambda e: {"operator": e.operator, "observed": e.observed, "scale": e.scale},
    lambda f: GaussianLikelihood(**f),
    name="experts.GaussianLikelihood",
    formerly=("experts.likelihood.GaussianLikelihood",),
)
register(
    SaltAndPepper,
    lambda e: {
        "observed": e.observed,
        "probability": e.probability,
        "scale": e.scale,
        "step": e.step,
    },
    lambda f: SaltAndPepper(**f),
    name="experts.SaltAndPepper",
    formerly=("experts.likelihood.SaltAndPepper",),
)


def _one(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim:
        raise ShapeError(f"{name} must be one number, got {tuple(tensor.shape)}: give a float")
    return tensor
