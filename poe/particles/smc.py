"""``poe.smc``: tempered adaptive sequential Monte Carlo, which gives weighted draws and log Z."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.arguments import checked, require_memory
from poe.core.doubt import Doubt, Kind
from poe.core.errors import NonFiniteError, PoeError
from poe.core.randomness import aside, resolve
from poe.density.checks import device_of
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert, shared_space
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import (
    CONFIDENCE,
    log_mean,
    num_agreeing,
    standard_error_of_log_mean,
    t_quantile,
)
from poe.diagnostics.weights import kish_ess
from poe.draws import Draws
from poe.draws.doubts import rounding_doubts
from poe.draws.verdict import tell
from poe.particles.fitted import fit_density, with_tails
from poe.particles.islands import Particles, Report, Schedule
from poe.particles.resampling import equally_weighted, systematic_resample
from poe.particles.settling import Settled, settle
from poe.particles.summits import CLIMBS, STEPS, Cloud, find_summits, missed_doubts
from poe.samplers.guarded import Counted, Guarded, Raised
from poe.samplers.kernel import Kernel, require_kernel
from poe.samplers.questions import guarantee
from poe.structure.far_mass import failing_where_improper, look_far
from poe.tuning.choice import Choice, adaptive_of, why_no_score
from poe.tuning.counts import ALL_SIZES, mode_doubts
from poe.tuning.prepared import Prepared, prepared_particles
from poe.tuning.start import wider_start

SETTLED_FROM, SETTLED_COST = 1024, 4
"""Draws of the particles, to send chains on from; and for how many times what particles took."""
MOST_CLIMBS = 256
"""From farther out than a factor: as many as a quarter of a run's evaluations affords."""
ONE_AT_A_TIME = "islands mix their chains, so run poe.smc once for each condition"


@checked
def smc(
    target: Expert,
    num_samples: int,
    *,
    start: Expert | None = None,
    kernel: Kernel | None = None,
    path: Sequence[Expert] = (),
    temperatures: Sequence[float] | None = None,
    num_islands: int = 16,
    num_moves: int = 8,
    max_thinning: int = 8,
    conditional_ess: float = 0.8,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Draws:
    """Weighted draws of x ~ p̃ / Z and log Z together, from a start that can be sampled exactly.

    Particles go from p₀ to p̃ through γ_t = p₀^(1−t) p̃^t, t = 0 … 1 (where p₀ is a factor of
    p̃ = p₀ r that is p₀ rᵗ). At each level: the next t is the one at which the weights γ_t' / γ_t
    have a conditional ESS of ``conditional_ess``; each island resamples its chains, systematically
    along a curve through space; a corrected kernel moves every chain ``num_moves`` times; and
    **all** positions on the way are the particles of the next level (waste-free). Then
    Ẑ = Z₀ ∏ mean(γ_t' / γ_t), in float64: with given temperatures and kernel settings unbiased,
    with adapted ones consistent.

    Where start, kernel, path and temperatures are all left out and the scale of the score varies,
    as in funnels, chains are sent on from the particles until they rest, and other particles go
    once more from a density fitted to those.

    A start outside the support has weight 0; a NaN or +inf log-density counts as 0 too, and is
    reported in ``num_undefined`` and in words.

    Args:
        target: p̃, one density.
        num_samples: At least so many draws, ``num_islands`` × particles; each island has
            num_samples / (num_islands · num_moves) chains.
        start: p₀, any expert with exact draws and a known normaliser that covers the target. By
            default the first factor of the target that can be sampled, else N(0, 10² I) in
            unconstrained coordinates, on a discrete space all states alike; from there modes need
            not be known, but it must reach them.
        kernel: Its settings are kept; a step size left out is learned for the kernel's target
            acceptance, pooled over all chains, by moves that are thrown away, wherever that of the
            level before serves no longer; an ``affine`` left out of ``Preconditioned`` is fitted to
            the particles at each level. By default ``Preconditioned(SplitHMC())``, and from where
            the particles' scores vary in scale ``Preconditioned(AdaptiveStepHMC())``; a random walk
            where the target has no score, and on a discrete space ``Gibbs``, or ``BlockGibbs`` by
            each level's own conditionals where all factors know theirs.
        path: Densities to pass through between start and target, each by its own t = 0 … 1.
        temperatures: t₁ < … < 1 in place of adaptive ones.
        num_islands: Groups of particles that resample among themselves, so that their spread tells
            the error.
        num_moves: Moves of every chain at each level.
        max_thinning: Chains go on for up to so many steps a move, until twice the steps take
            those of the other islands no further: what is kept of an island owes nothing to its own
            way.
        conditional_ess: Of the weights from one level to the next, a fraction of the particles.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.
        progress: A line that says what was chosen and a progress bar, both on stderr.

    Returns:
        Draws, ``(num_islands, particles, *event)``, with ``log_weights`` such that the mean of
        exp(log_weights) f(x) estimates ∫ p̃ f: not normalised, float64. Their ``log_partition`` is
        the log of the mean of the islands' Ẑ, with a standard error from their spread, of
        ``num_islands`` − 1 degrees of freedom. Islands share temperatures and kernel: where these
        are adapted it is up to a tenth too small (measured with 1000 chains).

    Raises:
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        GradientError: Where the score that a given kernel asks for is lost, whole or in part.
        ImproperError: Where the target is known to have no finite integral, or fails and seems so.
        NonFiniteError: Where no particle is inside the support; for parameters that are no numbers.
        NormalizationError: For a start without sampler or normaliser.
        PoeError: For settings out of range, for spaces of infinitely many discrete values without a
            kernel and a start, for log-densities that are random or depend on what other rows are
            evaluated with them, and for batches of densities.
        SizeError: For more draws than memory holds.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers,
        doi:10.1111/j.1467-9868.2006.00553.x; Zhou, Johansen & Aston (2016), Towards automatic model
        comparison: an adaptive sequential Monte Carlo approach, section 3.3, arXiv:1303.3123
        (temperatures); Dau & Chopin (2022), Waste-free sequential Monte Carlo, algorithm 2,
        arXiv:2011.02328; Vergé, Dubarry, Del Moral & Moulines (2015), On parallel implementation of
        sequential Monte Carlo methods: the island particle model, arXiv:1306.3911.

    Example:
        >>> import poe
        >>> prior = experts.Gaussian([0.0], scale=[3.0])
        >>> likelihood = poe.FromLogDensity(
        ...     lambda x: -8 * (x - 1).square().sum(-1), space=poe.Real(1)
        ... )
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = poe.smc(prior * likelihood, 4000, generator=g, progress=False)
        >>> draws.samples.shape, draws.guarantee  # (islands, particles, *event)
        (torch.Size([16, 256, 1]), 'asymptotically exact')
        >>> log_z, closed_form = draws.log_partition, -2.5435
        >>> bool((log_z.value - closed_form).abs() < 4 * log_z.std_error)
        True
    """
    began = time.perf_counter()
    if num_samples < 1:
        raise PoeError(f"expected num_samples >= 1, got {num_samples}")
    require_memory(num_samples, target.space.event_shape, device_of(target))
    if kernel is not None:
        require_kernel(kernel)
    schedule = _schedule(
        num_samples, num_islands, num_moves, max_thinning, conditional_ess, temperatures
    )
    shared_space(*_named((*path, target)), kind="path")
    generator = resolve(generator, device_of(target))
    begin, source = prepared_particles(
        target, start, kernel=kernel, remedy=ONE_AT_A_TIME, generator=generator
    )
    adaptive = adaptive_of(begin.choice.kernel) if kernel is None else None
    particles = Particles(begin.target, source, schedule, generator, begin.raised, adaptive)
    _say(progress, f"{_in_words(schedule, begin.choice)}, from {begin.started_at}")
    with (
        failing_where_improper(begin.target, begin.u),
        tqdm(disable=not progress, unit="level", file=sys.stderr) as bar,
    ):
        for one, other in pairwise((source, *path, begin.target)):
            particles.follow(one, other, begin.choice.kernel, partial(_report, bar))
        if start is None and adaptive is not None and not path and temperatures is None:
            particles, begin = _from_nearer(particles, begin, adaptive, partial(_report, bar))
    return _gather(particles, begin, time.perf_counter() - began)


def _from_nearer(
    run: Particles, begin: Prepared, adaptive: Kernel, report: Report
) -> tuple[Particles, Prepared]:
    """Particles from a density fitted to where chains from the first ones come to rest.

    Where scales vary, particles of a broad start lag behind their path: necks are left thin.
    """
    if (settled := _settled(run, begin, report)) is None:
        return run, begin
    x = settled.position
    asked = Guarded(begin.density, begin.raised)
    _, score = asked.log_density_and_score(x)
    counted = Counted(asked)
    fitted = fit_density(counted, x, score.to(x.dtype), asked.space, run.generator)
    nearer = with_tails(fitted, x, asked.space)
    again = Particles(begin.density, nearer, run.schedule, run.generator, begin.raised, adaptive)
    again.tally.num_evaluations += run.tally.num_evaluations + settled.num_evaluations
    again.tally.num_evaluations += len(x) + counted.num_evaluations
    try:
        again.follow(nearer, begin.density, begin.choice.kernel, report)
    except NonFiniteError:  # what was fitted reaches where the target is no number
        run.tally.num_evaluations = again.tally.num_evaluations
        return run, begin._replace(doubts=tuple(settled.doubts()))
    said = f"a density fitted to particles from {begin.started_at}"
    return again, begin._replace(started_at=said, doubts=tuple(settled.doubts()))


def _settled(run: Particles, begin: Prepared, report: Report) -> Settled | None:
    """Where chains from the particles come to rest, if scales vary there."""
    by_island = run.position.unflatten(0, (len(run.log_z), -1))
    x = equally_weighted(by_island, run.log_z, SETTLED_FROM, run.generator)
    asked = Guarded(begin.density, begin.raised)
    most = SETTLED_COST * run.tally.num_evaluations
    return settle(asked, x, run.generator, report, most)


def _in_words(schedule: Schedule, choice: Choice) -> str:
    return (
        f"{schedule.num_islands} islands x {schedule.num_chains} chains x {schedule.num_moves} "
        f"moves a level ({choice.why})"
    )


def _say(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(f"poe.smc: {text}", file=sys.stderr)


def _report(bar: tqdm, temperature: float, acceptance: float) -> None:
    bar.set_description(f"t = {temperature:.3g}", refresh=False)
    bar.set_postfix_str(f"acceptance {acceptance:.2f}", refresh=False)
    bar.update()


def _named(experts: Sequence[Expert]) -> tuple[tuple[str, ...], list[Expert]]:
    return tuple(type(expert).__name__ for expert in experts), list(experts)


def _schedule(
    num_samples: int,
    num_islands: int,
    num_moves: int,
    max_thinning: int,
    conditional_ess: float,
    temperatures: Sequence[float] | None,
) -> Schedule:
    if num_islands < 2 or num_moves < 1 or max_thinning < 1:
        raise PoeError(
            "expected num_islands >= 2 (their spread is the standard error), num_moves >= 1 and "
            f"max_thinning >= 1, got {num_islands}, {num_moves} and {max_thinning}"
        )
    if not 0.0 < conditional_ess < 1.0:
        raise PoeError(f"expected 0 < conditional_ess < 1, got {conditional_ess}")
    given = None if temperatures is None else tuple(temperatures)
    if given is not None and not (
        given and given[-1] == 1.0 and all(a < b for a, b in pairwise((0.0, *given)))
    ):
        raise PoeError(f"expected temperatures 0 < t1 < ... < 1, the last one 1, got {given}")
    num_chains = -(-num_samples // (num_islands * num_moves))
    return Schedule(num_islands, num_chains, num_moves, max_thinning, conditional_ess, given)


def _gather(run: Particles, begin: Prepared, seconds: float) -> Draws:
    choice, log_constant = begin.choice, begin.log_constant
    islands, chains = run.schedule[:2]
    (num_warmup, warmup_evaluations), tally = run.tally.before_level, run.tally
    assert run.kernel is not None
    x = begin.coordinates.to_x(run.position)
    log_density = begin.coordinates.log_density_of_x(run.position, x, run.log_density)
    draws = Draws(
        samples=x.reshape(islands, -1, *x.shape[1:]),
        log_density=log_density.reshape(islands, -1) + log_constant,
        guarantee=guarantee(run.kernel),
        log_weights=(run.log_z + log_constant)[:, None].expand(islands, len(x) // islands),
        kernel=run.kernel,
        acceptance_rate=torch.stack(tally.acceptance).mean(0),
        num_outside=torch.as_tensor(tally.outside),
        num_undefined=torch.as_tensor(tally.undefined),
        num_warmup=num_warmup,
        warmup_gradients=warmup_evaluations // (islands * chains),
        num_gradients=(tally.num_evaluations - warmup_evaluations) // (islands * chains),
        seconds=seconds,
        choice=choice.why,
        seed=run.generator.initial_seed(),
        log_partition=partition_of_islands(
            run.log_z + log_constant, "sequential Monte Carlo", run.tally.num_evaluations
        ),
    )
    far = look_far(begin.target, run.position)
    rounded = rounding_doubts(draws, begin.target.space)
    is_any_size = begin.started_at == ALL_SIZES
    modes = mode_doubts(begin.target, aside(run.generator)) if is_any_size else ()
    told = [*_doubts(draws), *begin.doubts, *modes, *rounded, *_missed(run, begin), *far.doubts]
    found = [*told, *begin.raised.doubts()]
    draws = doubted(draws, found)
    tell(draws)
    return draws


def _missed(run: Particles, begin: Prepared) -> list[Doubt]:
    """Whether climbing from particles leads to modes that none of them has found.

    Where a factor of the target can be sampled, from farther out than its draws too. Not asked of
    a run that took less than climbing would.
    """
    if run.tally.num_evaluations < CLIMBS * STEPS:
        return []
    asked = Guarded(begin.density, Raised())
    if begin.target.space.is_discrete or why_no_score(asked, begin.u) is not None:
        return []
    x = run.position.reshape(run.schedule.num_islands, -1, *run.position.shape[1:])
    cloud = Cloud(x, run.log_z, run.schedule.num_islands * run.schedule.num_chains)
    alike = run.log_z.repeat_interleave(x.shape[1])[None]
    rows = systematic_resample(alike, CLIMBS, generator=run.generator)[0]
    positions = [run.position[rows]]
    if (wider := wider_start(begin.target, run.generator)) is not None:
        count = max(CLIMBS, min(MOST_CLIMBS, run.tally.num_evaluations // (4 * STEPS)))
        positions.append(exact_sample(begin.coordinates.pull(wider), count, run.generator))
    found = find_summits(asked, torch.cat(positions), run.generator)
    error = standard_error_of_log_mean(run.log_z)
    return missed_doubts(found, cloud, log_mean(run.log_z), error)


def doubted(draws: Draws, doubts: Sequence[Doubt]) -> Draws:
    """The draws with what is doubtful about them, and about the log Z that they give."""
    assert draws.log_partition is not None
    found = draws.log_partition._replace(doubts=tuple(doubts))
    return replace(draws, doubts=tuple(doubts), log_partition=found)


def partition_of_islands(log_z: Tensor, method: str, num_evaluations: int) -> LogPartition:
    """The log of the mean of the islands' Ẑ ``(islands,)``, its standard error by their spread."""
    value, std_error = log_mean(log_z), standard_error_of_log_mean(log_z)
    reach = t_quantile(len(log_z)) * std_error
    return LogPartition(
        value,
        std_error,
        value - reach,
        value + reach,
        f"{method}, {len(log_z)} islands",
        ess=kish_ess(log_z).item(),
        num_evaluations=num_evaluations,
        confidence=CONFIDENCE,
        rests_on="both bounds rest on the islands' having reached all of the target",
    )


def disagreement(log_z: Tensor, remedy: str) -> list[Doubt]:
    """That islands ``(islands,)`` disagree in their Ẑ; nothing where they do not."""
    effective = num_agreeing(log_z)
    if effective is None:
        return []
    text = (
        f"the islands disagree: {len(log_z)} of them are worth {effective:.1f} by their weights, "
        "so log Z and its standard error are not to be trusted."
    )
    return [Doubt(Kind.DISAGREEING, text, remedy=f"{remedy}.")]


def _doubts(draws: Draws) -> list[Doubt]:
    """What the run noticed."""
    doubts = []
    assert draws.num_undefined is not None
    assert draws.log_weights is not None
    if undefined := int(draws.num_undefined.sum()):
        text = (
            f"{undefined} positions had a NaN or +inf log-density, or a NaN score, and were given "
            "no weight: the target is not defined there."
        )
        doubts.append(Doubt(Kind.UNDEFINED, text))
    doubts += disagreement(
        draws.log_weights[:, 0],
        "Draw more, raise `conditional_ess`, or start from a density nearer to the target",
    )
    if stuck := draws.stuck_chains:
        text = f"the chains of {len(stuck)} islands never moved at the last level."
        doubts.append(Doubt(Kind.STUCK, text, tuple(stuck)))
    return doubts
