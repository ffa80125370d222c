"""Warm-up: the step size by dual averaging, apart from the kernels (none re-tunes itself)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.expert import Expert
from poe.samplers.annealed import AnnealedLangevin
from poe.samplers.kernel import Info, Kernel, TunableKernel


@dataclass(frozen=True)
class Warmup:
    """How to warm up.

    - ``num_steps``: the steps before sampling; with a ladder, the steps at the target after it.
    - ``per_chain``: tune one step size for each chain, on its own acceptance, in place of one step
      size for all on the mean acceptance. For a batch of densities, where each chain has its own
      target; it is noisier, so it needs more steps.

    A step size for all is tuned in the second half of the steps. In the first half each chain has
    its own, so that one that starts where only small steps are accepted finds its way out.
    """

    num_steps: int = 1000
    per_chain: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise PoeError(f"expected num_steps >= 0, got {self.num_steps}")


class DualAveraging(NamedTuple):
    """Nesterov dual averaging of a log-scale; every tensor is () or (chains,)."""

    log_scale: Tensor
    log_scale_average: Tensor
    error_average: Tensor
    anchor: Tensor
    num_updates: Tensor


def start_averaging(scale: Tensor) -> DualAveraging:
    """Dual averaging that begins at that scale and leans towards ten times it."""
    zero, log_scale = torch.zeros_like(scale), scale.log()
    return DualAveraging(log_scale, zero, zero, log_scale + math.log(10.0), torch.zeros_like(scale))


def update_averaging(state: DualAveraging, acceptance: Tensor, target: float) -> DualAveraging:
    """One update towards the target acceptance.

    H̄ₜ = (1 − 1/(t + t₀)) H̄ₜ₋₁ + (δ − αₜ)/(t + t₀);  log εₜ = μ − √t/γ H̄ₜ;
    log ε̄ₜ = t^−κ log εₜ + (1 − t^−κ) log ε̄ₜ₋₁, with γ = 0.05, t₀ = 10, κ = 0.75.

    Source: Hoffman & Gelman 2014, eq. 6 and section 3.2.

    >>> state = start_averaging(torch.tensor(1.0))
    >>> for _ in range(500):  # a chain that accepts with probability exp(-scale)
    ...     state = update_averaging(state, torch.exp(-state.log_scale.exp()), 0.5)
    >>> round(float(state.log_scale_average.exp()), 1)  # exp(-0.7) = 0.5
    0.7
    """
    t = state.num_updates + 1.0
    weight = 1.0 / (t + 10.0)
    error = (1.0 - weight) * state.error_average + weight * (target - acceptance)
    log_scale = state.anchor - t.sqrt() / 0.05 * error
    eta = t**-0.75
    average = eta * log_scale + (1.0 - eta) * state.log_scale_average
    return DualAveraging(log_scale, average, error, state.anchor, t)


class Stage(NamedTuple):
    """A stretch of warm-up: that many steps of a kernel at a density."""

    target: Expert
    kernel: Kernel
    num_steps: int
    per_chain: bool = False
    """Whether a step size left out is tuned for each chain apart."""
    is_last: bool = True
    """Whether the level's step size is the one tuned here."""
    descend: Callable[[Any], Tensor] = attrgetter("position")
    """Where the next stage starts, from the state of this stage's kernel."""


def stages(target: Expert, kernel: Kernel, warmup: Warmup) -> tuple[Stage, ...]:
    """The warm-up of a kernel: its stages, or for a ladder those of each level and the target's."""
    if not isinstance(kernel, AnnealedLangevin):
        return _halves(Stage(target, kernel, warmup.num_steps, warmup.per_chain))
    steps = [kernel.steps_per_level] * len(kernel.ladder) + [warmup.num_steps]
    levels = [
        Stage(density, kernel.kernel_at(level), steps[level], warmup.per_chain)
        for level, density in enumerate((*kernel.ladder, target))
    ]
    for level in range(len(kernel.ladder)):
        descend = partial(kernel.descend, level=level)
        levels[level] = levels[level]._replace(descend=descend)
    return tuple(half for level in levels for half in _halves(level))


def _halves(stage: Stage) -> tuple[Stage, ...]:
    """Before one step size for all is tuned, one for each chain, so that none stays behind."""
    if not needs_tuning(stage.kernel):
        return (stage,)
    if stage.num_steps == 0:
        raise PoeError(
            f"expected warm-up steps to tune the step size that {type(stage.kernel).__name__} "
            "leaves out, got 0: give the step size, or a warm-up"
        )
    if stage.per_chain:
        return (stage,)
    first = stage.num_steps // 2
    return (
        Stage(stage.target, stage.kernel, first, per_chain=True, is_last=False),
        stage._replace(num_steps=stage.num_steps - first),
    )


def rejoin(kernel: Kernel, plan: tuple[Stage, ...], tuned: tuple[Kernel, ...]) -> Kernel:
    """The kernel with the tuned kernels of its stages in their places."""
    tuned = tuple(inner for stage, inner in zip(plan, tuned, strict=True) if stage.is_last)
    if not isinstance(kernel, AnnealedLangevin):
        return tuned[0]
    if not all(isinstance(inner, TunableKernel) for inner in tuned):
        return replace(kernel, kernel=tuned, step_size=None)
    scales = tuple(inner.scale_setting for inner in tuned)  # type: ignore[attr-defined]
    return replace(kernel, step_size=scales)


def needs_tuning(kernel: Kernel) -> bool:
    """Whether the kernel's scale was left out."""
    return isinstance(kernel, TunableKernel) and kernel.scale_setting is None


def first_scale(x: Tensor) -> Tensor:
    """Where tuning begins, for each chain: d^(−1/2), of shape ``(chains,)``."""
    dimension = max(1, x[0].numel())
    return torch.full(x.shape[:1], dimension**-0.5, dtype=x.dtype, device=x.device)


class StageState(NamedTuple):
    """Where a stage stands: the kernel's state, and the averaging where its scale is tuned."""

    inner: Any
    averaging: DualAveraging | None


def begin_stage(stage: Stage, x: Tensor, scale: Tensor) -> StageState:
    """Start a stage at ``x``; tuning begins at the chains' scales, or at their geometric mean."""
    inner = stage.kernel.init(stage.target, x)
    if not needs_tuning(stage.kernel):
        return StageState(inner, None)
    first = scale if stage.per_chain else scale.log().mean().exp()
    return StageState(inner, start_averaging(first))


def stage_step(
    stage: Stage, state: StageState, generator: torch.Generator
) -> tuple[StageState, Info]:
    """One step of a stage's kernel, and one update of its scale where that is tuned."""
    averaging = state.averaging
    if averaging is None:
        inner, info = stage.kernel.step(stage.target, state.inner, generator=generator)
        return StageState(inner, None), info
    kernel = cast(TunableKernel, stage.kernel).with_scale(averaging.log_scale.exp())
    inner, info = kernel.step(stage.target, state.inner, generator=generator)
    probability = info.acceptance_probability
    acceptance = probability if averaging.log_scale.ndim else probability.mean()
    averaging = update_averaging(averaging, acceptance, kernel.target_acceptance)
    return StageState(inner, averaging), info


def end_stage(stage: Stage, state: StageState) -> Kernel:
    """The stage's kernel with the scale that was tuned: a number, or ``(chains,)``."""
    if state.averaging is None:
        return stage.kernel
    assert isinstance(stage.kernel, TunableKernel)
    scale = state.averaging.log_scale_average.exp()
    return stage.kernel.with_scale(scale if scale.ndim else scale.item())


def warm_up(
    target: Expert,
    kernel: Kernel,
    x: Tensor,
    warmup: Warmup,
    *,
    generator: torch.Generator,
) -> tuple[Kernel, Tensor]:
    """Run a kernel's warm-up: the kernel with nothing left out, and where the chains ended.

    A setting given is kept (the warm-up is then burn-in); a step size left out is tuned by dual
    averaging to the kernel's target acceptance, level by level where there is a ladder.

    Shapes: x ``(chains, *event)``. Raises PoeError where a step size must be tuned in no steps.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> g = torch.Generator().manual_seed(0)
    >>> kernel, x = warm_up(
    ...     target, poe.samplers.MALA(), torch.zeros(50, 2), Warmup(300), generator=g
    ... )
    >>> 0.5 < kernel.step_size < 2.0
    True
    """
    tuned: tuple[Kernel, ...] = ()
    scale, plan = first_scale(x), stages(target, kernel, warmup)
    for stage in plan:
        state = begin_stage(stage, x, scale)
        for _ in range(stage.num_steps):
            state, _ = stage_step(stage, state, generator)
        tuned = (*tuned, end_stage(stage, state))
        x, scale = stage.descend(state.inner), next_scale(state, scale)
    return rejoin(kernel, plan, tuned), x


def next_scale(state: StageState, scale: Tensor) -> Tensor:
    """Where the next stage's tuning begins, for each chain: at this stage's scale, if it tuned."""
    averaging = state.averaging
    if averaging is None or not (averaging.num_updates > 0).all():
        return scale
    return averaging.log_scale_average.exp().expand_as(scale)


def tune_ladder(
    target: Expert,
    kernel: AnnealedLangevin,
    x: Tensor,
    *,
    num_steps: int,
    per_chain: bool = False,
    generator: torch.Generator,
) -> AnnealedLangevin:
    """Tune an annealed kernel's step size at each level, in ``num_steps`` steps a level.

    Every step size left out is tuned to its kernel's target acceptance at its own level, beginning
    with the one tuned for the level before; the kernel that comes back holds them in ``step_size``
    (L + 1 numbers, or with ``per_chain`` tensors of shape ``(chains,)``) and keeps its own
    ``steps_per_level``.

    Shapes: x ``(chains, *event)``, positions on the first level.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -50.0 * x.square().sum(-1), space=poe.Real(2))
    >>> ladder = poe.samplers.AnnealedLangevin((target ** 0.01,), steps_per_level=5)
    >>> g = torch.Generator().manual_seed(0)
    >>> tuned = tune_ladder(target, ladder, torch.zeros(50, 2), num_steps=200, generator=g)
    >>> broad, sharp = tuned.step_size
    >>> tuned.steps_per_level, broad > 10 * sharp
    (5, True)
    """
    longer = replace(kernel, steps_per_level=num_steps)
    tuned, _ = warm_up(target, longer, x, Warmup(num_steps, per_chain), generator=generator)
    assert isinstance(tuned, AnnealedLangevin)
    return replace(tuned, steps_per_level=kernel.steps_per_level)
