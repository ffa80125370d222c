"""Why draws are not to be trusted, and what to do about it."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, kinds
from poe.core.space import Count, Interval, Positive, Simplex, Space
from poe.diagnostics.agreement import MAX_R_HAT, Agreement
from poe.diagnostics.convergence import MAX_DISTANCE, distance_from_others
from poe.diagnostics.weights import normalized_weights
from poe.draws.record import Record
from poe.samplers.kernel import EXACT
from poe.samplers.questions import Setting, is_tunable, way_out

UNMOVED = 1e6
"""A larger R-hat is that of chains that do not move, up to rounding."""
COLLAPSED = 0.05
"""Weights worth less than this fraction of the draws have collapsed onto few of them."""
FEW_BY_WEIGHT = 50.0
"""Fewer equal draws than this give no standard error to rely on."""
MANY_DIVERGED = 0.01
"""A share of divergent steps that matters whatever else is seen."""


ROUNDED = 2.0
"""Draws that spread by fewer units in the last place tell of their rounding."""
FEW_ROWS = 1000
"""So many draws of each chain tell a spread."""
AT_EDGE = 0.04
"""The share of draws that may be rounded to an edge without a word."""


AWAY_FROM_EDGES = (
    "Use float64 (.double()), give the density in unconstrained coordinates (of logits or "
    "logarithms), or give the expert as a torch distribution."
)


def rounding_doubts(draws: Record, space: Space) -> list[Doubt]:
    """On draws x that lie closer together, or to an edge, than their numbers can tell apart.

    Chains that stand still are another matter; exact draws that are all the same are rounded.
    """
    x = draws.samples[:, :: 1 + draws.samples.shape[1] // FEW_ROWS].flatten(0, 1).detach()
    if isinstance(space, Count):
        return _huge_counts(x)
    if space.is_discrete or len(x) < 2 or x.numel() == 0:
        return []
    return [*_edge_doubts(draws, x, space), *_spread_doubts(draws, x)]


def _edge_doubts(draws: Record, x: Tensor, space: Space) -> list[Doubt]:
    """On draws ``(n, *event)`` next to an edge of their space, as of Beta(0.05, 0.05)."""
    tiny = torch.finfo(x.dtype).tiny
    doubts = []
    for edge, sign in _edges(space):
        ulp = torch.finfo(x.dtype).eps * abs(edge)
        share = (sign * (x - edge) <= 2 * max(ulp, tiny)).double().mean(0).max().item()
        if share > AT_EDGE and draws.guarantee != EXACT:
            text = (
                f"{share:.0%} of the draws lie nearer to {edge:g}, an edge of {space}, than "
                f"{x.dtype} tells apart: what depends on their distance to it is lost, and the "
                "density there is taken to go on as a power of that."
            )
            doubts.append(Doubt(Kind.ROUNDED, text, remedy=AWAY_FROM_EDGES))
    return doubts


def _edges(space: Space) -> list[tuple[float, int]]:
    """The finite borders of elements, and in which direction the space lies."""
    if isinstance(space, Interval):
        return [(space.low, 1), (space.high, -1)]
    return [(0.0, 1)] if isinstance(space, Positive | Simplex) else []


def _spread_doubts(draws: Record, x: Tensor) -> list[Doubt]:
    unit = torch.finfo(x.dtype).eps * x.abs().amin(0)
    spread = (x - x[0]).std(0)
    may_be_still = draws.guarantee != EXACT and bool(draws.stuck_chains)
    is_rounded = (spread < ROUNDED * unit) & ((spread > 0) | (not may_be_still))
    if not bool(is_rounded.any()):
        return []
    first = is_rounded.flatten().nonzero()[0, 0]
    at, by, apart = (float(part.flatten()[first]) for part in (x[0], spread, unit))
    text = (
        f"{int(is_rounded.sum())} elements of the draws spread by no more than rounding, one near "
        f"{at:.3g} by {by:.1g} where {x.dtype} has steps of {apart:.1g}: what depends on their "
        "spread is lost."
    )
    remedy = "Use float64 (.double()), or measure x from near its mean."
    return [Doubt(Kind.ROUNDED, text, remedy=remedy)]


def _huge_counts(x: Tensor) -> list[Doubt]:
    """On counts so large that floats skip some."""
    if not x.is_floating_point() or x.numel() == 0:
        return []
    last = 2 / torch.finfo(x.dtype).eps
    if not bool((x > last).any()):
        return []
    text = f"some counts exceed {last:.3g}, beyond which {x.dtype} does not tell n from n + 1."
    return [Doubt(Kind.ROUNDED, text, remedy="Use float64 (.double()).")]


def draw_doubts(draws: Record) -> list[Doubt]:
    """On single draws: not finite, or where the target has no mass."""
    doubts = []
    dead = draws.num_dead
    undefined = draws.num_nonfinite - dead
    if num_bad := int(undefined.sum()):
        text = f"{num_bad} draws are not finite: the statistics of their components are NaN."
        doubts.append(Doubt(Kind.NOT_FINITE, text, _where(undefined)))
    if num_dead := int(dead.sum()):
        text = f"{num_dead} draws have a log-density of -inf: none of them is one of the target."
        remedy = "Leave them out, or use a corrected kernel from a start inside the support."
        doubts.append(Doubt(Kind.DEAD, text, _where(dead), remedy))
    return doubts


def chain_doubts(draws: Record) -> list[Doubt]:
    """On what single chains did: stuck, still."""
    doubts, chains = [], len(draws.samples)
    if (stuck := draws.stuck_chains) and Kind.STUCK not in kinds(draws.doubts):
        text = f"{len(stuck)} of {chains} chains never moved (chain {stuck[0]} is one)."
        doubts.append(Doubt(Kind.STUCK, text, tuple(stuck), _way_out(draws)))
    if still := draws.still_chains:
        text = (
            f"{len(still)} of {chains} chains hardly moved (chain {still[0]} is one): they count "
            "one place many times."
        )
        remedy = f"{_smaller_steps(draws)} a longer warm-up, or another kernel."
        doubts.append(Doubt(Kind.STILL, text, tuple(still), remedy))
    return doubts


def escape_doubts(x: Tensor, log_density: Tensor) -> list[Doubt]:
    """On chains far from the others: x ``(chains, draws, components)``."""
    distance = distance_from_others(x, log_density)
    far = (distance >= MAX_DISTANCE).nonzero().flatten().tolist()
    if not far:
        return []
    text = (
        f"{len(far)} of {len(x)} chains are far from the others (chain {far[0]} is one): they ran "
        "away, or sit in a mode of their own, and the averages mix both."
    )
    remedy = "Use a longer warm-up, another start, or a sampler that moves between modes."
    return [Doubt(Kind.ESCAPED, text, tuple(far), remedy)]


def divergence_doubts(draws: Record, is_doubted: bool) -> list[Doubt]:
    """On trajectories that broke down: where they are many, or may be why the rest is in doubt.

    A few among thousands that agree have nothing missing to show for it.
    """
    if draws.num_divergent is None or not (count := int(draws.num_divergent.sum())):
        return []
    chains, length = draws.log_density.shape
    if count < MANY_DIVERGED * chains * length and not is_doubted:
        return []
    divergent = _where(draws.num_divergent)
    text = (
        f"{count} steps of {len(divergent)} of {chains} chains diverged: what lies where the "
        "log-density bends sharply may be missing."
    )
    remedy = f"{_smaller_steps(draws)} a longer warm-up, another parametrisation or another kernel."
    return [Doubt(Kind.DIVERGED, text, divergent, remedy)]


def _way_out(draws: Record) -> str:
    """What to do about chains that never move: their kernel knows."""
    words = way_out(draws.kernel, is_tuned=Setting.SCALE.value in draws.tuned)
    return f"{words[0].upper()}{words[1:]}."


def _smaller_steps(draws: Record) -> str:
    """How advice begins, for who set a step size and for who did not."""
    kernel = draws.kernel
    has_steps = kernel is not None and (is_tunable(kernel) or hasattr(kernel, "step_size"))
    is_set = has_steps and Setting.SCALE.value not in draws.tuned
    return "Use a smaller step size," if is_set else "Use"


def _where(counts: Tensor) -> tuple[int, ...]:
    """The chains of which something was counted."""
    return tuple(counts.nonzero().flatten().tolist())


def convergence_doubts(draws: Record, found: Agreement) -> list[Doubt]:
    """On R-hat and ESS of unweighted draws."""
    if found.ess.isnan().all():
        text = (
            "R-hat and ESS could not be computed (too few draws a chain, or draws that do not "
            "vary): nothing here shows that the chains have converged."
        )
        return [Doubt(Kind.NOT_COMPARED, text, remedy="Draw more from each chain.")]
    doubts = []
    if (worst := found.largest_r_hat) > found.limit:
        by_chance = f"{MAX_R_HAT}" if found.limit == MAX_R_HAT else f"{found.limit:.3f} (by chance)"
        who = "halves of the same chains" if _is_alone(draws) else "chains"
        how_large = f"{worst:.3f}" if worst < UNMOVED else "infinite"
        text = (
            f"R-hat is {how_large} > {by_chance}: the {who} disagree with each other, so they are "
            "not shown to have converged."
        )
        remedy = "Draw more, or use a longer warm-up, another parametrisation or another kernel."
        doubts.append(Doubt(Kind.NOT_CONVERGED, text, remedy=remedy))
    elif found.has_stayed:
        text = "where a chain is in its first half foretells its second: chains have not mixed."
        remedy = "Draw more, or use a longer warm-up, another parametrisation or another kernel."
        doubts.append(Doubt(Kind.NOT_CONVERGED, text, remedy=remedy))
    if (least := found.smallest_ess) < found.few:
        text = (
            f"the smallest ESS is {least:.3g} < {found.few:.3g}: the draws are worth few "
            "independent ones."
        )
        remedy = "Draw more, or use another kernel."
        doubts.append(Doubt(Kind.FEW, text, remedy=remedy))
    if len(draws.samples) == 1 and not draws.is_batch:
        text = (
            "R-hat could not be computed, since there is one chain only, but of its halves: it may "
            "have missed what others would find."
        )
        doubts.append(Doubt(Kind.ONE_CHAIN, text, remedy="Use four or more."))
    return doubts


def _is_alone(draws: Record) -> bool:
    """Whether chains are compared with themselves alone."""
    return draws.is_batch or len(draws.samples) == 1


def weight_doubts(log_weights: Tensor, ess: float) -> list[Doubt]:
    """On the weights of weighted draws, of which ``ess`` is Kish's effective number."""
    if not ess > 0:  # NaN
        text = "the weights are NaN, +inf, or all zero: no average of these draws means anything."
        remedy = "Look for positions where the target's log-density is not finite."
        return [Doubt(Kind.NOT_FINITE, text, remedy=remedy)]
    if ess < COLLAPSED * log_weights.numel():
        largest = normalized_weights(log_weights).max().item()
        text = (
            f"the weights have collapsed: {log_weights.numel()} draws are worth {ess:.0f}, and one "
            f"alone carries {largest:.0%} of all weight. Do not trust any average of them."
        )
        remedy = "Use more levels between the start and the target, or a start nearer to it."
        return [Doubt(Kind.COLLAPSED, text, remedy=remedy)]
    if ess < FEW_BY_WEIGHT:
        text = (
            f"the weights are worth {ess:.0f} < {FEW_BY_WEIGHT:.0f} equal draws: averages are "
            "rough."
        )
        return [Doubt(Kind.FEW, text, remedy="Use more particles, or more levels.")]
    return []
