"""Until when a run goes on: till its draws are worth what was asked for, or a budget is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.core.errors import PoeError
from poe.diagnostics.agreement import agreement, series
from poe.diagnostics.convergence import rank_r_hat
from poe.diagnostics.ess import ess_bulk, ess_tail
from poe.draws import Draws

SCATTER = 2
"""An ESS is an estimate, and seldom comes out at what is wanted of fewer than twice the draws."""
GROWTH = 4
"""Draws are looked at when they have grown by a quarter: all looks cost five times the last."""
SHARE_OF_MEMORY = 0.25
"""What draws may take: they are copied where they grow, and where they are summed up."""
FEW_CHAINS = 20
"""So few have to agree one by one, and not only in groups that are joined end to end."""
MEMORY = "memory"
"""What ends a run that no budget ends."""


class Worth(NamedTuple):
    """What draws are worth, at the worst component; NaN where nothing could be compared."""

    ess: float = math.nan
    r_hat: float = math.nan

    def __str__(self) -> str:
        return f"ESS {self.ess:.0f}, R-hat {self.r_hat:.3f}"


class Ending(NamedTuple):
    """Why a run is over: in words, and what speaks against stopping there."""

    said: str = ""
    doubts: tuple[Doubt, ...] = ()


@checked
@dataclass(frozen=True)
class Reached:
    """Until when ``poe.sample`` goes on: an ESS and an R-hat are reached, or a budget is spent.

    The draws are looked at whenever their number has grown by a quarter, by the diagnostics of
    ``draws.verdict`` first and, where these say that it is enough, by those of every component in
    ``draws.summary()``. The moments are the same in each run, so that budgets decide where a run
    stops and nothing else: the draws up to there are, bit for bit, those of a longer one. A budget
    ends no run before ``num_samples`` draws. Memory ends one too, at a quarter of the machine's.

    What stops a run is an estimate, so that runs stop a little sooner where it is too high.
    Measured on autoregressive chains (300 seeds each), means are moved by less than 0.15 of their
    standard error, and intervals of 95 % hold the truth in 93 to 96 %.

    Args:
        ess: The least ESS, of bulk and tails, of each component; > 0.
        r_hat: The largest R-hat of each component; > 1. Of up to 20 chains each is compared by
            itself (``poe.diagnostics.r_hat``), of more, groups of short ones.
        max_gradients: How often each chain may evaluate the target, warm-up included (as
            ``warmup_gradients`` and ``num_gradients`` of ``poe.Draws`` count); a step without
            evaluation counts as one.
        max_seconds: Of warm-up and sampling together; by default any.

    Raises:
        PoeError: For a goal or a budget that is out of its range.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and
        localization: an improved R-hat for assessing convergence of MCMC, section 4,
        doi:10.1214/20-BA1221; Jones, Haran, Caffo & Neath (2006), Fixed-width output analysis for
        Markov chain Monte Carlo, doi:10.1198/016214506000000492.

    Example:
        >>> target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = poe.sample(target, 100, until=Reached(ess=200), generator=g, progress=False)
        >>> draws.summary().ess_bulk.min().item() >= 200, draws.summary().r_hat.max().item() <= 1.01
        (True, True)
    """

    ess: float = 400.0
    r_hat: float = 1.01
    max_gradients: int = 1_000_000
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 < self.ess < math.inf:
            raise PoeError(f"expected a finite ess > 0, got {self.ess}: 400 serves most purposes")
        if not 1.0 < self.r_hat < math.inf:
            raise PoeError(f"expected a finite r_hat > 1, got {self.r_hat}: 1.01 is usual")
        if self.max_gradients < 1:
            raise PoeError(f"expected max_gradients >= 1, got {self.max_gradients}: give more")
        if not self.max_seconds > 0.0:
            raise PoeError(f"expected max_seconds > 0, got {self.max_seconds}: give more")

    def __str__(self) -> str:
        return f"an ESS of {self.ess:g} and R-hat of {self.r_hat:g}"


def goal(until: Reached) -> Reached:
    """Without its budgets: a run is known by its goal, and may be gone on with by other budgets."""
    return Reached(until.ess, until.r_hat)


def first_look(until: Reached, num_samples: int, num_densities: int = 1) -> int:
    """At how many draws of all densities they are looked at; at ``num_samples`` at least."""
    return max(num_samples, SCATTER * math.ceil(until.ess) * num_densities)


def next_look(num_draws: int) -> int:
    """At how many draws a chain they are looked at, after having been so at that many.

    >>> next_look(2), next_look(100)
    (3, 125)
    """
    return num_draws + max(1, num_draws // GROWTH)


def is_met(until: Reached, worth: Worth) -> bool:
    """Whether that is what was asked for; what is not known is not."""
    return worth.ess >= until.ess and worth.r_hat <= until.r_hat


def worth_of(draws: Draws, until: Reached) -> Worth:
    """What draws are worth: of all components where a look at some says it may be enough."""
    chosen = series(draws.samples, draws.log_density)
    found = agreement(chosen, is_batch=draws.is_batch)
    at_most = Worth(found.smallest_ess * chosen.stride, found.largest_r_hat)
    if not is_met(until, at_most):
        return Worth(found.smallest_ess, found.largest_r_hat)
    return worth_of_all(draws)


def worth_of_all(draws: Draws) -> Worth:
    """What draws are worth by every component and the log-density, none of them left out."""
    every, level = draws.summary(), draws.log_density
    level = level.T[None] if draws.is_batch else level
    sizes = [every.ess_bulk, every.ess_tail, ess_bulk(level), ess_tail(level)]
    known = torch.cat([each.flatten()[~each.flatten().isnan()] for each in sizes])
    every_r_hat = [*every.r_hat.flatten().tolist(), draws.verdict.r_hat]
    if not draws.is_batch and len(draws.samples) <= FEW_CHAINS:
        every_r_hat += rank_r_hat(draws.samples).flatten().tolist()
    r_hats = [r for r in every_r_hat if not math.isnan(r)]
    return Worth(known.min().item() if len(known) else math.nan, max(r_hats, default=math.nan))


def spent_budget(until: Reached, num_gradients: int, seconds: float) -> str:
    """The budget that has no room for so much, in words; empty while each has."""
    if num_gradients > until.max_gradients:
        return f"max_gradients={until.max_gradients}"
    return f"max_seconds={until.max_seconds:g}" if seconds >= until.max_seconds else ""


def ending(until: Reached, worth: Worth, spent: str) -> Ending:
    """The end of a run whose draws are worth that, and of whose budgets one may be spent."""
    if is_met(until, worth):
        return Ending(f"until {until}: reached, {worth}")
    said = f"{spent} ended the run before {until} were reached: it is at {worth}"
    remedy = "Give it more: with `checkpoint=` the same call goes on from where it ended."
    if spent == MEMORY:
        remedy = "Keep less of each draw, by `collect=`."
    return Ending(said, (Doubt(Kind.BUDGET, f"{said}.", remedy=remedy),))


def at_once(until: Reached, num_draws: int) -> str:
    """What is said of independent draws, which are enough at once."""
    return f"until {until}: reached at once, by {num_draws} independent draws"
