"""Modes that chains from one start would miss: looking for them, and tempering between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from poe.core.affine import fit_moments
from poe.core.doubt import Doubt, Kind
from poe.core.randomness import aside
from poe.density.adapt import FromDistribution
from poe.density.expert import Expert
from poe.density.wrappers import in_chunks
from poe.diagnostics.settled import MANY_MODES, r_hat_of_settled
from poe.particles.islands import Particles, Schedule
from poe.particles.resampling import systematic_resample
from poe.samplers.guarded import Raised
from poe.samplers.hmc import HMC, SplitHMC
from poe.samplers.kernel import Kernel
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import gradients_per_step, needs_fit, needs_score
from poe.sampling.driver import Job, say
from poe.sampling.run import NOTHING_SPENT, Run, Spent
from poe.tuning.choice import Choice
from poe.tuning.prepared import Prepared
from poe.tuning.start import broad_start
from poe.tuning.tempering import tune_tempering
from poe.tuning.warmup import Window

FEW, SOME = 16, 32
"""How many particles, and at most how many chains, are moved on: where chains are few, or not."""

STEPS, STEPS_OF_A_WALK = 30, 120
SHARE = 0.5
"""Of a run's evaluations, what looking around for other modes may take."""
BREADTH = 2.0
"""The standard deviation of the broad start, in units of all chains' own."""
TUNING_STEPS = 620
BURN_IN = 200
TEMPERING = "tempering"
"""The end of the name of its checkpoint."""


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
    doubts: ClassVar[tuple[Doubt, ...]] = ()


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


Seen = Nothing | Modes | TooLong | Failed
"""What looking elsewhere comes to."""


def look_elsewhere(
    target: Expert,
    density: Expert,
    kernel: Kernel,
    u: Tensor,
    *,
    budget: int,
    chains_at_once: int | None = None,
    generator: torch.Generator,
    raised: Raised | None = None,
) -> Seen:
    """Whether some of the target's mass is where no chain is, and does not come to the chains.

    A small run of sequential Monte Carlo goes from a broad start to the target. Then its particles
    and some chains are moved on together by the chains' kernel: where these do not mix, but settle
    apart, there are modes that the chains have not seen.

    Args:
        target: What is sampled.
        density: The same in the chains' unconstrained coordinates.
        kernel: What moves the chains there.
        u: Where the chains are, ``(chains, *event)``.
        budget: How many positions may be evaluated; beyond, nothing is concluded.
        chains_at_once: Evaluate the target on no more positions than this at a time.
        generator: Where random numbers come from.
        raised: Where errors at some positions are kept, which have no density there.

    Returns:
        What was found. An error of the target is a value as well, since the target need not be
        defined where only the search goes; the caller says it.

    What it misses: modes beyond the broad start, and those that the few particles lost on the way.
    """
    num_compared = FEW if len(u) < 2 * SOME else SOME
    name, start = broad_start(target, u)
    search = in_chunks(target, chains_at_once)
    is_walk = not needs_score(kernel)
    num_steps = STEPS_OF_A_WALK if is_walk else STEPS
    comparing = num_steps * gradients_per_step(kernel) * (num_compared + min(num_compared, len(u)))
    if comparing > budget:
        return TooLong(0)
    particles = Particles(search, start, _schedule(num_compared), generator, raised)
    moves = Preconditioned(MetropolisHastings() if is_walk else SplitHMC())
    try:
        for _ in particles.levels(start, search, moves):
            if particles.tally.num_evaluations + comparing > budget:
                return TooLong(particles.tally.num_evaluations)
        position = _equally_weighted(particles, generator).to(u.dtype)
        beside = u[torch.randperm(len(u), generator=generator, device=u.device)[:num_compared]]
        side_by_side = torch.cat([position[:num_compared], beside])
        r_hat = r_hat_moved_on(density, kernel, side_by_side, num_steps, generator)
    except Exception as error:  # whatever the target raises, and is told of
        return Failed(error, particles.tally.num_evaluations)
    num_evaluations = particles.tally.num_evaluations + comparing
    if not r_hat > MANY_MODES:
        return Nothing(f"particles from {name} found no other modes", num_evaluations)
    said = f"particles from {name} settled where no chain was, R-hat {r_hat:.1f}"
    return Modes(said, position, num_evaluations)


def _schedule(num_compared: int) -> Schedule:
    """Eight times as many particles as are compared, in as many islands, by bold steps."""
    return Schedule(
        num_islands=8,
        num_chains=num_compared // 2,
        num_moves=2,
        max_thinning=2,
        conditional_ess=0.3,
        temperatures=None,
    )


def _equally_weighted(particles: Particles, generator: torch.Generator) -> Tensor:
    """All islands' particles by the islands' weights, in any order."""
    position, log_z = particles.position, particles.log_z
    log_weight = log_z.repeat_interleave(len(position) // len(log_z))[None]
    rows = systematic_resample(log_weight, len(position), generator=generator)[0]
    return position[rows[torch.randperm(len(rows), generator=generator, device=rows.device)]]


def r_hat_moved_on(
    density: Expert, kernel: Kernel, u: Tensor, num_steps: int, generator: torch.Generator
) -> float:
    """The R-hat of chains from there, where they settled, but for the one that is farthest out.

    A single one may hold still in a tail: it is a mode where there are two.
    """
    state, visited = kernel.init(density, u), []
    for _ in range(num_steps):
        state, _ = kernel.step(density, state, generator=generator)
        visited.append(state.position)
    position = torch.stack(visited)
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

    Chains that settled in one place are held against particles from a broad start, for at most half
    as many evaluations as the run takes. The random numbers are its own, so that finding nothing
    changes no draw. Chains that may be on their way to infinity are left to themselves.
    """
    r_hat = run.moment.learned[-1].r_hat
    if run.plan.is_watched or run.moment.step > 0:
        return Watched(Nothing())
    if r_hat > MANY_MODES:
        why = f"chains settled in different places, R-hat {r_hat:.1f} after warm-up"
        return Watched(Modes(why, run.moment.state.inner.position))
    if not needs_fit(run.plan.stages[-1].kernel):
        return Watched(Nothing())
    began = time.perf_counter()
    kernel, u = run.sampling.kernel, run.moment.state.inner.position
    planned = run.moment.num_gradients[0] + run.plan.num_draws * gradients_per_step(kernel)
    seen = look_elsewhere(
        begin.target,
        run.sampling.density,
        kernel,
        u,
        budget=round(SHARE * planned * len(u)),
        chains_at_once=begin.chains_at_once,
        generator=aside(run.plan.generator),
        raised=begin.raised,
    )
    num_gradients = -(-seen.num_evaluations // len(u))
    return Watched(seen, Spent(0, num_gradients, time.perf_counter() - began))


def _mover(run: Run) -> Kernel:
    """What moves each replica: a random walk where the chains took one, for want of a score."""
    return HMC(num_steps=3) if needs_score(run.sampling.kernel) else MetropolisHastings()


def tempered(
    begin: Prepared, job: Job, run: Run, modes: Modes, spent: Spent
) -> tuple[Prepared, Job]:
    """What to do for such a run: tempering, in coordinates of its own, and the job to follow.

    The target is tempered towards a Gaussian twice as broad as all positions together, in
    coordinates in which these have mean 0 and standard deviation 1.
    """
    began = time.perf_counter()
    plan, num_chains = job.plan, len(begin.u)
    begin = begin.rescaled(fit_moments(modes.position))
    assert begin.coordinates.affine is not None
    rows = torch.arange(num_chains, device=modes.position.device) % len(modes.position)
    u = begin.coordinates.affine.to_u(modes.position[rows])
    say(job.progress, f"{modes.said}: a tempering ladder is tuned")
    zeros = torch.zeros_like(u[0])
    start = FromDistribution(Independent(Normal(zeros, zeros + BREADTH), zeros.ndim))
    kernel, replicas, num_gradients = tune_tempering(
        begin.density, start, _mover(run), u, num_steps=TUNING_STEPS, generator=plan.generator
    )
    why = (
        f"{modes.said}: replicas at {len(kernel.exponents)} levels from a broad Gaussian to the "
        "target exchange them"
    )
    before = Spent(
        run.moment.num_steps + TUNING_STEPS,
        run.moment.num_gradients[0] + spent.num_gradients + num_gradients,
        run.moment.seconds[0] + spent.seconds + time.perf_counter() - began,
    )
    burn_in = (Window(begin.density, kernel, BURN_IN),)
    new_job = replace(
        job,
        plan=replace(plan, stages=burn_in, coordinates=begin.coordinates, before=before),
        checkpoint=job.checkpoint and job.checkpoint.beside(TEMPERING, tempering=kernel),
    )
    return begin._replace(u=replicas[-1], choice=Choice(kernel, why)), new_job
