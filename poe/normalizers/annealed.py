"""Annealed importance sampling, forward and in reverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert
from poe.density.normalized import LogPartition
from poe.diagnostics.independent_groups import log_mean, standard_error_of_log_mean
from poe.diagnostics.weights import kish_ess
from poe.normalizers.doubts import Evidence, concluded, tail_doubts
from poe.normalizers.levels import NUM_ISLANDS, Levels, Report
from poe.normalizers.mbar import mbar
from poe.normalizers.problem import pose
from poe.normalizers.sides import ON_DRAWS, Sides, group_doubts
from poe.samplers.kernel import Kernel, or_nothing
from poe.samplers.path import GeometricPath, Level, Parts, geometric_path
from poe.samplers.questions import at_level, is_reversible, log_odds_per_step, needs_score


class Step(NamedTuple):
    """From one temperature to the next, and the kernel that moves at the upper one."""

    lower: float
    upper: float
    kernel: Kernel


@checked
@dataclass(frozen=True)
class AIS:
    """Annealed importance sampling from start to target, and from target to start.

    Chains walk up a ladder of temperatures and collect log w = Σ Δt U, of which E w = Z / Z₀;
    others begin at draws of the target and walk down, with E w = Z₀ / Z. The estimate is the
    Bennett acceptance ratio of both ways, which supposes reversible kernels; on discrete spaces,
    where a sweep is not reversible, it is the mean of w upward. A small run of particles finds the
    ladder and the kernels, which are fixed before the chains begin.

    Args:
        num_samples: Chains each way, at least.
        substeps: Temperatures for each that the particles needed.

    Raises:
        PoeError: Where one of them is below 1.

    References:
        Neal (2001), Annealed importance sampling, arXiv:physics/9803008; Grosse, Ghahramani & Adams
        (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
        arXiv:1511.02543, and Burda, Grosse & Salakhutdinov (2015), Accurate and conservative
        estimates of MRF log-likelihood using reverse annealing, arXiv:1412.8566 (both ways); Crooks
        (2000), Path-ensemble averages in systems driven far from equilibrium,
        doi:10.1103/PhysRevE.61.2361, and Bennett (1976), Efficient estimation of free energy
        differences from Monte Carlo data, doi:10.1016/0021-9991(76)90078-4 (from both).
    """

    num_samples: int = 512
    substeps: int = 4

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.substeps < 1:
            raise PoeError(
                f"expected num_samples and substeps of at least 1, got {self.num_samples} and "
                f"{self.substeps}"
            )

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        problem = pose(target, start, generator, report)
        ladder = problem.walk(self.num_samples, 0.8, generator, report)
        ends = problem.draws(self.num_samples, generator, report)
        path = geometric_path(problem.start, problem.target, problem.raised)
        steps = _steps(ladder, path, self.substeps)
        each = -(-self.num_samples // NUM_ISLANDS)
        below = exact_sample(problem.start, NUM_ISLANDS * each, generator)
        above = _spread(ends.position, each)
        up, cost_up = climb(path, steps, below, generator)
        down, cost_down = descend(path, steps, above, generator)
        up, down = up.reshape(NUM_ISLANDS, -1), down.reshape(NUM_ISLANDS, -1)
        found = estimate(steps, up, down)
        evidence = self._evidence(ladder, ends, up, down, found, cost_up + cost_down)
        doubts = [*evidence.doubts, *tail_doubts(problem, ladder.tilts[-1])]
        return concluded(problem, evidence._replace(doubts=doubts))

    def _evidence(
        self,
        ladder: Levels,
        ends: Levels,
        up: Tensor,
        down: Tensor,
        found: tuple[Tensor, Tensor],
        cost: int,
    ) -> Evidence:
        both = Sides(log_mean(up) + ladder.log_start, ladder.log_start - log_mean(down))
        value, std_error = found
        return Evidence(
            value=value + ladder.log_start,
            std_error=std_error,
            sides=both,
            name=f"annealed importance sampling both ways, {len(ladder.passed)} levels x "
            f"{self.substeps}",
            ess=min(kish_ess(up).item(), kish_ess(down).item()),
            num_evaluations=ladder.num_evaluations + ends.num_evaluations + cost,
            levels=ladder,
            seen=ladder.tilts[-1],
            rests_on=ON_DRAWS,
            doubts=[*group_doubts(both.below), *group_doubts(-both.above), *both.doubts()],
        )


def estimate(steps: list[Step], up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """log Z / Z₀ and its standard error, from log weights ``(groups, n)`` up and down.

    From both ways where the kernel of every level is reversible; else from those upward alone.
    """
    if all(is_reversible(step.kernel) for step in steps):
        return both_ways(up, down)
    return _one_way(up)


def both_ways(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The Bennett acceptance ratio of log weights ``(groups, n)`` up and down, with its error."""
    ratio = torch.cat([up, -down], 1)
    counts = torch.tensor([up.shape[1], down.shape[1]], device=up.device)
    found = mbar(torch.stack([torch.zeros_like(ratio), ratio]), counts)
    return found.log_z[-1], found.std_error


def _one_way(up: Tensor) -> tuple[Tensor, Tensor]:
    """log of the mean weight, with its error."""
    return log_mean(up.flatten()), standard_error_of_log_mean(up.flatten())


def _has_score(steps: list[Step]) -> bool:
    """Whether the kernels want one."""
    return any(needs_score(step.kernel) for step in steps)


def climb(
    path: GeometricPath, steps: list[Step], x: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """log w of chains from draws of the start upward ``(rows,)``, and the evaluations it took."""
    parts, count = path.evaluate(x, _has_score(steps)), len(x)
    log_weight = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for lower, upper, kernel in steps:
        log_weight = log_weight + (upper - lower) * _tilt(path, parts)
        parts = _inside(parts, log_weight)
        parts, cost = _moved(path, upper, kernel, parts, generator)
        count += cost
    return log_weight, count


def descend(
    path: GeometricPath, steps: list[Step], x: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """log w of chains from draws of the target downward: the same steps in reverse."""
    parts, count = path.evaluate(x, _has_score(steps)), len(x)
    log_weight = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for lower, upper, kernel in reversed(steps):
        parts, cost = _moved(path, upper, kernel, parts, generator)
        log_weight = log_weight - (upper - lower) * _tilt(path, parts)
        count += cost
    return log_weight, count


def _moved(
    path: GeometricPath, t: float, kernel: Kernel, parts: Parts, generator: torch.Generator
) -> tuple[Parts, int]:
    level = Level(path, t)
    state = kernel.init(level.known(parts), parts.position)
    state, info = kernel.step(level, state, generator=generator)
    parts = level.follow_or_evaluate(parts, info.is_accepted, state.position)
    return parts, level.num_evaluations + log_odds_per_step(kernel) * len(parts.position)


def _inside(parts: Parts, log_weight: Tensor) -> Parts:
    """Chains of weight 0 go on from another's place: they count as 0 for good."""
    is_dead = log_weight == -torch.inf
    rows = torch.arange(len(is_dead), device=is_dead.device)
    return parts.at(torch.where(is_dead, (~is_dead).int().argmax(), rows))


def _tilt(path: GeometricPath, parts: Parts) -> Tensor:
    return or_nothing(path.tilt(parts))


def _steps(ladder: Levels, path: GeometricPath, substeps: int) -> list[Step]:
    """Each step of the particles in so many equal ones, moved by the kernel of its upper end."""
    steps = []
    temperatures = [passed.temperature for passed in ladder.passed]
    for one, other, passed in zip(temperatures, temperatures[1:], ladder.passed[1:], strict=False):
        assert passed.kernel is not None
        between = [one + (other - one) * k / substeps for k in range(substeps)] + [other]
        steps += [Step(a, b, at_level(passed.kernel, path.at(b))) for a, b in pairwise(between)]
    return steps


def _spread(position: Tensor, each: int) -> Tensor:
    """So many particles of each island, evenly: ``(islands * each, *event)``."""
    rows = torch.arange(each, device=position.device) * position.shape[1] // each
    return position[:, rows].flatten(0, 1)
