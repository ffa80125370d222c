"""How a run is prepared: the target made simple, coordinates, a start, a kernel, and checks."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import MAX_DENSE_DIMENSION, Affine
from poe.core.doubt import Doubt
from poe.core.randomness import aside
from poe.density.capabilities import check_proper, in_tractable_parts
from poe.density.checks import number_like, require_numbers
from poe.density.closed_forms import exact_sample, require_source
from poe.density.conditional import require_one
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert, shared_space
from poe.density.trials import (
    require_evaluation_mode,
    require_function,
    require_no_batch_statistics,
    require_same_with_gradients,
    require_score,
)
from poe.density.wrappers import in_chunks, merged, require_precision, without_constant
from poe.samplers.guarded import Guarded, Raised, guarded, pulled
from poe.samplers.kernel import ASYMPTOTICALLY_EXACT, Kernel, require_kernel
from poe.samplers.questions import guarantee, needs_fit, needs_score, starts_with_score
from poe.structure.discrete import structure_of
from poe.structure.edges import reaching_edges
from poe.tuning.choice import FEW_POSITIONS, Choice, choose_for_particles
from poe.tuning.pathfinder import find_mass
from poe.tuning.proposals import chosen
from poe.tuning.start import broad_start, first_answered, start

LEAST_PATHS, MOST_PATHS = 16, 64
"""From so many starts paths lead to the mass: more than a few, to tell by which ones arrived."""


class Prepared(NamedTuple):
    """All that a run begins with.

    - ``target``: what is sampled, its experts of one family merged;
    - ``density``: the same in the coordinates u in which chains move, Jacobian included;
    - ``log_constant``: what was taken out of the target, to be added to its log-density;
    - ``u`` ``(chains, *event)``: where chains start; of particles a few, to try things at;
    - ``started_at``: what these are, in words;
    - ``has_score``: whether one was found that can be followed;
    - ``raised``: the errors of the target at some positions, on the way so far.
    """

    target: Expert
    density: Expert
    coordinates: Coordinates
    log_constant: float
    u: Tensor
    started_at: str
    choice: Choice
    has_score: bool
    raised: Raised
    chains_at_once: int | None = None
    num_evaluations: int = 0
    """Of positions, on the way to the start."""
    doubts: tuple[Doubt, ...] = ()
    """Of that way."""

    def pull(self, density: Expert) -> Expert:
        """Another density on the target's space, as the chains see it."""
        return in_chunks(guarded(density, self.coordinates, self.raised), self.chains_at_once)

    def rescaled(self, affine: Affine) -> Prepared:
        """The same target where chains move in other coordinates: those of an affine map."""
        again = self._replace(coordinates=Coordinates(self.target.space, affine))
        return again._replace(density=again.pull(self.target))


def prepared(
    target: Expert,
    num_chains: int,
    *,
    initial: Tensor | None = None,
    kernel: Kernel | None = None,
    chains_at_once: int | None = None,
    generator: torch.Generator,
) -> Prepared:
    """Chains at their start, with the kernel that was given or the one that fits.

    Args:
        target: What to sample.
        num_chains: How many chains.
        initial: Where they start, ``(chains, *event)``; drawn where it is None.
        kernel: The kernel; chosen by what the target offers where it is None.
        chains_at_once: Evaluate the target on no more chains than this at a time.
        generator: Where random numbers come from.

    Returns:
        What a run begins with.

    Raises:
        ImproperError: Where the target is known to have no finite integral.
        NonFiniteError: Where chains start outside the support; for parameters that are no numbers.
        GradientError: Where the score that a given kernel asks for is lost, whole or in part.
        PoeError: For a batch of densities on some chains at a time, a space without a kernel, a
            log-density that is random where the kernel needs a function, or one that depends on
            what other rows are evaluated with it.

    >>> target = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
    >>> begin = prepared(target, 8, generator=torch.Generator().manual_seed(0))
    >>> begin.u.shape, begin.started_at
    (torch.Size([8, 2]), 'standard normals')
    """
    require_numbers(target)
    check_proper(target)
    given = _given(kernel)
    if kernel is None or guarantee(kernel) == ASYMPTOTICALLY_EXACT:
        require_evaluation_mode(target)
    require_no_batch_statistics(target)
    if chains_at_once is not None:
        require_one(target, "leave chains_at_once out, or sample fewer conditions")
    target = merged(target)
    coordinates = Coordinates(target.space)
    raised, beside = Raised(), aside(generator)
    x, started_at = start(target, num_chains, initial, coordinates, generator, raised)
    u = coordinates.to_u(x)
    target = reaching_edges(target)
    density = in_chunks(guarded(target, coordinates, raised), chains_at_once)
    tried = partial(guarded, coordinates=coordinates, raised=Raised())  # beside the run
    asked = in_chunks(tried(target), chains_at_once)
    if given is None:
        choice, has_score = chosen(structure_of(target), target, asked, u, beside)
    else:
        choice, has_score = given, needs_score(given.kernel)
    is_corrected = guarantee(choice.kernel) == ASYMPTOTICALLY_EXACT
    require_function(target, asked, tried, u, is_corrected=is_corrected)
    if starts_with_score(choice.kernel, asked, u):
        require_same_with_gradients(asked, u)
        if kernel is not None:
            require_score(target, asked, tried, u)
    return Prepared(
        target, density, coordinates, 0.0, u, started_at, choice, has_score, raised, chains_at_once
    )


def led_to_mass(begin: Prepared, generator: torch.Generator) -> Prepared:
    """Chains at draws of normals that paths from their starts lead to, where there is a way.

    There is one where a preconditioner will be fitted to positions and scores, of few enough
    dimensions for a normal to say where the mass is. What is met far out is no matter of the run.

    Args:
        begin: A run whose start and kernel were left open.
        generator: Where random numbers come from.

    Returns:
        The same run from there, with what it took.

    >>> far = poe.FromLogDensity(lambda x: -(x - 50.0).square().sum(-1), space=poe.Real(2))
    >>> g = torch.Generator().manual_seed(0)
    >>> begin = led_to_mass(prepared(far, 8, generator=g), g)
    >>> bool(((begin.u - 50.0).abs() < 5.0).all()), begin.started_at
    (True, 'standard normals, led to where mass is by L-BFGS')
    """
    kernel, u = begin.choice.kernel, begin.u
    is_small = u[0].numel() <= MAX_DENSE_DIMENSION
    if u.is_meta or not (is_small and needs_fit(kernel) and needs_score(kernel)):
        return begin
    if len(u) < LEAST_PATHS:
        x, _ = start(begin.target, LEAST_PATHS, None, begin.coordinates, generator, Raised())
        u = begin.coordinates.to_u(x)
    tried = guarded(begin.target, begin.coordinates, Raised())
    asked = in_chunks(tried, begin.chains_at_once)
    found = find_mass(asked, u[:MOST_PATHS], len(begin.u), generator)
    said = f"{begin.started_at}, led to where mass is by L-BFGS"
    if found.num_restarted:
        said += f" ({found.num_restarted} of {len(begin.u)} by others' paths)"
    return begin._replace(u=found.position, started_at=said, num_evaluations=found.num_evaluations)


def prepared_particles(
    target: Expert,
    source: Expert | None,
    *,
    kernel: Kernel | None = None,
    remedy: str,
    generator: torch.Generator,
) -> tuple[Prepared, Expert]:
    """Particles before they are drawn: from ``source``, or from a broad start where it is None.

    A broad start begins with the target in parts of which one can be sampled, and without the
    constant that merging leaves. What is tried at a few positions takes no random number of the
    run's own.

    Args:
        target: What to sample.
        source: An expert of exact draws and known log partition.
        kernel: The kernel; chosen where it is None.
        remedy: What to do with a batch of densities, in words.
        generator: Where the random numbers of the run come from.

    Returns:
        What a run begins with, and the expert that the particles are drawn from.

    Raises:
        ImproperError: Where target or source is known to have no finite integral.
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        NormalizationError: For a source without sampler or normaliser.
        SpaceMismatchError: For a source on another space.
        GradientError: Where the score that a given kernel asks for is lost, whole or in part.
        PoeError: For a batch of densities, a space without a kernel, a random log-density, or one
            that depends on what other rows are evaluated with it.
    """
    require_one(target, remedy)
    require_precision(target)
    require_numbers(target)
    check_proper(target)
    require_evaluation_mode(target)
    log_constant, started_at = 0.0, "`start`"
    if source is None:
        target, log_constant = without_constant(target)
        target = in_tractable_parts(target)
        like = number_like(target)
        started_at, source = broad_start(target, like)
    shared_space(("start", "target"), [source, target], "path")
    require_numbers(source)
    check_proper(source)
    require_source(source)
    target = reaching_edges(target)
    coordinates, raised = Coordinates(target.space), Raised()
    density = pulled(target, coordinates, raised)  # whose factors a path shall recognise
    u = _few_positions(Guarded(density, raised), source, coordinates, aside(generator))
    tried = partial(guarded, coordinates=coordinates, raised=Raised())  # beside the run
    asked = tried(target)
    choice = _given(kernel) or choose_for_particles(structure_of(target), asked, u)
    has_score = needs_score(choice.kernel)
    require_function(target, asked, tried, u)  # their weights compare its values
    if starts_with_score(choice.kernel, asked, u):
        require_same_with_gradients(asked, u)
        if kernel is not None:
            require_score(target, asked, tried, u)
    begin = Prepared(
        target, density, coordinates, log_constant, u, started_at, choice, has_score, raised
    )
    return begin, source


def _few_positions(
    asked: Guarded, source: Expert, coordinates: Coordinates, generator: torch.Generator
) -> Tensor:
    """Some of a source's draws, as particles see them, where the density can be evaluated."""
    return first_answered(
        asked, lambda: exact_sample(coordinates.pull(source), FEW_POSITIONS, generator)
    )


def _given(kernel: Kernel | None) -> Choice | None:
    if kernel is None:
        return None
    require_kernel(kernel)
    return Choice(kernel, "as given")
