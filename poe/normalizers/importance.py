"""log Z by importance sampling, and by bridges between draws of the experts and of the product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.density.closed_forms import exact_sample, is_source, require_source
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.diagnostics.weights import kish_ess, tail_index
from poe.normalizers.doubts import Evidence, concluded
from poe.normalizers.levels import NUM_ISLANDS, Report
from poe.normalizers.mbar import mbar
from poe.normalizers.problem import Problem, pose, tilts_at
from poe.normalizers.sides import ON_DRAWS, Sides, group_doubts
from poe.samplers.kernel import or_nothing

HEAVY = 0.7
"""Weights with a heavier tail than this say nothing of their own error."""


@checked
@dataclass(frozen=True)
class ImportanceSampling:
    """log of the mean of p̃(x) / q(x) over draws x of the start q.

    The upper bound comes from draws of the target, of which the mean of q(x) / p̃(x) is 1 / Z.

    Args:
        num_samples: Draws of the start, at least.

    References:
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9; Vehtari et al. (2024),
        Pareto smoothed importance sampling, arXiv:1507.02646 (the tail of the weights).
    """

    num_samples: int = 16384

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        log_start = require_source(problem.start)
        tilt = _tilts_of_start(problem, self.num_samples, generator)
        draws = problem.draws(self.num_samples // 8, generator, report)
        groups = log_mean(tilt) + log_start
        above = log_start - log_mean(-_tilts(problem, draws.position))
        return concluded(
            problem,
            Evidence(
                value=log_mean(groups),
                std_error=standard_error_of_log_mean(tilt.flatten()),
                sides=Sides(groups, above),
                name="importance sampling",
                ess=kish_ess(tilt).item(),
                num_evaluations=tilt.numel() + draws.num_evaluations,
                levels=draws,
                seen=tilt,
                rests_on=ON_DRAWS,
                doubts=[*_tail_doubts(tilt), *Sides(groups, above).doubts()],
            ),
        )


@checked
@dataclass(frozen=True)
class Bridge:
    """The optimal bridge between draws of the start, of every samplable expert, and of the product.

    With two densities it is the bridge of Meng & Wong; with more, the multistate Bennett acceptance
    ratio. Draws of the product go there by particles from a density fitted to it.

    Args:
        num_samples: Draws of each, at least.

    References:
        Meng & Wong (1996), Simulating ratios of normalizing constants via a simple identity,
        eq. 4.1; Shirts & Chodera (2008), Statistically optimal analysis of samples from multiple
        equilibrium states, doi:10.1063/1.2978177.
    """

    num_samples: int = 4096

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        draws = problem.draws(self.num_samples, generator, report)
        ends = [problem.start, *_samplable_factors(problem)]
        each = draws.position.shape[1]
        parts = [_grouped(exact_sample(end, NUM_ISLANDS * each, generator)) for end in ends]
        x = torch.cat([*parts, draws.position], 1)
        log_densities = torch.stack([_log_densities(d, x) for d in (*ends, problem.target)])
        found = mbar(log_densities, torch.full((len(ends) + 1,), each, device=x.device))
        log_start = require_source(problem.start)
        tilt = log_densities[-1] - log_densities[0]
        near, far = tilt[:, :each], tilt[:, -each:]
        both = Sides(log_mean(near) + log_start, log_start - log_mean(-far))
        return concluded(
            problem,
            Evidence(
                value=found.log_z[-1] + log_start,
                std_error=found.std_error,
                sides=both,
                name=f"a bridge between {len(ends) + 1} densities",
                ess=_overlap_ess(tilt, found.log_z[-1], each),
                num_evaluations=draws.num_evaluations + len(ends) * NUM_ISLANDS * each,
                levels=draws,
                seen=tilt,
                rests_on=ON_DRAWS,
                doubts=group_doubts(draws.log_z),
            ),
        )


def _samplable_factors(problem: Problem) -> list[Expert]:
    """The experts of the product that can be drawn from, other than the start."""
    return [
        factor
        for _, factor in problem.target._factors()
        if factor is not problem.start and is_source(factor)
    ]


def _overlap_ess(tilt: Tensor, log_ratio: Tensor, each: int) -> float:
    """Σ P(start | x) P(target | x) over all draws: how many of them lie where both have a say.

    Twice that is the information on log Z, which n draws of one density with itself would have n/2.
    """
    near = torch.cat([tilt[:, :each], tilt[:, -each:]], 1)
    given = torch.sigmoid(near - log_ratio)
    return 2.0 * (given * (1.0 - given)).sum().item()


def _tilts_of_start(problem: Problem, num_samples: int, generator: torch.Generator) -> Tensor:
    count = NUM_ISLANDS * -(-num_samples // NUM_ISLANDS)
    return _tilts(problem, _grouped(exact_sample(problem.start, count, generator)))


def _tilts(problem: Problem, x: Tensor) -> Tensor:
    """log p̃ − log p₀ at ``(groups, n, *event)``: ``(groups, n)``; −inf where it is undefined."""
    return or_nothing(tilts_at(problem.start, problem.target, x, problem.raised))


def _log_densities(density: Expert, x: Tensor) -> Tensor:
    with torch.no_grad():
        values = density(x.flatten(0, 1)).double()
    return or_nothing(values).reshape(x.shape[:2])


def _grouped(x: Tensor) -> Tensor:
    return x.reshape(NUM_ISLANDS, -1, *x.shape[1:])


def _tail_doubts(tilt: Tensor) -> list[Doubt]:
    index = tail_index(tilt.flatten())
    if index <= HEAVY:
        return []
    text = (
        f"the largest weights have a tail of index {index:.2f} > {HEAVY}: some that matter were "
        "not drawn"
    )
    return [Doubt(Kind.LIGHT_TAILS, text)]
