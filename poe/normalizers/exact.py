"""log Z without an estimate: by closed form, by enumeration, by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind
from poe.core.errors import ImproperError, NonFiniteError, NormalizationError, PoeError
from poe.core.randomness import aside
from poe.density.adapt import Uniform
from poe.density.capabilities import exact_log_partition
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample, require_agreement
from poe.density.conditional import is_batch, num_conditions
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.normalized import LogPartition, exact
from poe.density.trials import require_function
from poe.normalizers.charts import can_integrate
from poe.normalizers.enumeration import MAX_STATES, log_sum, num_states
from poe.normalizers.levels import Report
from poe.normalizers.problem import Method
from poe.normalizers.quadrature import (
    MAX_EVALUATIONS,
    Integral,
    integrate,
    not_converged,
    reference,
)
from poe.particles.summits import FAR
from poe.samplers.guarded import Guarded, Raised
from poe.structure.edges import reaching_edges
from poe.structure.far_mass import look_far
from poe.tuning.start import broad_start, first_answered

FEW_POSITIONS = 8
"""So many show whether a log-density is a function of each row."""
NOTABLE = 1e-3
"""The share of the mass that is worth a word."""


@checked
@dataclass(frozen=True)
class ClosedForm:
    """What the families' own log partitions come to; it raises NormalizationError without one."""

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        known = in_closed_form(target)
        if known is None:
            raise NormalizationError(
                f"expected a log partition in closed form, {type(target).__name__} has none: leave "
                "`method` out"
            )
        return known


@checked
@dataclass(frozen=True)
class Enumeration:
    """The sum over all states, in a stream; it raises NormalizationError beyond 2^25 of them."""

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        count = num_states(target.space)
        if count > MAX_STATES:
            raise NormalizationError(
                f"expected at most {MAX_STATES} states to sum over, got {target.space}: leave "
                "`method` out"
            )
        _require_function(target, number_like(target), generator)
        raised = Raised()
        found = _finite(log_sum(target, raised), "enumeration", int(count))
        return found._replace(doubts=(*found.doubts, *raised.doubts()))


@checked
@dataclass(frozen=True)
class Quadrature:
    """Adaptive Gauss-Kronrod cells, in one to three continuous dimensions.

    It may miss a needle on the slope of a much broader peak. It raises NormalizationError in more
    dimensions, and where the cells do not converge.

    Args:
        max_evaluations: Of the target's log-density, beyond those of the first cells.

    Raises:
        PoeError: For no evaluations.
    """

    max_evaluations: int = MAX_EVALUATIONS

    def __post_init__(self) -> None:
        if self.max_evaluations < 1:
            raise PoeError(f"expected max_evaluations of at least 1, got {self.max_evaluations}")

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        if not can_integrate(target.space):
            raise NormalizationError(
                f"expected a space of one to three continuous dimensions, got {target.space}: "
                "leave `method` out"
            )
        raised = Raised()
        found = self._integrated(target, generator, report, raised)
        if not found.has_converged:
            raise not_converged(target, float(found.error), found.num_evaluations)
        return _by_quadrature(target, found, raised)

    def _integrated(
        self, target: Expert, generator: torch.Generator, report: Report, raised: Raised
    ) -> Integral:
        _require_function(target, reference(target), generator)
        return integrate(target, raised, self.max_evaluations, report)


@checked
@dataclass(frozen=True)
class QuadratureOr:
    """Quadrature where its cells converge, and else another method, compared with what they found.

    Args:
        other: The method.
        quadrature: With its settings.
    """

    other: Method
    quadrature: Quadrature = Quadrature()

    def __call__(
        self, target: Expert, start: Expert | None, generator: torch.Generator, report: Report
    ) -> LogPartition:
        """log Z of the target."""
        raised = Raised()
        try:
            found = self.quadrature._integrated(target, generator, report, raised)
        except NonFiniteError as error:
            return self._without(error, target, start, generator, report)
        if found.has_converged:
            return _by_quadrature(target, found, raised)
        result = self.other(target, start, generator, report)
        return result._replace(
            method=f"{result.method}; quadrature did not converge",
            num_evaluations=result.num_evaluations + found.num_evaluations,
            doubts=(*result.doubts, *_apart(result, found)),
        )

    def _without(
        self,
        error: NonFiniteError,
        target: Expert,
        start: Expert | None,
        generator: torch.Generator,
        report: Report,
    ) -> LogPartition:
        """By the other method, if that has no doubt, where cells reach what is no number."""
        try:
            result = self.other(target, start, generator, report)
        except PoeError:  # which says less of where it is
            raise error from None
        if result.doubts:
            raise error
        return result._replace(
            method=f"{result.method}; quadrature met what is no number",
            doubts=(*result.doubts, Doubt(Kind.UNDEFINED, f"{error}, where quadrature looked")),
        )


def _apart(result: LogPartition, found: Integral) -> list[Doubt]:
    """Whether a result is far from what cells found that did not converge; not where that is vague.

    Beyond half of Z their error says nothing of what they may have missed.
    """
    apart = abs(float(result.value - found.value))
    if not (found.error < 0.5 and apart > FAR * math.hypot(result.std_error, found.error)):
        return []
    text = f"quadrature, which did not converge, found {found.value:.4g} ± {found.error:.2g}"
    return [Doubt(Kind.INCONSISTENT, text)]


def _by_quadrature(target: Expert, found: Integral, raised: Raised) -> LogPartition:
    """With bounds of two errors, and what they rest on."""
    rests_on = "both bounds rest on no needle being missed"
    if found.beyond > NOTABLE * max(float(found.error), NOTABLE):
        rests_on += (
            f", and {found.beyond:.2g} of the mass, which is nearer to an edge or to infinity than "
            f"{found.value.dtype} tells, on the power law before it"
        )
    u = Coordinates(target.space).to_u(found.position)
    return LogPartition(
        found.value,
        found.error,
        found.value - 2 * found.error,
        found.value + 2 * found.error,
        "quadrature",
        num_evaluations=found.num_evaluations,
        confidence=0.95,
        rests_on=rests_on,
        doubts=(*look_far(reaching_edges(target), u).doubts, *raised.doubts()),
    )


def in_closed_form(target: Expert) -> LogPartition | None:
    """log Z in closed form; None where there is none.

    >>> in_closed_form(experts.Gaussian([0.0], scale=[1.0]) ** 2).value
    tensor(-1.2655)
    """
    closed = exact_log_partition(target)
    if closed is None:
        return None
    if not closed.is_meta and (x := somewhere(target)) is not None:
        require_agreement(target, x)
    return _finite(closed, "closed form")


def somewhere(target: Expert) -> Tensor | None:
    """Two events, the same at every call, or one for each density of a batch; None on Count."""
    num_events = num_conditions(target) or 2
    like = number_like(target)
    if like.is_meta:
        return None
    generator = torch.Generator(like.device).manual_seed(0)
    if target.space.num_values is not None:
        return Uniform(target.space, like).sample(num_events, generator=generator)
    if target.space.is_discrete:
        return None
    coordinates = Coordinates(target.space)
    shape = (num_events, *coordinates.u_space.event_shape)
    return coordinates.to_x(like.new_empty(shape).normal_(generator=generator))


def _require_function(target: Expert, like: Tensor, generator: torch.Generator) -> None:
    """Try the target at a few positions, taken aside; of a batch of densities others speak."""
    if is_batch(target):
        return
    _, source = broad_start(target, like)
    beside = aside(generator)
    tried = partial(Guarded, raised=Raised())  # some of these may be where it raises an error
    asked = tried(target)
    x = first_answered(asked, lambda: exact_sample(source, FEW_POSITIONS, beside))
    require_function(target, asked, tried, x)


def _finite(value: Tensor, method: str, num_evaluations: int = 0) -> LogPartition:
    if not bool(value.isfinite()):
        raise (ImproperError if float(value) > 0 else NonFiniteError)(
            f"expected a finite log partition, got {float(value)}"
        )
    return exact(value, method, num_evaluations)
