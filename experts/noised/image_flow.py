"""A conditional normalizing flow of noised images, in affine couplings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts.noised.conditional import NoisyConditional, constructor_arguments
from experts.noised.embedding import LabelAndNoise
from experts.parameters import whole
from poe.core.arguments import checked
from poe.core.randomness import resolve


class NoiseWhitening(nn.Module):
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


class ContextBlock(nn.Module):
    """A residual block of two layers, gated by the context: (n, h), (n, c) -> (n, h).

    Args:
        hidden: h.
        context: c.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, whose network this is,
        arXiv:1906.04032.
    """

    def __init__(self, hidden: int, context: int) -> None:
        super().__init__()
        self.context_layer = nn.Linear(context, hidden)
        self.linear_layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        for tensor in self.linear_layers[-1].parameters():
            nn.init.uniform_(tensor, -1e-3, 1e-3)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        first, second = self.linear_layers
        moved = second(F.silu(first(F.silu(h))))
        return h + F.glu(torch.cat([moved, self.context_layer(context)], 1), 1)


class ContextNet(nn.Module):
    """From some features and a context to numbers for the others: (n, d), (n, c) -> (n, e)."""

    def __init__(self, features: int, out_features: int, hidden: int, context: int) -> None:
        super().__init__()
        self.initial_layer = nn.Linear(features + context, hidden)
        self.blocks = nn.ModuleList([ContextBlock(hidden, context)])
        self.final_layer = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.initial_layer(torch.cat([x, context], 1))
        for block in self.blocks:
            h = block(h, context)
        return self.final_layer(h)


class AffineCoupling(nn.Module):
    r"""Every second feature, scaled and shifted by what a network makes of the others.

    .. math:: z_B = x_B\, e^{\tanh a(x_A, c)} + b(x_A, c), \qquad z_A = x_A

    The scale lies in (1/e, e). Shapes: x (n, d), context (n, c) -> z (n, d) and the log-determinant
    (n,).

    Args:
        size: d.
        context: c.
        hidden: Width of the network.
        flip: Which half moves, 0: the odd features.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803.
    """

    identity_features: Tensor
    transform_features: Tensor

    def __init__(self, size: int, context: int, hidden: int, flip: int) -> None:
        super().__init__()
        moves = (torch.arange(size) + flip) % 2 == 1
        self.register_buffer("identity_features", (~moves).nonzero()[:, 0])
        self.register_buffer("transform_features", moves.nonzero()[:, 0])
        kept, moved = len(self.identity_features), len(self.transform_features)
        self.transform_net = ContextNet(kept, 2 * moved, hidden, context)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(x, context)
        moved = x[:, self.transform_features] * log_scale.exp() + shift
        return x.index_copy(1, self.transform_features, moved), log_scale.sum(1)

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(z, context)
        moved = (z[:, self.transform_features] - shift) / log_scale.exp()
        return z.index_copy(1, self.transform_features, moved), -log_scale.sum(1)

    def _parameters_at(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.transform_net(x[:, self.identity_features], context).chunk(2, 1)
        return shift, log_scale.tanh()


class Permutation(nn.Module):
    """The features in another order: (n, d) -> (n, d), and a log-determinant of 0 (n,)."""

    _permutation: Tensor

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        self.register_buffer("_permutation", permutation)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self._permutation), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self._permutation.argsort()), z.new_zeros(len(z))


class Steps(nn.Module):
    """One transform after another: x (n, *event), context (n, c) -> z (n, d), log-determinant (n,).

    It has the name ``_transforms`` that stored weights know.
    """

    def __init__(self, steps: Sequence[NoiseWhitening | AffineCoupling | Permutation]) -> None:
        super().__init__()
        self._transforms = nn.ModuleList(steps)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for step in self._transforms:
            x, change = step(x, context)
            log_det = log_det + change
        return x, log_det

    def inverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(len(z))
        for step in reversed(self._transforms):
            assert isinstance(step, NoiseWhitening | AffineCoupling | Permutation)
            z, change = step.inverse(z, context)
            log_det = log_det + change
        return z, log_det


class ConditionalFlow(nn.Module):
    """log N(T(x; c); 0, I) + log |det ∂T / ∂x|, with T in steps and c an embedded condition."""

    def __init__(self, transform: Steps, embedding: nn.Module) -> None:
        super().__init__()
        self._transform = transform
        self._embedding_net = embedding

    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """``(n, *event), (n, k) -> (n,)``."""
        z, log_det = self._transform(x, self._embedding_net(condition))
        return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

    def inverse(self, noise: Tensor, condition: Tensor) -> Tensor:
        """``(n, d), (n, k) -> (n, *event)``."""
        return self._transform.inverse(noise, self._embedding_net(condition))[0]


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


class ImageFlow(NoisyConditional):
    r"""A conditional normalizing flow of noised images.

    .. math:: \log p_\sigma(x \mid y) = \log N(T(x); 0, I) + \log |\det \partial T / \partial x|

    T whitens along the principal axes of the data at noise level sigma and then applies
    ``layers`` affine couplings whose networks see the label and the noise level. Natively
    continuous; the base measure is Lebesgue measure on pixels. Exact ``log_prob`` and ``sample``.

    Args:
        shape: Of an event, x ``(*batch, *shape)``.
        labels: Names of the values of y; ``given`` takes a name, an index ``()``, or indices
            ``(batch,)``.
        noise_level: Sigma, in the units of x, positive: one number for all, or ``(batch,)``.
        layers: Affine couplings, from 0.
        hidden: Width of their networks.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803.

    Example:
        >>> model = ImageFlow((4, 4), ["left", "right"], noise_level=0.1, layers=2, hidden=8)
        >>> expert = model.given("left")
        >>> x = expert.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, expert.log_prob(x).shape
        (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    may_be_infinite = ()

    is_normalized = True

    @checked
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
        layers, hidden = whole("layers", layers, 0), whole("hidden", hidden)
        size, features = self.space.event_shape.numel(), 32
        order = torch.Generator().manual_seed(0)
        steps: list[NoiseWhitening | AffineCoupling | Permutation] = [NoiseWhitening(shape)]
        for layer in range(layers):
            steps.append(AffineCoupling(size, 1 + features, hidden, layer % 2))
            if layer % 2:
                steps.append(Permutation(torch.randperm(size, generator=order)))
        self.flow = ConditionalFlow(Steps(steps), LabelNoiseContext(len(labels), features))
        self.settings = {"layers": layers, "hidden": hidden}

    @property
    def whitening(self) -> NoiseWhitening:
        first = self.flow._transform._transforms[0]
        assert isinstance(first, NoiseWhitening)
        return first

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        condition = torch.stack([label.to(noise_level), noise_level], -1)
        return self.flow.log_prob(x, condition)

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent exact draws, without a gradient: normal noise through the inverse of T.

        Args:
            condition: The number of a label, ``()`` or ``(num_samples,)``.
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        level = self.noise_levels(torch.Size((num_samples,)))
        label = condition.expand(num_samples).to(level)
        condition = torch.stack([label, level], -1)
        generator = resolve(generator, level.device)
        size = (num_samples, self.space.event_shape.numel())
        noise = torch.randn(size, generator=generator, device=level.device, dtype=level.dtype)
        return self.flow.inverse(noise, condition)


poe.io.register_module(
    ImageFlow,
    constructor_arguments,
    name="experts.ImageFlow",
    formerly=("experts.flow.ImageFlow",),
)
