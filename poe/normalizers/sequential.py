"""log Z by particles along a path from start to target, forward or by all levels at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NormalizationError
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.diagnostics.weights import kish_ess
from poe.normalizers.doubts import Evidence, concluded, tail_doubts
from poe.normalizers.levels import (
    NUM_MOVES,
    Levels,
    Report,
    all_levels,
    integrals,
    sides,
    weakest_ess,
)
from poe.normalizers.problem import Problem, pose
from poe.normalizers.sides import group_doubts, share_doubts

ON_LEVELS = "the upper bound rests on the particles of every level being draws of it"


EVEN = 0.5
"""The share of their number that weights of a start are worth, from which on they are even."""
MOST_TIMES, PART_OF_SCOUTS = 4, 4
"""Else up to so many times the particles, where that takes no more than such a part of scouts'."""


@checked
@dataclass(frozen=True)
class MBAR:
    """The multistate Bennett acceptance ratio over all levels of a run of particles.

    Particles go from the start to the target by sequential Monte Carlo; then **all** particles of
    all levels weigh on every ratio, forward and back. Where no start is given, a small run from a
    broad one finds the target first, and the path begins at a density fitted to that (on a
    discrete space at all states alike).

    Args:
        num_samples: Particles a level, at least: up to four times as many where weights are uneven
            and the small runs before took far more evaluations.

    References:
        Shirts & Chodera (2008), Statistically optimal analysis of samples from multiple equilibrium
        states, doi:10.1063/1.2978177; Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo
        samplers, doi:10.1111/j.1467-9868.2006.00553.x (the path).

    Example:
        >>> target = poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(6))
        >>> g = torch.Generator().manual_seed(0)
        >>> found = poe.log_partition(target, method=MBAR(), generator=g, progress=False)
        >>> truth = 6 * (2 * torch.tensor(1.25).lgamma().exp()).log()
        >>> bool((found.value - truth).abs() < 3 * found.std_error), found.is_trusted
        (True, True)
    """

    num_samples: int = 2048

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        return _concluded(problem, _walked(problem, self.num_samples, generator, report), _by_all)


def _walked(
    problem: Problem, num_samples: int, generator: torch.Generator, report: Report
) -> Levels:
    """Particles from the start to the target; more where weights are uneven and scouts were dear.

    The mean of few uneven weights is likelier below its own mean than above.
    """
    levels = problem.walk(num_samples, 0.8, generator, report)
    affordable = problem.scouted.num_evaluations // (PART_OF_SCOUTS * levels.num_evaluations)
    times, whole = min(MOST_TIMES, affordable), levels.tilts[0]
    if times < 2 or kish_ess(whole) > EVEN * whole.numel():
        return levels
    more = problem.walk(times * num_samples, 0.8, generator, report)
    return more._replace(num_evaluations=levels.num_evaluations + more.num_evaluations)


@checked
@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo: the product of the mean weights of all levels, forward.

    See `poe.smc`, which gives draws beside.

    Args:
        num_samples: Particles a level, at least.

    References:
        Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers,
        doi:10.1111/j.1467-9868.2006.00553.x.
    """

    num_samples: int = 2048

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        return _concluded(problem, problem.walk(self.num_samples, 0.8, generator, report), _forward)


@checked
@dataclass(frozen=True)
class ThermodynamicIntegration:
    """log Z₁ − log Z₀ = ∫ E_t U dt, U = d/dt log γ_t, over the levels of a run of particles.

    By the trapezoidal rule, corrected by the derivatives Var_t U. The error of the rule is told by
    leaving out every second level. It raises NormalizationError where a part of the start is
    outside the target's support: there the integrand is infinite.

    Args:
        num_samples: Particles a level, at least.

    References:
        Gelman & Meng (1998), Simulating normalizing constants: from importance sampling to bridge
        sampling to path sampling, section 2.1, doi:10.1214/ss/1028905934.
    """

    num_samples: int = 2048

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        levels = problem.walk(self.num_samples, 0.98, generator, report)
        return _concluded(problem, levels, _by_integration)


class Estimate(NamedTuple):
    """log Z with its standard error, and how it was found in words."""

    value: Tensor
    std_error: Tensor
    name: str


def _by_all(levels: Levels) -> Estimate:
    found = all_levels(levels)
    name = f"multistate Bennett acceptance ratio over {len(levels.passed)} levels"
    return Estimate(found.log_z[-1] + levels.log_start, found.std_error, name)


def _forward(levels: Levels) -> Estimate:
    error = standard_error_of_log_mean(levels.log_z)
    return Estimate(log_mean(levels.log_z), error, "sequential Monte Carlo")


def _by_integration(levels: Levels) -> Estimate:
    if not bool(levels.tilts.isfinite().all()):
        raise NormalizationError(
            "expected a start inside the target's support for thermodynamic integration, got "
            "one that is partly outside: use another method, such as poe.normalizers.MBAR"
        )
    groups = integrals(levels)
    statistical = groups.std() / math.sqrt(len(groups))
    of_rule = (integrals(levels, 2).mean() - groups.mean()).abs()
    name = f"thermodynamic integration over {len(levels.passed)} levels"
    value = groups.mean() + levels.log_start
    return Estimate(value, torch.hypot(statistical, of_rule), name)


def _concluded(
    problem: Problem, levels: Levels, estimate: Callable[[Levels], Estimate]
) -> LogPartition:
    found, both = estimate(levels), sides(levels)
    evidence = Evidence(
        value=found.value,
        std_error=found.std_error,
        sides=both,
        name=found.name,
        ess=weakest_ess(levels),
        num_evaluations=levels.num_evaluations,
        levels=levels,
        seen=levels.tilts[-1],
        rests_on=ON_LEVELS,
        doubts=[
            *group_doubts(levels.log_z),
            *share_doubts(levels.tilts[-1], levels.tilts.shape[2] // NUM_MOVES),
            *tail_doubts(problem, levels.tilts[-1]),
            *both.doubts(),
        ],
        num_undefined=levels.num_undefined,
    )
    return concluded(problem, evidence)
