"""Particles that are moved on by steps that fit the place, until they no longer drift.

A run of particles in a few bold steps leaves necks and long valleys thin: E Ẑ = Z by particles that
are seldom there. Where the scale of the score varies, the same particles are moved on as chains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, fit_affine
from poe.core.doubt import Doubt, Kind
from poe.core.transport import Transport
from poe.core.transport_fit import MAX_DIMENSION, fit_transport, misfit, still_fits
from poe.density.expert import Expert
from poe.diagnostics.varying_scale import MIN_POSITIONS, spread_of_scores
from poe.particles.islands import Report
from poe.samplers.adaptive_step import AdaptiveStepHMC
from poe.samplers.guarded import Counted
from poe.samplers.kernel import Density, or_nothing, started, stepped
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import Learned, filled, target_acceptance

CHAINS = 256
KEPT, TUNED = 8, 4
"""Positions of a round, evenly over its trajectories but the first quarter, which finds the step
size."""
LITTLE, DESCRIBED = 0.2, 0.1
"""What scores miss of a normal's: by an affine map, so that another is asked for; by the best."""
UNEVEN = 1.6
"""The log of the square of the score may vary by so many times what that of a normal does."""
QUARTER = 4
AT_REST, DRIFTING = 3.5, 4.5
"""Standard errors: up to the one chains are left where they are, and beyond the other it is said.
Chance explains 4 of some fifty series and their tails."""
TAIL = 0.1
MOST_EVALUATIONS = 2**22


class Plan(NamedTuple):
    """How far chains are moved on.

    Args:
        steps: Trajectories of a round.
        length: Of each, in gradients.
        refit_every: So many rounds are made in one map, unless it still fits.
        compared: The last rounds, of which it is asked whether chains drift; at least so many.
        max_rounds: Where they go on drifting.
    """

    steps: int
    length: int
    refit_every: int
    compared: int
    max_rounds: int


SHORT, LONG = Plan(64, 4, 1, 2, 6), Plan(32, 8, 4, 32, 32)
"""Where a map describes the target, and where none does: there all of the way is compared."""


class Settled(NamedTuple):
    """Where chains came to rest, or were stopped.

    - ``position`` ``(n, *event)``: of all chains, in the last round;
    - ``drift``: by how many standard errors they moved on all the way, at the worst;
    - ``num_evaluations``: of the target;
    - ``is_described``: whether a map leaves scores there as those of a normal.
    """

    position: Tensor
    drift: float
    num_evaluations: int
    is_described: bool

    def doubts(self) -> list[Doubt]:
        """Whether the chains still moved on when they were stopped."""
        if not self.drift > DRIFTING:
            return []
        text = (
            f"chains that were sent on from the particles, by steps that fit the place, still "
            f"drifted by {self.drift:.0f} standard errors at their end: mass lies where no draw "
            "has come to yet; give a start that covers it, by `start=`"
        )
        return [Doubt(Kind.UNSEEN, text)]


def settle(
    target: Expert,
    x: Tensor,
    generator: torch.Generator,
    report: Report,
    most: int = MOST_EVALUATIONS,
) -> Settled | None:
    """Move draws of particles on, where the scales of their scores vary.

    256 chains by ``AdaptiveStepHMC``, in rounds, in the coordinates of a map that is fitted anew
    on the way, until they no longer drift. Where that leaves scores as those of a normal, two
    rounds show it; where no map does, all 32: there chains may go on to where none was all the
    time, and only a long way shows that they do.

    ``report`` is told how far it is, and it ends after about ``most`` evaluations. Nothing is done
    in more than 70 dimensions, where no map is fitted that bends.

    Shapes: x ``(n, *event)``, equally weighted draws.

    >>> normal = poe.FromEnergy(lambda x: 0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(500, 2, generator=g)
    >>> settle(normal, x, g, lambda part, acceptance: None) is None  # one scale fits all places
    True
    """
    if target.space.event_shape.numel() > MAX_DIMENSION:
        return None
    some, counted = _asked(target, x), Counted(target)
    if (fitted := _uneven(counted, *some.usable)) is None:
        return None
    plan = SHORT if misfit(fitted, *some.usable) < DESCRIBED else LONG
    position, passed, cost = x[:CHAINS], [], len(x)
    num_rounds = min(plan.max_rounds, max(1, most // (plan.steps * plan.length * CHAINS)))
    for count in range(1, num_rounds + 1):
        report(count / num_rounds, 1.0)
        kept = torch.cat(list(_moved(target, fitted, position, plan, generator)))
        passed.append(_asked(target, kept))
        position = kept[-len(position) :]
        if count % plan.refit_every == 0 and not still_fits(fitted, *passed[-1].usable):
            fitted = fit_transport(*passed[-1].usable, counted)
        cost += plan.steps * plan.length * len(position) + len(kept)
        if count >= min(plan.compared, num_rounds):
            drift = _drift(passed[-plan.compared :], fitted, len(position))
            if drift < AT_REST:
                break
    order = torch.randperm(len(kept), generator=generator, device=kept.device)
    cost += counted.num_evaluations
    return Settled(kept[order], drift, cost, plan is SHORT)


class Asked(NamedTuple):
    """Positions ``(n, *event)`` with log-density ``(n,)`` and score."""

    x: Tensor
    log_density: Tensor
    score: Tensor

    @property
    def usable(self) -> tuple[Tensor, Tensor]:
        """Positions and scores, where both are numbers."""
        is_usable = self.log_density.isfinite() & self.score.reshape(
            len(self.x), -1
        ).isfinite().all(1)
        return self.x[is_usable], self.score[is_usable].to(self.x.dtype)

    def series(self, fitted: Affine | Transport) -> Tensor:
        """What chains are compared by: ``(n, 2 + 2 d)``."""
        u = fitted.to_u(self.x).reshape(len(self.x), -1).double()
        steepness = self.score.reshape(len(self.x), -1).double().square().sum(1, keepdim=True)
        height = or_nothing(self.log_density.double())[:, None]
        return torch.cat([height, steepness, u, u.abs()], 1).detach()


def _asked(target: Expert, x: Tensor) -> Asked:
    return Asked(x, *target.log_density_and_score(x))


def _uneven(target: Density, x: Tensor, score: Tensor) -> Affine | Transport | None:
    """The map to move in where the scale of the score varies; None where one fits all places."""
    if len(x) < MIN_POSITIONS:
        return None
    affine = fit_affine(x, score)
    if misfit(affine, x, score) < LITTLE:
        return None
    bent = fit_transport(x, score, target)
    is_uneven = spread_of_scores(affine.pull_score(score)) > UNEVEN
    return bent if isinstance(bent, Transport) or is_uneven else None


def _moved(
    target: Expert,
    fitted: Affine | Transport,
    x: Tensor,
    plan: Plan,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Where one round takes the chains: every few positions."""
    left_out = Preconditioned(AdaptiveStepHMC(num_steps=plan.length), fitted)
    scale = 0.5
    kernel = filled(left_out, Learned(scale=scale))
    state = started(kernel, target, x)
    every = (plan.steps - plan.steps // TUNED) // KEPT
    for step in range(1, plan.steps + 1):
        state, info = stepped(kernel, target, state, generator=generator)
        if step <= plan.steps // TUNED:
            excess = info.acceptance_probability.mean().item() - target_acceptance(kernel)
            scale *= math.exp(2.0 * excess / math.sqrt(step))
            kernel = filled(left_out, Learned(scale=scale))
        elif (plan.steps - step) % every == 0:
            yield state.position


def _drift(passed: Sequence[Asked], fitted: Affine | Transport, num_chains: int) -> float:
    """By how many standard errors chains moved from the first to the last quarter of their way.

    At the worst of the means of ranks, and of the shares in the tails, of some series: the
    log-density, the square of the score, and coordinates of the map with their sizes. Chains that
    rest have gone as often one way as the other, however slowly they mix.
    """
    ranks = _ranks(torch.cat([each.series(fitted) for each in passed]))
    every = torch.cat([ranks, (ranks < TAIL).double(), (ranks > 1.0 - TAIL).double()], 1)
    by_time = every.unflatten(0, (-1, num_chains))
    part = max(1, len(by_time) // QUARTER)
    moved = by_time[-part:].mean(0) - by_time[:part].mean(0)
    error = moved.std(0) / math.sqrt(len(moved))
    return (moved.mean(0).abs() / error).nan_to_num(0.0).max().item()


def _ranks(series: Tensor) -> Tensor:
    """Of each column, in (0, 1): ``(n, k)``."""
    order = series.argsort(0)
    places = torch.arange(len(series), dtype=torch.float64, device=series.device)[:, None]
    ranks = torch.empty_like(series).scatter_(0, order, places.expand_as(series))
    return (ranks + 0.5) / len(series)
