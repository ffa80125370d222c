"""Diffusion models as experts: one density for each step of noise, by integrating the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import poe
from experts.parameters import whole
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.no_gradient import without_gradient
from poe.io import register

PREDICTIONS = ("epsilon", "sample", "v_prediction", "energy")


class ScoreModel(poe.Conditional):
    r"""A pretrained diffusion model; ``given(t)`` is p_t, the density of data noised t steps.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
       s_t(x) = \nabla \log p_t(x) = -\epsilon_\theta(x, t) / \sqrt{1 - \bar\alpha_t}

    A net that predicts noise has a score but no density, and no kernel can correct, nor SMC weigh,
    without one. It is put into energy form by the integral of the score from the origin,

    .. math:: \log \tilde p_t(x) = \int_0^1 s_t(\tau x) \cdot x \, d\tau

    with Gauss-Legendre nodes, each one evaluation of the net; its score is the net's own, one
    evaluation more. **Where the net is no gradient field** that is still one fixed density, and
    corrected kernels are exact for it, but its true score is not the net's: ``asymmetry(x, t)``
    says how far they differ.

    **A product of p_t's is not the noised product.** ``a.given(t) * b.given(t)`` at t > 0 is not
    the density of draws of the product that were noised, so that walking down t by unadjusted
    Langevin, or by summed noise predictions, ends at wrong shares of the modes. Use the ladder as a
    path only, and let weights mend it: ``poe.smc(product at 0, start=N(0, I), path=[products])``.

    Args:
        net: From x ``(n, *event)`` and t ``(n,)``, integers, to ``(n, *event)``, or to an object
            whose ``sample`` is that (as in diffusers); for "energy" to ``(n,)``.
        alphas_cumprod: ᾱ_t, ``(steps,)``, falling from almost 1 to almost 0.
        space: Where x lives.
        prediction: What the net returns: "epsilon", "sample" (x₀), "v_prediction" (√ᾱ ε − √(1 − ᾱ)
            x₀), or "energy" (−log p̃_t itself: nothing is integrated, and the net learns).
        num_nodes: Nodes of the integral.

    Raises:
        PoeError: For another prediction, for an ᾱ that does not fall within (0, 1), and where
            ``given`` is asked for a step that there is not.
        ShapeError: When called, where the net returns another shape.

    References:
        Ho, Jain & Abbeel (2020), Denoising diffusion probabilistic models, arXiv:2006.11239.

        Song et al. (2021), Score-based generative modeling through stochastic differential
        equations, arXiv:2011.13456.

        Du et al. (2023), Reduce, reuse, recycle: compositional generation with energy-based
        diffusion models and MCMC, section 4 (energies for products), arXiv:2302.11552.

    Example:
        >>> betas = torch.linspace(1e-4, 0.1, 100)
        >>> class OfStandardNormal(nn.Module):
        ...     def forward(self, x, t):  # ε = −√(1 − ᾱ) score, and p_t = N(0, I) at every step
        ...         return (1 - (1 - betas).cumprod(0)[t]).sqrt()[:, None] * x
        >>> model = ScoreModel(OfStandardNormal(), (1 - betas).cumprod(0), space=poe.Real(2))
        >>> model.given(50)(torch.tensor([[3.0, 1.0]]))
        tensor([-5.0000])
    """

    alphas_cumprod: Tensor
    nodes: Tensor
    weights: Tensor

    @checked
    def __init__(
        self,
        net: nn.Module,
        alphas_cumprod: Tensor,
        *,
        space: poe.Real,
        prediction: str = "epsilon",
        num_nodes: int = 32,
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise PoeError(
                f"expected a prediction among {', '.join(PREDICTIONS)}, got {prediction}"
            )
        self.net, self.space, self.prediction = net, space, prediction
        self.register_buffer("alphas_cumprod", _falling(torch.as_tensor(alphas_cumprod)))
        whole("num_nodes", num_nodes)
        at, weights = np.polynomial.legendre.leggauss(num_nodes)
        like = self.alphas_cumprod
        self.register_buffer("nodes", torch.from_numpy((at + 1) / 2).to(like))
        self.register_buffer("weights", torch.from_numpy(weights / 2).to(like))

    @property
    def has_own_score(self) -> bool:
        """Whether its score is the net's, which need not be the slope of the log-density."""
        return self.prediction != "energy"

    def given(self, condition: int | float | Tensor) -> poe.Given:
        """p_t as an expert.

        Args:
            condition: The step t, an integer, or ``(batch,)`` with one for each chain.

        Returns:
            The expert.

        Raises:
            PoeError: For what is no integer from 0 to steps − 1.
        """
        step, num_steps = torch.as_tensor(condition), len(self.alphas_cumprod)
        is_whole = not step.is_floating_point() and step.dtype != torch.bool
        if not is_whole or bool(((step < 0) | (step >= num_steps)).any()):
            raise PoeError(
                f"expected a step from 0 to {num_steps - 1}, an integer, got {condition}"
            )
        return super().given(step.to(self.alphas_cumprod.device))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p̃_t(x).

        Args:
            x: ``(*batch, *event)``.
            condition: The step t, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.

        Raises:
            ShapeError: Where the net returns another shape.
        """
        batch = self.space.batch_shape(x)
        rows = x.reshape(-1, *self.space.event_shape)
        step = condition.expand(batch).reshape(-1)
        if self.prediction == "energy":
            return -self._checked(rows, step, rows.shape[:1]).reshape(batch)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self._integral(rows, step).reshape(batch)
        value: Tensor = _WithScore.apply(rows, lambda y: self._value_and_score(y, step))
        return value.reshape(batch)

    def score_at(self, x: Tensor, step: Tensor) -> Tensor:
        """The net's own score s_t(x).

        For "energy" there is none but the gradient: use ``given(t).score(x)``.

        Args:
            x: ``(n, *event)``.
            step: t, ``(n,)``.

        Returns:
            ``(n, *event)``.

        Raises:
            ShapeError: Where the net returns another shape.
        """
        found = self._checked(x, step, x.shape)
        kept = self.alphas_cumprod[step].reshape(-1, *[1] * (x.ndim - 1)).to(x)
        noise = (1 - kept).sqrt()
        if self.prediction == "sample":
            return (kept.sqrt() * found - x) / (1 - kept)
        if self.prediction == "v_prediction":
            return -(kept.sqrt() * found / noise + x)
        return -found / noise

    def asymmetry(self, x: Tensor, step: int) -> Tensor:
        """|∇ log p̃_t − s_t| / |s_t|, each a root mean square over x.

        0 where the net's score is a gradient and the nodes are enough; for a net that is no
        gradient field, how far its score is from that of the density that chains are exact for.

        Args:
            x: ``(n, *event)``.
            step: t, the same for all.

        Returns:
            A number, ``()``.
        """
        steps = torch.full(x.shape[:1], step, device=x.device)
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            (true,) = torch.autograd.grad(self._integral(place, steps).sum(), place)
        with torch.no_grad():
            own = self.score_at(x, steps)
        return ((true - own).square().sum() / own.square().sum()).sqrt()

    def _integral(self, x: Tensor, step: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for node, weight in zip(self.nodes.to(x), self.weights.to(x), strict=True):
            total = total + weight * (self.score_at(node * x, step) * x).flatten(1).sum(1)
        return total

    def _value_and_score(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._integral(x, step), self.score_at(x, step)

    def _checked(self, x: Tensor, step: Tensor, shape: torch.Size) -> Tensor:
        found: Any = self.net(x, step)
        found = getattr(found, "sample", found)
        if not isinstance(found, Tensor) or found.shape != shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"expected {self.prediction} of shape {tuple(shape)} from the net for x of shape "
                f"{tuple(x.shape)}, got {got}"
            )
        return found


class _WithScore(torch.autograd.Function):
    """The integral with the net's own score as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, both: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        value, score = both(x.detach())
        ctx.save_for_backward(x, score)
        return value

    @staticmethod
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None]:
        x, score = ctx.saved_tensors
        score = without_gradient(score, x, "the score of a ScoreModel")
        return of_value.reshape(-1, *[1] * (score.ndim - 1)) * score, None


def _falling(alphas_cumprod: Tensor) -> Tensor:
    is_falling = bool((alphas_cumprod.diff() < 0).all()) if alphas_cumprod.ndim == 1 else False
    if not is_falling or not bool(((alphas_cumprod > 0) & (alphas_cumprod < 1)).all()):
        raise PoeError(
            "expected alphas_cumprod (steps,) that fall from almost 1 to almost 0, as "
            f"(1 - betas).cumprod(0) does, got {alphas_cumprod}"
        )
    return alphas_cumprod


register(
    ScoreModel,
    lambda model: {
        "net": model.net,
        "alphas_cumprod": model.alphas_cumprod,
        "space": model.space,
        "prediction": model.prediction,
        "num_nodes": len(model.nodes),
    },
    lambda fields: ScoreModel(**fields),
    name="experts.noised.ScoreModel",
    formerly=("experts.adapters.diffusion.ScoreModel",),
)
