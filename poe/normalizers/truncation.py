"""log Z of counts, from a table of where their mass is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.core.errors import NormalizationError
from poe.core.randomness import aside
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample, samplable_factor
from poe.density.expert import Expert
from poe.density.normalized import LogPartition, exact
from poe.diagnostics.settled import MIN_COMPARED, r_hat_of_settled
from poe.normalizers.levels import Report
from poe.normalizers.sequential import MBAR
from poe.samplers.discrete.counts import LatticeGibbs
from poe.samplers.guarded import Guarded, Raised
from poe.structure.far_mass import look_far
from poe.tuning.counts import counts_of_sizes
from poe.tuning.truncation import FEW_DIMENSIONS, Table, Tabulated, summit_doubts, table_of

APART = 3.0
"""An R-hat that none of slowly mixing chains has."""
ON_ITS_WAY = 2.5
NUM_CHAINS, SWEEPS, EVERY, MAX_ELEMENTS = 48, 130, 5, 256
SIZES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Chains from these, so many sweeps long and looked at every few, show whether there are modes."""
FEW_POSITIONS = 8
"""So many are where to leave a density from, to see how it falls off."""


@checked
@dataclass(frozen=True)
class Truncation:
    """The sum over counts up to where their mass ends, with a bound on what lies beyond.

    Elements that are independent, as in products of Poisson, geometric and negative binomial
    distributions and their powers, each by itself, in any number; others together, in up to three
    dimensions. Where the mass is, is seen at counts ever wider apart (half of a Poisson's standard
    deviation, or by a ratio where there are two or three dimensions), and by climbing from them. A
    needle that none of these sees is missed. Beyond the table the density is taken to fall off by
    no less with each doubling than it did with the last; of a geometric tail, whose ratio
    p(n + 1) / p(n) stays below 1, that leaves far less than a rounding.

    It raises NormalizationError where more than 1 % may lie beyond 4 million states, elsewhere than
    on counts, and in more dimensions.

    Example:
        >>> product = experts.Poisson([3.0]) * experts.Poisson([5.0])  # −8 + log I₀(2 √15)
        >>> poe.log_partition(product, method=Truncation()).value
        tensor(-2.1792)
    """

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        found = truncated(target, generator)
        if found is None:
            raise NormalizationError(
                f"expected counts of at most {FEW_DIMENSIONS} dimensions, or of independent "
                f"elements, whose mass a table of 4 million states holds, got "
                f"{type(target).__name__} on {target.space}: leave `method` out"
            )
        return found


def by_table_or_particles(
    target: Expert, start: Expert | None, generator: torch.Generator, report: Report
) -> LogPartition:
    """log Z of counts: by ``Truncation`` where that can be, else by ``MBAR``."""
    found = truncated(target, generator)
    if found is not None:
        return found
    beside = aside(generator)
    found = MBAR()(target, start, generator, report)
    found = found._replace(doubts=(*found.doubts, *summit_doubts(target)))
    if start is not None or samplable_factor(target) is not None:
        return found
    return found._replace(doubts=(*found.doubts, *_mode_doubts(target, beside)))


@torch.no_grad()
def _mode_doubts(target: Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    """Whether chains from counts of several sizes settle apart: particles may lose some modes."""
    if target.space.event_shape.numel() > MAX_ELEMENTS:
        return ()
    asked, kernel = Guarded(target, Raised()), LatticeGibbs(target.space)
    x = exact_sample(
        counts_of_sizes(target.space, number_like(target), SIZES), NUM_CHAINS, generator
    )
    x = x[asked(x).isfinite()]
    if len(x) < 2:
        return ()
    state, states = kernel.init(asked, x), []
    for _ in range(SWEEPS):
        state, _ = kernel.step(asked, state, generator=generator)
        states.append(state)
    states = states[-MIN_COMPARED * EVERY :: EVERY]
    has_arrived = _has_arrived(torch.stack([state.log_density for state in states]).double())
    visited = torch.stack([state.position for state in states])[:, has_arrived]
    if not r_hat_of_settled(visited) > APART:
        return ()
    text = (
        f"chains from counts of {SIZES[0]:.0f} to {SIZES[-1]:.0f} settle apart, so there are modes "
        "that particles may have lost on their way: give a start that covers them, by `start=`"
    )
    return (Doubt(Kind.UNSEEN, text),)


def _has_arrived(log_density: Tensor) -> Tensor:
    """Which chains do not move up or down any more: ``(steps, chains) -> (chains,)``.

    The halves of a line differ by 3.5 standard deviations of either, those of chance by one half.

    >>> steps = torch.arange(20.0)
    >>> _has_arrived(torch.stack([steps, (7 * steps).sin()], 1))
    tensor([False,  True])
    """
    early, late = log_density.tensor_split(2)
    return (late.mean(0) - early.mean(0)).abs() <= ON_ITS_WAY * late.std(0)


def truncated(target: Expert, generator: torch.Generator) -> LogPartition | None:
    """log Z from a table; None where there is none.

    >>> target = poe.FromEnergy(lambda x: x.sum(-1), space=poe.Count(2))  # − 2 log(1 − 1 / e)
    >>> truncated(target, torch.Generator()).value
    tensor(0.9174)
    """
    raised = Raised()
    table = table_of(target, raised)
    if table is None:
        return None
    x = Tabulated(target, table).draw(FEW_POSITIONS, generator=aside(generator))
    found = _told(table, number_like(target).dtype)
    return found._replace(doubts=(*look_far(target, x).doubts, *raised.doubts()))


def _told(table: Table, dtype: torch.dtype) -> LogPartition:
    """What a table says of log Z: exact where what it leaves out is less than rounding."""
    mass = table.mass()
    method = f"truncation after a count of {table.highest}, beyond which is at most "
    method += f"{table.left_out():.0e} of the mass"
    value, error = mass.value.to(dtype), mass.std_error.to(dtype)
    if bool(error <= torch.finfo(dtype).eps * (1 + value.abs())):
        return exact(value, method, table.num_evaluations)
    return LogPartition(
        value,
        error,
        mass.lower.to(dtype),
        mass.upper.to(dtype),
        method,
        num_evaluations=table.num_evaluations,
        rests_on="both bounds rest on a tail that falls off as it does in the table",
    )
