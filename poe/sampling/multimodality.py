"""Modes that chains from one start would miss: looking for them, and moving between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from poe.core.affine import MAX_DENSE_DIMENSION, Affine, Dense, fit_moments
from poe.core.doubt import Doubt, Kind
from poe.core.randomness import aside
from poe.core.space import Real
from poe.core.transport import Transport
from poe.density.adapt import FromDistribution
from poe.density.expert import Expert
from poe.density.wrappers import in_chunks
from poe.diagnostics.settled import MANY_MODES, r_hat_of_settled
from poe.samplers.guarded import Counted, Raised
from poe.samplers.hmc import HMC
from poe.samplers.kernel import Density, Kernel
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Gaussians, ModeJumps, Preconditioned
from poe.samplers.questions import gradients_per_step
from poe.samplers.tempering import ParallelTempering
from poe.sampling.driver import Job, say
from poe.sampling.landscape import (
    SEPARATE,
    Landscape,
    Scouts,
    gaussians,
    moved,
    occupied,
    own_mode,
    unfollowed,
    unsettled,
)
from poe.sampling.run import NOTHING_SPENT, Run, Spent
from poe.tuning.choice import Choice
from poe.tuning.jumps import labels, tune_jumps
from poe.tuning.prepared import Prepared
from poe.tuning.start import broad_start, wider_start
from poe.tuning.tempering import tune_tempering
from poe.tuning.warmup import Window

FEW, SOME = 16, 32
"""How many particles, and at most how many chains, are moved on: where chains are few, or not."""

CLIMBING = 64
"""At most so many particles climb on."""
STEPS, STEPS_OF_A_WALK = 30, 120
SHARE = 2.5
"""Of a run's evaluations, what looking around for other modes may take."""
BREADTH = 2.0
"""The standard deviation of the broad start, in units of all chains' own."""
SHARE_APART = 2.0
"""The same where chains settled apart, so that the run is worth nothing as it is."""
PILOT = 80, 240
"""The steps in which jumps between modes are tuned and tried: fewer in a short run."""
AFTER_PILOT = 40
"""Steps of the run that follows, before draws."""
TUNING_STEPS = 620
BURN_IN, TRIED = 200, 100
"""Steps of tempering before draws, and the last of them by which it is judged."""
DEAREST = 20
"""So many times the evaluations of the run without it may tempering take."""
TEMPERING = "tempering"
"""The end of the name of its checkpoint."""


class Ready(NamedTuple):
    """A kernel between modes that was tuned and tried, and where its chains, or replicas, are."""

    kernel: Kernel
    u: Tensor
    coordinates: Affine | None
    """In which u are, where these are not the chains' own."""
    num_steps: int
    num_gradients: int
    """How often each chain evaluated the target on the way."""


@dataclass(frozen=True)
class Nothing:
    """No mass was seen where no chain is."""

    said: str = ""
    """In words."""
    num_evaluations: int = 0
    """Of positions, over all particles and chains."""
    doubts: ClassVar[tuple[Doubt, ...]] = ()


@dataclass(frozen=True)
class Modes:
    """Chains, or particles, are in different places and stay there."""

    said: str
    position: Tensor
    """Where they are, in unconstrained coordinates: ``(positions, *event)``."""
    num_evaluations: int = 0
    gaussians: Gaussians | None = None
    """Of the modes, where climbs told them apart."""
    doubts: tuple[Doubt, ...] = ()
    ready: Ready | None = None
    """What moves between them, where that was tried."""


@dataclass(frozen=True)
class Unweighed:
    """There are modes that chains do not come to, and nothing that was tried moves between them."""

    said: str
    num_evaluations: int

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """That the draws are of some of the modes alone."""
        text = f"{self.said}, and no kernel that was tried moves between the modes"
        text = f"{text}: these do not have the weights in the draws that they should."
        return (Doubt(Kind.UNSEEN, text, remedy="Weigh them by poe.smc or poe.log_partition."),)


@dataclass(frozen=True)
class TooLong:
    """Looking to the end would have taken more than the run itself is worth."""

    num_evaluations: int
    said: ClassVar[str] = "looking for other modes to the end would have taken too long"

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """That nothing is known of other modes."""
        remedy = "Where the target may have some, draw more, or start chains in all."
        return (Doubt(Kind.TOO_LONG_TO_LOOK, f"{self.said}.", remedy=remedy),)


@dataclass(frozen=True)
class Failed:
    """The target raised an error at a place where no chain goes."""

    error: Exception
    num_evaluations: int

    @property
    def said(self) -> str:
        """In words."""
        told = f"{type(self.error).__name__} out there: {self.error}"
        return f"could not look for other modes: {told}"

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """That nothing is known of other modes, and why."""
        text = f"{self.said}. The chains never met it; where it is no fault, return -inf there."
        return (Doubt(Kind.NOT_LOOKED, text),)


Seen = Nothing | Modes | Unweighed | TooLong | Failed
"""What looking elsewhere comes to."""


def look_elsewhere(
    target: Expert,
    density: Expert,
    kernel: Kernel,
    u: Tensor,
    affine: Affine,
    *,
    budget: int,
    has_score: bool,
    are_apart: bool = False,
    chains_at_once: int | None = None,
    generator: torch.Generator,
    raised: Raised | None = None,
) -> Seen:
    """Whether some of the target's mass is where no chain is, and does not come to the chains.

    A small run of sequential Monte Carlo goes from a broad start to the target. From its particles,
    the chains and the broad start itself climbs lead to summits; those with valleys between them,
    and mass around them, are modes (`poe.tuning.modes`). The chains are moved on by their kernel:
    are they in each mode as its mass says, and does each chain come to all? Without a score
    particles and chains are moved on together, and modes are where they settle apart.

    Args:
        target: What is sampled.
        density: The same in the chains' unconstrained coordinates.
        kernel: What moves the chains there.
        u: Where the chains are, ``(chains, *event)``.
        affine: The map that they learned.
        budget: How many positions may be evaluated; beyond, nothing is concluded.
        has_score: Whether there is a score to follow.
        are_apart: Whether they settled in different places.
        chains_at_once: Evaluate the target on no more positions than this at a time.
        generator: Where random numbers come from.
        raised: Where errors at some positions are kept, which have no density there.

    Returns:
        What was found. An error of the target is a value as well, since the target need not be
        defined where only the search goes; the caller says it.

    What it misses: modes beyond the broad start whose basins end before it.
    """
    num_compared = FEW if len(u) < 2 * SOME else SOME
    name, start = broad_start(target, u)
    search, counted = in_chunks(target, chains_at_once), Counted(density)
    num_steps = STEPS if has_score else STEPS_OF_A_WALK
    beside = u[torch.randperm(len(u), generator=generator, device=u.device)[:num_compared]]
    comparing = num_steps * gradients_per_step(kernel) * (num_compared + len(beside))
    if comparing > budget:
        return TooLong(0)
    wider = wider_start(target, generator)
    left = budget - comparing
    scouts = Scouts(search, start, wider, has_score, left, generator, raised)
    try:
        if not scouts.arrive(num_compared // 2):
            return TooLong(scouts.num_evaluations)
        position = scouts.position.to(u.dtype)
        if not has_score or u[0].numel() > MAX_DENSE_DIMENSION:
            side_by_side = torch.cat([position[:num_compared], beside])
            r_hat = r_hat_moved_on(counted, kernel, side_by_side, num_steps, generator)
            return _by_settling(name, position, r_hat, scouts.num_evaluations + comparing)
        own = own_mode(counted, affine, u, generator)
        by = fit_moments(torch.cat([u, position])) if are_apart else affine
        land = Landscape(counted, by, own, generator, left - scouts.num_evaluations)
        land.explore(torch.cat([beside, position[:CLIMBING]]), scouts.scattered().to(u.dtype))
        visited = moved(counted, kernel, beside, num_steps, generator)
        modes, how = unsettled(land) if are_apart else unfollowed(land, visited)
    except Exception as error:  # whatever the target raises, and is told of
        return Failed(error, scouts.num_evaluations + counted.num_evaluations)
    spent = scouts.num_evaluations + counted.num_evaluations
    if not modes and land.is_open:
        return TooLong(spent)
    if not modes:
        return Nothing(f"particles from {name} found no other modes", spent)
    said = f"{how}, by climbs and particles from {name}"
    doubts = (_more_of_them(len(land.modes)),) if land.is_open else ()
    return Modes(said, torch.cat([position, u]), spent, gaussians(modes), doubts)


def _by_settling(name: str, position: Tensor, r_hat: float, num_evaluations: int) -> Seen:
    """What particles and chains that were moved on together tell."""
    if not r_hat > MANY_MODES:
        return Nothing(f"particles from {name} found no other modes", num_evaluations)
    said = f"particles from {name} settled where no chain was, R-hat {r_hat:.1f}"
    return Modes(said, position, num_evaluations)


def _more_of_them(count: int) -> Doubt:
    text = f"each round of climbs found more modes, {count} in all: there may be many that none did"
    return Doubt(Kind.UNSEEN, f"{text}, and the draws are of those that were found.")


def r_hat_moved_on(
    density: Density, kernel: Kernel, u: Tensor, num_steps: int, generator: torch.Generator
) -> float:
    """The R-hat of chains from there, where they settled, but for the one that is farthest out.

    A single one may hold still in a tail: it is a mode where there are two.
    """
    position = moved(density, kernel, u, num_steps, generator)
    means = position.mean(0).reshape(position.shape[1], -1)
    distance = ((means - means.median(0).values) / means.std(0)).abs().amax(1)
    return r_hat_of_settled(position[:, distance < distance.max()])


class Watched(NamedTuple):
    """What was seen of other modes once a run was warm, and what it took beside the run."""

    seen: Seen
    spent: Spent = NOTHING_SPENT


Look = Callable[[Prepared, Run], Watched]
"""Whether chains at the end of their warm-up are in all modes."""


def look_nowhere(begin: Prepared, run: Run) -> Watched:
    """For a kernel that was given, whose chains are the caller's."""
    return Watched(Nothing())


def look_around(begin: Prepared, run: Run) -> Watched:
    """Whether chains at the end of their warm-up are in all modes, as far as can be seen.

    For at most 2.5 times the evaluations that the run itself takes. Where modes are found, what
    may move between them is tuned and tried, and told as modes only where it does. The random
    numbers are its own, so that finding nothing changes no draw.
    """
    is_one = isinstance(run.sampling.density.space, Real) and not run.plan.is_batch
    if run.moment.step > 0 or not is_one:
        return Watched(Nothing())
    began, generator = time.perf_counter(), aside(run.plan.generator)
    kernel, u = run.sampling.kernel, run.moment.state.inner.position
    learned = run.moment.learned[-1]
    is_gaussian = learned.affine is not None and not isinstance(learned.affine, Transport)
    affine = learned.affine if is_gaussian else fit_moments(u)
    assert isinstance(affine, Affine)
    are_apart = learned.r_hat > MANY_MODES
    if are_apart and not begin.has_score:
        why = f"chains settled in different places, R-hat {learned.r_hat:.1f} after warm-up"
        return Watched(Modes(why, u))
    seen = look_elsewhere(
        begin.target,
        run.sampling.density,
        kernel,
        u,
        affine,
        budget=_affordable(run, SHARE_APART if are_apart else SHARE) * len(u),
        has_score=begin.has_score,
        are_apart=are_apart,
        chains_at_once=begin.chains_at_once,
        generator=generator,
        raised=begin.raised,
    )
    num_gradients = -(-seen.num_evaluations // len(u))
    if isinstance(seen, Modes) and seen.gaussians is not None:
        seen, more = _tried(begin, run, seen, seen.gaussians, generator, are_apart=are_apart)
        num_gradients += more
    return Watched(seen, Spent(0, num_gradients, time.perf_counter() - began))


def _planned(run: Run) -> int:
    """How often each chain evaluates the target in all."""
    each = gradients_per_step(run.sampling.kernel)
    return run.moment.num_gradients[0] + run.plan.num_draws * each


def _affordable(run: Run, share: float) -> int:
    """How many evaluations of each chain looking around may take, within a goal's budget."""
    wanted, until = round(share * _planned(run)), run.plan.until
    if until is None:
        return wanted
    spent = run.plan.before.num_gradients + _planned(run)
    return max(0, min(wanted, until.max_gradients - spent))


def _tried(
    begin: Prepared,
    run: Run,
    seen: Modes,
    modes: Gaussians,
    generator: torch.Generator,
    *,
    are_apart: bool,
) -> tuple[Seen, int]:
    """The modes with what moves between them; nothing where all mass is in one; and the cost."""
    density, num_modes = run.sampling.density, len(modes.loc)
    u = _in_all(modes, seen.position, len(begin.u))
    num_steps = max(PILOT[0], min(PILOT[1], _planned(run) // 4))
    tuned = tune_jumps(density, modes, u, num_steps=num_steps, generator=generator)
    share, apart = occupied(tuned.label, num_modes)
    if apart <= SEPARATE and not are_apart and num_modes > 1 and share.max() == 1.0:
        said = f"{seen.said}, which has next to none of the mass"
        return Nothing(said, seen.num_evaluations), tuned.num_gradients
    if apart <= SEPARATE:
        kernel = tuned.kernel if num_modes > 1 else _within(tuned.kernel)
        ready = Ready(kernel, tuned.position, None, num_steps, tuned.num_gradients)
        return replace(seen, ready=ready), tuned.num_gradients
    ladder, spent = _tried_tempering(begin, run, seen, modes, generator)
    return ladder or Unweighed(seen.said, seen.num_evaluations), tuned.num_gradients + spent


def _within(jumps: ModeJumps) -> Kernel:
    """The same where there is one mode: with nowhere to jump to."""
    return Preconditioned(jumps.kernel, Dense(jumps.loc[0], jumps.factor[0]))


def _in_all(modes: Gaussians, position: Tensor, num_chains: int) -> Tensor:
    """Chains by turns in each mode: where positions are in it, or at its centre."""
    label = labels(modes, position)
    rows = []
    for k, centre in enumerate(modes.loc):
        inside = position[label == k]
        rows.append(inside if len(inside) else centre.reshape(1, *position.shape[1:]))
    count = len(rows)
    return torch.stack(
        [rows[c % count][c // count % len(rows[c % count])] for c in range(num_chains)]
    )


def _mover(begin: Prepared) -> Kernel:
    """What moves each replica: a random walk for want of a score."""
    return HMC(num_steps=3) if begin.has_score else MetropolisHastings()


def _ladder(
    begin: Prepared, position: Tensor, generator: torch.Generator
) -> tuple[Prepared, Ready]:
    """Tempering, tuned, in coordinates of its own.

    The target is tempered towards a Gaussian twice as broad as all positions together, in
    coordinates in which these have mean 0 and standard deviation 1.
    """
    begin = begin.rescaled(fit_moments(position))
    affine = begin.coordinates.affine
    assert affine is not None
    rows = torch.arange(len(begin.u), device=position.device) % len(position)
    u = affine.to_u(position[rows])
    zeros = torch.zeros_like(u[0])
    start = FromDistribution(Independent(Normal(zeros, zeros + BREADTH), zeros.ndim))
    kernel, replicas, num_gradients = tune_tempering(
        begin.density, start, _mover(begin), u, num_steps=TUNING_STEPS, generator=generator
    )
    return begin, Ready(kernel, replicas, affine, TUNING_STEPS, num_gradients)


def _tried_tempering(
    begin: Prepared, run: Run, seen: Modes, modes: Gaussians, generator: torch.Generator
) -> tuple[Modes | None, int]:
    """Tempering where it moves between the modes, and is not too dear; and what trying it took."""
    begin, ready = _ladder(begin, seen.position, generator)
    kernel = ready.kernel
    assert isinstance(kernel, ParallelTempering)
    cost = (BURN_IN + run.plan.num_draws) * kernel.gradients_per_step
    if cost > DEAREST * _planned(run):
        return None, ready.num_gradients
    state, visited = kernel.init_replicas(begin.density, ready.u), []
    for _ in range(BURN_IN):
        state, _ = kernel.step(begin.density, state, generator=generator)
        visited.append(state.position)
    spent = ready.num_gradients + BURN_IN * kernel.gradients_per_step
    assert ready.coordinates is not None
    x = ready.coordinates.to_x(torch.stack(visited[-TRIED:]).flatten(0, 1))
    label = labels(modes, x).reshape(TRIED, -1)
    if occupied(label, len(modes.loc)).apart > SEPARATE:
        return None, spent
    replicas = state.replicas.position.reshape(ready.u.shape)
    return replace(seen, ready=ready._replace(u=replicas, num_gradients=spent)), spent


def tempered(
    begin: Prepared, job: Job, run: Run, modes: Modes, spent: Spent
) -> tuple[Prepared, Job]:
    """What to do for such a run: jumps or tempering between modes, and the job to follow."""
    began, plan, ready = time.perf_counter(), job.plan, modes.ready
    run.doubt(modes.doubts)
    num_gradients = spent.num_gradients
    if ready is None:
        say(job.progress, f"{modes.said}: a tempering ladder is tuned")
        begin, ready = _ladder(begin, modes.position, plan.generator)
        num_gradients += ready.num_gradients
    elif ready.coordinates is not None:
        begin = begin.rescaled(ready.coordinates)
    before = Spent(
        run.moment.num_steps + ready.num_steps,
        run.plan.before.num_gradients + run.moment.num_gradients[0] + num_gradients,
        run.moment.seconds[0] + spent.seconds + time.perf_counter() - began,
    )
    is_ladder = isinstance(ready.kernel, ParallelTempering)
    burn_in = (Window(begin.density, ready.kernel, BURN_IN if is_ladder else AFTER_PILOT),)
    new_job = replace(
        job,
        plan=replace(plan, stages=burn_in, coordinates=begin.coordinates, before=before),
        checkpoint=job.checkpoint and job.checkpoint.beside(TEMPERING, tempering=ready.kernel),
    )
    why = f"{modes.said}: {_between(ready.kernel)}"
    u = ready.u[-1] if is_ladder else ready.u
    return begin._replace(u=u, choice=Choice(ready.kernel, why)), new_job


def _between(kernel: Kernel) -> str:
    """How the kernel comes from mode to mode."""
    if isinstance(kernel, ParallelTempering):
        levels = len(kernel.exponents)
        return f"replicas at {levels} levels from a broad Gaussian to the target exchange them"
    if isinstance(kernel, ModeJumps):
        return f"chains jump between {len(kernel.loc)} modes, in coordinates of each"
    return "all go on from there, by HMC around its Gaussian"
