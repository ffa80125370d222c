"""``poe.log_partition``: log Z by the method that fits, or by one of the caller's choice."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.arguments import checked, require
from poe.core.randomness import resolve
from poe.core.space import Count
from poe.density.capabilities import check_proper, simplify
from poe.density.checks import device_of, number_like, require_numbers
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.density.questions import keeps_default, own_question
from poe.density.trials import require_evaluation_mode
from poe.density.wrappers import require_precision
from poe.normalizers.charts import can_integrate
from poe.normalizers.doubts import warn_of
from poe.normalizers.enumeration import MAX_STATES, num_states
from poe.normalizers.exact import Enumeration, QuadratureOr, in_closed_form
from poe.normalizers.problem import Method
from poe.normalizers.sequential import MBAR
from poe.normalizers.truncation import by_table_or_particles
from poe.structure.far_mass import failing_where_improper


@own_question
def own_method(expert: Expert, start: Expert | None) -> Method | None:
    """How log Z of the expert is estimated best, where it knows better than particles do.

    Where it has neither a closed form nor few states. A family registers here the method that is
    made for it.

    Args:
        expert: p̃, simplified.
        start: Where the estimate shall begin, or None.

    Returns:
        The method; None where there is none from that start.

    Example:
        >>> rbm = experts.RBM(torch.zeros(40, 30), torch.zeros(40), torch.zeros(30))
        >>> own_method(rbm, None), own_method(rbm, experts.Ising.grid((5, 8), coupling=0.1))
        (BaseRateAIS(num_chains=128, num_levels=2000), None)
    """
    return None


keeps_default(Expert, "quadrature, or particles", own_method)


@checked
def log_partition(
    target: Expert,
    *,
    method: Method | None = None,
    start: Expert | None = None,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> LogPartition:
    """log Z = log of the integral (or sum) of p̃ over its space.

    Without a method, in this order: closed form; enumeration of at most 2^25 states; a method made
    for the expert, as of an RBM (``experts.boltzmann.BaseRateAIS``); adaptive quadrature in up to
    three continuous dimensions; of counts a table of where their mass is, in up to three dimensions
    or where elements are independent (``poe.normalizers.Truncation``); and beyond, or where cells
    do not converge, the multistate Bennett acceptance ratio along a path of particles
    (``poe.normalizers.MBAR``), with its standard error and bounds.

    Where the result should not be believed, ``doubts`` say why, and a TrustWarning. What no
    particle finds and no gradient points to, from any of them, cannot be told: a narrow mode far
    from all others.

    Args:
        target: p̃.
        method: One of ``poe.normalizers``, such as ``AIS()``.
        start: Where estimates begin, normalised and sampled exactly; without one, at a density
            fitted to the target by a small run, on a discrete space at all states alike. That run
            also checks what is found from a start given.
        generator: For the estimates; a fresh one, seeded by the system, by default.
        progress: A bar on stderr where levels are many.

    Returns:
        The value, ``()``, with its error, bounds and doubts.

    Raises:
        ImproperError: Where Z is known to be infinite.
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        NonFiniteError: Where p̃ is NaN or +inf or zero everywhere, and for parameters that are none.
        NormalizationError: Where a method does not apply.
        PoeError: For a log-density that is random, or depends on what other rows are evaluated with
            it; for a closed form of another density.

    Example:
        >>> a, b = experts.Gaussian([-1.0], scale=[1.0]), experts.Gaussian([2.0], scale=[0.5])
        >>> log_partition(a * b).value, log_partition(a * b).method
        (tensor(-4.6305), 'closed form')
    """
    result = find_log_partition(target, method, start, generator, progress)
    warn_of(result)
    return result


def find_log_partition(
    target: Expert,
    method: Method | None,
    start: Expert | None,
    generator: torch.Generator | None,
    progress: bool,
) -> LogPartition:
    """What ``log_partition`` gives, without its warning: for callers that ask often and warn once.

    >>> found = find_log_partition(experts.Gaussian([0.0], scale=[1.0]), None, None, None, False)
    >>> found.value
    tensor(0.)
    """
    require_precision(target)
    require_numbers(target)
    check_proper(target)
    # Asked once: some closed forms are long sums.
    known = in_closed_form(target) if method is None else None
    if known is not None:
        return known
    require_evaluation_mode(target)
    chosen = _choose(target, start) if method is None else method
    generator = resolve(generator, device_of(target))
    with tqdm(disable=not progress, unit="step", delay=2, leave=False, file=sys.stderr) as bar:

        def report(part: float, acceptance: float) -> None:
            bar.set_description(f"log Z, {part:.3g} of the way", refresh=False)
            if acceptance < 1:
                bar.set_postfix_str(f"acceptance {acceptance:.2f}", refresh=False)
            bar.update()

        with failing_where_improper(target, _around_the_origin(target)):
            found = chosen(target, start, generator, report)
    return require("what the method returns", found, LogPartition)


def _around_the_origin(target: Expert) -> Tensor:
    """A few positions in unconstrained coordinates, to leave on rays: ``(4, *event)``."""
    shape = Coordinates(target.space).u_space.event_shape
    return number_like(target).new_zeros((4, *shape))


def _choose(target: Expert, start: Expert | None) -> Method:
    """What there is without a closed form."""
    if num_states(target.space) <= MAX_STATES:
        return Enumeration()
    if (own := own_method(simplify(target).expert, start)) is not None:
        return own
    if can_integrate(target.space):
        return QuadratureOr(MBAR())
    return by_table_or_particles if isinstance(target.space, Count) else MBAR()
