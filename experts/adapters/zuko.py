"""zuko's lazy distributions, its flows among them: an expert, or given a context a conditional."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
)

import poe
from experts.adapters.context import require_floats
from poe.core.arguments import checked
from poe.core.imports import missing
from poe.core.randomness import borrowed, resolve
from poe.core.space import space_of
from poe.density import capabilities
from poe.density.transformed import mask_outside
from poe.density.trials import require_settled

try:
    import zuko.distributions
    from zuko.distributions import BoxUniform, DiagNormal, Mixture, NormalizingFlow
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.flows.spline import CircularRQSTransform
    from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution
    from zuko.transforms import MonotonicRQSTransform
except ImportError as error:
    raise missing("zuko", "zuko") from error


class ZukoFlow(poe.Expert):
    r"""A ``zuko.lazy.LazyDistribution`` without context, flows among them, as a normalised expert.

    .. math:: \log p(x) = \log p_0(T(x)) + \log |\det \partial T / \partial x|

    The space is where T takes x from; x whose T(x) the base excludes has log-density −inf.
    ``sample`` is exact. ``poe.as_expert(flow)`` gives the same.

    Args:
        flow: Without context.

    Raises:
        AdaptationError: For a flow that needs a context (``ZukoConditional`` takes it), a batch of
            distributions, a trace that is estimated (``exact=False``), and dropout in training
            mode.
        PoeError: For a support that is no space here.

    Example:
        >>> import zuko
        >>> expert = ZukoFlow(zuko.flows.NSF(2, transforms=1, hidden_features=(4,)))
        >>> expert.log_prob(torch.zeros(3, 2)).shape, str(expert.space)
        (torch.Size([3]), 'Real(2)')
    """

    may_be_infinite = ()

    def __init__(self, flow: LazyDistribution) -> None:
        super().__init__()
        _require_usable(flow)
        self.space = _space(flow, None)
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return _log_prob(self.flow(), self.space, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x); equals the log-density.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws; the global generator is left alone.

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.
        """
        with borrowed(resolve(generator, _like(self.flow).device)):
            return self.flow().sample((num_samples,))


@capabilities.tails.register
def _(expert: ZukoFlow) -> Tensor | None:
    """S⁻² of a normal base of scales S, where T is of splines, which are x + O(1)."""
    flow = expert.flow
    if not (
        isinstance(flow, Flow)
        and capabilities.is_small(expert.space)
        and _is_of_splines(flow.transform)
    ):
        return None
    base = flow.base()
    if type(base) is not DiagNormal or base.base_dist.scale.is_meta:
        return None
    scale = base.base_dist.scale.detach().flatten().to("cpu", torch.float64)
    return torch.diag(scale.square().reciprocal())[None]


def _is_of_splines(transform: nn.Module) -> bool:
    """Whether each element is moved within a box, and is left alone outside."""
    if isinstance(transform, LazyComposedTransform):
        return all(_is_of_splines(part) for part in transform.transforms)
    if type(transform) not in (MaskedAutoregressiveTransform, GeneralCouplingTransform):
        return False
    univariate = transform.univariate
    made = univariate.func if isinstance(univariate, partial) else univariate
    return made is MonotonicRQSTransform


class ZukoConditional(poe.Conditional):
    """A ``zuko.lazy.LazyDistribution`` with a context, as a normalised conditional.

    ``given(context)`` binds one context, shaped like the example, or one for each chain,
    ``(n, *example)``. ``poe.as_expert(flow)`` gives the same where contexts are vectors, whose size
    it finds out.

    Args:
        flow: With a context.
        example: One context, whose shape counts.

    Raises:
        AdaptationError: As ``ZukoFlow``, and where the example is no context of this flow.
        DtypeError: When called, for contexts of integers.

    Example:
        >>> import zuko
        >>> flow = zuko.flows.MAF(2, context=3, transforms=1, hidden_features=(4,))
        >>> expert = ZukoConditional(flow, example=torch.zeros(3)).given(torch.ones(3))
        >>> expert.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    may_be_infinite = ()

    is_normalized = True

    def __init__(self, flow: LazyDistribution, example: Tensor) -> None:
        super().__init__()
        _require_usable(flow)
        self.space = _space(flow, example)
        self.condition_ndim = example.ndim
        self.flow = flow

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | context).

        Args:
            x: ``(*batch, *event)``.
            condition: The context, ``(*example)`` or ``(batch, *example)``.

        Returns:
            ``(*batch,)``.

        Raises:
            DtypeError: For contexts of integers.
        """
        return _log_prob(self.flow(require_floats(condition)), self.space, x)

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws, one for each context where these are a batch.

        Args:
            condition: The context, ``(*example)`` or ``(num_samples, *example)``.
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.

        Raises:
            DtypeError: For contexts of integers.
        """
        is_batch = condition.ndim > self.condition_ndim
        with borrowed(resolve(generator, condition.device)):
            distribution = self.flow(require_floats(condition))
            return distribution.sample() if is_batch else distribution.sample((num_samples,))


@torch.no_grad()
def _space(flow: LazyDistribution, context: Tensor | None) -> poe.Space:
    """Where x lives, given a context that the flow accepts. Raises ``poe.AdaptationError``."""
    try:
        distribution = flow(context)
        distribution.log_prob(torch.zeros(distribution.event_shape).to(_like(flow)))
    except (RuntimeError, AttributeError, TypeError, LookupError, ValueError) as error:
        given = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
        raise poe.AdaptationError(
            f"expected {type(flow).__name__} to be a density given {given}, got {error}; where it "
            "needs a context, poe.as_expert(flow) finds the size of vectors, and "
            "experts.adapters.zuko.ZukoConditional(flow, example=context) takes any"
        ) from error
    if distribution.batch_shape:
        raise poe.AdaptationError(
            f"expected one distribution, got a batch of shape {tuple(distribution.batch_shape)}; "
            "use zuko.lazy.UnconditionalDistribution(torch.distributions.Independent, ...) for "
            "their product"
        )
    if any(_is_circular(part) for part in flow.modules()):
        return poe.Interval(distribution.event_shape, -math.pi, math.pi)
    return space_of_distribution(distribution)


def _is_circular(part: nn.Module) -> bool:
    """Whether x is taken as angles, so that beyond ±π the formula says the same again."""
    univariate = getattr(part, "univariate", None)
    while isinstance(univariate, partial):
        univariate = univariate.func
    return univariate is CircularRQSTransform


def space_of_distribution(distribution: Distribution) -> poe.Space:
    """Where the events of a distribution live; of a flow, where its transformation takes them from.

    Args:
        distribution: Of torch, or of zuko.

    Returns:
        The space.

    Raises:
        AdaptationError: For one that does not say its support.
        PoeError: For a support that is no space here.

    Example:
        >>> import zuko
        >>> str(space_of_distribution(zuko.distributions.DiagNormal(torch.zeros(2), torch.ones(2))))
        'Real(2)'
    """
    return space_of(_support(distribution), distribution.event_shape)


def _support(distribution: Distribution) -> constraints.Constraint:
    if isinstance(distribution, NormalizingFlow):
        return distribution.transform.domain
    inner = getattr(distribution, "base", None)
    try:
        support = distribution.support
    except NotImplementedError:
        support = None
    if support is None and isinstance(inner, Distribution):  # a mixture, a truncation, a sort
        return _support(inner)
    if support is None:
        raise poe.AdaptationError(f"{type(distribution).__name__} does not say what its support is")
    return support


def _log_prob(distribution: Distribution, space: poe.Space, x: Tensor) -> Tensor:
    """log p(x), −inf outside of the space, and where the base of a flow excludes T(x)."""
    value = distribution.log_prob(x)
    if isinstance(distribution, NormalizingFlow):
        base = space_of_distribution(distribution.base)
        if not isinstance(base, poe.Real):
            value = mask_outside(base, distribution.transform(x), value)
    return value if isinstance(space, poe.Real) else mask_outside(space, x, value)


def _require_usable(flow: LazyDistribution) -> None:
    if not isinstance(flow, LazyDistribution):
        raise poe.AdaptationError(
            f"expected a zuko.lazy.LazyDistribution, got {type(flow).__name__}"
        )
    require_settled(flow)
    if any(getattr(part, "exact", True) is False for part in flow.modules()):
        raise poe.AdaptationError(
            f"expected {type(flow).__name__} with the exact trace, got one that estimates it "
            "(Hutchinson's), so its log-density is another number at every call: set "
            "flow.transform.exact = True, which needs no new training"
        )


def _like(flow: nn.Module) -> Tensor:
    """A tensor with the dtype and device of a flow."""
    tensors = (*flow.parameters(), *flow.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))


@poe.as_expert.register
def _(flow: LazyDistribution) -> ZukoFlow | ZukoConditional:
    size = context_size(flow)
    if size == 0:
        return ZukoFlow(flow)
    return ZukoConditional(flow, torch.zeros(size).to(_like(flow)))


def context_size(flow: LazyDistribution) -> int:
    """How many numbers the context of a flow has: 0 for none.

    Found by trying, up to the widest layer.

    Args:
        flow: Whose context it is.

    Returns:
        The number.

    Raises:
        AdaptationError: Where there is no such number.

    Example:
        >>> import zuko
        >>> context_size(zuko.flows.NICE(2, context=3))
        3
    """
    _require_usable(flow)
    widths = [getattr(part, "in_features", 0) for part in flow.modules()]
    reason: Exception | None = None
    for size in range(max(widths, default=0) + 1):
        try:
            _space(flow, torch.zeros(size).to(_like(flow)) if size else None)
        except poe.AdaptationError as error:
            reason = reason or error
        else:
            return size
    assert reason is not None
    raise reason


def as_torch(distribution: Any) -> Distribution:
    """The same distribution by the classes of `torch.distributions`.

    Args:
        distribution: Of zuko, or already of torch.

    Returns:
        The distribution of torch.

    Raises:
        AdaptationError: For those of zuko that torch has no like of, and for what a flow returns:
            its tensors lie in functions, where they can be neither moved nor saved.

    Example:
        >>> import zuko
        >>> as_torch(zuko.distributions.DiagNormal(torch.zeros(2), torch.ones(2)))
        Independent(Normal(loc: torch.Size([2]), scale: torch.Size([2])), 1)
    """
    if isinstance(distribution, DiagNormal | BoxUniform):
        return Independent(distribution.base_dist, distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, Mixture):
        return MixtureSameFamily(
            Categorical(logits=distribution.logits), as_torch(distribution.base)
        )
    if type(distribution) is NormalizingFlow and not _is_of_zuko(distribution.transform):
        return TransformedDistribution(as_torch(distribution.base), [distribution.transform.inv])
    if _is_of_zuko(distribution):
        raise poe.AdaptationError(
            f"cannot take a zuko.distributions.{type(distribution).__name__} apart into tensors: "
            "give the zuko.lazy.LazyDistribution that it comes from, a flow itself and not "
            "flow(context), or zuko.lazy.UnconditionalDistribution(its class, *its arguments)"
        )
    found: Distribution = distribution
    return found


def _is_of_zuko(value: object) -> bool:
    return type(value).__module__.startswith("zuko.")


def _adapt_distribution(distribution: Distribution) -> poe.Expert:
    return poe.FromDistribution(as_torch(distribution))


for _kind in vars(zuko.distributions).values():
    if isinstance(_kind, type) and _kind.__module__ == "zuko.distributions":
        poe.as_expert.register(_kind, _adapt_distribution)
