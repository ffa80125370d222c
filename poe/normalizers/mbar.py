"""The multistate Bennett acceptance ratio: the normalisers of several densities from all draws.

It is the optimal bridge between two densities, and its extension to more (Meng & Wong 1996; Shirts
& Chodera 2008): of all estimators by reweighting, that of the smallest asymptotic variance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import NormalizationError

MAX_STEPS = 200
TOLERANCE = 1e-8
"""In nats."""
HALVINGS = 40


class Normalizers(NamedTuple):
    """The log normalisers relative to the first density, with what they came from.

    Args:
        log_z: Of K densities, ``(K,)``.
        influence: ``(groups, K)``, groups of draws that are independent of each other; the sums
            over groups have the covariance of log_z.
    """

    log_z: Tensor
    influence: Tensor

    @property
    def std_error(self) -> Tensor:
        """Of log Z_K, the last, from the spread over groups: ``()``."""
        groups = len(self.influence)
        spread = self.influence[:, -1] - self.influence[:, -1].mean()
        return (groups / (groups - 1) * spread.square().sum()).sqrt()


def mbar(log_densities: Tensor, counts: Tensor) -> Normalizers:
    """log Z_k − log Z_1 of K densities from draws of each, those of every group together.

    With N_k draws of density k it solves, for all k, Σ_n P(k | x_n) = N_k where
    P(k | x) ∝ N_k γ_k(x) / Z_k: the maximum of a concave likelihood, found by Newton's method. The
    errors are those of an M-estimator with independent groups.

    Args:
        log_densities: log γ_k(x_n), ``(K, groups, n)``, where the draws of the K densities lie one
            after the other along n.
        counts: How many of each there are in each group, ``(K,)``.

    Returns:
        The log normalisers and their error.

    Raises:
        NormalizationError: Where draws of some densities say nothing of others.

    References:
        Shirts & Chodera (2008), Statistically optimal analysis of samples from multiple equilibrium
        states, eq. 11, doi:10.1063/1.2978177; Geyer (1994), Estimating normalizing constants and
        reweighting mixtures in Markov chain Monte Carlo.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1, 40, 200, generator=g, dtype=torch.float64)
        >>> y = 2.0 * torch.randn(1, 40, 200, generator=g, dtype=torch.float64)
        >>> both = torch.cat([x, y], 2)
        >>> found = mbar(torch.cat([-0.5 * both**2, -both**2 / 8]), torch.tensor([200, 200]))
        >>> bool((found.log_z[1] - torch.tensor(2.0).log()).abs() < 3 * found.std_error)
        True
    """
    values = log_densities.double()
    shares = (counts / counts.sum()).double().to(values.device)
    values = values - values.amax(0, keepdim=True)
    bias = shares.log() - _first_guess(values, counts)
    likelihood = _likelihood(values, shares, bias)
    for _ in range(MAX_STEPS):
        given = _posterior(values, bias)
        gradient = shares - given.flatten(1).mean(1)
        step = torch.linalg.solve(_information(given), gradient[1:])
        if bool(step.abs().max() < TOLERANCE):
            break
        moved, likelihood = _climb(values, shares, bias, likelihood, step)
        if torch.equal(moved, bias):  # what is left to gain is less than rounding
            break
        bias = moved
    return _result(values, shares, counts, bias)


def _posterior(values: Tensor, bias: Tensor) -> Tensor:
    """P(k | x_n): ``(K, groups, n)``."""
    return torch.softmax(values + bias[:, None, None], 0)


def _likelihood(values: Tensor, shares: Tensor, bias: Tensor) -> Tensor:
    """Σ_k (N_k / N) b_k − mean log Σ_k exp(b_k) γ_k, up to a constant."""
    return shares @ bias - torch.logsumexp(values + bias[:, None, None], 0).mean()


def _information(given: Tensor) -> Tensor:
    """Minus the likelihood's second derivatives, the first density held: ``(K − 1, K − 1)``."""
    rows = given[1:].flatten(1)
    information = torch.diag(rows.mean(1)) - rows @ rows.mT / rows.shape[1]
    ridge = 1e-14 * torch.eye(len(information)).to(information)
    return information + ridge


def _climb(
    values: Tensor, shares: Tensor, bias: Tensor, likelihood: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """A step of Newton's, halved until it is one upward."""
    for _ in range(HALVINGS):
        moved = torch.cat([bias[:1], bias[1:] + step])
        found = _likelihood(values, shares, moved)
        if bool(found > likelihood):
            return moved, found
        step = 0.5 * step
    return bias, likelihood


def _first_guess(values: Tensor, counts: Tensor) -> Tensor:
    """log Z from each density to the next, by the draws of both: a bridge of √(γ_k γ_k+1)."""
    blocks = values.split(counts.tolist(), 2)
    steps = [values.new_zeros(())]
    for k in range(len(counts) - 1):
        ahead = 0.5 * (blocks[k][k + 1] - blocks[k][k])
        back = 0.5 * (blocks[k + 1][k] - blocks[k + 1][k + 1])
        steps.append(_log_mean(ahead) - _log_mean(back))
    guess = torch.stack(steps).cumsum(0)
    if not bool(guess.isfinite().all()):
        raise NormalizationError(
            "expected densities that overlap, got some of which no draw lies where the next one is "
            "positive: put densities between them, or begin nearer to the target"
        )
    return guess


def _log_mean(values: Tensor) -> Tensor:
    usable = values.masked_fill(values.isnan(), -torch.inf).clamp(max=600.0)
    return torch.logsumexp(usable.flatten(), 0) - torch.tensor(float(usable.numel())).log()


def _result(values: Tensor, shares: Tensor, counts: Tensor, bias: Tensor) -> Normalizers:
    given = _posterior(values, bias)
    groups, n = given.shape[1:]
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts).to(given.device)
    is_own = torch.nn.functional.one_hot(owner, len(counts)).mT[:, None]
    score = (is_own - given).sum(2)[1:] / (groups * n)  # of each group: (K − 1, groups)
    influence = torch.linalg.solve(_information(given), score).mT
    log_z = shares.log() - bias
    log_z = log_z - log_z[0]
    zero = influence.new_zeros((groups, 1))
    return Normalizers(log_z, torch.cat([zero, influence], 1))
