"""Normalizing flows on nflows: an adapter for any flow, and a conditional flow of noised images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nflows.distributions import (
    ConditionalDiagonalNormal,
    ConditionalIndependentBernoulli,
    DiagonalNormal,
    Distribution,
    StandardNormal,
)
from nflows.flows import Flow as NFlow
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    BatchNorm,
    CompositeTransform,
    NaiveLinear,
    Permutation,
    Transform,
)
from torch import Tensor, nn
from torch.nn import functional as F

import poe
import poe.io.tree
from experts.noised.conditional import NoisyConditional, constructor_arguments
from experts.noised.embedding import LabelAndNoise
from poe.core.randomness import borrowed, resolve
from poe.tuning.deterministic import require_settled


class Flow(poe.Expert):
    r"""Any ``nflows.flows.Flow`` without context, as a normalised expert.

    .. math:: \log p(x) = \log p_0(T(x)) + \log |\det \partial T / \partial x|

    Shapes: x ``(*batch, *event)``; ``sample`` is exact. ``poe.as_expert(flow)`` gives the same.
    nflows 0.14 draws from the global generator and in float32 only; here the draw comes from the
    generator, in the flow's own dtype, and the global state is left as it was. Raises
    ``poe.AdaptationError`` for a flow that needs a context (``ContextFlow`` takes it), whose base
    density has no shape or is discrete, that holds a ``NaiveLinear`` (its inverse calls a function
    that torch no longer has), or that is in training mode with dropout or batch normalisation.

    >>> from nflows.transforms import MaskedAffineAutoregressiveTransform
    >>> made = MaskedAffineAutoregressiveTransform(features=2, hidden_features=8)
    >>> expert = Flow(NFlow(made, StandardNormal([2])))
    >>> expert.log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])
    >>> expert.sample(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

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
        self.space = poe.Real(base_shape(nflows_flow))

    def forward(self, x: Tensor) -> Tensor:
        batch = self.space.batch_shape(x)
        value: Tensor = self.flow.log_prob(x.reshape(-1, *self.space.event_shape))
        return value.reshape(batch)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the same as the log-density: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws: ``(num_samples, *event)``."""
        like = own_tensor(self.flow)
        generator = resolve(generator, like.device)
        noise = base_sample(self.flow._distribution, num_samples, like, generator)
        return self.flow._transform.inverse(noise)[0]


def base_shape(flow: NFlow) -> torch.Size:
    """Event shape of a flow's base density."""
    base = flow._distribution
    shape = getattr(base, "_shape", None)
    if shape is None:
        raise poe.AdaptationError(
            f"expected a flow whose base density has a shape, got {type(base).__name__}: "
            "use nflows.distributions.StandardNormal, or wrap it with poe.FromLogDensity"
        )
    return torch.Size(shape)


def require_usable(flow: NFlow) -> None:
    """Refuse a flow that cannot be inverted, is no density, or is none yet."""
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
    """Whether a flow is a density only given its context."""
    conditional = (ConditionalDiagonalNormal, ConditionalIndependentBernoulli)
    return not isinstance(flow._embedding_net, nn.Identity) or any(
        # The networks of nflows keep a layer of this name where they were made with a context.
        isinstance(module, conditional) or hasattr(module, "context_layer")
        for module in flow.modules()
    )


def own_tensor(flow: NFlow) -> Tensor:
    """A tensor with the dtype and device of a flow; of the base only parameters tell the dtype."""
    tensors = (*flow.parameters(), *flow._transform.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))


def base_sample(
    base: Distribution, num_samples: int, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draws of a base density, ``(num_samples, *event)``, with the dtype and device of ``like``."""
    if isinstance(base, StandardNormal | DiagonalNormal):
        size = (num_samples, *base._shape)
        noise = torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)
        # nflows has no sampler for its DiagonalNormal.
        is_standard = isinstance(base, StandardNormal)
        return noise if is_standard else base.mean_ + base.log_std_.exp() * noise
    with borrowed(generator):  # any other base knows only the global generator
        draws: Tensor = base.sample(num_samples)
    return draws.to(like)


class NoiseWhitening(Transform):
    r"""Whitens noised data by the principal axes of the clean data.

    .. math:: z = \frac{U^T (x - m)}{\sqrt{\lambda + \sigma^2}}

    The noise level is the first feature of the context. Shapes: x (n, *event), context (n, c) ->
    z (n, d) and the log-determinant (n,). Identity axes until ``fit`` is called.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        size = self.shape.numel()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.eye(size))
        self.register_buffer("variance", torch.ones(size))

    def fit(self, data: Tensor) -> None:
        """Set mean, axes and variances from clean data (n, *event)."""
        flat = data.flatten(1)
        self.mean.copy_(flat.mean(0))
        variance, axes = torch.linalg.eigh(flat.T.cov())
        self.axes.copy_(axes.flip(-1))
        self.variance.copy_(variance.flip(-1).clamp(min=0))

    def scale(self, context: Tensor) -> Tensor:
        return (self.variance + context[:, :1] ** 2).sqrt()

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale(context)
        return (inputs.flatten(1) - self.mean) @ self.axes / scale, -scale.log().sum(-1)

    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale(context)
        flat = (inputs * scale) @ self.axes.T + self.mean
        return flat.unflatten(1, self.shape), scale.log().sum(-1)


class BoundedAffineCoupling(AffineCouplingTransform):
    """nflows' affine coupling with a scale in (1/e, e); nflows' own can only contract."""

    def _scale_and_shift(self, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = transform_params.chunk(2, 1)
        return log_scale.tanh().exp(), shift


class LabelNoiseContext(nn.Module):
    """Context of a flow: the noise level, then an embedding of it and the label.

    Shapes: (n, 2) holding label and noise level -> (n, 1 + features).
    """

    def __init__(self, num_labels: int, features: int) -> None:
        super().__init__()
        self.embed = LabelAndNoise(num_labels, features)

    def forward(self, condition: Tensor) -> Tensor:
        label, noise_level = condition.unbind(-1)
        return torch.cat([noise_level[:, None], self.embed(label.long(), noise_level)], -1)


def coupling(size: int, context: int, hidden: int, flip: int) -> BoundedAffineCoupling:
    """A coupling layer that moves every second feature, given the others and the context."""

    def net(features: int, out_features: int) -> ResidualNet:
        return ResidualNet(features, out_features, hidden, context, 1, F.silu)

    return BoundedAffineCoupling((torch.arange(size) + flip) % 2, net)


class ImageFlow(NoisyConditional):
    r"""A conditional normalizing flow of noised images.

    .. math:: \log p_\sigma(x \mid y) = \log N(T(x); 0, I) + \log |\det \partial T / \partial x|

    T whitens along the principal axes of the data at noise level sigma and then applies
    ``layers`` affine couplings whose networks see the label and the noise level. Natively
    continuous; the base measure is Lebesgue measure on pixels. Exact ``log_prob`` and ``sample``.
    Source: Dinh et al. 2017, "Density estimation using Real NVP".

    Shapes: x ``(*batch, *event)``, label ``()`` or ``(batch,)``.

    >>> model = ImageFlow((4, 4), ["left", "right"], noise_level=0.1, layers=2, hidden=8)
    >>> expert = model.given("left")
    >>> x = expert.sample(5, generator=torch.Generator().manual_seed(0))
    >>> x.shape, expert.log_prob(x).shape
    (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    is_normalized = True

    def __init__(
        self,
        shape: tuple[int, ...],
        labels: Sequence[str],
        noise_level: float | Tensor,
        *,
        layers: int = 8,
        hidden: int = 192,
    ) -> None:
        super().__init__(poe.Real(shape), labels, noise_level)
        size, features = self.space.event_shape.numel(), 32
        order = torch.Generator().manual_seed(0)
        steps: list[Transform] = [NoiseWhitening(shape)]
        for layer in range(layers):
            steps.append(coupling(size, 1 + features, hidden, layer % 2))
            if layer % 2:
                steps.append(Permutation(torch.randperm(size, generator=order)))
        context = LabelNoiseContext(len(labels), features)
        self.flow = NFlow(CompositeTransform(steps), StandardNormal([size]), context)
        self.settings = {"layers": layers, "hidden": hidden}

    @property
    def whitening(self) -> NoiseWhitening:
        return self.flow._transform._transforms[0]

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        condition = torch.stack([label.to(noise_level), noise_level], -1)
        return self.flow.log_prob(x, condition)

    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact samples ``(num_samples, *event)``: normal noise through the inverse of T."""
        level = self.noise_levels(torch.Size((num_samples,)))
        label = condition.expand(num_samples).to(level)
        context = self.flow._embedding_net(torch.stack([label, level], -1))
        generator = resolve(generator, level.device)
        size = (num_samples, self.space.event_shape.numel())
        noise = torch.randn(size, generator=generator, device=level.device, dtype=level.dtype)
        return self.flow._transform.inverse(noise, context)[0]


poe.io.register_module(
    ImageFlow,
    constructor_arguments,
    name="experts.ImageFlow",
    formerly=("experts.flow.ImageFlow",),
)
