"""``poe.sample``: choose a sampler, warm it up, run it, and say what was done."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from poe import checkpoint as checkpoints
from poe.adapt_kernel import Warmup, needs_tuning, rejoin, stages
from poe.conditional import Given
from poe.coordinates import Coordinates
from poe.draws import Draws
from poe.errors import PoeError, ShapeError, StorageError, TrustWarning
from poe.expert import Expert, Tempered
from poe.loop import Plan, Run, Spread
from poe.properties import can_sample_exactly, check_proper, exact_sample, simplify
from poe.randomness import resolve
from poe.samplers.annealed import AnnealedLangevin
from poe.samplers.kernel import BIASED, Kernel, require_start
from poe.samplers.langevin import MALA

Collect = Callable[[Tensor], Tensor]
SECONDS_BETWEEN_CHECKPOINTS = 30.0
SECONDS_BETWEEN_REPORTS = 0.2
MAX_START_ATTEMPTS = 100
ABSURD_GROWTH = 1e6
ROWS_AT_ONCE = 4096


def sample(
    target: Expert,
    num_samples: int,
    *,
    kernel: Kernel | None = None,
    num_chains: int | None = None,
    warmup: int | Warmup | None = None,
    initial: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    collect: Collect | None = None,
) -> Draws:
    """Draw from x ~ p̃ / Z: at least ``num_samples`` draws, as ``(chains, draws, *event)``.

    Without a kernel: independent exact draws where the target (simplified) can be sampled exactly;
    otherwise MALA, its step size tuned in warm-up to an acceptance rate of 0.574 over all chains.
    Chains move in unconstrained coordinates (Jacobian included; step sizes refer to those) and the
    draws come back in the target's own space.

    - ``kernel``: its settings are kept, and the warm-up is burn-in; a step size left out is tuned.
      ``draws.kernel`` shows what was used.
    - ``num_chains``: by default 4 to 64, one for each 1000 samples (long enough for R-hat to
      mean something); more is cheaper a draw where the target is costly. A batch of densities (one
      condition per chain) has as many chains as conditions.
    - ``warmup``: number of steps (default 1000; with an annealed kernel the steps at the target
      after the ladder, default ``steps_per_level``), or a ``Warmup``.
    - ``initial`` ``(chains, *event)``: where the chains start. By default draws of the first expert
      of the product that can be sampled exactly, else standard normals in unconstrained
      coordinates; drawn again, up to 100 times, where the target's log-density is −inf.
    - ``progress``: a line that says what was chosen and a progress bar, both on stderr.
    - ``checkpoint``: a file that an interrupted run is written to, and resumed from by the same
      call; the resumed run gives the same bits.
    - ``collect``: what to keep of each draw, a function of x ``(chains, *event)``; by default x.

    Raises ImproperError, NonFiniteError (a start outside the support), PoeError (a discrete space
    without a kernel), StorageError (a checkpoint of another run, or an altered one).

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    >>> g = torch.Generator().manual_seed(0)
    >>> draws = sample(target, 1000, warmup=200, generator=g, progress=False)
    >>> draws.samples.shape, draws.guarantee
    (torch.Size([4, 250, 2]), 'asymptotically exact')
    """
    if num_samples < 1:
        raise PoeError(f"expected num_samples >= 1, got {num_samples}")
    check_proper(target)
    seed = None if generator is None else generator.initial_seed()
    generator = resolve(generator, _device_of(target, initial))
    num_chains = _num_chains(target, num_samples, num_chains, initial)
    simple = simplify(target).expert
    if kernel is None and can_sample_exactly(simple):
        _say(progress, f"exact, independent draws ({_name(simple)} can be sampled exactly)")
        return _sample_exactly(target, simple, num_samples, num_chains, generator, collect)
    if kernel is None and target.space.is_discrete:
        raise PoeError(
            f"expected a kernel for the discrete space {target.space}: the default, MALA, needs "
            "gradients. Give one that moves on that space, by `kernel=`."
        )
    kernel = MALA() if kernel is None else kernel
    warmup = _warmup(kernel, warmup)
    plan = _plan(target, kernel, num_samples, num_chains, warmup, generator, collect)
    schedule = (num_samples, num_chains, warmup)
    settings = (target, kernel, schedule, initial, collect, seed)
    return _execute(target, kernel, plan, settings, num_chains, initial, progress, checkpoint)


def _num_chains(
    target: Expert, num_samples: int, num_chains: int | None, initial: Tensor | None
) -> int:
    """The number of chains, on which all who have a say must agree."""
    said: dict[str, int] = {}
    if num_chains is not None:
        said["num_chains"] = num_chains
    if initial is not None:
        [said["initial.shape[0]"]] = target.space.batch_shape(initial)[:1] or [0]
    for module in target.modules():
        if isinstance(module, Given) and module.condition.ndim:
            said["the target's number of conditions"] = len(module.condition)
    if len(set(said.values())) > 1 or any(count < 1 for count in said.values()):
        text = ", ".join(f"{who} = {count}" for who, count in said.items())
        raise ShapeError(f"expected one number of chains >= 1, got {text}: make them agree")
    return next(iter(said.values()), min(64, max(4, num_samples // 1000)))


def _warmup(kernel: Kernel, warmup: int | Warmup | None) -> Warmup:
    if warmup is None:
        return Warmup(kernel.steps_per_level) if isinstance(kernel, AnnealedLangevin) else Warmup()
    return Warmup(warmup) if isinstance(warmup, int) else warmup


def _plan(
    target: Expert,
    kernel: Kernel,
    num_samples: int,
    num_chains: int,
    warmup: Warmup,
    generator: torch.Generator,
    collect: Collect | None,
) -> Plan:
    """The stages of a run, in unconstrained coordinates."""
    coordinates = Coordinates(target.space)
    return Plan(
        stages=tuple(
            stage._replace(target=coordinates.pull(stage.target))
            for stage in stages(target, kernel, warmup)
        ),
        num_draws=-(-num_samples // num_chains),
        coordinates=coordinates,
        generator=generator,
        collect=collect,
        is_watched=bool(_negative_factors(target)),
    )


def _execute(
    target: Expert,
    kernel: Kernel,
    plan: Plan,
    settings: tuple[object, ...],
    num_chains: int,
    initial: Tensor | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> Draws:
    """Start or resume the run, follow it to its end, and gather the draws."""
    began = time.perf_counter()
    facts: dict[str, Any] = {"settings": "", "seconds": 0.0}
    if checkpoint is not None:
        facts["settings"] = checkpoints.fingerprint(settings)
    if checkpoint is not None and Path(checkpoint).exists():
        run, facts["seconds"] = _resume(plan, checkpoint, facts)
        _say(progress, f"resumed from {checkpoint} after {run.moment.num_steps} steps")
    else:
        x, where = _start(target, num_chains, initial, plan)
        _say(progress, f"{_chosen(kernel, plan, num_chains)}, started at {where}")
        run = Run.start(plan, plan.coordinates.to_u(x))

    def write() -> None:
        if checkpoint is not None:
            seconds = facts["seconds"] + time.perf_counter() - began
            run.save(checkpoint, {**facts, "seconds": seconds})

    try:
        _follow(run, progress, write)
    finally:  # an interrupted run is written too, whatever interrupted it
        write()
    seconds = facts["seconds"] + time.perf_counter() - began
    return _gather(target, kernel, run, seconds)


def _follow(run: Run, progress: bool, write: Callable[[], None]) -> None:
    """Advance a run to its end, with a progress bar and a checkpoint now and then."""
    total = run.plan.num_warmup + run.plan.num_draws
    reported = written = time.monotonic()
    with tqdm(total=total, initial=run.moment.num_steps, disable=not progress, unit="step") as bar:
        while not run.is_done:
            run.advance()
            now = time.monotonic()
            if progress and (now - reported > SECONDS_BETWEEN_REPORTS or run.is_done):
                _report(run, bar)
                reported = now
            if now - written > SECONDS_BETWEEN_CHECKPOINTS:
                write()
                written = now


def _report(run: Run, bar: tqdm) -> None:
    bar.set_description("sampling" if run.is_sampling else "warm-up", refresh=False)
    if run.last_info is not None:
        acceptance = run.last_info.acceptance_probability.mean().item()
        bar.set_postfix_str(f"acceptance {acceptance:.2f}", refresh=False)
    bar.update(run.moment.num_steps - bar.n)


def _resume(plan: Plan, path: str | os.PathLike[str], facts: dict[str, Any]) -> tuple[Run, float]:
    """The run that a checkpoint holds and the seconds it took. Refuses that of another run."""
    found, tensors = checkpoints.read(path)
    if found.get("settings") != facts["settings"]:
        raise StorageError(
            f"expected a checkpoint of this run at {path}, got one of another target, kernel, seed "
            "or settings: call with the same arguments and a generator of the same seed, or delete "
            "it to start afresh"
        )
    return Run.restore(plan, found, tensors), found["seconds"]


def _start(
    target: Expert, num_chains: int, initial: Tensor | None, plan: Plan
) -> tuple[Tensor, str]:
    """Start positions in the target's space, and where they come from in words."""
    if initial is not None:
        _require_usable(target, initial)
        return initial.detach(), "`initial`"
    source = _samplable_factor(target)
    like = torch.empty(0, dtype=_dtype_of(target), device=_device_of(target, None))

    def draw() -> Tensor:
        if source is not None:
            return exact_sample(source[1], num_chains, plan.generator)
        event_shape = plan.coordinates.u_space.event_shape
        u = like.new_empty((num_chains, *event_shape)).normal_(generator=plan.generator)
        return plan.coordinates.to_x(u)

    x = _inside(target, draw)
    _require_usable(target, x)
    where = f"draws of expert {source[0]!r}" if source else "standard normals"
    return x, where


@torch.no_grad()
def _inside(target: Expert, draw: Callable[[], Tensor]) -> Tensor:
    """Draws, repeated for the chains where the target's log-density is −inf."""
    x = draw()
    for _ in range(MAX_START_ATTEMPTS):
        is_outside = target(x) == -torch.inf
        if not is_outside.any():
            break
        x = torch.where(is_outside.reshape(-1, *([1] * (x.ndim - 1))), draw(), x)
    return x


def _require_usable(target: Expert, x: Tensor) -> None:
    with torch.no_grad():
        require_start(target, x, target(x), None)


def _samplable_factor(target: Expert) -> tuple[str, Expert] | None:
    """The first factor with a positive exponent that can be sampled exactly, with its name."""
    for name, factor in target._factors():
        is_positive = True
        while isinstance(factor, Tempered):
            is_positive = is_positive and factor.exponent.item() > 0
            factor = factor.expert
        if is_positive and can_sample_exactly(factor):
            return name, factor
    return None


def _negative_factors(target: Expert) -> list[str]:
    """The factors whose exponent is negative: they can make a product improper."""
    return [
        name
        for name, factor in target._factors()
        if any(isinstance(m, Tempered) and m.exponent.item() < 0 for m in factor.modules())
    ]


def _sample_exactly(
    target: Expert,
    simple: Expert,
    num_samples: int,
    num_chains: int,
    generator: torch.Generator,
    collect: Collect | None,
) -> Draws:
    """Independent draws, shaped as chains so that every diagnostic applies."""
    began = time.perf_counter()
    num_draws = -(-num_samples // num_chains)
    is_batch = any(isinstance(m, Given) and m.condition.ndim for m in target.modules())
    rows = num_chains if is_batch else max(1, ROWS_AT_ONCE // num_chains) * num_chains
    kept, values = [], []
    with torch.no_grad():
        for first in range(0, num_chains * num_draws, rows):
            count = min(rows, num_chains * num_draws - first)
            x = exact_sample(simple, count, generator)
            kept.append(_split(x if collect is None else collect(x), num_chains))
            values.append(_split(target(x), num_chains))
    return Draws(
        samples=torch.cat(kept, 1),
        log_density=torch.cat(values, 1),
        guarantee="exact",
        seconds=time.perf_counter() - began,
        seed=generator.initial_seed(),
    )


def _split(x: Tensor, num_chains: int) -> Tensor:
    """``(draws * chains, ...)`` to ``(chains, draws, ...)``."""
    return x.reshape(-1, num_chains, *x.shape[1:]).transpose(0, 1)


def _gather(target: Expert, kernel: Kernel, run: Run, seconds: float) -> Draws:
    """The draws of a finished run, and a warning for each thing it noticed."""
    assert run.samples is not None
    assert run.log_density is not None
    used = rejoin(kernel, run.plan.stages, run.moment.tuned)
    tally = run.moment.tally
    draws = Draws(
        samples=run.samples,
        log_density=run.log_density,
        guarantee=used.guarantee,
        kernel=used,
        acceptance_rate=tally.accepted / run.plan.num_draws,
        num_outside=tally.outside,
        num_undefined=tally.undefined,
        num_warmup=run.plan.num_warmup,
        seconds=seconds,
        seed=run.plan.generator.initial_seed(),
    )
    remarks = [*_chain_remarks(draws), *_escape_remarks(target, run, draws)]
    for remark in remarks:
        warnings.warn(remark, TrustWarning, stacklevel=4)
    return replace(draws, remarks=tuple(remarks))


def _chain_remarks(draws: Draws) -> list[str]:
    """What the counts of a run say, in words."""
    remarks = []
    assert draws.num_undefined is not None
    undefined, chains = int(draws.num_undefined.sum()), int((draws.num_undefined > 0).sum())
    if undefined and draws.guarantee == BIASED:
        remarks.append(
            f"{chains} of {len(draws.samples)} chains exploded: {undefined} of their positions "
            "have a non-finite log-density or score. Use a smaller step size, or MALA."
        )
    elif undefined:
        remarks.append(
            f"{undefined} proposals of {chains} chains had a NaN or +inf log-density or a NaN "
            "score, and were rejected: the target is not defined there."
        )
    if stuck := draws.stuck_chains:
        remarks.append(
            f"{len(stuck)} of {len(draws.samples)} chains never moved while sampling (chain "
            f"{stuck[0]} is one): use a smaller step size, a longer warm-up or another start."
        )
    return remarks


def _escape_remarks(target: Expert, run: Run, draws: Draws) -> list[str]:
    """Whether the chains of a possibly improper target were on their way to infinity."""
    spread: Spread | None = run.moment.spread
    if spread is None:
        return []
    history = spread.means(run.moment.num_steps)
    means = history[-3:].tolist()
    is_growing = len(means) == 3 and all(b > 1.3 * a for a, b in pairwise(means))
    # Chains that ran away may end where rounding freezes them, or in NaN (hence the `not`).
    is_far = not history[-1] <= ABSURD_GROWTH * history[0]
    is_stuck = bool(draws.stuck_chains)  # MALA can resist a runaway only by rejecting
    if not (is_growing or is_far or is_stuck):
        return []
    distances = ", ".join(f"{mean**0.5:.3g}" for mean in means)
    blamed = ", ".join(repr(name) for name in _negative_factors(target))
    return [
        f"the chains {'got stuck' if is_stuck else 'were still moving outward at the end'} "
        f"(root-mean-square distance from the start {distances} over successive doublings of the "
        "run): the product may be improper, or not yet converged. It has a negative exponent on "
        f"{blamed}."
    ]


def _chosen(kernel: Kernel, plan: Plan, num_chains: int) -> str:
    is_tuned = any(needs_tuning(stage.kernel) for stage in plan.stages)
    tuning = " (step size tuned)" if is_tuned else ""
    return (
        f"{_name(kernel)}, {num_chains} chains x {plan.num_draws} draws after {plan.num_warmup} "
        f"warm-up steps{tuning}"
    )


def _name(value: object) -> str:
    return type(value).__name__


def _say(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(f"poe.sample: {text}", file=sys.stderr)


def _dtype_of(target: Expert) -> torch.dtype:
    """The dtype of the target's own arrays; a lone number, such as an exponent, has no say."""
    tensors = [*target.parameters(), *target.buffers()]
    floats = (t.dtype for t in tensors if t.is_floating_point() and t.ndim)
    return next(floats, torch.get_default_dtype())


def _device_of(target: Expert, initial: Tensor | None) -> torch.device:
    tensors = [initial] if initial is not None else [*target.parameters(), *target.buffers()]
    return next((t.device for t in tensors), torch.get_default_device())
