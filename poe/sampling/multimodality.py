"""Modes that chains from one start would miss: looking for them, and tempering between them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from poe.core.affine import fit_moments
from poe.core.randomness import aside
from poe.density.adapt import FromDistribution
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.wrappers import in_chunks
from poe.diagnostics.settled import MANY_MODES, r_hat_of_settled
from poe.particles.islands import Particles, Schedule
from poe.particles.resampling import systematic_resample
from poe.samplers.hmc import HMC, SplitHMC
from poe.samplers.kernel import Kernel
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import gradients_per_step, needs_score
from poe.sampling.driver import Job, say
from poe.sampling.run import NOTHING_SPENT, Run, Spent
from poe.tuning.choice import Choice
from poe.tuning.start import broad_start
from poe.tuning.tempering import tune_tempering
from poe.tuning.warmup import Stage, needs_fit

FEW, SOME = 16, 32
"""How many particles, and at most how many chains, are moved on: where chains are few, or not."""

STEPS, STEPS_OF_A_WALK = 30, 120


class Look(NamedTuple):
    """What was found."""

    said: str
    """In words."""
    num_evaluations: int
    """Of positions, over all particles and chains."""
    position: Tensor | None = None
    """Particles, some of them where no chain is, ``(particles, *event)``; None if all are near."""


class OutOfBudgetError(Exception):
    """More positions were evaluated than looking around is worth."""


def look_elsewhere(
    target: Expert,
    density: Expert,
    kernel: Kernel,
    u: Tensor,
    *,
    budget: int,
    chains_at_once: int | None = None,
    generator: torch.Generator,
) -> Look:
    """Whether some of the target's mass is where no chain is, and does not come to the chains.

    A small run of sequential Monte Carlo goes from a broad start to the target. Then its particles
    and some chains are moved on together by the chains' kernel: where these do not mix, but settle
    apart, there are modes that the chains have not seen.

    - ``density``, ``u`` ``(chains, *event)``: the target and the chains in unconstrained
      coordinates, in which ``kernel`` moves them.
    - ``budget``: how many positions may be evaluated; beyond, nothing is concluded.

    What it misses: modes beyond the broad start, and those that the few particles lost on the way.
    """
    num_compared = FEW if len(u) < 2 * SOME else SOME
    is_walk = not needs_score(kernel)
    num_steps = STEPS_OF_A_WALK if is_walk else STEPS
    comparing = num_steps * gradients_per_step(kernel) * (num_compared + min(num_compared, len(u)))
    name, start = broad_start(target, u)
    particles = Particles(
        in_chunks(target, chains_at_once), start, _schedule(num_compared), generator
    )

    def within_budget(temperature: float, acceptance: float) -> None:
        if particles.tally.num_evaluations + comparing > budget:
            raise OutOfBudgetError

    try:
        within_budget(0.0, 0.0)
        moves = Preconditioned(MetropolisHastings() if is_walk else SplitHMC())
        particles.follow(start, particles.target, moves, within_budget)
    except OutOfBudgetError:
        said = "looking for other modes to the end would have taken too long"
        return Look(said, particles.tally.num_evaluations)
    except Exception as error:  # the target need not be defined so far out: the chains never go
        said = f"could not look for other modes: {type(error).__name__} out there: {error}"
        return Look(said, particles.tally.num_evaluations)
    num_evaluations = particles.tally.num_evaluations + comparing
    position = _equally_weighted(particles, generator).to(u.dtype)
    beside = u[torch.randperm(len(u), generator=generator, device=u.device)[:num_compared]]
    side_by_side = torch.cat([position[:num_compared], beside])
    r_hat = r_hat_moved_on(density, kernel, side_by_side, num_steps, generator)
    if not r_hat > MANY_MODES:
        return Look(f"particles from {name} found no other modes", num_evaluations)
    said = f"particles from {name} settled where no chain was, R-hat {r_hat:.1f}"
    return Look(said, num_evaluations, position)


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
    means = position.mean(0).flatten(1)
    distance = ((means - means.median(0).values) / means.std(0)).abs().amax(1)
    return r_hat_of_settled(position[:, distance < distance.max()])


SHARE = 0.5
"""Of a run's evaluations, what looking around for other modes may take."""

BREADTH = 2.0
"""The standard deviation of the broad start, in units of all chains' own."""

TUNING_STEPS = 620

BURN_IN = 200


def is_done(run: Run) -> bool:
    """Whether every draw was made."""
    return run.is_done


class Apart(NamedTuple):
    """Chains, or particles, that settled in different places."""

    why: str
    """How that is known, in words."""
    position: Tensor
    """Where they are, in unconstrained coordinates: ``(positions, *event)``."""
    spent: Spent = NOTHING_SPENT
    """What it took to know, beside the run."""


class Lookout:
    """Whether a run is over: every draw was made, or ``apart`` says why it had better be tempered.

    At the end of warm-up the chains are compared; where they settled in one place, it looks around
    for others, for at most half as many evaluations as the run takes. Its random numbers are its
    own, so that finding nothing changes no draw.
    """

    def __init__(self, target: Expert, chains_at_once: int | None, progress: bool) -> None:
        self.apart: Apart | None = None
        self._target, self._chains_at_once = target, chains_at_once
        self._progress, self._has_looked = progress, False

    def __call__(self, run: Run) -> bool:
        is_warm = run.is_sampling and run.moment.step == 0 and not run.plan.is_watched
        if is_warm and not self._has_looked:
            self._has_looked = True
            self.apart = _settled_apart(run) or self._seen_elsewhere(run)
        return run.is_done or self.apart is not None

    def _seen_elsewhere(self, run: Run) -> Apart | None:
        kernel = run.sampling.kernel
        if not needs_fit(run.plan.stages[-1].kernel):
            return None
        began = time.perf_counter()
        moment = run.moment
        num_chains, each = len(moment.state.inner.position), gradients_per_step(kernel)
        planned = num_chains * (moment.num_gradients[0] + run.plan.num_draws * each)
        look = look_elsewhere(
            self._target,
            run.sampling.target,
            kernel,
            moment.state.inner.position,
            budget=round(SHARE * planned),
            chains_at_once=self._chains_at_once,
            generator=aside(run.plan.generator),
        )
        say(self._progress, look.said)
        num_gradients = -(-look.num_evaluations // num_chains)
        spent = Spent(0, num_gradients, time.perf_counter() - began)
        if look.position is not None:
            return Apart(look.said, look.position, spent)
        run.count_as_warmup(spent)
        return None


def _settled_apart(run: Run) -> Apart | None:
    """Where chains that do not drift turned out to be far apart."""
    r_hat = run.moment.learned[-1].r_hat
    if not r_hat > MANY_MODES:
        return None
    why = f"chains settled in different places, R-hat {r_hat:.1f} after warm-up"
    return Apart(why, run.moment.state.inner.position)


def _mover(run: Run) -> Kernel:
    """What moves each replica: a random walk where the chains took one, for want of a score."""
    return HMC(num_steps=3) if needs_score(run.sampling.kernel) else MetropolisHastings()


def tempered(
    target: Expert, job: Job, run: Run, apart: Apart, chains_at_once: int | None
) -> tuple[Choice, Job, Tensor]:
    """What to do for such a run: tempering, the job to follow, and where its chains start.

    The target is tempered towards a Gaussian twice as broad as all positions together, in
    coordinates in which these have mean 0 and standard deviation 1.
    """
    began = time.perf_counter()
    plan, num_chains = job.plan, len(run.moment.state.inner.position)
    scaled = Coordinates(target.space, fit_moments(apart.position))
    assert scaled.affine is not None
    rows = torch.arange(num_chains, device=apart.position.device) % len(apart.position)
    u = scaled.affine.to_u(apart.position[rows])
    density = in_chunks(scaled.pull(target), chains_at_once)
    say(job.progress, f"{apart.why}: a tempering ladder is tuned")
    zeros = torch.zeros_like(u[0])
    start = FromDistribution(Independent(Normal(zeros, zeros + BREADTH), zeros.ndim))
    kernel, replicas, num_gradients = tune_tempering(
        density, start, _mover(run), u, num_steps=TUNING_STEPS, generator=plan.generator
    )
    why = (
        f"{apart.why}: replicas at {len(kernel.exponents)} levels from a broad Gaussian to the "
        "target exchange them"
    )
    burn_in = (Stage(density, kernel, BURN_IN),)
    checkpoint = None if job.checkpoint is None else f"{job.checkpoint}.tempering"
    before = Spent(
        run.moment.num_steps + TUNING_STEPS,
        run.moment.num_gradients[0] + apart.spent.num_gradients + num_gradients,
        run.moment.seconds[0] + apart.spent.seconds + time.perf_counter() - began,
    )
    new_plan = replace(plan, stages=burn_in, coordinates=scaled, before=before)
    settings = (*job.settings, kernel)
    new_job = replace(job, plan=new_plan, settings=settings, checkpoint=checkpoint)
    return Choice(kernel, why), new_job, replicas[-1]
