"""Which sampler, and why: decided by what the target offers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import MAX_DENSE_DIMENSION
from poe.core.errors import GradientError, PoeError
from poe.core.joint_space import Joint
from poe.core.space import Count, Real, Space
from poe.density.coordinates import Rescaled
from poe.density.expert import Expert
from poe.density.questions import keeps_default
from poe.density.trials import is_score_contradicted
from poe.samplers.adaptive_step import AdaptiveStepHMC, FittedHMC
from poe.samplers.alternating import Alternating
from poe.samplers.discrete.block_gibbs import BlockGibbs
from poe.samplers.discrete.checkerboard import Checkerboard
from poe.samplers.discrete.chromatic import ChromaticGibbs
from poe.samplers.discrete.clusters import LabelClusters, SwendsenWang
from poe.samplers.discrete.counts import WINDOW, LatticeGibbs, LatticeMALA
from poe.samplers.discrete.discrete_langevin import DMALA
from poe.samplers.discrete.finite import estimated_changes, moved
from poe.samplers.discrete.gibbs import Gibbs
from poe.samplers.hmc import SplitHMC
from poe.samplers.kernel import Kernel
from poe.samplers.langevin import MALA
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.preconditioned import Preconditioned
from poe.samplers.questions import needs_fit, needs_score
from poe.structure.discrete import Structure
from poe.structure.gaussian_factors import gaussian_factors
from poe.structure.twists import twists

FEW_POSITIONS = 64
"""So many show whether a target has a score."""
FARTHER = 3.0
"""A few starts may all be on one step of a staircase; so many times as far out they are not."""
SHORT_SWEEP = 64
"""So few changes of single elements make one."""


SHORT_SWEEP_OF_COUNTS = 256
"""Windows cross from one mode of an element to another, which steps along a gradient do not: few
chains afford longer sweeps of them."""


class Choice(NamedTuple):
    """A kernel, and in words why this one."""

    kernel: Kernel
    why: str


def choose(known: Structure, density: Expert, u: Tensor) -> Choice:
    """The kernel for a target whose density in the chains' coordinates is known at their start.

    Args:
        known: Of the target, in its own space.
        density: In the chains' coordinates.
        u: Where they start, ``(chains, *event)``.

    Returns:
        The kernel, and in words why this one.

    Raises:
        PoeError: For a batch of densities on a discrete space of more than two values.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
        >>> known = Structure(target.space, is_batch=False)
        >>> choose(known, target, torch.randn(8, 2)).why
        'a score in 2 dimensions: HMC around a Gaussian of full covariance fitted to all chains'
    """
    if isinstance(known.space, Joint):
        return by_parts(known.space, density, u)
    if known.space.is_discrete:
        return by_structure(known) or by_elements(known, density, u)
    if known.is_batch:
        without = why_no_score(density, u)
        kernel = MetropolisHastings() if without else MALA()
        why = f"a density of its own for each chain: {type(kernel).__name__} fits nothing to all"
        return Choice(kernel, f"{why}; {without}" if without else why)
    if without := why_no_score(density, u):
        why = f"no score: a random walk shaped by the covariance of all chains; {without}"
        return Choice(Preconditioned(MetropolisHastings()), why)
    dimension = u[0].numel()
    is_dense = dimension <= MAX_DENSE_DIMENSION
    shape = "a Gaussian of full covariance" if is_dense else "a Gaussian of diagonal plus low rank"
    why = f"a score in {dimension} dimensions: HMC around {shape} fitted to all chains"
    return Choice(Preconditioned(FittedHMC()), why)


def choose_for_particles(known: Structure, density: Expert, u: Tensor) -> Choice:
    """The kernel for particles, of the same kinds as for chains.

    Args:
        known: Of the target, in its own space.
        density: In the particles' coordinates.
        u: Where they are, ``(particles, *event)``.

    Returns:
        The kernel, and in words why this one.

    Raises:
        PoeError: As ``choose`` does.
    """
    if isinstance(known.space, Joint):
        return by_parts(known.space, density, u[:FEW_POSITIONS])
    if known.space.is_discrete:
        return (
            by_structure(known) or counted_along_gradient(known, density, u) or on_discrete(known)
        )
    if without := why_no_score(density, u[:FEW_POSITIONS]):
        why = f"no score: a random walk shaped by the covariance of the particles; {without}"
        return Choice(Preconditioned(MetropolisHastings()), why)
    why = "a score: HMC around a Gaussian fitted to the particles of each level"
    return Choice(Preconditioned(SplitHMC()), why)


def adaptive_of(kernel: Kernel) -> Kernel | None:
    """What takes a chosen kernel's place where the scale of the score varies; None where it stays.

    >>> adaptive_of(Preconditioned(SplitHMC()))
    Preconditioned(kernel=AdaptiveStepHMC(step_size=None, num_steps=4, jitter=0.3), affine=None)
    """
    if needs_fit(kernel) and needs_score(kernel):
        return Preconditioned(AdaptiveStepHMC(num_steps=4))
    return None


def why_no_score(density: Expert, u: Tensor) -> str | None:
    """Why there is no gradient to follow, in words; None where there is one.

    None to follow is one that is 0 wherever the log-density varies, or that differences contradict.
    Only where it varies can this be told: where it is the same at all starts, farther out. A flat
    density has nothing to follow either.
    An expert that says it has none (`GradientError`) speaks for every composition it is in.

    Shapes: u ``(chains, *event)``, in the chains' coordinates.

    >>> steps = poe.FromLogDensity(lambda x: x.round().sum(-1), space=poe.Real(1))
    >>> why_no_score(steps, torch.arange(4.0)[:, None])
    'its score is 0 where it varies'
    """
    try:
        log_density, score = density.log_density_and_score(u)
        if bool((log_density == log_density[0]).all()) and isinstance(density.space, Real):
            log_density, score = density.log_density_and_score(FARTHER * u)
    except GradientError as error:
        return str(error).partition(". ")[0].partition(": ")[0]
    if bool((log_density != log_density[0]).any()) and not bool(torch.any(score != 0)):
        return "its score is 0 where it varies"
    if is_score_contradicted(density, u):
        return "its score is another than differences of its values show"
    return None


def by_parts(space: Joint, density: Expert, u: Tensor) -> Choice:
    """A mixed state part by part: real numbers by a kernel with a step size, others by Gibbs.

    Args:
        space: The target's.
        density: The target.
        u: Where chains start, ``(chains, n)``.

    Returns:
        The kernel, and in words why this one.
    """
    without = why_no_score(density, u)
    kernel = MetropolisHastings() if without else MALA()
    kernels = (kernel if isinstance(part, Real) else gibbs(part) for part in space.parts)
    others = "counts and labels" if any(isinstance(p, Count) for p in space.parts) else "labels"
    how = f"real numbers by {type(kernel).__name__}, {others} by Gibbs"
    why = f"a mixed state part by part: {how}"
    return Choice(Alternating(space, tuple(kernels)), f"{why}; {without}" if without else why)


def by_structure(known: Structure) -> Choice | None:
    """The first that applies of clusters, the two halves of a grid, blocks, and colours."""
    return (
        in_clusters(known)
        or on_checkerboard(known)
        or in_blocks(known)
        or in_label_clusters(known)
        or by_colours(known)
    )


def in_clusters(known: Structure) -> Choice | None:
    """Swendsen-Wang, where a binary target has only couplings, none negative, and aligned fields.

    Where fields pull against each other, or couplings are of both signs, clusters hardly move.
    """
    found = known.spins
    if found is None or found.couplings.numel() == 0 or not found.is_attractive_and_aligned:
        return None
    return Choice(SwendsenWang(found), "attractive couplings: clusters of spins flipped at once")


def on_checkerboard(known: Structure) -> Choice | None:
    """Block Gibbs in whole numbers, where a binary target is a grid of one coupling and fields."""
    if known.spins is None or known.grid is None:
        return None
    rows, columns = known.space.event_shape
    return Choice(Checkerboard(known.spins, (rows, columns)), "a grid of spins: in two halves")


def in_blocks(known: Structure) -> Choice | None:
    """Block Gibbs, where every factor of a binary target says how its elements go together."""
    found = known.conditionals
    if found is None:
        return None
    kernel = BlockGibbs(found)
    hidden = f"{found.num_hidden} hidden units, then " if found.num_hidden else ""
    sets = "at once" if kernel.num_sets == 1 else f"in {kernel.num_sets} sets"
    return Choice(kernel, f"known conditionals: {hidden}all elements {sets}")


def in_label_clusters(known: Structure) -> Choice | None:
    """Swendsen-Wang for labels, where they are only pulled together, and to the same label."""
    found = known.labels
    if found is None or found.couplings.numel() == 0 or not found.is_attractive_and_aligned:
        return None
    return Choice(LabelClusters(found), "attractive couplings: clusters take a label at once")


def by_colours(known: Structure) -> Choice | None:
    """Chromatic Gibbs, where a target on labels has only couplings and fields."""
    found = known.labels
    if found is None:
        return None
    kernel = ChromaticGibbs(found)
    why = f"known couplings and fields: all labels of each of {kernel.num_colours} colours at once"
    return Choice(kernel, why)


def by_elements(known: Structure, density: Expert, u: Tensor) -> Choice:
    """Where nothing is known of how elements go together: all by a gradient, or each in turn."""
    in_turn = on_discrete(known)
    is_count = isinstance(known.space, Count)
    short_sweep = SHORT_SWEEP_OF_COUNTS if is_count else SHORT_SWEEP
    return along_gradient(known, density, u, short_sweep) or in_turn


def counted_along_gradient(known: Structure, density: Expert, u: Tensor) -> Choice | None:
    """The same of counts alone: of labels particles are drawn from their conditionals."""
    if not isinstance(known.space, Count):
        return None
    return along_gradient(known, density, u[:FEW_POSITIONS])


def along_gradient(
    known: Structure, density: Expert, u: Tensor, short_sweep: int = SHORT_SWEEP
) -> Choice | None:
    """Discrete Langevin where a sweep of Gibbs is long and the gradient foretells what it finds."""
    space = known.space
    if known.is_batch:
        return None
    num_sites = space.event_shape.numel()
    num_moves = num_sites * ((space.num_values or WINDOW) - 1)
    if num_moves <= short_sweep or not is_foretold(density, u, space.num_values):
        return None
    why = (
        f"a gradient that foretells what each of {num_moves} changes brings: all elements at once "
        "by one gradient, where a sweep of Gibbs takes as many evaluations"
    )
    if not isinstance(space, Count):
        return Choice(DMALA(space), why)
    num_windows = math.ceil(0.5 * num_sites**0.5)
    why = f"{why}; then {num_windows} of {num_sites} elements each from {WINDOW} values around"
    return Choice(LatticeMALA(space, num_windows=num_windows), why)


@torch.no_grad()
def is_foretold(density: Expert, u: Tensor, num_values: int | None) -> bool:
    """Whether first-order estimates of single changes leave less than half of their mean square.

    Tried at changes of some elements from starts; where there is no gradient they leave all of it.
    Of counts, which have no ``num_values``, at a larger one.

    Shapes: u ``(chains, *event)``, positions on a discrete space.

    >>> target, x = experts.Ising.grid((3, 3), coupling=0.3), torch.zeros(4, 3, 3)
    >>> is_foretold(target, x, 2)
    True
    """
    x = u.repeat(-(-FEW_POSITIONS // len(u)), *[1] * (u.ndim - 1))[:FEW_POSITIONS]
    try:
        log_density, score = density.log_density_and_score(x)
    except GradientError:
        return False
    rows = torch.arange(len(x), device=x.device)
    sites = x.reshape(len(x), -1)
    site = rows * sites.shape[1] // len(x)
    now = sites[rows, site]
    step = (0.5 * now.double().sqrt()).round().clamp(min=1).to(now)  # half of a Poisson's spread
    other = now + step if num_values is None else moved(now, torch.ones_like(rows), num_values)
    changed = sites.index_put((rows, site), other)
    change = density.log_density(changed.reshape_as(x)) - log_density
    if num_values is None:
        estimate = step * score.reshape(len(x), -1)[rows, site]
    else:
        estimate = estimated_changes(x, score, num_values)[rows, site, 0]
    is_known = change.isfinite()
    missed = (estimate - change)[is_known].square().sum()
    return bool(missed < 0.5 * change[is_known].square().sum())


def on_discrete(known: Structure) -> Choice:
    """Gibbs, site by site: of finitely many values each, or of counts from windows of values.

    Args:
        known: Of the target, on a discrete space.

    Returns:
        The kernel, and in words why this one.

    Raises:
        PoeError: For a batch of densities of more than two values.
    """
    space = known.space
    num_values = space.num_values or WINDOW
    if known.is_batch and num_values > 2:
        raise PoeError(
            f"expected one density on {space}, got a batch of them: Gibbs asks for a chain's "
            f"{num_values - 1} other values in one call, so sample one condition at a time"
        )
    values = f"{WINDOW} values around" if space.num_values is None else f"its {num_values} values"
    why = f"a discrete space: each element in turn from {values}, all weighed"
    return Choice(gibbs(space), why)


def gibbs(space: Space) -> Kernel:
    """Gibbs site by site on a discrete space.

    >>> gibbs(poe.Count(2)), gibbs(poe.Binary(2))
    (LatticeGibbs(space=Count(shape=(2,))), Gibbs(space=Binary(shape=(2,))))
    """
    return LatticeGibbs(space) if isinstance(space, Count) else Gibbs(space)


keeps_default(
    Rescaled, "kernels are chosen for the target, not for its coordinates", gaussian_factors, twists
)
