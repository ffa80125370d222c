"""The restricted Boltzmann machine of labels: categorical elements, binary hidden units."""

from __future__ import annotations

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
from experts.parameters import ArrayLike, keep, real
from poe import Binary, Categorical, Expert, ShapeError
from poe.core.arguments import checked
from poe.core.randomness import resolve, uniforms
from poe.density.capabilities import exact_log_partition, sampler_of
from poe.density.expert import Sampler
from poe.density.transformed import mask_outside
from poe.io import register


class PottsRBM(Expert):
    """A restricted Boltzmann machine on x in {0 ... k − 1}^v, its hidden z in {0, 1}^h summed out.

    p(x, z) = exp(Σᵢⱼ W[i, xᵢ, j] zⱼ + Σᵢ b[i, xᵢ] + c'z) / Z, so that

    log p̃(x) = Σᵢ b[i, xᵢ] + Σⱼ log(1 + exp(aⱼ)),  aⱼ = cⱼ + Σᵢ W[i, xᵢ, j];  −inf for other x
    p(zⱼ = 1 | x) = σ(aⱼ),  p(xᵢ = l | z) = softmax_l(b[i, l] + Σⱼ W[i, l, j] zⱼ)

    log Z is exact up to 25 hidden units, ``sample`` up to 20; ``experts.boltzmann.LayerGibbs``
    draws one layer given the other for any number. ``log_density_of_one_hot`` takes one-hot rows of
    floats, for gradients in x. What is an ``nn.Parameter`` stays one.

    Args:
        W: Weights, ``(v, k, h)``.
        b: Visible biases, ``(v, k)``.
        c: Hidden biases, ``(h,)``.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a number is not finite.

    References:
        Salakhutdinov, Mnih & Hinton (2007), Restricted Boltzmann machines for collaborative
        filtering, doi:10.1145/1273496.1273596, section 2.

    Example:
        >>> rbm = PottsRBM([[[1.0], [0.0], [-1.0]]], [[0.0, 0.5, 0.0]], [0.0])
        >>> rbm(torch.tensor([[0], [2]])), rbm.hidden_probabilities(torch.tensor([[0]]))
        (tensor([1.3133, 0.3133]), tensor([[0.7311]]))
    """

    W: Tensor
    b: Tensor
    c: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, W: ArrayLike, b: ArrayLike, c: ArrayLike) -> None:
        super().__init__()
        weights = real("W", W)
        if weights.ndim != 3 or 0 in weights.shape:
            raise ShapeError(
                f"expected W of shape (visible, labels, hidden), got {tuple(weights.shape)}"
            )
        keep(self, "W", weights)
        for name, given, shape in (("b", b, weights.shape[:2]), ("c", c, weights.shape[2:])):
            bias = real(name, given, like=weights)
            if bias.shape != shape:
                raise ShapeError(
                    f"expected {name} of shape {tuple(shape)} for W (visible, labels, hidden) of "
                    f"shape {tuple(weights.shape)}, got {tuple(bias.shape)}"
                )
            keep(self, name, bias)
        self.space = Categorical(weights.shape[0], weights.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Rows of labels 0 ... k − 1, ``(*batch, v)``.

        Returns:
            log p̃(x), ``(*batch,)``; −inf for other x.
        """
        return mask_outside(self.space, x, self.log_density_of_one_hot(self._one_hot(x)))

    def log_density_of_one_hot(self, one_hot: Tensor) -> Tensor:
        """The log-density as a smooth function of the one-hot encoding.

        Args:
            one_hot: Rows that are one-hot, or weights between, ``(*batch, v, k)``, in the dtype of
                W.

        Returns:
            log p̃, ``(*batch,)``.
        """
        flat = one_hot.flatten(-2)
        log_odds = linear(flat, self.W.flatten(0, 1).mT, self.c)
        return flat @ self.b.flatten() + F.softplus(log_odds).sum(-1)

    def hidden_log_odds(self, x: Tensor) -> Tensor:
        """log p(zⱼ = 1 | x) − log p(zⱼ = 0 | x) = aⱼ.

        Args:
            x: Rows of labels 0 ... k − 1, ``(*batch, v)``.

        Returns:
            The log-odds, ``(*batch, h)``.
        """
        return linear(self._one_hot(x).flatten(-2), self.W.flatten(0, 1).mT, self.c)

    def hidden_probabilities(self, x: Tensor) -> Tensor:
        """p(zⱼ = 1 | x), the features that the RBM finds in x.

        Args:
            x: Rows of labels 0 ... k − 1, ``(*batch, v)``.

        Returns:
            Probabilities, ``(*batch, h)``.
        """
        return self.hidden_log_odds(x).sigmoid()

    def visible_logits(self, z: Tensor) -> Tensor:
        """log p(xᵢ = l | z) up to a constant of each i.

        Args:
            z: Hidden units, 0 and 1, ``(*batch, h)``.

        Returns:
            Logits, ``(*batch, v, k)``.
        """
        Binary(self.W.shape[2]).batch_shape(z)
        flat = linear(z.to(self.W.dtype), self.W.flatten(0, 1), self.b.flatten())
        return flat.unflatten(-1, self.b.shape)

    def visible_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """The random numbers that ``visible_given`` needs: a uniform for each label.

        Args:
            like: The elements that are to be drawn, ``(n, v)``.
            generator: Of the numbers.

        Returns:
            Uniforms, ``(n, v)``.
        """
        return uniforms(like.shape, like=self.W, generator=generator)

    def visible_given(self, z: Tensor, noise: Tensor) -> Tensor:
        """x ~ p(x | z), from random numbers drawn before.

        Args:
            z: Hidden units, 0 and 1, ``(n, h)``.
            noise: As of ``visible_noise``, ``(n, v)``.

        Returns:
            Rows of labels, int64, ``(n, v)``.
        """
        below = self.visible_logits(z).softmax(-1).cumsum(-1)[..., :-1]
        return (noise[..., None] >= below).sum(-1)

    def hidden_density(self) -> Expert:
        """log p̃(z) on {0, 1}^h, with the same Z; in float64, detached.

        c'z + Σᵢ log Σ_l exp(b[i, l] + Σⱼ W[i, l, j] zⱼ)

        Returns:
            The expert of z.
        """
        W, b, c = (t.detach().double() for t in (self.W, self.b, self.c))
        flat = W.flatten(0, 1)

        def log_density(z: Tensor) -> Tensor:
            logits = (z @ flat.mT).unflatten(-1, b.shape) + b
            return z @ c + logits.logsumexp(-1).sum(-1)

        return HiddenDensity(log_density, c)

    def extra_repr(self) -> str:
        return "{} visible of {} labels, {} hidden".format(*self.W.shape)

    def _one_hot(self, x: Tensor) -> Tensor:
        self.space.batch_shape(x)
        labels = torch.arange(self.W.shape[1], device=x.device)
        return (x[..., None] == labels).to(self.W.dtype)

    @torch.no_grad()
    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, v)``, of the hidden units first."""
        generator = resolve(generator, self.W.device)
        z = draw_hidden(self.hidden_density(), num_samples, generator).to(self.W)
        like = self.b.new_empty((num_samples, len(self.b)))
        return self.visible_given(z, self.visible_noise(like, generator))


@sampler_of.register
def _(expert: PottsRBM) -> Sampler | None:
    """Where the hidden units are few."""
    return expert._sample if is_small(expert.W.shape[2]) else None


@exact_log_partition.register
def _(expert: PottsRBM) -> Tensor | None:
    """The sum over the states of the hidden units, in float64; without a gradient."""
    return hidden_log_partition(expert.hidden_density(), expert.W)


register(
    PottsRBM,
    lambda r: {"W": r.W, "b": r.b, "c": r.c},
    lambda f: PottsRBM(f["W"], f["b"], f["c"]),
    name="experts.PottsRBM",
    formerly=("experts.potts_rbm.PottsRBM",),
)
