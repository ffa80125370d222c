"""What a run tells on its way: a few numbers, now and then, to whoever asked to be called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from poe.sampling.run import Run

REPORTS = 100
"""How often a run reports, about."""


class Progress(NamedTuple):
    """Where a run stands; numbers only.

    Args:
        step: Steps done, warm-up included.
        total_steps: Steps planned, warm-up included; with ``until`` those before the next look.
        is_sampling: Whether the warm-up is over.
        log_density: The chains' mean log-density, in the coordinates in which they move (of the
            level, on a ladder's warm-up).
        acceptance: The mean acceptance probability of the last step; NaN before one.
        num_outside: How often, while sampling, a proposal of any chain was outside the support, as
            in ``poe.Draws``.
        num_undefined: How often one was undefined.
        num_divergent: How often one was divergent.
        num_gradients: How often each chain evaluated the target.
        seconds: The time it took.
        ess: The smallest one, when draws were last looked at; NaN before, and without ``until``.
        r_hat: The largest one, likewise.
    """

    step: int
    total_steps: int
    is_sampling: bool
    log_density: float
    acceptance: float
    num_outside: int
    num_undefined: int
    num_divergent: int
    num_gradients: int
    seconds: float
    ess: float = math.nan
    r_hat: float = math.nan


Callback = Callable[[Progress], object]


def progress_of(run: Run) -> Progress:
    """The numbers of this moment; they leave the device for it."""
    moment, plan = run.moment, run.plan
    probability = run.acceptance_probability
    return Progress(
        step=plan.before.num_steps + moment.num_steps,
        total_steps=plan.before.num_steps + plan.num_warmup + moment.wanted,
        is_sampling=run.is_sampling,
        log_density=moment.state.inner.log_density.double().mean().item(),
        acceptance=math.nan if probability is None else probability.double().mean().item(),
        num_outside=int(moment.tally.outside.sum()),
        num_undefined=int(moment.tally.undefined.sum()),
        num_divergent=int(moment.tally.divergent.sum()),
        num_gradients=sum(moment.num_gradients),
        seconds=sum(moment.seconds),
        ess=run.worth.ess,
        r_hat=run.worth.r_hat,
    )


class Reporter:
    """Calls back about a hundred times in a run, at the same steps each time, and at its end."""

    def __init__(self, callback: Callback | None, run: Run) -> None:
        self._callback = callback
        self._next = _next_report(run)

    def look(self, run: Run) -> None:
        """Call back, where it is time."""
        if self._callback is None or not (run.moment.num_steps >= self._next or run.is_done):
            return
        self._next = _next_report(run)
        self._callback(progress_of(run))


def _next_report(run: Run) -> int:
    """At which step: at multiples of a hundredth of the steps that are planned."""
    every = max(1, (run.plan.num_warmup + run.moment.wanted) // REPORTS)
    return (run.moment.num_steps // every + 1) * every
