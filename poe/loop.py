"""The loop: a run as a chain of moments, each holding all that the next step depends on.

A moment is immutable and replaced by one assignment, so an interrupt at any point leaves a
consistent one behind, and a run resumed from it gives the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe import checkpoint
from poe.adapt_kernel import (
    DualAveraging,
    Stage,
    StageState,
    begin_stage,
    end_stage,
    first_scale,
    needs_tuning,
    next_scale,
    stage_step,
)
from poe.coordinates import Coordinates
from poe.errors import StorageError
from poe.samplers.kernel import Info, Kernel, TunableKernel, sum_event


class Tally(NamedTuple):
    """Counts of the sampling phase, each ``(chains,)``."""

    accepted: Tensor
    outside: Tensor
    undefined: Tensor

    def plus(self, info: Info) -> Tally:
        """The counts with one more step."""
        return Tally(
            self.accepted + info.is_accepted,
            self.outside + info.is_outside,
            self.undefined + info.is_undefined,
        )


class Spread(NamedTuple):
    """Mean squared distance from the start, over the steps of each doubling [2ᵏ, 2ᵏ⁺¹).

    At equilibrium it stops growing; a chain that escapes to infinity doubles it at least.
    """

    start: Tensor
    totals: Tensor

    def plus(self, position: Tensor, num_steps: int) -> Spread:
        """With one more step, the ``num_steps``-th."""
        squares = sum_event((position - self.start).double().square())
        totals = self.totals.clone()
        totals[num_steps.bit_length() - 1] += squares.mean()
        return self._replace(totals=totals)

    def means(self, num_steps: int) -> Tensor:
        """The mean over each doubling that is at least half done."""
        last = num_steps.bit_length() - 1
        counts = [2**k for k in range(last)] + [num_steps - 2**last + 1]
        if counts[-1] < 2 ** (last - 1):
            counts.pop()
        return self.totals[: len(counts)] / torch.tensor(counts).to(self.totals)


class Moment(NamedTuple):
    """Where a run stands, between two steps."""

    phase: int
    """The stage of the warm-up; their number while sampling."""
    step: int
    """Steps done in this phase."""
    num_steps: int
    """Steps done in all."""
    state: StageState
    scale: Tensor
    tuned: tuple[Kernel, ...]
    tally: Tally
    spread: Spread | None
    generator_state: Tensor


@dataclass(frozen=True)
class Plan:
    """What a run does: warm-up stages, then ``num_draws`` draws; all in coordinates u."""

    stages: tuple[Stage, ...]
    num_draws: int
    coordinates: Coordinates
    generator: torch.Generator
    collect: Callable[[Tensor], Tensor] | None
    is_watched: bool
    """Whether to watch for escape."""

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
        self.last_info: Info | None = None

    @classmethod
    def start(cls, plan: Plan, u: Tensor) -> Run:
        """The run at its beginning, with the chains at ``u``."""
        scale = first_scale(u)
        zeros = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        moment = Moment(
            phase=0,
            step=0,
            num_steps=0,
            state=begin_stage(plan.stages[0], u, scale),
            scale=scale,
            tuned=(),
            tally=Tally(zeros, zeros, zeros),
            spread=_watch(u) if plan.is_watched else None,
            generator_state=plan.generator.get_state(),
        )
        return cls(plan, moment)

    @property
    def is_sampling(self) -> bool:
        """Whether the warm-up is over."""
        return self.moment.phase == len(self.plan.stages)

    @property
    def is_done(self) -> bool:
        """Whether every draw was made."""
        return self.is_sampling and self.moment.step == self.plan.num_draws

    def advance(self) -> None:
        """One step, or the passage from one phase to the next."""
        moment = self.moment
        stage = self._stage()
        if moment.step == stage.num_steps:
            self.moment = self._next_phase(stage)
            return
        state, info = stage_step(stage, moment.state, self.plan.generator)
        if self.is_sampling:
            self._record(state.inner, moment.step)
        position, num_steps = state.inner.position, moment.num_steps + 1
        self.moment = moment._replace(
            step=moment.step + 1,
            num_steps=num_steps,
            state=state,
            tally=moment.tally.plus(info) if self.is_sampling else moment.tally,
            spread=moment.spread and moment.spread.plus(position, num_steps),
            generator_state=self.plan.generator.get_state(),
        )
        self.last_info = info

    def _stage(self) -> Stage:
        if not self.is_sampling:
            return self.plan.stages[self.moment.phase]
        return Stage(self.plan.stages[-1].target, self.moment.tuned[-1], self.plan.num_draws)

    def _next_phase(self, stage: Stage) -> Moment:
        moment, phase = self.moment, self.moment.phase + 1
        scale = next_scale(moment.state, moment.scale)
        if phase == len(self.plan.stages):  # sampling goes on from the very state
            state = StageState(moment.state.inner, None)
        else:
            state = begin_stage(self.plan.stages[phase], stage.descend(moment.state.inner), scale)
        tuned = (*moment.tuned, end_stage(stage, moment.state))
        return moment._replace(phase=phase, step=0, state=state, scale=scale, tuned=tuned)

    def _record(self, state: Any, index: int) -> None:
        u, coordinates = state.position, self.plan.coordinates
        x = coordinates.to_x(u)
        kept = x if self.plan.collect is None else self.plan.collect(x)
        log_density = coordinates.log_density_of_x(u, x, state.log_density)
        if self.samples is None or self.log_density is None:
            self.samples = _room(kept, self.plan.num_draws)
            self.log_density = _room(log_density, self.plan.num_draws)
        self.samples[:, index] = kept
        self.log_density[:, index] = log_density

    def save(self, path: str | os.PathLike[str], facts: dict[str, Any]) -> None:
        """Write this moment and the draws so far to a checkpoint."""
        moment = self.moment
        tensors = {
            "generator_state": moment.generator_state,
            "position": moment.state.inner.position,
            "scale": moment.scale,
            **_named("state", _leaves(moment.state.inner)),
            **_named("averaging", moment.state.averaging or ()),
            **_named("tally", moment.tally),
            **_named("spread", moment.spread or ()),
            **_named("tuned", [_scale_of(kernel) for kernel in moment.tuned]),
        }
        if self.is_sampling and self.samples is not None and self.log_density is not None:
            tensors["samples"] = self.samples[:, : moment.step]
            tensors["log_density"] = self.log_density[:, : moment.step]
        place = {"phase": moment.phase, "step": moment.step, "num_steps": moment.num_steps}
        checkpoint.write(path, {**facts, **place}, tensors)

    @classmethod
    def restore(cls, plan: Plan, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Run:
        """The run at the moment that a checkpoint holds; the generator is put back too.

        Raises StorageError where the target says another log-density there than it did.
        """
        device = plan.generator.device
        generator_state = tensors.pop("generator_state")
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        phase, spread = facts["phase"], _unnamed("spread", tensors)
        averaging = _unnamed("averaging", tensors)
        scales = _unnamed("tuned", tensors)
        stage = plan.stages[min(phase, len(plan.stages) - 1)]
        template = stage.kernel.init(stage.target, tensors["position"])
        inner = _filled(template, iter(_unnamed("state", tensors)))
        if not torch.allclose(template.log_density, inner.log_density, rtol=1e-4, atol=1e-4):
            raise StorageError(
                "expected a checkpoint of this target, got one of another: the log-density at its "
                "positions is not the one it holds. Delete the checkpoint to start afresh."
            )
        plan.generator.set_state(generator_state)
        run = cls(
            plan,
            Moment(
                phase=phase,
                step=facts["step"],
                num_steps=facts["num_steps"],
                state=StageState(inner, DualAveraging(*averaging) if averaging else None),
                scale=tensors["scale"],
                tuned=tuple(_retuned(s, v) for s, v in zip(plan.stages, scales, strict=False)),
                tally=Tally(*_unnamed("tally", tensors)),
                spread=Spread(*spread) if spread else None,
                generator_state=generator_state,
            ),
        )
        if "samples" in tensors:
            run.samples = _refilled(tensors["samples"], plan.num_draws)
            run.log_density = _refilled(tensors["log_density"], plan.num_draws)
        return run


def _watch(u: Tensor) -> Spread:
    return Spread(u.mean(0), torch.zeros(64, dtype=torch.float64, device=u.device))


def _room(first: Tensor, num_draws: int) -> Tensor:
    """An empty tensor ``(chains, draws, ...)`` for draws like the first."""
    return first.new_empty((len(first), num_draws, *first.shape[1:]))


def _refilled(draws: Tensor, num_draws: int) -> Tensor:
    room = draws.new_empty((len(draws), num_draws, *draws.shape[2:]))
    room[:, : draws.shape[1]] = draws
    return room


def _retuned(stage: Stage, scale: Tensor) -> Kernel:
    """The stage's kernel with the scale that its warm-up found, where it was left out."""
    if not needs_tuning(stage.kernel):
        return stage.kernel
    assert isinstance(stage.kernel, TunableKernel)
    return stage.kernel.with_scale(scale if scale.ndim else scale.item())


def _scale_of(kernel: Kernel) -> Tensor:
    scale = kernel.scale_setting if isinstance(kernel, TunableKernel) else None
    return scale if isinstance(scale, Tensor) else torch.tensor(scale or 0.0, dtype=torch.float64)


def _leaves(state: Any) -> list[Tensor]:
    """The tensors and numbers of nested NamedTuples, in order."""
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in _leaves(part)]
    return [torch.as_tensor(state)]


def _filled(template: Any, leaves: Iterator[Tensor]) -> Any:
    """The template's structure with other leaves."""
    if isinstance(template, tuple):
        return type(template)(*(_filled(part, leaves) for part in template))
    leaf = next(leaves)
    return leaf if isinstance(template, Tensor) else type(template)(leaf.item())


def _named(prefix: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{index}": tensor for index, tensor in enumerate(tensors)}


def _unnamed(prefix: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    count = sum(name.startswith(f"{prefix}.") for name in tensors)
    return [tensors[f"{prefix}.{index}"] for index in range(count)]
