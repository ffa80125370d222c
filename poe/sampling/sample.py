"""``poe.sample``: choose a sampler, warm it up, run it, and say what was done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from poe.core.arguments import checked, require_memory, require_memory_for_chains
from poe.core.errors import PoeError
from poe.core.randomness import aside, resolve
from poe.density.capabilities import can_sample_exactly, check_proper, simplify
from poe.density.checks import collected, device_of, require_numbers
from poe.density.closed_forms import exact_sample, require_agreement
from poe.density.conditional import is_batch, num_conditions
from poe.density.coordinates import number_of_chains
from poe.density.expert import Expert, has_estimated_weights
from poe.density.wrappers import in_chunks, require_precision
from poe.draws import Draws
from poe.draws.doubts import rounding_doubts
from poe.draws.verdict import tell
from poe.files.atomic import require_room
from poe.files.signature import Start, sign
from poe.files.tensor_file import require_own
from poe.samplers.kernel import ASYMPTOTICALLY_EXACT, EXACT, Kernel, require_inside, require_kernel
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import Setting, guarantee, missing, needs_fit, needs_tuning
from poe.sampling.driver import Checkpoint, Job, beside, say
from poe.sampling.multimodality import TEMPERING, Look, Modes, look_around, look_nowhere, tempered
from poe.sampling.progress import Callback
from poe.sampling.reached import Reached, at_once, first_look, goal
from poe.sampling.remarks import chain_doubts, compile_doubts, escape_doubts
from poe.sampling.run import Plan, Run, Spent, is_done, is_warm
from poe.sampling.run_checkpoint import FORMAT
from poe.structure.far_mass import failing_where_improper, look_far
from poe.structure.proper import suspects
from poe.tuning.choice import Choice
from poe.tuning.prepared import Prepared, led_to_mass, prepared
from poe.tuning.truncation import summit_doubts, tabulated
from poe.tuning.warmup import Warmup, Window, rejoin, windows

Collect = Callable[[Tensor], Tensor]
ROWS_AT_ONCE = 4096
CLOUD = 256
"""Draws of what warm-up learned of the target, to know its spread and directions by."""
VARYING = "in steps that fit the place, since the scale of the score varies along the chains"
FEW = 4
"""Draws at which closed forms are compared to the log-density."""


@checked
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
    callback: Callback | None = None,
    collect: Collect | None = None,
    chains_at_once: int | None = None,
    compile: bool = False,
    until: Reached | None = None,
) -> Draws:
    """Draw from x ~ p̃ / Z: at least ``num_samples`` draws, as ``(chains, draws, *event)``.

    Without a kernel: independent exact draws where the target (simplified) can be sampled exactly;
    where it has a score, HMC split around a Gaussian that warm-up fits to all chains together
    (``Preconditioned(SplitHMC())``), or in steps that fit the place, by a map that bends, where the
    scale of the score varies (``Preconditioned(AdaptiveStepHMC())``); without one, a random walk
    shaped by their covariance; for a batch of densities MALA; on a discrete space of finitely many
    values Gibbs, by blocks where all factors say how their elements go together
    (``poe.structure.conditionals``), or ``DMALA`` where a sweep of Gibbs is long and a gradient
    foretells what it finds; on counts exact draws from a table where one can be made (in up to
    three dimensions, or where elements are independent), else ``LatticeGibbs`` or ``LatticeMALA``.
    Where chains settled apart by the end of warm-up, or climbs and particles from a broad start
    found mass that no chain comes to, ``ModeJumps`` between the modes, or parallel tempering,
    whichever is seen to move between them (of continuous spaces only). It says which, and why.
    Chains move in unconstrained coordinates (Jacobian included; step sizes refer to those), and the
    draws come back in the target's space.

    Args:
        target: p̃, one density, or a batch of them, one for each chain.
        num_samples: At least so many, of all chains together.
        kernel: Its settings are kept, and the warm-up is burn-in; a step size left out is tuned.
            ``draws.kernel`` shows what was used.
        num_chains: By default as many as are free: one for each 100 samples, up to 128 and to 2¹³
            numbers in all (on an accelerator 1024 and 2²⁰), or one for each 1000, up to 64, where
            that is more; 4 at least. A batch of densities (one condition per chain) has as many
            chains as conditions.
        warmup: Number of steps, or a ``Warmup``. By default 1000; to fit a preconditioner fewer
            with more chains, down to 200, and where the kernel is left out, chains mix slowly or
            the scale of the score varies, twice as many after these; with an annealed kernel the
            steps at the target after the ladder, by default ``steps_per_level``.
        initial: Where the chains start, ``(chains, *event)``. By default draws of the first expert
            of the product that can be sampled exactly, else of priors where ``.at`` reads them,
            else standard normals in unconstrained coordinates, on a discrete space any state alike;
            drawn again, up to 100 times, where the target's log-density is −inf or NaN, or raises
            an error. Where the kernel is left out too, there is a score, and dimensions are at most
            512, paths of an optimiser lead from there to where the mass is. An error at some of the
            positions that a run comes to counts as −inf there, and is told in a remark; at all of
            them it is the target's own.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.
        progress: A line that says what was chosen and a progress bar, both on stderr.
        checkpoint: A file that an interrupted run is written to, and resumed from by the same
            call; the resumed run gives the same bits. The same call has the same target and
            functions (by their code, what they close over, the globals that they read, and what
            they say at recorded points) and a generator in the same state; ``progress``,
            ``callback``, ``chains_at_once`` and ``compile`` have no say. Any other is refused, and
            so is a file that is no checkpoint. Where the file cannot be written later on, the run
            goes on, and this is said in the end.
        callback: Called with a ``poe.Progress`` about a hundred times, always at the same steps:
            ``print``, ``poe.TensorBoard(folder)``, or any function. What it raises ends the run,
            which ``checkpoint`` keeps. Exact draws take no steps, and tell nothing.
        collect: What to keep of each draw, a function of x ``(chains, *event)`` that returns one
            tensor ``(chains, ...)``; by default x.
        chains_at_once: Evaluate the target on no more chains than this at a time, which bounds
            the memory (``poe.Chunked``); by default on all.
        compile: Sample in blocks of steps compiled in one graph. That takes seconds, once a run
            (``draws.compile_seconds``), and pays where steps are many; a model that cannot be
            captured is sampled without, and this is said.
        until: What the draws are to be worth: ``poe.Reached(ess=400)`` goes on from ``num_samples``
            until it is so, or a budget is spent; ``draws.choice`` says which. A checkpoint is gone
            on with by other budgets too. By default ``num_samples`` are enough.

    Returns:
        The draws, with what is known of them.

    Raises:
        ImproperError: Where Z is known to be infinite.
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        GradientError: Where the score that a given kernel asks for is lost, whole or in part.
        NonFiniteError: For a start outside the support, and for parameters that are no numbers.
        PoeError: For a log-density that depends on what other rows are
            evaluated with it; for a corrected kernel on one that is random, or of a module in
            training mode with dropout or batch normalisation; for a closed form of another density.
        SizeError: For more draws than memory holds.
        StorageError: For a checkpoint of another run, or an altered one; for a finished one where
            no generator is given; where no file can be written there.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = sample(target, 1000, generator=g, progress=False)
        >>> draws.samples.shape, draws.guarantee
        (torch.Size([10, 100, 2]), 'asymptotically exact')
    """
    if num_samples < 1:
        raise PoeError(f"expected num_samples >= 1, got {num_samples}")
    if kernel is not None:
        require_kernel(kernel)
    require_precision(target)
    require_numbers(target)
    check_proper(target)
    simple = simplify(target).expert
    choice = ""
    if kernel is None and not can_sample_exactly(simple) and (table := tabulated(target)):
        simple, choice = table, table.why
    is_exact = kernel is None and can_sample_exactly(simple)
    least_samples = num_samples
    if until is not None:
        num_samples = first_look(until, num_samples, num_conditions(target) or 1)
    if collect is None:
        where = device_of(target) if initial is None else initial.device
        require_memory(num_samples, target.space.event_shape, where)
    num_chains = number_of_chains(target, num_samples, num_chains, initial)
    device = device_of(target) if initial is None else initial.device
    require_memory_for_chains(num_chains, target.space.event_shape, device)
    is_given, generator = generator is not None, resolve(generator, device)
    began = Start.of(generator, is_given=is_given)
    path = _room_for(checkpoint)
    if is_exact:
        if path is not None:
            require_own(path, FORMAT)  # nothing is written, but the place was meant for a run
        why = choice or f"{_name(simple)} can be sampled exactly"
        say(progress, f"exact, independent draws ({why})")
        draws = _sample_exactly(target, simple, num_samples, num_chains, generator, collect)
        ended = "" if until is None else at_once(until, draws.log_density.numel())
        draws = replace(draws, choice="; ".join(filter(None, [choice, ended])))
        return _told(draws, target, collect)
    begin = prepared(
        target,
        num_chains,
        initial=initial,
        kernel=kernel,
        chains_at_once=chains_at_once,
        generator=generator,
    )
    if kernel is None and initial is None:
        begin = led_to_mass(begin, generator)
    counts = (num_samples, num_chains, warmup)
    plan = Plan(
        stages=_stages(begin, warmup),
        num_draws=-(-num_samples // num_chains),
        coordinates=begin.coordinates,
        generator=generator,
        collect=collect,
        suspects=suspects(target),
        compile=compile,
        raised=begin.raised,
        before=Spent(0, -(-begin.num_evaluations // num_chains), 0.0),
        until=until,
        least_draws=-(-least_samples // num_chains),
        is_batch=is_batch(begin.target),
    )
    called_with: dict[str, object] = {
        "target": begin.target,
        "kernel": kernel,
        "num_samples, num_chains, warmup": counts,
        "initial": initial,
        "collect": collect,
        "until": None if until is None else goal(until),
    }
    kept = None if path is None else _checkpoint(path, began, called_with, begin, collect)
    job = Job(plan, progress, kept, callback)
    look = look_around if kernel is None else look_nowhere
    with failing_where_improper(begin.target, begin.u):
        followed = _followed(begin, job, look)
    draws = _gather(*followed, is_chosen=kernel is None)
    if kernel is None:
        draws = replace(draws, doubts=(*draws.doubts, *summit_doubts(target)))
    return _told(draws, target, collect)


def _told(draws: Draws, target: Expert, collect: Collect | None) -> Draws:
    """What is to be doubted of the draws of a run, told once."""
    if collect is None:
        rounded = rounding_doubts(draws, target.space)
        draws = replace(draws, doubts=(*draws.doubts, *rounded))
    tell(draws)
    return draws


def _room_for(checkpoint: str | os.PathLike[str] | None) -> Path | None:
    """The path, where nothing stands against a checkpoint there, nor beside it."""
    if checkpoint is None:
        return None
    path = Path(checkpoint).absolute()  # a callback may go to another folder
    require_room(path)
    if (other := beside(path, TEMPERING)).exists():
        require_room(other)
        require_own(other, FORMAT)
    return path


@torch.no_grad()
def _checkpoint(
    path: Path,
    start: Start,
    called_with: dict[str, object],
    begin: Prepared,
    collect: Collect | None,
) -> Checkpoint:
    """The run's file, for which target and ``collect`` are tried where the chains start."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "target": in_chunks(begin.target, begin.chains_at_once)
    }
    if collect is not None:
        functions["collect"] = lambda x: collected(collect, x)
    x = begin.coordinates.to_x(begin.u)
    return Checkpoint(path, sign(start, called_with, functions, x), functions)


def _followed(begin: Prepared, job: Job, look: Look) -> tuple[Prepared, Run, float]:
    """The run at its end, and its seconds: of the chains, or tempered where these miss modes."""
    said = f"{_chosen(begin.choice, job.plan, len(begin.u))}, started at {begin.started_at}"
    with job.begin(begin.u, said) as following:
        run = following.run
        following.until(is_warm)
        _look_far(begin, run)
        seen, spent = look(begin, run)
        say(job.progress and bool(seen.said), seen.said)
        if not isinstance(seen, Modes):
            run.count_as_warmup(spent)
            run.doubt(seen.doubts)
            following.until(is_done)
            return begin, run, following.seconds
    began = time.perf_counter()
    begin, job = tempered(begin, following.job, run, seen, spent)
    seconds = following.seconds + time.perf_counter() - began
    with job.begin(begin.u, _chosen(begin.choice, job.plan, len(begin.u))) as again:
        if again.run.moment.num_steps == 0:
            again.run.doubt(run.moment.doubts)
        again.until(is_done)
        return begin, again.run, seconds + again.seconds


def _look_far(begin: Prepared, run: Run) -> None:
    """Note whether the target has infinite mass, by rays from the chains at the end of warm-up."""
    if run.moment.step > 0:  # asked before the run was interrupted
        return
    began = time.perf_counter()
    u, affine = run.moment.state.inner.position, run.moment.learned[-1].affine
    cloud = None if affine is None else affine.to_x(_normal_like(u, run.plan.generator))
    looked = look_far(begin.target, u, cloud=cloud, rows_at_once=begin.chains_at_once)
    run.doubt(looked.doubts)
    num_gradients = -(-looked.num_evaluations // len(u))
    run.count_as_warmup(Spent(0, num_gradients, time.perf_counter() - began))


def _normal_like(u: Tensor, generator: torch.Generator) -> Tensor:
    """As many standard normals as tell a spread, of the events of ``u``, drawn aside."""
    return u.new_empty((CLOUD, *u.shape[1:])).normal_(generator=aside(generator))


def _stages(begin: Prepared, warmup: int | Warmup | None) -> tuple[Window, ...]:
    """The warm-up's stages, in the chains' coordinates, some chains at a time."""
    asked = warmup if warmup is None or isinstance(warmup, Warmup) else Warmup(warmup)
    plan = windows(begin.target, begin.choice.kernel, asked, len(begin.u))
    return tuple(window._replace(density=begin.pull(window.density)) for window in plan)


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
    rows = num_chains if is_batch(target) else max(1, ROWS_AT_ONCE // num_chains) * num_chains
    kept, values = [], []
    with torch.no_grad():
        for first in range(0, num_chains * num_draws, rows):
            count = min(rows, num_chains * num_draws - first)
            x = exact_sample(simple, count, generator)
            if not first:
                require_agreement(target, x if is_batch(target) else x[:FEW])
            kept.append(_split(collected(collect, x), num_chains))
            values.append(_split(target(x), num_chains))
    return Draws(
        samples=torch.cat(kept, 1),
        log_density=torch.cat(values, 1),
        guarantee=ASYMPTOTICALLY_EXACT if has_estimated_weights(target) else EXACT,
        seconds=time.perf_counter() - began,
        seed=generator.initial_seed(),
        is_batch=is_batch(target),
    )


def _split(x: Tensor, num_chains: int) -> Tensor:
    """``(draws * chains, ...)`` to ``(chains, draws, ...)``."""
    return x.unflatten(0, (len(x) // num_chains, num_chains)).transpose(0, 1)


def _gather(begin: Prepared, run: Run, seconds: float, *, is_chosen: bool) -> Draws:
    """The draws of a finished run, whose kernel was chosen or given, and what it noticed."""
    choice = begin.choice
    assert run.samples is not None
    assert run.log_density is not None
    assert run.ending is not None
    num_draws = run.moment.step
    used = rejoin(choice.kernel, run.plan.stages, run.moment.learned[1:])
    known = guarantee(used)
    require_inside(used, begin.target.space, run.moment.state.inner.position)
    tally, (warmup_gradients, num_gradients) = run.moment.tally, run.moment.num_gradients
    before = run.plan.before
    learned = run.moment.learned[-1]
    varying = VARYING if learned.has_varying_scale else ""
    count = learned.num_restarted
    anew = f"{count} times a chain that stood still began anew" if count else ""
    draws = Draws(
        samples=run.samples[:num_draws].transpose(0, 1),
        log_density=run.log_density[:num_draws].transpose(0, 1),
        guarantee=known,
        kernel=used,
        choice="; ".join(filter(None, [choice.why, varying, anew, run.ending.said])),
        acceptance_rate=tally.accepted / num_draws,
        num_outside=tally.outside,
        num_undefined=tally.undefined,
        num_divergent=tally.divergent,
        num_warmup=before.num_steps + run.moment.num_steps - num_draws,
        warmup_gradients=before.num_gradients + warmup_gradients,
        num_gradients=num_gradients,
        seconds=seconds,
        warmup_seconds=before.seconds + run.moment.seconds[0],
        sampling_seconds=run.moment.seconds[1] - run.compile_seconds,
        compile_seconds=run.compile_seconds,
        seed=run.plan.generator.initial_seed(),
        tuned=_tuned(run.plan, is_chosen),
        is_batch=is_batch(begin.target),
    )
    doubts = [
        *run.moment.doubts,
        *run.plan.raised.doubts(),
        *chain_doubts(draws),
        *escape_doubts(run, draws),
        *compile_doubts(run),
        *run.ending.doubts,
    ]
    return replace(draws, doubts=tuple(doubts))


def _tuned(plan: Plan, is_chosen: bool) -> tuple[str, ...]:
    """The settings that the caller left to the run: all of them, where it chose the kernel."""
    left_out = [missing(stage.kernel) for stage in plan.stages]
    settings = Setting if is_chosen else frozenset().union(*left_out)
    return tuple(sorted(setting.value for setting in settings))


def _chosen(choice: Choice, plan: Plan, num_chains: int) -> str:
    kernels = [stage.kernel for stage in plan.stages]
    learns = {
        "step size tuned": any(map(needs_tuning, kernels)),
        "preconditioner fitted": any(map(needs_fit, kernels)),
    }
    learned = ", ".join(what for what, is_learned in learns.items() if is_learned)
    until = "" if plan.until is None else f" or more, until {plan.until},"
    return (
        f"{_kernel_name(choice.kernel)} ({choice.why}), {num_chains} chains x {plan.num_draws} "
        f"draws{until} after {plan.num_warmup} warm-up steps" + (f" ({learned})" if learned else "")
    )


def _kernel_name(kernel: Kernel) -> str:
    if isinstance(kernel, Preconditioned):
        return f"preconditioned {_name(kernel.kernel)}"
    return _name(kernel)


def _name(value: object) -> str:
    return type(value).__name__
