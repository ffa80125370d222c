"""NumPyro's distributions as experts: ``poe.as_expert(numpyro.distributions.Normal(0.0, 1.0))``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

import poe
from experts.adapters.jax import JaxLogDensity
from poe.core.arguments import checked
from poe.core.errors import AdaptationError
from poe.core.imports import missing, require
from poe.core.randomness import resolve
from poe.density.transformed import mask_outside

try:
    from numpyro.distributions import Distribution, constraints
except ImportError as error:
    raise missing("numpyro", "numpyro") from error

SPACES: dict[type, Any] = {
    type(constraints.real): poe.Real,
    type(constraints.real_vector): poe.Real,
    type(constraints.positive): poe.Positive,
    type(constraints.nonnegative): poe.Positive,
    type(constraints.positive_definite): lambda shape: poe.PositiveDefinite(shape[-1]),
    type(constraints.simplex): lambda shape: poe.Simplex(shape[-1]),
    type(constraints.circular): lambda shape: poe.Interval(shape, -math.pi, math.pi),
}
"""By NumPyro's constraint; intervals besides, by their bounds."""


class FromNumPyro(JaxLogDensity):
    """A continuous distribution of NumPyro: normalised, sampled exactly by JAX.

    Its parameters are constants. Draws come from a JAX key that the generator seeds.

    Args:
        distribution: One, of a continuous space of this package.

    Raises:
        AdaptationError: For a batch of distributions, a discrete one, and a support that is no
            space of this package.

    Example:
        >>> import numpyro.distributions as dist
        >>> expert = poe.as_expert(dist.Normal(0.0, 1.0))
        >>> expert.log_prob(torch.tensor([0.0])), expert.space
        (tensor([-0.9189]), Real(shape=()))
    """

    def __init__(self, distribution: Distribution) -> None:
        if distribution.batch_shape:
            raise AdaptationError(
                f"expected one distribution, got a batch of shape {distribution.batch_shape}; use "
                f"distribution.to_event({len(distribution.batch_shape)}) for their product"
            )
        super().__init__(LogProb(distribution), space=_space(distribution))
        self.distribution = distribution

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised; −inf outside of the space.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        value = super().forward(x)
        return value if isinstance(self.space, poe.Real) else mask_outside(self.space, x, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws.

        Args:
            num_samples: How many.
            generator: Seeds JAX's key; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.
        """
        jax = require("jax", "jax")
        seed = torch.randint(2**31, (), generator=resolve(generator)).item()
        draws = self.distribution.sample(jax.random.key(seed), (num_samples,))
        return from_dlpack(draws).clone()

    def extra_repr(self) -> str:
        return f"{self.space}, {type(self.distribution).__name__}"


class LogProb:
    """The log-density of a distribution, with its parameters in the dtype of x.

    Args:
        distribution: NumPyro's.
    """

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution

    def __call__(self, x: Any) -> Any:
        """log p(x), of JAX.

        Args:
            x: ``(*event)``.

        Returns:
            A number.
        """
        jax = require("jax", "jax")

        def as_x(parameter: Any) -> Any:
            array = jax.numpy.asarray(parameter)
            return array.astype(x.dtype) if array.dtype.kind == "f" else array

        return jax.tree_util.tree_map(as_x, self.distribution).log_prob(x)


def _space(distribution: Distribution) -> poe.Space:
    support, shape = distribution.support, tuple(distribution.event_shape)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if type(support) in SPACES:
        return SPACES[type(support)](shape)
    bounds: list[Any] = [getattr(support, f"{end}_bound", None) for end in ("lower", "upper")]
    is_interval = None not in bounds and not getattr(support, "is_discrete", True)
    if is_interval and all(getattr(bound, "ndim", 0) == 0 for bound in bounds):
        return poe.Interval(shape, float(bounds[0]), float(bounds[1]))
    raise AdaptationError(
        f"expected a continuous distribution on a space of this package, got "
        f"{type(distribution).__name__} on {type(support).__name__}: use "
        "experts.adapters.jax.JaxLogDensity(distribution.log_prob, space=...), or for a discrete "
        "one its twin in torch.distributions"
    )


@poe.as_expert.register
def _(distribution: Distribution) -> FromNumPyro:
    return FromNumPyro(distribution)
