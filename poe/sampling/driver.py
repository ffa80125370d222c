"""A run followed to its end: progress for who waits, checkpoints for who is interrupted."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import Tensor
from tqdm import tqdm

from poe.core.doubt import warn
from poe.files.signature import Signature, not_kept
from poe.sampling.progress import Callback, Reporter
from poe.sampling.run import Plan, Run
from poe.sampling.run_checkpoint import Functions, restore, save

SECONDS_BETWEEN_CHECKPOINTS = 30.0
SECONDS_BETWEEN_REPORTS = 0.2


@dataclass(frozen=True)
class Job:
    """A plan, and how to follow it.

    - ``progress``: a line that says what is done and a progress bar, on stderr;
    - ``checkpoint``: where the run is kept, and taken up from; None keeps nothing;
    - ``callback``: called with a ``poe.Progress`` now and then; None calls nobody.
    """

    plan: Plan
    progress: bool
    checkpoint: Checkpoint | None
    callback: Callback | None = None

    def begin(self, u: Tensor, said: str) -> Following:
        """The run, started at ``u`` or taken up from the checkpoint, ready to be followed."""
        began = time.perf_counter()
        if self.checkpoint is None or not self.checkpoint.path.exists():
            say(self.progress, said)
            following = Following(self, Run.start(self.plan, u), began)
            following.keep()  # what cannot be kept had better be known now
            return following
        run, seconds, checkpoint = self.checkpoint.read(self.plan)
        steps = run.moment.num_steps
        say(self.progress, f"resumed from {self.checkpoint.path} after {steps} steps")
        return Following(replace(self, checkpoint=checkpoint), run, began - seconds)


@dataclass(frozen=True)
class Checkpoint:
    """The file of one run, and what tells it from all others.

    - ``path``: the file;
    - ``signature``: of the run;
    - ``functions``: those that are tried at the signature's points.
    """

    path: Path
    signature: Signature
    functions: Functions

    def read(self, plan: Plan) -> tuple[Run, float, Checkpoint]:
        """The run that the file holds, its seconds, and its checkpoint; raises StorageError."""
        run, facts = restore(plan, self.path, self.signature, self.functions)
        own = replace(self, signature=self.signature.since(facts))
        return run, facts["seconds_in_all"], own

    def write(self, run: Run, seconds: float) -> None:
        """Put the run into the file, in the place of what was there."""
        save(run, self.path, self.signature, seconds)

    def beside(self, name: str, **more: object) -> Checkpoint:
        """Of a run that goes on from this one, called with more: ``path.name``."""
        return Checkpoint(beside(self.path, name), self.signature.beside(**more), self.functions)


def beside(path: Path, name: str) -> Path:
    """Where a run that goes on from that of ``path`` is kept."""
    return path.with_name(f"{path.name}.{name}")


class Following:
    """A run on its way: with a progress bar, told to a callback, and written now and then.

    A context: however it is left, the run is written to its checkpoint. Where it cannot be, the run
    goes on, and this is said in the end.
    """

    def __init__(self, job: Job, run: Run, began: float) -> None:
        self.job, self.run, self._began = job, run, began
        self._reporter = Reporter(job.callback, run)
        self._written = self._reported = time.monotonic()
        self._failure: Exception | None = None
        is_known = run.plan.until is None
        total = run.plan.num_warmup + run.plan.num_draws if is_known else None
        first = run.moment.num_steps
        self._bar = tqdm(total=total, initial=first, disable=not job.progress, unit="step")

    @property
    def seconds(self) -> float:
        """What the run took so far, those before an interruption included."""
        return time.perf_counter() - self._began

    def until(self, is_over: Callable[[Run], bool]) -> None:
        """Advance the run until it is over; nothing that is watched on the way has a say in it."""
        while not is_over(self.run):
            self.run.advance()
            self._reporter.look(self.run)
            now = time.monotonic()
            if now - self._reported > SECONDS_BETWEEN_REPORTS:
                self._report()
            if now - self._written > SECONDS_BETWEEN_CHECKPOINTS:
                self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._report()
        self._bar.close()
        self._write()
        if self._failure is None or self.job.checkpoint is None:
            return
        doubt = not_kept(self.job.checkpoint.path, self._failure)
        if kind is None:
            self.run.doubt((doubt,))
        else:
            warn([doubt])

    def keep(self) -> None:
        """Write the run to its checkpoint, and raise what stands against it."""
        self._written = time.monotonic()
        if self.job.checkpoint is not None:
            self.job.checkpoint.write(self.run, self.seconds)

    def _report(self) -> None:
        run, self._reported = self.run, time.monotonic()
        if not self.job.progress:
            return
        self._bar.set_description_str("sampling" if run.is_sampling else "warm-up", refresh=False)
        told = [] if math.isnan(run.worth.ess) else [str(run.worth)]
        if run.acceptance_probability is not None:
            told.append(f"acceptance {run.acceptance_probability.mean().item():.2f}")
        self._bar.set_postfix_str(", ".join(told), refresh=False)
        self._bar.update(run.moment.num_steps - self._bar.n)

    def _write(self) -> None:
        try:
            self.keep()
            self._failure = None
        except Exception as error:  # a full disk, a lost folder: no draws are lost with it
            self._failure = error


def say(progress: bool, text: str) -> None:
    """A line on stderr, above the progress bar."""
    if progress:
        tqdm.write(f"poe.sample: {text}", file=sys.stderr)
