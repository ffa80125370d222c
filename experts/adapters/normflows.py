"""normflows' models: flows as experts, those with classes or a context as conditionals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import poe
from experts.adapters.context import require_floats
from poe.core.arguments import checked
from poe.core.imports import missing
from poe.core.randomness import borrowed, resolve
from poe.density.conditional import one_for_each
from poe.density.transformed import mask_outside
from poe.density.trials import require_settled

try:
    from normflows import (
        ClassCondFlow,
        ConditionalNormalizingFlow,
        MultiscaleFlow,
        NormalizingFlow,
        distributions as bases,
        flows as layers,
    )
    from normflows.transforms import Logit
except ImportError as error:
    raise missing("normflows", "normflows") from error

_PERIODIC = (
    layers.PeriodicWrap,
    layers.PeriodicShift,
    layers.CircularCoupledRationalQuadraticSpline,
    layers.CircularAutoregressiveRationalQuadraticSpline,
    bases.UniformGaussian,
)


class NormflowsFlow(poe.Expert):
    r"""A ``normflows.NormalizingFlow``, or a ``MultiscaleFlow`` without classes, as an expert.

    .. math:: \log p(x) = \log q_0(T(x)) + \log |\det \partial T / \partial x|

    Shapes: x ``(*batch, *event)``; normalised, and ``sample`` is exact. The space is ``Real``, and
    the interval that it maps to the reals where the outermost layer is ``Logit``.
    ``poe.as_expert(flow)`` gives the same.

    Args:
        flow: With the base q₀ and the layers T; a ``MultiscaleFlow`` has no classes.

    Raises:
        AdaptationError: For layers without an inverse, of batch statistics, of random or periodic
            values, for an ``ActNorm`` that has seen no data, and for dropout or batch normalisation
            in training mode.

    Example:
        >>> import normflows
        >>> base = normflows.distributions.DiagGaussian(2)
        >>> net = normflows.nets.MLP([1, 8, 2])
        >>> flow = normflows.NormalizingFlow(base, [normflows.flows.AffineCouplingBlock(net)])
        >>> NormflowsFlow(flow).log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    may_be_infinite = ()

    def __init__(self, flow: NormalizingFlow | MultiscaleFlow) -> None:
        super().__init__()
        _require_usable(flow)
        self.space = _space(flow, _event_shape(flow, lambda: _draw(flow, 1)))
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        given = (None,) if isinstance(self.flow, MultiscaleFlow) else ()
        return _log_prob(self.space, x, lambda rows: self.flow.log_prob(rows, *given))

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
            return _draw(self.flow, num_samples).detach()  # some take gradients to invert


class NormflowsClassFlow(poe.Conditional):
    """A ``ClassCondFlow``, or a ``MultiscaleFlow`` with classes: p(x | y), y a class index.

    ``given(y)`` binds one class for all x, or ``(n,)`` of them, one for each chain. Exact draws.
    ``poe.as_expert(flow)`` gives the same.

    Args:
        flow: With classes.

    Raises:
        AdaptationError: As ``NormflowsFlow``.
        PoeError: Of ``given``, for what is no class.

    Example:
        >>> import normflows
        >>> base = normflows.distributions.ClassCondDiagGaussian(2, num_classes=3)
        >>> flow = normflows.ClassCondFlow(base, [normflows.flows.LULinearPermute(2)])
        >>> NormflowsClassFlow(flow).given(1).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    may_be_infinite = ()

    is_normalized = True

    def __init__(self, flow: ClassCondFlow | MultiscaleFlow) -> None:
        super().__init__()
        _require_usable(flow)
        first = torch.zeros(1, dtype=torch.long, device=_like(flow).device)
        self.space = _space(flow, _event_shape(flow, lambda: flow.sample(1, first)[0]))
        self.num_classes = _num_classes(flow)
        self.flow = flow

    def given(self, condition: poe.density.conditional.Condition) -> poe.Given:
        """The expert p(x | y = condition).

        Args:
            condition: A class, an integer from 0, or ``(n,)`` of them, one for each chain.

        Returns:
            The expert.

        Raises:
            PoeError: For what is no class.
            DtypeError: For what is no integer, and for more dimensions.
        """
        bound = super().given(condition)
        y = bound.condition
        if y.is_floating_point() or y.ndim > 1:
            raise poe.DtypeError(
                f"expected a class index, or (n,) of them, got {y.dtype} of shape "
                f"{tuple(y.shape)}; use y.long(), or y.argmax(-1) of one-hot vectors"
            )
        if not y.is_meta and bool(((y < 0) | (y >= self.num_classes)).any()):
            raise poe.PoeError(
                f"expected classes from 0 to {self.num_classes - 1}, got {y.tolist()}"
            )
        return bound

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | y).

        Args:
            x: ``(*batch, *event)``.
            condition: The class y, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """

        def of_rows(rows: Tensor) -> Tensor:
            return self.flow.log_prob(rows, one_for_each(condition, len(rows), 0))

        return _log_prob(self.space, x, of_rows)

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws.

        Args:
            condition: The class y, ``()`` or ``(num_samples,)``.
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.
        """
        with borrowed(resolve(generator, condition.device)):
            return self.flow.sample(num_samples, one_for_each(condition, num_samples, 0))[0]


class NormflowsContextFlow(poe.Conditional):
    """A ``normflows.ConditionalNormalizingFlow``: p(x | y), y a vector of floats.

    ``given(y)`` binds one context ``(c,)``, or ``(n, c)``, one for each chain. Exact draws.
    ``poe.as_expert(flow)`` gives the same.

    Args:
        flow: With a context; its base has a shape.

    Raises:
        AdaptationError: As ``NormflowsFlow``, and for a base that does not say its shape.
        DtypeError: When called, for contexts of integers.
    """

    may_be_infinite = ()

    is_normalized = True
    condition_ndim = 1

    def __init__(self, flow: ConditionalNormalizingFlow) -> None:
        super().__init__()
        _require_usable(flow)
        shape = getattr(flow.q0, "shape", None)
        if shape is None:
            raise poe.AdaptationError(
                f"expected a flow whose base has a shape, got {type(flow.q0).__name__}; use "
                "normflows.distributions.DiagGaussian(shape)"
            )
        self.space = _space(flow, torch.Size(shape))
        self.flow = flow

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | y).

        Args:
            x: ``(*batch, *event)``.
            condition: The context y, ``(c,)`` or ``(batch, c)``.

        Returns:
            ``(*batch,)``.

        Raises:
            DtypeError: For contexts of integers.
        """

        def of_rows(rows: Tensor) -> Tensor:
            context = one_for_each(require_floats(condition), len(rows), 1)
            return self.flow.log_prob(rows, context=context)

        return _log_prob(self.space, x, of_rows)

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws.

        Args:
            condition: The context y, ``(c,)`` or ``(num_samples, c)``.
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.

        Raises:
            DtypeError: For contexts of integers.
        """
        context = one_for_each(require_floats(condition), num_samples, 1)
        with borrowed(resolve(generator, condition.device)):
            return self.flow.sample(num_samples, context=context)[0]


def _log_prob(space: poe.Space, x: Tensor, of_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """Of a copy, since some layers (``Shift``) change what they are given in place."""
    value = of_rows(x.reshape(-1, *space.event_shape).clone()).to(x.dtype)
    value = value.reshape(space.batch_shape(x))
    return value if isinstance(space, poe.Real) else mask_outside(space, x, value)


def _draw(flow: NormalizingFlow | MultiscaleFlow, num_samples: int) -> Tensor:
    if isinstance(flow, MultiscaleFlow):
        return flow.sample(num_samples)[0]
    # Some bases (GaussianMixture) are float64 beside layers of float32.
    return flow(flow.q0(num_samples)[0].to(_like(flow)))


def _space(flow: nn.Module, shape: torch.Size) -> poe.Space:
    outermost = [part for part in _outermost(flow) if not isinstance(part, layers.Permute)]
    if outermost and isinstance(outermost[0], Logit):
        alpha = outermost[0].alpha
        return poe.Interval(shape, -alpha / (1 - 2 * alpha), (1 - alpha) / (1 - 2 * alpha))
    if any(isinstance(part, Logit) for part in flow.modules()):
        raise poe.AdaptationError(
            "expected Logit as the outermost layer of a flow, got one further in, whose support is "
            "not known; move what is outside of it into the data, or use "
            "poe.FromLogDensity(flow.log_prob, space=...)"
        )
    return poe.Real(shape)


def _outermost(flow: nn.Module) -> list[nn.Module]:
    """The layers from x inwards."""
    if isinstance(flow, MultiscaleFlow):
        return [] if flow.transform is None else [flow.transform]
    steps: Any = flow.flows
    return list(reversed(steps))


@torch.no_grad()
def _event_shape(flow: nn.Module, draw: Callable[[], Tensor]) -> torch.Size:
    try:
        with borrowed(torch.Generator().manual_seed(0)):
            return draw().shape[1:]
    except (NotImplementedError, RuntimeError, AttributeError, TypeError) as reason:
        raise poe.AdaptationError(
            f"expected a {type(flow).__name__} that draws and inverts, got {reason}; use "
            "poe.FromLogDensity(flow.log_prob, space=...) for its log-density alone"
        ) from reason


def _num_classes(flow: ClassCondFlow | MultiscaleFlow) -> int:
    base = flow.q0[0] if isinstance(flow, MultiscaleFlow) else flow.q0
    return int(base.num_classes)


def _require_usable(flow: nn.Module) -> None:
    require_settled(flow)
    for part in flow.modules():
        if reason := _reason_against(part):
            raise poe.AdaptationError(
                f"cannot adapt {type(flow).__name__}: its {type(part).__name__} {reason}"
            )


def _reason_against(part: nn.Module) -> str:
    """Why a layer or base makes no density of its own, and what to do; empty where it does."""
    if isinstance(part, layers.ActNorm) and not bool(part.data_dep_init_done > 0):
        return "takes its scale from the first batch and has seen none; call it on data first"
    if isinstance(part, layers.BatchNorm):
        return "depends on the rest of the batch; use ActNorm"
    if isinstance(part, layers.MetropolisHastings | layers.HamiltonianMonteCarlo):
        return "steps at random, so that there is no log-density at a given x"
    if isinstance(part, layers.Residual) and not _is_exact(part):
        return (
            "has a log-determinant that is a random estimate (Hutchinson's), save in two "
            "dimensions in evaluation mode; poe.FromLogDensity(flow.log_prob, space=...) takes it "
            "for uncorrected kernels"
        )
    if isinstance(part, _PERIODIC):
        return "has periodic values, and real ones beside them have no space here"
    if isinstance(part, bases.GaussianPCA):
        return "has a log_prob that is not normalised (normflows 1.7); use DiagGaussian"
    is_planar = isinstance(part, layers.Planar) and part.act != "leaky_relu"
    if is_planar or (isinstance(part, layers.Flow) and type(part).inverse is layers.Flow.inverse):
        return "has no inverse, so that the density at a given x is not known"
    return ""


def _is_exact(part: layers.Residual) -> bool:
    block = part.iresblock
    linear = (m for m in block.modules() if hasattr(m, "in_features"))
    return next((m.in_features for m in linear), None) == 2 and (
        block.brute_force or not block.training
    )


def _like(flow: nn.Module) -> Tensor:
    """A tensor with the dtype and device of a flow's layers, else of its base."""
    parts: Any = flow.flows
    tensors = (*parts.parameters(), *flow.parameters(), *flow.buffers())
    # Lone numbers (those of residual blocks) are float64 beside float32 networks.
    floats = (tensor for tensor in tensors if tensor.is_floating_point() and tensor.ndim)
    return next(floats, torch.zeros(()))


@poe.as_expert.register
def _(flow: NormalizingFlow) -> NormflowsFlow:
    return NormflowsFlow(flow)


@poe.as_expert.register
def _(flow: ConditionalNormalizingFlow) -> NormflowsContextFlow:
    return NormflowsContextFlow(flow)


@poe.as_expert.register
def _(flow: ClassCondFlow) -> NormflowsClassFlow:
    return NormflowsClassFlow(flow)


@poe.as_expert.register
def _(flow: MultiscaleFlow) -> NormflowsFlow | NormflowsClassFlow:
    return NormflowsClassFlow(flow) if flow.class_cond else NormflowsFlow(flow)
