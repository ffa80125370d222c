"""nflows' flows: an expert, or given a context a conditional."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import poe
from experts.adapters.context import require_floats
from poe.core.arguments import checked, told
from poe.core.randomness import borrowed, resolve
from poe.density import capabilities
from poe.density.conditional import one_for_each
from poe.density.trials import require_settled

try:
    from nflows.distributions import (
        ConditionalDiagonalNormal,
        ConditionalIndependentBernoulli,
        DiagonalNormal,
        Distribution,
        StandardNormal,
    )
    from nflows.flows import Flow as NFlow
    from nflows.transforms import (
        ActNorm,
        AffineScalarTransform,
        AffineTransform,
        BatchNorm,
        CompositeTransform,
        HouseholderSequence,
        IdentityTransform,
        InverseTransform,
        LULinear,
        NaiveLinear,
        OneByOneConvolution,
        Permutation,
        PointwiseAffineTransform,
        QRLinear,
        RandomPermutation,
        ReversePermutation,
        SqueezeTransform,
        SVDLinear,
        Transform,
    )
except ImportError as error:
    raise ImportError(
        'expected nflows to be installed, got none: pip install "nflows>=0.14"'
    ) from error
from experts.adapters.nflows_support import SPLINES, on_support, support

AFFINE = (
    ActNorm,
    AffineScalarTransform,
    AffineTransform,
    BatchNorm,
    HouseholderSequence,
    IdentityTransform,
    LULinear,
    OneByOneConvolution,
    Permutation,
    PointwiseAffineTransform,
    QRLinear,
    RandomPermutation,
    ReversePermutation,
    SVDLinear,
    SqueezeTransform,
)
"""Transforms x to A x + b, and their inverses, once they are in evaluation mode."""


class Flow(poe.Expert):
    r"""Any ``nflows.flows.Flow`` without context, as a normalised expert.

    .. math:: \log p(x) = \log p_0(T(x)) + \log |\det \partial T / \partial x|

    The space is ``Real``, or the interval that the layers map to the reals, as ``Logit`` does.
    ``sample`` is exact. ``poe.as_expert(flow)`` gives the same. nflows 0.14 draws from the global
    generator and in float32 only; here the draw comes from the generator, in the flow's own dtype,
    and the global state is left as it was.

    Args:
        nflows_flow: The flow, of x ``(*batch, *event)``.

    Raises:
        AdaptationError: For what is no flow, or a flow that needs a context (``ContextFlow`` takes
            it), whose base density has no shape or is discrete, whose layers do not map the data's
            space to all of the reals (splines without tails), that holds a ``NaiveLinear`` (its
            inverse calls a function that torch no longer has), or that is in training mode with
            dropout or batch normalisation.

    Example:
        >>> from nflows.transforms import MaskedAffineAutoregressiveTransform
        >>> made = MaskedAffineAutoregressiveTransform(features=2, hidden_features=8)
        >>> expert = Flow(NFlow(made, StandardNormal([2])))
        >>> expert.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
        >>> expert.sample(4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2])
    """

    may_be_infinite = ()

    def __init__(self, nflows_flow: NFlow) -> None:
        super().__init__()
        if not isinstance(nflows_flow, NFlow):
            raise poe.AdaptationError(
                f"expected an nflows.flows.Flow, got {type(nflows_flow).__name__}"
            )
        if has_context(nflows_flow):
            raise poe.AdaptationError(
                "expected a flow without context, got one that is a density only given its "
                "context: poe.as_expert(flow) is a poe.Conditional, bind it with given(context)"
            )
        require_usable(nflows_flow)
        self.flow = nflows_flow
        self.space = support(nflows_flow, base_shape(nflows_flow))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised log-density.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return on_support(self.space, x, self.flow.log_prob)

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, which equals ``log_density``.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws, without a gradient.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        like = own_tensor(self.flow)
        generator = resolve(generator, like.device)
        noise = base_sample(self.flow._distribution, num_samples, like, generator)
        return self.flow._transform.inverse(noise)[0]


@capabilities.tails.register
def _(expert: Flow) -> Tensor | None:
    """A' S⁻² A of a Gaussian base of scales S, where T(x) = A x + O(1).

    Splines with linear tails move x by no more than the size of their box, and the logarithm of
    their volume grows no faster than |x|. Couplings that scale by a network have no such A.
    """
    base, flow = expert.flow._distribution, expert.flow
    if type(base) not in (StandardNormal, DiagonalNormal) or not capabilities.is_small(
        expert.space
    ):
        return None
    vectors = torch.eye(expert.space.event_shape.numel()).to(own_tensor(flow))
    moved = _far_out(flow._transform, vectors.reshape(-1, *expert.space.event_shape))
    if moved is None or moved.is_meta:
        return None
    columns = moved.flatten(1).to("cpu", torch.float64)
    if isinstance(base, DiagonalNormal):
        columns = columns * (-base.log_std_).exp().flatten().to("cpu", torch.float64)
    return (columns @ columns.mT)[None]


@torch.no_grad()
def _far_out(transform: Transform, vectors: Tensor) -> Tensor | None:
    """A times each of ``(n, *event)``, where a transform is A x + O(1); None where it is not."""
    if type(transform) is CompositeTransform:
        for part in transform._transforms:
            moved = _far_out(part, vectors)
            if moved is None:
                return None
            vectors = moved
        return vectors
    inner = transform._transform if type(transform) is InverseTransform else transform
    if type(inner) in AFFINE:
        moved_vectors, moved_origin = (
            transform(x)[0] for x in (vectors, torch.zeros_like(vectors[:1]))
        )
        return moved_vectors - moved_origin
    is_spline = type(inner) in SPLINES and getattr(inner, "tails", None) == "linear"
    return vectors if is_spline else None


def base_shape(flow: NFlow) -> torch.Size:
    """Event shape of a flow's base density.

    Args:
        flow: Any of nflows.

    Returns:
        Its shape.

    Raises:
        AdaptationError: Where the base density has none.
    """
    base = flow._distribution
    shape = getattr(base, "_shape", None)
    if shape is None:
        raise poe.AdaptationError(
            f"expected a flow whose base density has a shape, got {type(base).__name__}: "
            "use nflows.distributions.StandardNormal, or wrap it with poe.FromLogDensity"
        )
    return torch.Size(shape)


def require_usable(flow: NFlow) -> None:
    """Refuse a flow that cannot be inverted, is no density, or is none yet.

    Args:
        flow: Any of nflows.

    Raises:
        AdaptationError: For a ``NaiveLinear``, a discrete base, and dropout, batch or activation
            normalisation in training mode.
    """
    if not isinstance(flow, NFlow):
        raise poe.AdaptationError(f"expected an nflows.flows.Flow, got {told(flow)}")
    if any(isinstance(module, NaiveLinear) for module in flow.modules()):
        raise poe.AdaptationError(
            "expected a flow that can be inverted, got one with a NaiveLinear, whose inverse "
            "calls torch.solve, which is gone: use nflows.transforms.LULinear instead"
        )
    if isinstance(flow._distribution, ConditionalIndependentBernoulli):
        raise poe.AdaptationError(
            "expected a flow whose base is a density on the reals, got the discrete "
            "ConditionalIndependentBernoulli: use nflows.distributions.ConditionalDiagonalNormal"
        )
    require_settled(flow, BatchNorm, ActNorm)


def has_context(flow: NFlow) -> bool:
    """Whether a flow is a density only given its context.

    Args:
        flow: Any of nflows.

    Returns:
        True where its base, its networks or an embedding ask for one.
    """
    conditional = (ConditionalDiagonalNormal, ConditionalIndependentBernoulli)
    return not isinstance(flow._embedding_net, nn.Identity) or any(
        # The networks of nflows keep a layer of this name where they were made with a context.
        isinstance(module, conditional) or hasattr(module, "context_layer")
        for module in flow.modules()
    )


def own_tensor(flow: NFlow) -> Tensor:
    """A tensor with the dtype and device of a flow; of the base only parameters tell the dtype.

    Args:
        flow: Any of nflows.

    Returns:
        A parameter or buffer; one of torch's default dtype on the CPU where it has neither.
    """
    tensors = (*flow.parameters(), *flow._transform.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))


def base_sample(
    base: Distribution, num_samples: int, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draws of a base density.

    Args:
        base: Of nflows.
        num_samples: How many.
        like: A tensor of the dtype and on the device that is asked for.
        generator: Of all that is drawn.

    Returns:
        Draws, ``(num_samples, *event)``.
    """
    if isinstance(base, StandardNormal | DiagonalNormal):
        size = (num_samples, *base._shape)
        noise = torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)
        # nflows has no sampler for its DiagonalNormal.
        is_standard = isinstance(base, StandardNormal)
        return noise if is_standard else base.mean_ + base.log_std_.exp() * noise
    with borrowed(generator):  # any other base knows only the global generator
        draws: Tensor = base.sample(num_samples)
    return draws.to(like)


class ContextFlow(poe.Conditional):
    r"""An ``nflows.flows.Flow`` with a context y, as a normalised conditional.

    .. math:: \log p(x \mid y) = \log p_0(T(x; y) \mid y) + \log |\det \partial T / \partial x|

    ``given(y)`` binds one context, ``(c,)``, or one for each chain, ``(n, c)``; contexts of
    integers raise ``poe.DtypeError``. ``poe.as_expert(flow)`` gives the same. ``sample`` is exact,
    and draws from its generator alone.

    Args:
        nflows_flow: The flow, of x ``(*batch, *event)`` and y.
        condition_ndim: Of how many dimensions a context is: more than 1 where contexts are arrays
            for an embedding net.

    Raises:
        AdaptationError: As ``Flow`` does, save for the context.

    Example:
        >>> from nflows.distributions import StandardNormal
        >>> from nflows.transforms import MaskedAffineAutoregressiveTransform
        >>> made = MaskedAffineAutoregressiveTransform(2, 8, context_features=3)
        >>> expert = ContextFlow(NFlow(made, StandardNormal([2]))).given(torch.ones(3))
        >>> expert.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    may_be_infinite = ()

    is_normalized = True

    def __init__(self, nflows_flow: NFlow, *, condition_ndim: int = 1) -> None:
        super().__init__()
        require_usable(nflows_flow)
        self.flow = nflows_flow
        self.condition_ndim = condition_ndim
        self.space = support(nflows_flow, base_shape(nflows_flow))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        def of_rows(rows: Tensor) -> Tensor:
            return self.flow.log_prob(rows, context=self._contexts(condition, len(rows)))

        return on_support(self.space, x, of_rows)

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent exact draws, without a gradient: the base's, through the inverse of T.

        Args:
            condition: y, one for all draws, or one for each.
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        like = own_tensor(self.flow)
        generator = resolve(generator, like.device)
        context = self.flow._embedding_net(self._contexts(condition, num_samples))
        noise = _base_sample(self.flow, context, num_samples, like, generator)
        return self.flow._transform.inverse(noise, context=context)[0]

    def _contexts(self, condition: Tensor, count: int) -> Tensor:
        return one_for_each(require_floats(condition), count, self.condition_ndim)


def _base_sample(
    flow: NFlow, context: Tensor, count: int, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draws of the base, one for each context ``(n, *)``, with the dtype and device of ``like``."""
    base = flow._distribution
    if isinstance(base, StandardNormal | DiagonalNormal):
        return base_sample(base, count, like, generator)
    if isinstance(base, ConditionalDiagonalNormal):
        mean, log_std = base._compute_params(context)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + log_std.exp() * noise
    with borrowed(generator):  # any other base knows only the global generator
        draws: Tensor = base.sample(1, context=context)
    return draws[:, 0].to(like)


@poe.as_expert.register
def _(flow: NFlow) -> Flow | ContextFlow:
    return ContextFlow(flow) if has_context(flow) else Flow(flow)
