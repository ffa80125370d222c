"""log Z of counts, from a table of where their mass is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from poe.core.arguments import checked
from poe.core.errors import NormalizationError
from poe.core.randomness import aside
from poe.density.checks import number_like
from poe.density.closed_forms import samplable_factor
from poe.density.expert import Expert
from poe.density.normalized import LogPartition, exact
from poe.normalizers.levels import Report
from poe.normalizers.sequential import MBAR
from poe.samplers.guarded import Raised
from poe.structure.far_mass import look_far
from poe.tuning.counts import mode_doubts
from poe.tuning.truncation import FEW_DIMENSIONS, Table, Tabulated, summit_doubts, table_of

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
    return found._replace(doubts=(*found.doubts, *mode_doubts(target, beside)))


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
