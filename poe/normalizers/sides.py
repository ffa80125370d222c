"""From independent groups of estimates to an error, two bounds, and doubts about both."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.diagnostics.independent_groups import SHARED, num_agreeing, t_quantile
from poe.particles.summits import FAR

WIDE = 2.0
"""Bounds further apart than this many nats say that one of the directions has failed."""
ON_DRAWS = "the upper bound rests on particles that went to the target being draws of it"
UNEQUAL = 5.0
"""Means of settled chains vary less than this times what is expected: 2.4 at most in 320 runs
over the targets of ``benchmarks/log_z_coverage.py`` and ``log_z_trust.py`` without such a mode."""
STRAY = 0.45
"""The way back does not see what of a start lies where the target has nothing: nats of that."""
ROUNDED = 1e-9
"""Of a log Z of unit size, in nats: of weights that are all alike there is no other error."""


class Sides(NamedTuple):
    """log Ẑ of each group, by weights that average to Z and by others that average to 1 / Z.

    E log Ẑ ≤ log Z of the first, by Jensen's inequality, and ≥ of the second.

    Args:
        below: By weights that average to Z, ``(groups,)``.
        above: By weights that average to 1 / Z, ``(groups,)``.

    References:
        Grosse, Ghahramani & Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo, section 3, arXiv:1511.02543.
    """

    below: Tensor
    above: Tensor

    @property
    def lower(self) -> Tensor:
        """A bound that the mean of ``below`` exceeds with half of what the confidence leaves."""
        return self.below.mean() - _reach(self.below)

    @property
    def upper(self) -> Tensor:
        """The same from above."""
        return self.above.mean() + _reach(self.above)

    def doubts(self) -> list[Doubt]:
        """Why the two sides should not be believed."""
        gap = (self.above.mean() - self.below.mean()).item()
        errors = (_standard_error(side).item() for side in (self.below, self.above))
        error = math.hypot(ROUNDED, *errors)
        jensen = 0.5 * (self.below.var() + self.above.var()).item()
        noise = FAR * error + 2.0 * jensen + ROUNDED * (1.0 + self.below.abs().mean().item())
        if not self.upper - self.lower < WIDE:
            text = (
                f"the bounds are {(self.upper - self.lower).item():.3g} nats apart: one of the two "
                "directions between start and target has failed"
            )
        elif gap < -noise or gap > max(noise, STRAY):
            text = (
                f"the ways from start to target and back differ by {gap:.3g} nats, which is "
                f"{abs(gap) / error:.0f} standard errors: particles have not "
                "settled on the way"
            )
        else:
            return []
        return [Doubt(Kind.INCONSISTENT, text)]


def group_doubts(log_z: Tensor) -> list[Doubt]:
    """Whether independent estimates ``(groups,)`` of log Z agree."""
    effective = num_agreeing(log_z)
    if effective is None:
        return []
    text = (
        f"{len(log_z)} independent groups are worth {effective:.1f} by their weights, so neither "
        "log Z nor its standard error is to be trusted"
    )
    return [Doubt(Kind.DISAGREEING, text)]


def share_doubts(tilts: Tensor, num_chains: int) -> list[Doubt]:
    """Whether islands agree where the mass is, by the mean of a function of their particles.

    Means over chains that are independent and settled have a variance of that within islands over
    their number; islands that hold different shares of a narrow mode have a much larger one, long
    before their log Z, which the share moves less, disagree.

    Shapes: tilts ``(islands, n)``, of the particles of ``num_chains`` chains in each.

    >>> share_doubts(torch.randn(8, 128, generator=torch.Generator().manual_seed(0)), 32)
    []
    """
    inside = tilts[tilts.isfinite().all(1)].double()
    if len(inside) < 2:
        return []
    ratio = (inside.mean(1).var() / (inside.var(1).mean() / num_chains)).item()
    if not ratio > UNEQUAL:
        return []
    text = (
        f"independent groups of particles hold different shares of the target: their means vary "
        f"{ratio:.3g} times as much as those of settled chains, as where a narrow mode is found by "
        "a few"
    )
    return [Doubt(Kind.DISAGREEING, text)]


def _reach(values: Tensor) -> Tensor:
    return SHARED * t_quantile(len(values)) * _standard_error(values)


def _standard_error(values: Tensor) -> Tensor:
    return values.std() / math.sqrt(len(values))
