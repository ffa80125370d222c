"""The loop: a run as a chain of moments, each holding all that the next step depends on.

A moment is immutable and replaced by one assignment, so an interrupt at any point leaves a
consistent one behind, and a run resumed from it gives the same bits.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import memory
from poe.core.doubt import Doubt
from poe.density.checks import collected
from poe.density.coordinates import Coordinates
from poe.draws import Draws
from poe.samplers.guarded import Raised
from poe.samplers.kernel import ASYMPTOTICALLY_EXACT, Info
from poe.samplers.questions import Learned, gradients_per_step
from poe.sampling.compiled import Block
from poe.sampling.reached import (
    MEMORY,
    SHARE_OF_MEMORY,
    Ending,
    Reached,
    Worth,
    ending,
    is_met,
    next_look,
    spent_budget,
    worth_of,
    worth_of_all,
)
from poe.sampling.tally import Spread, Tally
from poe.tuning.warmup import (
    Window,
    WindowState,
    begin_window,
    brought_home,
    end_window,
    fill,
    first_learned,
    run_window,
    shaped,
    spaced,
)


class Moment(NamedTuple):
    """Where a run stands, between two steps."""

    phase: int
    """The stage of the warm-up; their number while sampling."""
    step: int
    """Steps done in this phase."""
    num_steps: int
    """Steps done in all."""
    num_gradients: tuple[int, int]
    """How often each chain evaluated the target, in warm-up and in sampling."""
    seconds: tuple[float, float]
    """The time these took."""
    state: WindowState
    learned: tuple[Learned, ...]
    """What was known at the start, and after each stage."""
    tally: Tally
    spread: Spread | None
    generator_state: Tensor
    wanted: int
    """At so many draws it is asked whether they are enough."""
    doubts: tuple[Doubt, ...] = ()
    """What was noticed on the way that speaks against the draws."""


class Spent(NamedTuple):
    """What it took to know where a run had better start."""

    num_steps: int = 0
    num_gradients: int = 0
    """How often each chain evaluated the target."""
    seconds: float = 0.0


NOTHING_SPENT = Spent()


@dataclass(frozen=True)
class Plan:
    """What a run does: warm-up stages, then ``num_draws`` draws; all in coordinates u."""

    stages: tuple[Window, ...]
    num_draws: int
    coordinates: Coordinates
    generator: torch.Generator
    collect: Callable[[Tensor], Tensor] | None
    suspects: tuple[str, ...] = ()
    """The factors that may send chains to infinity, for which they are watched."""
    compile: bool = False
    """Whether to sample in compiled blocks of steps."""
    raised: Raised = field(default_factory=Raised)
    """The errors of the target at some positions, on the way so far."""
    before: Spent = NOTHING_SPENT
    """What other runs took that led to this plan: it counts as warm-up."""
    until: Reached | None = None
    """What draws are to be worth, asked from ``num_draws`` on; None where these are enough."""
    least_draws: int = 1
    """No budget of ``until`` ends a run before."""
    is_batch: bool = False
    """Whether each chain has a density of its own."""

    @property
    def most_draws(self) -> int:
        """No run of this plan makes more."""
        return self.num_draws if self.until is None else sys.maxsize

    @property
    def is_watched(self) -> bool:
        """Whether to watch for escape."""
        return bool(self.suspects)

    @property
    def num_warmup(self) -> int:
        """Steps before the first draw."""
        return sum(stage.num_steps for stage in self.stages)


class Run:
    """A run of a plan, from its start positions or from a checkpoint."""

    def __init__(self, plan: Plan, moment: Moment) -> None:
        self.plan = plan
        self.moment = moment
        self.samples: Tensor | None = None
        self.log_density: Tensor | None = None
        self.acceptance_probability: Tensor | None = None
        self.block: Block | None = None
        self.worth = Worth()
        """What the draws were worth when they were last looked at."""
        self.ending: Ending | None = None
        """Why no more draws are made; None while they are."""
        self._steps: Iterator[tuple[WindowState, Info]] | None = None

    @classmethod
    def start(cls, plan: Plan, u: Tensor) -> Run:
        """The run at its beginning, with the chains at ``u``."""
        began = time.perf_counter()
        first = plan.stages[0]
        tally = Tally.none(len(u), u.device)
        spread = Spread.around(u) if plan.is_watched else None
        learned = first_learned(first, u)
        asked = 1 + (learned.affine is not None) + math.ceil(learned.num_asked / len(u))
        moment = Moment(
            phase=0,
            step=0,
            num_steps=0,
            num_gradients=(asked, 0),
            seconds=(0.0, 0.0),
            state=begin_window(first, u, learned),
            learned=(learned,),
            tally=tally,
            spread=spread,
            generator_state=plan.generator.get_state(),
            wanted=plan.num_draws,
        )
        return cls(plan, moment._replace(seconds=(time.perf_counter() - began, 0.0)))

    def count_as_warmup(self, spent: Spent) -> None:
        """Add what was spent beside the steps, on finding out how to sample."""
        (warmup, sampling), (before, later) = self.moment.num_gradients, self.moment.seconds
        self.moment = self.moment._replace(
            num_gradients=(warmup + spent.num_gradients, sampling),
            seconds=(before + spent.seconds, later),
        )

    def doubt(self, doubts: tuple[Doubt, ...]) -> None:
        """Note what speaks against the draws to come."""
        self.moment = self.moment._replace(doubts=(*self.moment.doubts, *doubts))

    @property
    def is_sampling(self) -> bool:
        """Whether the warm-up is over."""
        return self.moment.phase == len(self.plan.stages)

    @property
    def is_done(self) -> bool:
        """Whether the draws are enough, or no more may be made."""
        return self.ending is not None

    def advance(self) -> None:
        """One step, one block of compiled steps, or the passage from one phase to the next."""
        began = time.perf_counter()
        stage = self._stage()
        if self.moment.step >= stage.num_steps:
            moment = self._next_phase(stage)
        elif self.is_sampling and self.plan.compile and self._block(stage) is not None:
            moment = self._stepped_in_block(stage)
        else:
            moment = self._stepped(stage)
        self.moment = self._timed(moment, began)
        self.ask()

    def ask(self) -> None:
        """See whether the draws are enough: where it is time, and where a budget is spent."""
        step, until = self.moment.step, self.plan.until
        if not self.is_sampling or step == 0:
            return
        if until is None:
            self.ending = Ending() if step >= self.plan.num_draws else None
            return
        began = time.perf_counter()
        spent = self._spent(until) if step >= self.plan.least_draws else ""
        if step < self.moment.wanted and not spent:
            return
        draws = self._draws()
        self.worth = worth_of_all(draws) if spent else worth_of(draws, until)
        if spent or is_met(until, self.worth):
            self.ending = ending(until, self.worth, spent)
        else:
            self.moment = self._timed(self.moment._replace(wanted=next_look(step)), began)

    def _timed(self, moment: Moment, began: float) -> Moment:
        """The moment with what passed since then."""
        warmup, sampling = moment.seconds
        elapsed = time.perf_counter() - began
        seconds = (warmup, sampling + elapsed) if self.is_sampling else (warmup + elapsed, sampling)
        return moment._replace(seconds=seconds)

    def _spent(self, until: Reached) -> str:
        """The budget that has no room for another step, in words; empty where each has."""
        moment, before = self.moment, self.plan.before
        num_steps = 1 if self.block is None or self.block.failure else self.block.num_steps
        num_gradients = before.num_gradients + sum(moment.num_gradients)
        num_gradients += num_steps * gradients_per_step(self.sampling.kernel)
        assert self.samples is not None
        assert self.log_density is not None
        row = self.samples[0].nbytes + self.log_density[0].nbytes
        if next_look(moment.step) * row > SHARE_OF_MEMORY * memory(self.samples.device):
            return MEMORY
        seconds = before.seconds + sum(moment.seconds)
        num_steps += before.num_steps + moment.num_steps
        return spent_budget(until, max(num_gradients, num_steps), seconds)

    def _draws(self) -> Draws:
        """The draws so far, to be looked at."""
        assert self.samples is not None
        assert self.log_density is not None
        kept = (self.samples[: self.moment.step], self.log_density[: self.moment.step])
        x, log_density = (each.transpose(0, 1) for each in kept)
        return Draws(x, log_density, ASYMPTOTICALLY_EXACT, is_batch=self.plan.is_batch)

    @property
    def compile_seconds(self) -> float:
        """What compiling took, here and not before an interruption."""
        return 0.0 if self.block is None else self.block.compile_seconds

    def _stage(self) -> Window:
        return self.sampling if self.is_sampling else self.plan.stages[self.moment.phase]

    @cached_property
    def sampling(self) -> Window:
        """What follows the warm-up: filled in once, since a number leaves the device for it."""
        last = self.plan.stages[-1]
        return Window(last.density, fill(last, self.moment.learned[-1]), self.plan.most_draws)

    def _stepped(self, stage: Window) -> Moment:
        moment = self.moment
        learned = moment.learned[-1]
        if self._steps is None:  # begun, or taken up again from a moment
            generator = self.plan.generator
            self._steps = run_window(stage, moment.state, learned, generator, moment.step)
        state, info = next(self._steps)
        visited = state.inner.position[None]
        if self.is_sampling:
            self._record(visited, state.inner.log_density[None])
        self.acceptance_probability = info.acceptance_probability
        return self._after(1, gradients_per_step(shaped(stage.kernel, learned)))._replace(
            state=state,
            tally=moment.tally.plus(Tally.of([info])) if self.is_sampling else moment.tally,
            spread=moment.spread and moment.spread.plus(visited, moment.num_steps),
        )

    def _block(self, stage: Window) -> Block | None:
        """The compiled steps, where they can be compiled and that many are left."""
        if self.block is None:
            self.block = Block(stage.kernel, stage.density)
        has_room = self.block.num_steps <= stage.num_steps - self.moment.step
        return self.block if has_room and not self.block.failure else None

    def _stepped_in_block(self, stage: Window) -> Moment:
        assert self.block is not None
        self._steps = None
        moment, inner = self.moment, self.moment.state.inner
        noises = self.block.draw_noise(inner.position, self.plan.generator)
        inner, visits = self.block(inner, noises)
        self._record(visits.position, visits.log_density)
        self.acceptance_probability = visits.acceptance_probability
        num_gradients = gradients_per_step(stage.kernel)
        return self._after(self.block.num_steps, num_gradients)._replace(
            state=WindowState(inner, None),
            tally=moment.tally.plus(visits.tally),
            spread=moment.spread and moment.spread.plus(visits.position, moment.num_steps),
        )

    def _after(self, num_steps: int, num_gradients: int) -> Moment:
        """The counts after that many steps, each of so many gradients."""
        moment = self.moment
        warmup, sampling = moment.num_gradients
        spent = num_steps * num_gradients
        return moment._replace(
            step=moment.step + num_steps,
            num_steps=moment.num_steps + num_steps,
            num_gradients=(warmup, sampling + spent)
            if self.is_sampling
            else (warmup + spent, sampling),
            generator_state=self.plan.generator.get_state(),
        )

    def _next_phase(self, stage: Window) -> Moment:
        moment, phase = self.moment, self.moment.phase + 1
        self._steps = None
        learned = end_window(stage, moment.state, moment.learned[-1])
        stages, known = self.plan.stages, [learned]
        while phase < len(stages) and not stages[phase].is_needed(learned):
            phase += 1
            known.append(learned)
        if phase == len(stages):  # sampling goes on from the very state
            known[-1] = spaced(stages[-1], learned)
            state = WindowState(moment.state.inner, None)
            return moment._replace(
                phase=phase, step=0, learned=(*moment.learned, *known), state=state
            )
        x, known[-1] = brought_home(stage, moment.state, known[-1], self.plan.generator)
        warmup, sampling = moment.num_gradients
        asked = math.ceil((known[-1].num_asked - moment.learned[-1].num_asked) / len(x))
        return moment._replace(
            phase=phase,
            step=0,
            learned=(*moment.learned, *known),
            state=begin_window(stages[phase], x, known[-1]),
            num_gradients=(warmup + 1 + asked, sampling),
            generator_state=self.plan.generator.get_state(),
        )

    def _record(self, u: Tensor, log_density: Tensor) -> None:
        """Keep some steps' draws, ``(steps, chains, *event)`` and ``(steps, chains)``."""
        coordinates, step = self.plan.coordinates, self.moment.step
        count = max(self.moment.wanted, step + len(u))
        x = coordinates.to_x(u.flatten(0, 1))
        log_density = coordinates.log_density_of_x(u.flatten(0, 1), x, log_density.flatten())
        x = x.unflatten(0, u.shape[:2])
        collect = self.plan.collect
        kept = x if collect is None else torch.stack([collected(collect, each) for each in x])
        self.samples = written(self.samples, kept, step, count)
        self.log_density = written(self.log_density, log_density.reshape(u.shape[:2]), step, count)


def is_warm(run: Run) -> bool:
    """Whether the warm-up is over."""
    return run.is_sampling


def is_done(run: Run) -> bool:
    """Whether the draws are enough, or no more may be made."""
    return run.is_done


def written(kept: Tensor | None, draws: Tensor, step: int, count: int) -> Tensor:
    """A tensor ``(draws, chains, ...)``, in whose order draws come, with more draws in it.

    Args:
        kept: What was kept before, or None.
        draws: The draws to write, ``(steps, chains, ...)``.
        step: Where.
        count: For how many draws there is to be room, where there is none.

    Returns:
        ``kept`` itself where it has room, else a larger copy.

    >>> written(torch.zeros(2, 1), torch.ones(1, 1), 2, 3).flatten()
    tensor([0., 0., 1.])
    """
    room = kept
    if room is None or len(room) < step + len(draws):
        room = draws.new_empty((count, *draws.shape[1:]))
        if kept is not None:
            room[:step] = kept[:step]
    room[step : step + len(draws)] = draws
    return room
