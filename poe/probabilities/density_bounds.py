"""``poe.log_density_bounds``: two bounds on a log-density that cannot be computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poe.core.arguments import checked
from poe.core.doubt import Doubt, texts, together, warn
from poe.core.errors import NormalizationError, PoeError
from poe.core.randomness import resolve
from poe.density.capabilities import exact_log_partition
from poe.density.checks import device_of, dtype_of
from poe.density.closed_forms import is_source
from poe.density.expert import (
    At,
    Expert,
    Mixture,
    Product,
    Tempered,
    conjunction,
    experts_in,
    require_expert,
)
from poe.density.latent import Marginal
from poe.density.normalized import LogPartition, Normalized
from poe.density.questions import keeps_default, own_question, question
from poe.density.transformed import Transformed
from poe.normalizers.choose import find_log_partition
from poe.normalizers.problem import Method

Find = Callable[[Expert, Expert | None], LogPartition]
"""log Z of a posterior, from a start where there is one."""
SHOWN = 3
"""So many doubts a warning shows."""


class LogDensityBounds(NamedTuple):
    """Bounds on log p(x) at every x, and what is known of them.

    Args:
        lower: Lower bounds, ``(*batch,)``.
        upper: Upper bounds, ``(*batch,)``.
        confidence: The probability with which both hold at each x by itself, not at all of them
            together; 1 where they are exact.
        rests_on: What they assume, in words; empty where nothing is assumed.
        doubts: Why they should not be believed, with the number of the x in the flattened batch;
            ``remarks`` are their words. None of them: they are trusted.
    """

    lower: Tensor
    upper: Tensor
    confidence: float = 1.0
    rests_on: str = ""
    doubts: tuple[Doubt, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against them."""
        return not self.doubts


@checked
def log_density_bounds(
    expert: Expert,
    x: Tensor,
    *,
    method: Method | None = None,
    generator: torch.Generator | None = None,
) -> LogDensityBounds:
    """Bounds on the log-density that ``expert`` stands for.

    Both equal ``expert(x)`` where that is exact. For a ``poe.Marginal`` they enclose log p(x) =
    log ∫ p(z) p(x | z) dz: that is log Z of the posterior of z, and so ``poe.log_partition`` bounds
    it, once for every x. An estimate starts at the prior where that has exact draws. Its lower
    bound needs no chain to have mixed; the upper one would need exact draws of the posterior, and
    ``rests_on`` says what stands for them.

    Through the algebra: powers scale bounds (and swap them below 0), products add them, mixtures
    add the densities; a normaliser that was estimated counts with its own bounds. All parts are to
    hold together, so their doubts add: 1 − Σ (1 − confidence), Bonferroni's inequality. The bounds
    are detached from the graph. Warns (TrustWarning) where there are remarks. Raises what
    ``poe.log_partition`` raises, too.

    Args:
        expert: Any composition.
        x: Positions, ``(*batch, *event)``.
        method: How log Z of a posterior is bounded; by default the method that fits.
        generator: The source of randomness; a fresh one by default.

    Returns:
        The bounds, ``(*batch,)`` each.

    Raises:
        PoeError: Where bounds on a part say nothing of the whole.

    References:
        Grosse, Ghahramani & Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo, arXiv:1511.02543.

        For latent variables: Grosse, Ancha & Roy (2016), Measuring the reliability of MCMC
        inference with bidirectional Monte Carlo, arXiv:1606.02275.

    Example:
        >>> prior = experts.Gaussian([-2.0], scale=[1.0]) | experts.Gaussian([2.0], scale=[1.0])
        >>> step = experts.LinearGaussian(weight=[[1.0]], bias=[0.0], scale=[0.5])
        >>> marginal = poe.Marginal(prior, step, prior.sample(256))
        >>> found = log_density_bounds(marginal, torch.zeros(1, 1))
        >>> found.lower, found.upper, found.confidence
        (tensor([-2.6305]), tensor([-2.6305]), 0.95)
    """
    generator = resolve(generator, device_of(require_expert(expert)))

    def find(posterior: Expert, start: Expert | None) -> LogPartition:
        return find_log_partition(posterior, method, start, generator, progress=False)

    found = bounds(expert, x, find)
    _warn(found)
    return found._replace(lower=found.lower.detach(), upper=found.upper.detach())


@own_question
def has_exact_log_density(module: nn.Module) -> bool:
    """Whether ``expert(x)`` is the log-density that the expert stands for, and no estimate of it.

    >>> has_exact_log_density(experts.Gaussian([0.0], scale=[1.0]) ** 2)
    True
    """
    return all(has_exact_log_density(child) for child in module.children())


@has_exact_log_density.register
def _(module: Marginal) -> bool:
    return False


@has_exact_log_density.register
def _(module: Normalized) -> bool:
    return module.log_partition.is_exact and has_exact_log_density(module.expert)


@has_exact_log_density.register
def _(module: Mixture) -> bool:
    is_known = all(estimate is None for estimate in module.estimates)
    return is_known and has_exact_log_density(module.experts)


@question
def bounds(expert: Expert, x: Tensor, find: Find) -> LogDensityBounds:
    """The bounds of one kind of expert; a kind that has them registers here.

    It registers with ``has_exact_log_density`` too.
    """
    if not has_exact_log_density(expert):
        raise PoeError(
            f"the log-density of a part of {type(expert).__name__} is only bounded, and how that "
            "part acts on the whole is not known; bound the part itself, or register "
            f"poe.probabilities.density_bounds.bounds for {type(expert).__name__}"
        )
    value = expert(x)
    return LogDensityBounds(value, value)


@bounds.register
def _(expert: Marginal, x: Tensor, find: Find) -> LogDensityBounds:
    batch = expert.space.batch_shape(x)
    start = expert.prior if is_source(expert.prior) else None
    rows = x.reshape(-1, *expert.space.event_shape)
    found = [find(expert.posterior(row), start) for row in rows]

    def gathered(values: Sequence[Tensor]) -> Tensor:
        numbers = [value.item() for value in values]
        return torch.tensor(numbers, dtype=dtype_of(expert), device=x.device).reshape(batch)

    return LogDensityBounds(
        gathered([one.lower for one in found]),
        gathered([one.upper for one in found]),
        min((one.confidence for one in found), default=1.0),
        _in_words(one.rests_on for one in found),
        tuple(doubt.about(f"x {k}") for k, one in enumerate(found) for doubt in one.doubts),
    )


@bounds.register
def _(expert: Tempered, x: Tensor, find: Find) -> LogDensityBounds:
    inner = bounds(expert.expert, x, find)
    ends = torch.stack([expert.weigh(inner.lower), expert.weigh(inner.upper)])
    return inner._replace(lower=ends.amin(0), upper=ends.amax(0))


@bounds.register
def _(expert: Product, x: Tensor, find: Find) -> LogDensityBounds:
    parts = [bounds(factor, x, find) for factor in experts_in(expert.experts)]
    lower, upper = (conjunction(torch.stack(side)) for side in _sides(parts))
    return _all_of(parts, lower, upper)


@bounds.register
def _(expert: Mixture, x: Tensor, find: Find) -> LogDensityBounds:
    if any(estimate is not None for estimate in expert.estimates):
        raise NormalizationError(
            "the log partitions of this mixture are bare numbers, whose errors are not known; use "
            "poe.any_of(*experts, weights=weights)"
        )
    parts = [_component_bounds(component, x, find) for component in experts_in(expert.experts)]
    logs = expert.proportions.log().to(parts[0].lower)
    lower, upper = (torch.logsumexp(torch.stack(side, -1) + logs, -1) for side in _sides(parts))
    return _all_of(parts, lower, upper)


@bounds.register
def _(expert: Normalized, x: Tensor, find: Find) -> LogDensityBounds:
    if not has_exact_log_density(expert.expert) and exact_log_partition(expert.expert) is None:
        raise PoeError(
            f"the log Z that {type(expert.expert).__name__} is normalised by is one of the "
            "estimate that it is evaluated by, so it says nothing of the density in the bounds; "
            "bound the expert before it is normalised"
        )
    inner, known = bounds(expert.expert, x, find), expert.log_partition
    of_log_z = LogDensityBounds(
        -known.upper.to(inner.lower),
        -known.lower.to(inner.lower),
        known.confidence,
        known.rests_on,
        known.doubts,
    )
    return _all_of([inner, of_log_z], inner.lower + of_log_z.lower, inner.upper + of_log_z.upper)


@bounds.register
def _(expert: Transformed, x: Tensor, find: Find) -> LogDensityBounds:
    inner = bounds(expert.expert, expert.bijection.build().inv(x), find)
    return inner._replace(
        lower=expert.pull_back(x, lambda _: inner.lower),
        upper=expert.pull_back(x, lambda _: inner.upper),
    )


@bounds.register
def _(expert: At, x: Tensor, find: Find) -> LogDensityBounds:
    return bounds(expert.expert, expert.generator(x), find)


def _warn(found: LogDensityBounds) -> None:
    """One warning for all x."""
    shown = list(found.doubts[:SHOWN])
    if len(found.doubts) > SHOWN:
        more = f"and {len(found.doubts) - SHOWN} more in `remarks`"
        shown.append(found.doubts[SHOWN]._replace(text=more))
    warn(together("bounds on the log-density are not to be trusted", shown))


def _component_bounds(component: Expert, x: Tensor, find: Find) -> LogDensityBounds:
    """Of the component's normalised log-density."""
    inner, log_z = bounds(component, x, find), exact_log_partition(component)
    if log_z is None:  # a Normalized, whose estimate is in its own bounds
        return inner
    shift = log_z.to(inner.lower)
    return inner._replace(lower=inner.lower - shift, upper=inner.upper - shift)


def _sides(parts: Sequence[LogDensityBounds]) -> tuple[list[Tensor], list[Tensor]]:
    return [part.lower for part in parts], [part.upper for part in parts]


def _all_of(parts: Sequence[LogDensityBounds], lower: Tensor, upper: Tensor) -> LogDensityBounds:
    """Bounds that hold where those of all parts do."""
    risk = sum(1.0 - part.confidence for part in parts)
    doubts = tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts))
    return LogDensityBounds(
        lower, upper, max(0.0, 1.0 - risk), _in_words(part.rests_on for part in parts), doubts
    )


def _in_words(reasons: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


keeps_default(Expert, "all parts are asked", has_exact_log_density)
keeps_default(Expert, "the log-density itself, or PoeError where that is an estimate", bounds)
