"""How far a log-density is off because the normalisers in it are estimates."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NormalizationError
from poe.density.expert import Expert, Mixture, experts_in
from poe.density.latent import Marginal
from poe.density.normalized import Normalized
from poe.density.questions import keeps_default, question

Sensitivities = dict[Normalized, Tensor]
"""∂ log p(x) / ∂ log Z for each normaliser, ``(*batch,)``."""


@checked
def log_density_error(expert: Expert, x: Tensor) -> Tensor:
    """The standard error of log p(x) that comes from normalisers.

    By the delta method: sd² = Σ_k (∂ log p(x) / ∂ log Z_k)² sd_k², the estimates of different
    normalisers being independent. In a mixture the derivative is minus the responsibility
    w_k p_k(x) / p(x): where one component is alone, its own error counts in full.

    Args:
        expert: Any composition.
        x: Positions, ``(*batch, *event)``.

    Returns:
        The error, ``(*batch,)``; 0 where nothing was estimated.

    Raises:
        NormalizationError: Where an error is not known, as of the bare numbers in
            ``Mixture(log_partitions=...)``, where estimates lie deeper than in mixtures, and where
            the log-density is itself an estimate, as of a ``poe.Marginal``.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([9.0], scale=[1.0])
        >>> rough = poe.log_partition(a)._replace(std_error=torch.tensor(0.1))
        >>> either = poe.Mixture([a, poe.normalize(b, rough)])
        >>> log_density_error(either, torch.tensor([[4.0], [4.5], [9.0]]))
        tensor([0.0011, 0.0500, 0.1000])
    """
    return combined_error(sensitivities(expert, x), expert(x))


def combined_error(found: Sensitivities, like: Tensor) -> Tensor:
    """√Σ (sensitivity · standard error)², of the shape of ``like``."""
    total = torch.zeros_like(like)
    for normalized, slope in found.items():
        total = total + (slope * normalized.std_error.to(slope)).square()
    return total.sqrt()


@question
def sensitivities(expert: Expert, x: Tensor) -> Sensitivities:
    """∂ log p(x) / ∂ log Z for each normaliser that was estimated."""
    for part in expert.modules():
        if isinstance(part, Marginal):
            raise NormalizationError(
                f"the log-density of {type(expert).__name__} is itself an estimate, by draws of a "
                "latent variable: its error is no normaliser's; use poe.log_density_bounds"
            )
        if _has_estimate(part):
            raise NormalizationError(
                f"how the estimated normalisers inside {type(expert).__name__} act on its "
                "log-density is not known; use poe.normalize(expert), or ask its parts"
            )
    return {}


@sensitivities.register
def _(expert: Normalized, x: Tensor) -> Sensitivities:
    own = torch.full_like(expert(x), -1.0)
    inner = sensitivities(expert.expert, x)
    return {**inner, expert: own} if not expert.log_partition.is_exact else inner


@sensitivities.register
def _(expert: Mixture, x: Tensor) -> Sensitivities:
    if any(estimate is not None for estimate in expert.estimates):
        raise NormalizationError(
            "the log partitions of this mixture are bare numbers, whose errors are not known; use "
            "poe.any_of(*experts, weights=weights)"
        )
    found: Sensitivities = {}
    for component, weight in zip(
        experts_in(expert.experts), expert.responsibilities(x), strict=True
    ):
        for normalized, slope in sensitivities(component, x).items():
            found[normalized] = found.get(normalized, 0) + weight * slope
    return found


def _has_estimate(part: object) -> bool:
    if isinstance(part, Normalized):
        return not part.log_partition.is_exact
    return isinstance(part, Mixture) and any(e is not None for e in part.estimates)


keeps_default(Expert, "none, or NormalizationError where a part was estimated", sensitivities)
