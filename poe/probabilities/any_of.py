"""``poe.any_of``: OR between experts whose normalisers are not known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.density.capabilities import is_normalized, log_prob_of
from poe.density.checks import require_numbers
from poe.density.expert import Expert, Mixture
from poe.density.normalized import Normalized
from poe.probabilities.normalize import Estimator, estimator_or_default


@checked
def any_of(
    *experts: Expert,
    weights: Sequence[float] | Tensor | None = None,
    estimator: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> Mixture:
    """The calibrated OR of any experts: Σ_k w_k p̃_k(x) / Z_k, with every Z_k found first.

    ``a | b`` refuses experts without a known normaliser; this finds it. A component that was not
    normalised before is a ``poe.Normalized``, whose ``log_partition`` and ``log_prob_error`` say
    how far its weight may be off (its logarithm by the same number);
    ``poe.log_density_error(mixture, x)`` says what that comes to at x. ``log_prob`` exists where no
    Z_k is an estimate. Raises what ``poe.log_partition`` raises, too.

    Args:
        *experts: The components, on one space.
        weights: w ``(n_experts,)``, not negative, of sum 1; equal by default.
        estimator: How a Z_k is found, expert to ``poe.LogPartition``; by default
            ``poe.log_partition``.
        generator: The source of randomness of the default; a fresh one by default.

    Returns:
        The mixture.

    Raises:
        PoeError: Without experts, or where the weights are negative or do not sum to 1.
        SpaceMismatchError: Where two live on different spaces.

    Example:
        >>> narrow = poe.FromEnergy(lambda x: 8 * (x**2).sum(-1), space=poe.Real(1))
        >>> wide = poe.FromEnergy(lambda x: (x**2).sum(-1) / 8, space=poe.Real(1))
        >>> mixture = any_of(narrow, wide)
        >>> mixture(torch.zeros(1, 1))  # log (1.5958 + 0.1995) / 2
        tensor([-0.1080])
    """
    find = estimator_or_default(estimator, generator)
    return Mixture([_normalized(expert, find) for expert in experts], weights)


def _normalized(expert: Expert, find: Estimator) -> Expert:
    require_numbers(expert)
    is_scaled = is_normalized(expert) or isinstance(expert, Normalized | Mixture)
    return (
        expert
        if is_scaled and log_prob_of(expert) is not None
        else Normalized(expert, find(expert))
    )
