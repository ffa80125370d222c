"""A moment of a run as tensors and numbers for a checkpoint, and the run taken up from it again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from poe.core.affine import AFFINE_MAPS, Affine
from poe.core.doubt import as_facts, from_facts
from poe.core.errors import PoeError, StorageError
from poe.core.tensor_file import write
from poe.samplers.questions import Learned
from poe.sampling.run import Moment, Plan, Run
from poe.sampling.tally import Spread, Tally
from poe.tuning.dual_averaging import DualAveraging
from poe.tuning.warmup import WindowState, fill, shaped

COUNTS = ("phase", "step", "num_steps", "num_gradients", "seconds")


def save(run: Run, path: str | os.PathLike[str], facts: dict[str, Any]) -> None:
    """Write the run's moment and its draws so far to a checkpoint."""
    moment = run.moment
    visited = zip(*moment.state.visited, strict=True)
    tensors = {
        "generator_state": moment.generator_state,
        "position": moment.state.inner.position,
        **_named("state", _leaves(moment.state.inner)),
        **_named("averaging", moment.state.averaging or ()),
        **_named("visited", [torch.stack(parts) for parts in visited]),
        **_named("tally", moment.tally),
        **_named("spread", moment.spread or ()),
    }
    for index, learned in enumerate(moment.learned):
        tensors |= _named(
            f"learned.{index}", [torch.as_tensor(learned.scale), *_affine_parts(learned.affine)]
        )
    if run.is_sampling and run.samples is not None and run.log_density is not None:
        tensors["samples"] = run.samples[: moment.step]
        tensors["log_density"] = run.log_density[: moment.step]
    counts = {name: getattr(moment, name) for name in COUNTS}
    known = [_describe(learned) for learned in moment.learned]
    raised = [run.plan.raised.count, run.plan.raised.first]
    told = {"learned": known, "doubts": as_facts(moment.doubts), "raised": raised}
    write(path, {**facts, **counts, **told}, tensors)


def restore(plan: Plan, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Run:
    """The run at the moment that a checkpoint holds; the generator is put back too.

    Args:
        plan: What is to be run.
        facts: The checkpoint's facts.
        tensors: The checkpoint's tensors.

    Returns:
        The run, to go on with.

    Raises:
        StorageError: Where the target says another log-density there than it did.
    """
    generator_state = tensors.pop("generator_state")
    tensors = {name: tensor.to(plan.generator.device) for name, tensor in tensors.items()}
    learned = tuple(_learned(index, told, tensors) for index, told in enumerate(facts["learned"]))
    spread = _unnamed("spread", tensors)
    plan.generator.set_state(generator_state)
    moment = Moment(
        phase=facts["phase"],
        step=facts["step"],
        num_steps=facts["num_steps"],
        num_gradients=tuple(facts["num_gradients"]),
        seconds=tuple(facts["seconds"]),
        state=_state(plan, facts["phase"], learned, tensors),
        learned=learned,
        tally=Tally(*_unnamed("tally", tensors)),
        spread=Spread(*spread) if spread else None,
        generator_state=generator_state,
        doubts=from_facts(facts.get("doubts", ())),
    )
    plan.raised.count, plan.raised.first = facts.get("raised", (0, ""))
    run = Run(plan, moment)
    if "samples" in tensors:
        run.samples = _refilled(tensors["samples"], plan.num_draws)
        run.log_density = _refilled(tensors["log_density"], plan.num_draws)
    return run


def _state(
    plan: Plan, phase: int, learned: tuple[Learned, ...], tensors: dict[str, Tensor]
) -> WindowState:
    """The state of the stage that a run is at."""
    stage = plan.stages[min(phase, len(plan.stages) - 1)]
    is_sampling = phase == len(plan.stages)
    kernel = fill(stage, learned[-1]) if is_sampling else shaped(stage.kernel, learned[-1])
    template = kernel.init(stage.density, tensors["position"])
    inner = _filled(template, _unnamed("state", tensors))
    if not torch.allclose(template.log_density, inner.log_density, rtol=1e-4, atol=1e-4):
        raise StorageError(
            "expected a checkpoint of this target, got one of another: the log-density at its "
            "positions is not the one it holds. Delete the checkpoint to start afresh."
        )
    averaging = _unnamed("averaging", tensors)
    visited = zip(*(stacked.unbind(0) for stacked in _unnamed("visited", tensors)), strict=True)
    return WindowState(inner, DualAveraging(*averaging) if averaging else None, tuple(visited))


def _describe(learned: Learned) -> dict[str, Any]:
    """What a Learned holds beside tensors."""
    affine = None if learned.affine is None else type(learned.affine).__name__
    return {"affine": affine, "num_steps": learned.num_steps, "r_hat": learned.r_hat}


def _learned(index: int, told: dict[str, Any], tensors: dict[str, Tensor]) -> Learned:
    scale, *parts = _unnamed(f"learned.{index}", tensors)
    affine = None if told["affine"] is None else AFFINE_MAPS[told["affine"]](*parts)
    return Learned(scale, affine, told["num_steps"], told["r_hat"])


def _affine_parts(affine: Affine | None) -> list[Tensor]:
    return [] if affine is None else list(vars(affine).values())


def _refilled(draws: Tensor, num_draws: int) -> Tensor:
    room = draws.new_empty((num_draws, *draws.shape[1:]))
    room[: len(draws)] = draws
    return room


def _leaves(state: Any) -> list[Tensor]:
    """The tensors and numbers of nested NamedTuples, in order."""
    return [_as_tensor(leaf) for leaf in tree_leaves(state)]


def _as_tensor(leaf: object) -> Tensor:
    if not isinstance(leaf, Tensor | float | int):
        raise PoeError(
            "expected a kernel whose state is a NamedTuple of tensors and numbers, to be written "
            f"to a checkpoint, got {type(leaf).__name__}: make it one, or leave checkpoint= out"
        )
    return torch.as_tensor(leaf)


def _filled(template: Any, leaves: list[Tensor]) -> Any:
    """The template's structure with other leaves."""
    own, structure = tree_flatten(template)
    pairs = zip(own, leaves, strict=True)
    filled = [new if isinstance(old, Tensor) else type(old)(new.item()) for old, new in pairs]
    return tree_unflatten(filled, structure)


def _named(prefix: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{index}": tensor for index, tensor in enumerate(tensors)}


def _unnamed(prefix: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    count = sum(name.rpartition(".")[0] == prefix for name in tensors)
    return [tensors[f"{prefix}.{index}"] for index in range(count)]
