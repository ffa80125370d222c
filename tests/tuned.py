"""How close to its target dual averaging brings an acceptance rate: what theory lets it miss."""

from __future__ import annotations

import math

from torch import Tensor

LEAN = math.log(10.0)
"""log of the anchor over the scale found, where tuning began at about that scale."""


def tuned_rate_error(rates: Tensor, num_steps: int, num_updates: int) -> float:
    """The standard error of the mean acceptance rate of a kernel tuned in so many updates.

    With v the variance of the mean of one step times its autocorrelation time, the mean of n steps
    has the variance v / n. The log-scale is an exponential average whose last weight is
    η = T^−0.75, of a process that follows the zero of the noisy rate: asymptotically (Polyak &
    Juditsky 1992, theorem 1) the rate at it has the variance η v / 2. v is found from independent
    means: of chains, or of blocks of steps.

    Args:
        rates: Mean acceptance of each chain or block, ``(groups,)``.
        num_steps: n, all blocks together.
        num_updates: T, of the last stage of tuning.
    """
    measured = rates.var().item() / len(rates)
    return math.sqrt(measured * (1.0 + 0.5 * num_steps * num_updates**-0.75))


def check_tuned_rate(
    rates: Tensor, target: float, num_steps: int, num_updates: int, lean: float = LEAN
) -> None:
    """Whether the mean rate is the target but for four standard errors and dual averaging's lean.

    Σₜ (δ − αₜ) = γ (μ − log ε_T) √T holds exactly but for t₀, so that near T the rate misses δ by
    γ (μ − log ε_T) / (2 √T), with γ = 0.05. Given ``lean``, that is |μ − log ε_T|.
    """
    offset = 0.05 * lean / (2.0 * math.sqrt(num_updates))
    error = tuned_rate_error(rates, num_steps, num_updates)
    miss = abs(rates.mean().item() - target)
    assert miss < offset + 4.0 * error, f"{rates.mean():.4f}, {offset:.4f} + 4 * {error:.4f}"
