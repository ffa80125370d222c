"""From chains that settled in different modes to parallel tempering that carries them across."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch.distributions import Independent, Normal

from poe.adapt import FromDistribution
from poe.adapt_kernel import Stage
from poe.adapt_tempering import tune_tempering
from poe.choose import Choice
from poe.coordinates import Coordinates
from poe.evaluation import in_chunks
from poe.expert import Expert
from poe.job import Job, say
from poe.loop import Run, Spent
from poe.samplers.affine import fit_moments
from poe.samplers.hmc import HMC

MANY_MODES = 1.5
"""The R-hat at the end of warm-up from which chains count as settled apart."""
BREADTH = 2.0
"""The standard deviation of the broad start, in units of all chains' own."""
TUNING_STEPS = 620
BURN_IN = 200


def is_done(run: Run) -> bool:
    """Whether every draw was made."""
    return run.is_done


def is_done_or_apart(run: Run) -> bool:
    """Whether every draw was made, or chains that do not drift turned out to be far apart."""
    is_warm = run.is_sampling and run.moment.step == 0 and not run.plan.is_watched
    return run.is_done or (is_warm and run.moment.learned[-1].r_hat > MANY_MODES)


def tempered(
    target: Expert, job: Job, run: Run, chains_at_once: int | None
) -> tuple[Choice, Job, torch.Tensor]:
    """What to do for such a run: tempering, the job to follow, and where its chains start.

    The target is tempered towards a Gaussian twice as broad as all chains together, in coordinates
    in which these have mean 0 and standard deviation 1.
    """
    began = time.perf_counter()
    plan, r_hat = job.plan, run.moment.learned[-1].r_hat
    settled = run.moment.state.inner.position
    scaled = Coordinates(target.space, fit_moments(settled))
    assert scaled.affine is not None
    u = scaled.affine.to_u(settled)
    density = in_chunks(scaled.pull(target), chains_at_once)
    say(job.progress, f"chains settled apart (R-hat {r_hat:.1f}), so a tempering ladder is tuned")
    zeros = torch.zeros_like(u[0])
    start = FromDistribution(Independent(Normal(zeros, zeros + BREADTH), zeros.ndim))
    kernel, replicas, num_gradients = tune_tempering(
        density, start, HMC(num_steps=3), u, num_steps=TUNING_STEPS, generator=plan.generator
    )
    why = (
        f"chains settled in different places, R-hat {r_hat:.1f} after warm-up: replicas at "
        f"{len(kernel.exponents)} levels from a broad Gaussian to the target exchange them"
    )
    burn_in = (Stage(density, kernel, BURN_IN),)
    checkpoint = None if job.checkpoint is None else f"{job.checkpoint}.tempering"
    before = Spent(
        run.moment.num_steps + TUNING_STEPS,
        run.moment.num_gradients[0] + num_gradients,
        run.moment.seconds[0] + time.perf_counter() - began,
    )
    new_plan = replace(plan, stages=burn_in, coordinates=scaled, before=before)
    settings = (*job.settings, kernel)
    return Choice(kernel, why), Job(new_plan, settings, job.progress, checkpoint), replicas[-1]
