"""A run followed to its end: progress for who waits, checkpoints for who is interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from poe.core.errors import StorageError
from poe.core.tensor_file import fingerprint, read
from poe.sampling import run_checkpoint as resume
from poe.sampling.progress import Callback, Reporter
from poe.sampling.run import Plan, Run

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

    def follow(self, u: Tensor, said: str, is_over: Callable[[Run], bool]) -> tuple[Run, float]:
        """The run, started at ``u`` or resumed, when it is over, and the seconds it took in all."""
        began = time.perf_counter()
        run, seconds = self._begin(u, said)

        def write() -> None:
            if self.checkpoint is not None:
                self._write(run, seconds + time.perf_counter() - began)

        try:
            self._advance(run, is_over, write)
        finally:  # an interrupted run is written too, whatever interrupted it
            write()
        return run, seconds + time.perf_counter() - began

    def _begin(self, u: Tensor, said: str) -> tuple[Run, float]:
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            say(self.progress, said)
            return Run.start(self.plan, u), 0.0
        facts, tensors = read(self.checkpoint)
        if facts.get("settings") != fingerprint(self.settings):
            raise StorageError(
                f"expected a checkpoint of this run at {self.checkpoint}, got one of another "
                "target, kernel, seed or settings: call with the same arguments and a generator of "
                "the same seed, or delete it to start afresh"
            )
        run = resume.restore(self.plan, facts, tensors)
        say(self.progress, f"resumed from {self.checkpoint} after {run.moment.num_steps} steps")
        return run, facts["seconds_in_all"]

    def _write(self, run: Run, seconds: float) -> None:
        assert self.checkpoint is not None
        settings = fingerprint(self.settings)
        resume.save(run, self.checkpoint, {"settings": settings, "seconds_in_all": seconds})

    def _advance(self, run: Run, is_over: Callable[[Run], bool], write: Callable[[], None]) -> None:
        """Advance a run until it is over, with a progress bar and a checkpoint now and then."""
        total = run.plan.num_warmup + run.plan.num_draws
        reported = written = time.monotonic()
        first = run.moment.num_steps
        reporter = Reporter(self.callback, run)
        with tqdm(total=total, initial=first, disable=not self.progress, unit="step") as bar:
            while not is_over(run):
                run.advance()
                reporter.look(run)
                now = time.monotonic()
                if self.progress and (now - reported > SECONDS_BETWEEN_REPORTS or is_over(run)):
                    _report(run, bar)
                    reported = now
                if now - written > SECONDS_BETWEEN_CHECKPOINTS:
                    write()
                    written = now


def _report(run: Run, bar: tqdm) -> None:
    bar.set_description("sampling" if run.is_sampling else "warm-up", refresh=False)
    if run.acceptance_probability is not None:
        acceptance = run.acceptance_probability.mean().item()
        bar.set_postfix_str(f"acceptance {acceptance:.2f}", refresh=False)
    bar.update(run.moment.num_steps - bar.n)


def say(progress: bool, text: str) -> None:
    """A line on stderr, above the progress bar."""
    if progress:
        tqdm.write(f"poe.sample: {text}", file=sys.stderr)
