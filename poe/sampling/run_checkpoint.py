"""A moment of a run as tensors and numbers for a checkpoint, and the run taken up from it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from poe.core.affine import AFFINE_MAPS, Affine
from poe.core.doubt import Kind, as_facts, from_facts
from poe.core.errors import PoeError, StorageError
from poe.core.transport import Transport
from poe.files.signature import PREFIX, Signature, is_same
from poe.files.tensor_file import read, understanding, write
from poe.samplers.questions import Learned
from poe.sampling.reached import next_look
from poe.sampling.run import Moment, Plan, Run, written
from poe.sampling.tally import Spread, Tally
from poe.tuning.dual_averaging import DualAveraging
from poe.tuning.warmup import WindowState, fill, shaped

FORMAT = "product-of-experts run"
KIND = "checkpoint of poe.sample"
REMEDY = "delete it to start the run afresh"
FACTS: dict[str, type | tuple[type, ...]] = {
    "parts": dict, "start": dict, "phase": int, "step": int, "num_steps": int, "learned": list,
    "num_gradients": list, "seconds": list, "seconds_in_all": float, "is_finished": bool,
    "doubts": list, "raised": list, "wanted": int,
}  # fmt: skip
COUNTS = ("phase", "step", "num_steps", "num_gradients", "seconds", "wanted")
MAPS = {**AFFINE_MAPS, Transport.__name__: Transport}
STEPS_TRIED = 4
"""At so many stored draws of each chain the target is asked again."""

Functions = Mapping[str, Callable[[Tensor], Tensor]]


def save(run: Run, path: Path, signature: Signature, seconds: float) -> None:
    """Write the run's moment and its draws so far to a checkpoint."""
    moment = run.moment
    visited = zip(*moment.state.visited, strict=True)
    tensors = {
        **signature.tensors(),
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
    doubts = [doubt for doubt in moment.doubts if doubt.kind is not Kind.NOT_KEPT]
    told = {
        "format": FORMAT,
        "is_finished": run.is_done,
        "seconds_in_all": seconds,
        "learned": known,
        "doubts": as_facts(doubts),
        "raised": [run.plan.raised.count, run.plan.raised.first],
    }
    signature.require_alone(path)
    write(path, {**signature.facts(), **counts, **told}, tensors)


def restore(
    plan: Plan, path: Path, signature: Signature, functions: Functions
) -> tuple[Run, dict[str, Any]]:
    """The run at the moment that a checkpoint holds; the generator is put back too.

    Args:
        plan: What is to be run.
        path: The checkpoint.
        signature: Of the run.
        functions: Those that are tried at the signature's points.

    Returns:
        The run, to go on with, and what the checkpoint says of it.

    Raises:
        StorageError: Where it is no checkpoint, or one of another run, or where a function says
            something else than it did.
    """
    facts, tensors = read(path, form=FORMAT, kind=KIND, remedy=REMEDY)
    with understanding(path, KIND, REMEDY):
        signature.require(path, facts, is_finished=facts["is_finished"])
        _require_facts(plan, facts, tensors)
        generator_state = tensors.pop("generator_state")
        tensors = {name: tensor.to(plan.generator.device) for name, tensor in tensors.items()}
        learned = tuple(_learned(k, told, tensors) for k, told in enumerate(facts["learned"]))
    signature.require_said(path, tensors, functions)
    state = _state(plan, facts["phase"], len(signature.points), learned, tensors, path)
    with understanding(path, KIND, REMEDY):
        plan.generator.set_state(generator_state)
        plan.raised.count, plan.raised.first = facts["raised"]
        run = Run(plan, _moment(facts, tensors, state, learned, generator_state))
        if "samples" in tensors:
            count = max(facts["wanted"], facts["step"])
            run.samples = written(None, tensors["samples"], 0, count)
            run.log_density = written(None, tensors["log_density"], 0, count)
    if run.samples is not None and plan.collect is None:
        _require_same_at_draws(functions["target"], tensors, path)
    run.ask()
    return run, facts


def _moment(
    facts: dict[str, Any],
    tensors: dict[str, Tensor],
    state: WindowState,
    learned: tuple[Learned, ...],
    generator_state: Tensor,
) -> Moment:
    spread = _unnamed("spread", tensors)
    return Moment(
        phase=facts["phase"],
        step=facts["step"],
        num_steps=facts["num_steps"],
        num_gradients=tuple(facts["num_gradients"]),
        seconds=tuple(facts["seconds"]),
        state=state,
        learned=learned,
        tally=Tally(*_unnamed("tally", tensors)),
        spread=Spread(*spread) if spread else None,
        generator_state=generator_state,
        wanted=facts["wanted"],
        doubts=from_facts(facts["doubts"]),
    )


def _require_facts(plan: Plan, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError or KeyError where what a checkpoint says cannot be."""
    for name, kind in FACTS.items():
        if not isinstance(facts[name], kind):
            raise ValueError(f"{name} is a {type(facts[name]).__name__}")
    for name in ("num_gradients", "seconds"):
        warmup, sampling = facts[name]
        if warmup < 0 or sampling < 0:
            raise ValueError(f"{name} is {facts[name]}")
    count, first = facts["raised"]
    if not isinstance(count, int) or not isinstance(first, str):
        raise ValueError(f"raised is {facts['raised']}")
    _require_place(plan, facts)
    num_chains, is_sampling = len(tensors["position"]), facts["phase"] == len(plan.stages)
    kept = (facts["step"], num_chains) if is_sampling and facts["step"] else None
    for name in ("samples", "log_density"):
        found = tuple(tensors[name].shape[:2]) if name in tensors else None
        if found != kept:
            raise ValueError(f"{name} has shape {found}, for {kept}")
    _require_sizes(tensors)


def _require_place(plan: Plan, facts: dict[str, Any]) -> None:
    """Raise ValueError where no run of the plan is at that step, after so many."""
    phase, step, stages = facts["phase"], facts["step"], [s.num_steps for s in plan.stages]
    lengths = [*stages, plan.most_draws]
    if not 0 <= phase < len(lengths) or not 0 <= step <= lengths[phase]:
        raise ValueError(f"step {step} of stage {phase}")
    # Stages that chains may not need are gone through all, or none.
    needed = sum(s.num_steps for s in plan.stages[:phase] if s.needed_beyond == 0)
    if facts["num_steps"] - step not in (needed, sum(stages[:phase])):
        raise ValueError(f"step {step} of stage {phase} after {facts['num_steps']}")
    is_open = plan.until is not None
    may_end = phase == len(stages) and step >= (plan.least_draws if is_open else plan.num_draws)
    must_end = may_end and not is_open
    if not must_end <= facts["is_finished"] <= may_end:
        raise ValueError(f"is_finished is {facts['is_finished']} at step {step} of stage {phase}")
    furthest = max(plan.num_draws, next_look(step)) if is_open else plan.num_draws
    if not plan.num_draws <= facts["wanted"] <= furthest:
        raise ValueError(f"wanted is {facts['wanted']} at step {step} of stage {phase}")


def _require_sizes(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError where what is one number, or one for each chain, is something else."""
    num_chains = len(tensors["position"])
    for name, tensor in tensors.items():
        is_scale = name.startswith("averaging.") or (
            name.startswith("learned.") and name.endswith(".0")
        )
        shapes = [(num_chains,), ()] if is_scale else [(num_chains,)]
        is_told = is_scale or name.startswith("tally.")
        if is_told and tuple(tensor.shape) not in shapes:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}")
        if is_scale and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise ValueError(f"{name} is {tensor.tolist()}")
        if name.startswith("tally.") and (tensor.dtype != torch.int64 or bool((tensor < 0).any())):
            raise ValueError(f"{name} is {tensor.tolist()}")
        if tensor.is_complex():
            raise ValueError(f"{name} is complex")


def _state(
    plan: Plan,
    phase: int,
    num_chains: int,
    learned: tuple[Learned, ...],
    tensors: dict[str, Tensor],
    path: Path,
) -> WindowState:
    """The state of the stage that a run is at."""
    is_sampling = phase == len(plan.stages)
    with understanding(path, KIND, REMEDY):
        stage = plan.stages[-1] if is_sampling else plan.stages[phase]
        kernel = fill(stage, learned[-1]) if is_sampling else shaped(stage.kernel, learned[-1])
        position = tensors["position"]
        if len(position) != num_chains:
            raise ValueError(f"positions of {len(position)} chains, for {num_chains}")
        averages = _unnamed("averaging", tensors)
        averaging = DualAveraging(*averages) if averages else None
        stacked = [one.unbind(0) for one in _unnamed("visited", tensors)]
        visited = tuple(zip(*stacked, strict=True))
    template = kernel.init(stage.density, position)
    with understanding(path, KIND, REMEDY):
        inner = _filled(template, _unnamed("state", tensors))
        is_the_same = is_same(template.log_density, inner.log_density)
    is_random = f"{PREFIX}said.target" not in tensors
    if not (is_the_same or is_random):
        raise _another_target(path)
    return WindowState(inner, averaging, visited)


def _require_same_at_draws(
    target: Callable[[Tensor], Tensor], tensors: dict[str, Tensor], path: Path
) -> None:
    """See that the target says of some stored draws what is stored of it."""
    samples, log_density = tensors["samples"], tensors["log_density"]
    if f"{PREFIX}said.target" not in tensors or not len(samples):
        return  # it is random, and says something else each time
    for step in range(0, len(samples), -(-len(samples) // STEPS_TRIED)):
        if not is_same(target(samples[step].clone()).to(log_density), log_density[step]):
            raise _another_target(path)


def _another_target(path: Path) -> StorageError:
    return StorageError(
        f"expected a checkpoint of this target at {path}, got one of another: the log-density at "
        "its positions is not the one it holds. Delete the checkpoint to start afresh."
    )


def _describe(learned: Learned) -> dict[str, Any]:
    """What a Learned holds beside tensors."""
    affine = None if learned.affine is None else type(learned.affine).__name__
    told = learned._replace(scale=None, affine=None)._asdict()
    return told | {"affine": affine}


def _learned(index: int, told: dict[str, Any], tensors: dict[str, Tensor]) -> Learned:
    scale, *parts = _unnamed(f"learned.{index}", tensors)
    affine = None if told["affine"] is None else MAPS[told["affine"]](*parts)
    return Learned(**told)._replace(scale=scale, affine=affine)


def _affine_parts(affine: Affine | Transport | None) -> list[Tensor]:
    return [] if affine is None else list(vars(affine).values())


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
    pairs = list(zip(own, leaves, strict=True))
    if any(torch.as_tensor(old).shape != new.shape for old, new in pairs):
        raise ValueError("its state has other shapes")
    if any(isinstance(old, Tensor) and old.dtype != new.dtype for old, new in pairs):
        raise ValueError("its state has other dtypes")
    filled = [new if isinstance(old, Tensor) else type(old)(new.item()) for old, new in pairs]
    return tree_unflatten(filled, structure)


def _named(prefix: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{index}": tensor for index, tensor in enumerate(tensors)}


def _unnamed(prefix: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    count = sum(name.rpartition(".")[0] == prefix for name in tensors)
    return [tensors[f"{prefix}.{index}"] for index in range(count)]
