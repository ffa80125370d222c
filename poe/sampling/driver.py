"""A run followed to its end: progress for who waits, checkpoints for who is interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor
from tqdm import tqdm

from poe.core.errors import StorageError
from poe.core.tensor_file import fingerprint, read
from poe.sampling.progress import Callback, Reporter
from poe.sampling.run import Plan, Run
from poe.sampling.run_checkpoint import restore, save

SECONDS_BETWEEN_CHECKPOINTS = 30.0
SECONDS_BETWEEN_REPORTS = 0.2


@dataclass(frozen=True)
class Job:
    """A plan, and how to follow it.

    - ``settings``: all that the run depends on, so that a checkpoint of another run is told apart;
    - ``progress``: a line that says what is done and a progress bar, on stderr;
    - ``checkpoint``: the file to write to, and to take the run up from; None keeps nothing;
    - ``callback``: called with a ``poe.Progress`` now and then; None calls nobody.
    """

    plan: Plan
    settings: tuple[object, ...]
    progress: bool
    checkpoint: str | os.PathLike[str] | None
    callback: Callback | None = None

    def begin(self, u: Tensor, said: str) -> Following:
        """The run, started at ``u`` or taken up from the checkpoint, ready to be followed."""
        began = time.perf_counter()
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            say(self.progress, said)
            return Following(self, Run.start(self.plan, u), began)
        facts, tensors = read(self.checkpoint)
        if facts.get("settings") != fingerprint(self.settings):
            raise StorageError(
                f"expected a checkpoint of this run at {self.checkpoint}, got one of another "
                "target, kernel, seed or settings: call with the same arguments and a generator of "
                "the same seed, or delete it to start afresh"
            )
        run = restore(self.plan, facts, tensors)
        say(self.progress, f"resumed from {self.checkpoint} after {run.moment.num_steps} steps")
        return Following(self, run, began - facts["seconds_in_all"])


class Following:
    """A run on its way: with a progress bar, told to a callback, and written now and then.

    A context: however it is left, the run is written to its checkpoint.
    """

    def __init__(self, job: Job, run: Run, began: float) -> None:
        self.job, self.run, self._began = job, run, began
        self._reporter = Reporter(job.callback, run)
        self._written = self._reported = time.monotonic()
        total, first = run.plan.num_warmup + run.plan.num_draws, run.moment.num_steps
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

    def __exit__(self, *_: object) -> None:
        self._report()
        self._bar.close()
        self._write()

    def _report(self) -> None:
        run, self._reported = self.run, time.monotonic()
        if not self.job.progress:
            return
        self._bar.set_description("sampling" if run.is_sampling else "warm-up", refresh=False)
        if run.acceptance_probability is not None:
            acceptance = run.acceptance_probability.mean().item()
            self._bar.set_postfix_str(f"acceptance {acceptance:.2f}", refresh=False)
        self._bar.update(run.moment.num_steps - self._bar.n)

    def _write(self) -> None:
        self._written = time.monotonic()
        if self.job.checkpoint is None:
            return
        settings = fingerprint(self.job.settings)
        facts = {"settings": settings, "seconds_in_all": self.seconds}
        save(self.run, self.job.checkpoint, facts)


def say(progress: bool, text: str) -> None:
    """A line on stderr, above the progress bar."""
    if progress:
        tqdm.write(f"poe.sample: {text}", file=sys.stderr)
