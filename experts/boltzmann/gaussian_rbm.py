"""The restricted Boltzmann machine of real numbers: Gaussian elements, binary hidden units."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.fast_linear import linear
from experts.boltzmann.hidden_states import (
    HiddenDensity,
    draw_hidden,
    hidden_log_partition,
    is_small,
)
from experts.parameters import ArrayLike, fixed, keep, positive, real
from poe import Binary, Expert, Real, ShapeError
from poe.core.arguments import checked
from poe.core.randomness import resolve
from poe.density.capabilities import exact_log_partition, sampler_of
from poe.density.expert import Sampler
from poe.io import register


class GaussianRBM(Expert):
    """A restricted Boltzmann machine on x in R^v, its hidden z in {0, 1}^h summed out.

    p(x, z) = exp(−½ Σᵢ (xᵢ − bᵢ)² / σᵢ² + Σᵢⱼ xᵢ Wᵢⱼ zⱼ / σᵢ² + c'z) / Z, so that

    log p̃(x) = −½ Σᵢ (xᵢ − bᵢ)² / σᵢ² + Σⱼ log(1 + exp(aⱼ)),  aⱼ = cⱼ + Σᵢ Wᵢⱼ xᵢ / σᵢ²
    p(zⱼ = 1 | x) = σ(aⱼ),  p(x | z) = N(b + Wz, diag σ²)

    It is a mixture of 2^h Gaussians, so that log Z is exact up to 25 hidden units and ``sample`` up
    to 20; ``experts.boltzmann.LayerGibbs`` draws one layer given the other for any number.

    Args:
        W: Weights, ``(v, h)``, in units of x; an ``nn.Parameter`` stays one.
        b: Visible biases, ``(v,)``, in units of x; as W.
        c: Hidden biases, ``(h,)``; as W.
        scale: σ, standard deviations given z, ``(v,)``, positive, as W; or a number for all.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a number is not finite, or a scale not positive.

    References:
        Welling, Rosen-Zvi & Hinton (2004), Exponential family harmoniums with an application to
        information retrieval, NIPS 17.

        Cho, Ilin & Raiko (2011), Improved learning of Gaussian-Bernoulli restricted Boltzmann
        machines, doi:10.1007/978-3-642-21735-7_2, equation 3 (this parametrisation).

    Example:
        >>> rbm = GaussianRBM([[2.0], [0.0]], [0.0, 1.0], [0.0], scale=1.0)
        >>> rbm.hidden_probabilities(torch.tensor([[1.0, 0.0]])), poe.log_partition(rbm).value
        (tensor([[0.8808]]), tensor(3.9648))
    """

    W: Tensor
    b: Tensor
    c: Tensor
    scale: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, W: ArrayLike, b: ArrayLike, c: ArrayLike, *, scale: ArrayLike = 1.0) -> None:
        super().__init__()
        weights = real("W", W)
        if weights.ndim != 2 or 0 in weights.shape:
            raise ShapeError(f"expected W of shape (visible, hidden), got {tuple(weights.shape)}")
        num_visible, num_hidden = weights.shape
        deviation = positive("scale", scale, like=weights)
        if deviation.shape == ():
            fixed("scale", scale, f"give one of shape ({num_visible},)")
            deviation = deviation.expand(num_visible).contiguous()
        keep(self, "W", weights)
        sizes = {"b": (b, num_visible), "c": (c, num_hidden), "scale": (deviation, num_visible)}
        for name, (given, size) in sizes.items():
            value = real(name, given, like=weights)
            if value.shape != (size,):
                raise ShapeError(
                    f"expected {name} of shape ({size},) for W (visible, hidden) of shape "
                    f"{tuple(weights.shape)}, got {tuple(value.shape)}"
                )
            keep(self, name, value)
        self.space = Real(num_visible)

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Rows, ``(*batch, v)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        standard = (x - self.b) / self.scale
        return F.softplus(self.hidden_log_odds(x)).sum(-1) - 0.5 * standard.square().sum(-1)

    def hidden_log_odds(self, x: Tensor) -> Tensor:
        """log p(zⱼ = 1 | x) − log p(zⱼ = 0 | x) = aⱼ.

        Args:
            x: Rows, ``(*batch, v)``.

        Returns:
            The log-odds, ``(*batch, h)``.
        """
        self.space.batch_shape(x)
        return linear(x / self.scale.square(), self.W.mT, self.c)

    def hidden_probabilities(self, x: Tensor) -> Tensor:
        """p(zⱼ = 1 | x), the features that the RBM finds in x.

        Args:
            x: Rows, ``(*batch, v)``.

        Returns:
            Probabilities, ``(*batch, h)``.
        """
        return self.hidden_log_odds(x).sigmoid()

    def visible_mean(self, z: Tensor) -> Tensor:
        """E[x | z] = b + Wz.

        Args:
            z: Hidden units, 0 and 1, ``(*batch, h)``.

        Returns:
            Means, ``(*batch, v)``.
        """
        Binary(self.W.shape[1]).batch_shape(z)
        return linear(z.to(self.W.dtype), self.W, self.b)

    def visible_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """The random numbers that ``visible_given`` needs: a standard normal for each element.

        Args:
            like: The elements that are to be drawn, ``(n, v)``.
            generator: Of the numbers.

        Returns:
            Normals, ``(n, v)``.
        """
        return torch.empty_like(like).normal_(generator=generator)

    def visible_given(self, z: Tensor, noise: Tensor) -> Tensor:
        """x ~ p(x | z), from random numbers drawn before.

        Args:
            z: Hidden units, 0 and 1, ``(n, h)``.
            noise: As of ``visible_noise``, ``(n, v)``.

        Returns:
            Rows, ``(n, v)``.
        """
        return self.visible_mean(z) + self.scale * noise

    def hidden_density(self) -> Expert:
        """log p̃(z) on {0, 1}^h, with the same Z, its constant included; in float64, detached.

        c'z + ½ Σᵢ ((b + Wz)ᵢ² − bᵢ²) / σᵢ² + Σᵢ log(σᵢ √(2π))

        Returns:
            The expert of z.
        """
        W, b, c, scale = (t.detach().double() for t in (self.W, self.b, self.c, self.scale))
        constant = (scale * math.sqrt(2 * math.pi)).log().sum()

        def log_density(z: Tensor) -> Tensor:
            mean = b + z @ W.mT
            return z @ c + 0.5 * ((mean.square() - b.square()) / scale.square()).sum(-1) + constant

        return HiddenDensity(log_density, c)

    def extra_repr(self) -> str:
        return "{} visible, {} hidden".format(*self.W.shape)

    @torch.no_grad()
    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, v)``, of the hidden units first."""
        generator = resolve(generator, self.W.device)
        z = draw_hidden(self.hidden_density(), num_samples, generator).to(self.W)
        like = self.b.expand(num_samples, -1).contiguous()
        return self.visible_given(z, self.visible_noise(like, generator))


@sampler_of.register
def _(expert: GaussianRBM) -> Sampler | None:
    """Where the hidden units are few."""
    return expert._sample if is_small(expert.W.shape[1]) else None


@exact_log_partition.register
def _(expert: GaussianRBM) -> Tensor | None:
    """The sum over the states of the hidden units, in float64; without a gradient."""
    return hidden_log_partition(expert.hidden_density(), expert.W)


register(
    GaussianRBM,
    lambda r: {"W": r.W, "b": r.b, "c": r.c, "scale": r.scale},
    lambda f: GaussianRBM(f["W"], f["b"], f["c"], scale=f["scale"]),
    name="experts.GaussianRBM",
    formerly=("experts.gaussian_rbm.GaussianRBM",),
)
