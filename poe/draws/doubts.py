"""Why draws are not to be trusted, and what to do about it."""

from __future__ import annotations

from torch import Tensor

from poe.core.doubt import Doubt, Kind, kinds
from poe.diagnostics.weights import normalized_weights
from poe.draws.record import Record

MAX_R_HAT = 1.01


MIN_ESS = 400.0
"""The thresholds of Vehtari et al. 2021, section 4."""


SHORT_CHAIN = 500


SHORT_CHAIN_WORDS = (
    "They are short, which alone raises R-hat: draw more from each, or use a longer warm-up."
)


COLLAPSED = 0.05
"""Weights worth less than this fraction of the draws have collapsed onto few of them."""


def chain_doubts(draws: Record) -> list[Doubt]:
    """On what single chains did: not finite, divergent, stuck, still, far from the others."""
    doubts = []
    chains = len(draws.samples)
    if num_bad := int(draws.num_nonfinite.sum()):
        text = f"{num_bad} draws are not finite: the statistics of their components are NaN."
        doubts.append(Doubt(Kind.NOT_FINITE, text, _where(draws.num_nonfinite)))
    if draws.num_divergent is not None and (count := int(draws.num_divergent.sum())):
        divergent = _where(draws.num_divergent)
        text = (
            f"{count} steps of {len(divergent)} of {chains} chains diverged: what lies where the "
            "log-density bends sharply may be missing. Use a smaller step size."
        )
        doubts.append(Doubt(Kind.DIVERGED, text, divergent))
    if (stuck := draws.stuck_chains) and Kind.STUCK not in kinds(draws.doubts):
        text = (
            f"{len(stuck)} of {chains} chains never moved (chain {stuck[0]} is one): use a smaller "
            "step size, a longer warm-up or another start."
        )
        doubts.append(Doubt(Kind.STUCK, text, tuple(stuck)))
    if still := draws.still_chains:
        text = (
            f"{len(still)} of {chains} chains hardly moved (chain {still[0]} is one): they count "
            "one place many times. Use a smaller step size, or a longer warm-up."
        )
        doubts.append(Doubt(Kind.STILL, text, tuple(still)))
    if far := draws.escaped_chains:
        text = (
            f"{len(far)} of {chains} chains are far from the others (chain {far[0]} is one): they "
            "ran away, or sit in a mode of their own, and the averages mix both. Use a longer "
            "warm-up, another start, or a sampler that moves between modes."
        )
        doubts.append(Doubt(Kind.ESCAPED, text, tuple(far)))
    return doubts


def _where(counts: Tensor) -> tuple[int, ...]:
    """The chains of which something was counted."""
    return tuple(counts.nonzero().flatten().tolist())


def convergence_doubts(draws: Record, r_hat: Tensor, ess: Tensor) -> list[Doubt]:
    """On R-hat and ESS of the components of unweighted draws."""
    if ess.isnan().all():
        text = (
            "R-hat and ESS could not be computed (too few draws a chain, or draws that do not "
            "vary): nothing here shows that the chains have converged."
        )
        return [Doubt(Kind.NOT_COMPARED, text)]
    doubts = []
    if r_hat.isnan().all():
        text = (
            "R-hat could not be computed, since there is one chain only: it may have missed what "
            "others would find. Use four or more."
        )
        doubts.append(Doubt(Kind.NOT_COMPARED, text))
    elif (worst := _finite_max(r_hat)) > MAX_R_HAT:
        is_short = draws.samples.shape[1] < SHORT_CHAIN
        text = (
            f"R-hat is {worst:.3f} > {MAX_R_HAT}: the chains disagree with each other, so they are "
            "not shown to have converged. "
            + (SHORT_CHAIN_WORDS if is_short else "Use a longer warm-up or another kernel.")
        )
        doubts.append(Doubt(Kind.NOT_CONVERGED, text))
    if (least := -_finite_max(-ess)) < MIN_ESS:
        text = (
            f"the smallest ESS is {least:.0f} < {MIN_ESS:.0f}: the draws are worth few independent "
            "ones. Draw more."
        )
        doubts.append(Doubt(Kind.FEW, text))
    return doubts


def weight_doubts(log_weights: Tensor, ess: float) -> list[Doubt]:
    """On the weights of weighted draws, of which ``ess`` is Kish's effective number."""
    if not ess > 0:  # NaN
        text = (
            "the weights are NaN, +inf, or all zero: no average of these draws means anything. "
            "Look for positions where the target's log-density is not finite."
        )
        return [Doubt(Kind.NOT_FINITE, text)]
    if ess < COLLAPSED * log_weights.numel():
        largest = normalized_weights(log_weights).max().item()
        text = (
            f"the weights have collapsed: {log_weights.numel()} draws are worth {ess:.0f}, and one "
            f"alone carries {largest:.0%} of all weight. Do not trust any average of them: use "
            "more levels between the start and the target, or a start nearer to it."
        )
        return [Doubt(Kind.COLLAPSED, text)]
    if ess < MIN_ESS:
        text = (
            f"the weights are worth {ess:.0f} < {MIN_ESS:.0f} equal draws: averages are rough. Use "
            "more draws, or more levels."
        )
        return [Doubt(Kind.FEW, text)]
    return []


def _finite_max(values: Tensor) -> float:
    return values[~values.isnan()].max().item()
