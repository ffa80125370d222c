"""Exponents of a product by score matching, which needs no normaliser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.core.space import Real
from poe.density.capabilities import check_proper
from poe.density.expert import Expert, Product, experts_in
from poe.exponents.fitted import (
    SAME,
    Estimate,
    FittedExponents,
    Loss,
    never_worse,
    require_finite,
    sandwich,
    split,
)

_EXACT_DIVERGENCE = 32  # dimensions up to which every second derivative is taken
_NUM_PROBES = 32


@checked
def fit_exponents_by_score_matching(
    product: Product, x: Tensor, *, generator: torch.Generator | None = None
) -> FittedExponents:
    """The w that minimise J(w) = E[½ |Σ_i w_i s_i|² + Σ_i w_i div s_i] over points x.

    s_i is the score of expert i, so J is quadratic in w and needs no normaliser. The divergence is
    exact up to 32 dimensions, by Hutchinson's probes beyond. One point in five is held out; where
    the learned product is improper, or no better there than the best expert alone, that expert's
    weights are returned with a ``TrustWarning``.

    J looks at the points alone, where a product without a normaliser can do as well as any: one
    that is known to be improper is refused, but where ``poe.structure.proper.is_proper`` cannot
    tell, neither can this. Experts with kinks, such as −|x|, are not fitted well: J assumes two
    derivatives.

    Args:
        product: The product, on a Real space; its exponents count as 1.
        x: Points, ``(n, *event)``, n >= 2.
        generator: The source of randomness; a fresh one by default.

    Returns:
        The exponents, their errors, and how they did on the points held out.

    Raises:
        PoeError: Off ``Real`` spaces.
        ShapeError: Where n < 2.
        NonFiniteError: Where a score or a divergence is not finite.

    References:
        Hyvärinen (2005), Estimation of non-normalized statistical models by score matching, Journal
        of Machine Learning Research 6, eq. 4 and section 4.

    Example:
        >>> product = poe.Product(a=experts.Gaussian([0.0], scale=[1.0]),
        ...                       b=experts.Gaussian([4.0], scale=[1.0]))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = experts.Gaussian([2.0], scale=[1.0]).sample(4000, generator=g)
        >>> fit_exponents_by_score_matching(product, x, generator=g).weights.round(decimals=1)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if not isinstance(product.space, Real):
        raise PoeError(
            f"expected a product on Real, got {product.space}; score matching needs densities "
            "that vanish smoothly at the border: move the experts there with Transformed"
        )
    generator = resolve(generator, x.device)
    fit, held_out = split(product, x, generator)
    scores, divergences = _scores_and_divergences(product, fit, generator)
    quadratic, slope = _quadratic(scores, divergences)
    weights = -torch.linalg.pinv(quadratic, rtol=SAME, hermitian=True) @ slope
    # What every point adds to the gradient of J.
    gradients = torch.einsum("ndi,nd->ni", scores, scores @ weights) + divergences
    learned = Estimate(weights, sandwich(quadratic, gradients))
    return never_worse(
        product, learned, _loss(product, held_out, generator), "Hyvarinen's J, a point"
    )


def _loss(
    product: Product, held_out: Tensor, generator: torch.Generator
) -> Callable[[Expert, Tensor], Loss]:
    quadratic, slope = _quadratic(*_scores_and_divergences(product, held_out, generator))

    def loss(target: Expert, w: Tensor) -> Loss:
        check_proper(target)
        value = float(w @ quadratic @ w / 2 + slope @ w)
        return Loss(value, value, value)

    return loss


def _quadratic(scores: Tensor, divergences: Tensor) -> tuple[Tensor, Tensor]:
    """A `(k, k)` and b `(k,)` of J(w) = 1/2 w' A w + b' w."""
    return torch.einsum("ndi,ndj->ij", scores, scores) / len(scores), divergences.mean(0)


def _scores_and_divergences(
    product: Product, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`(n, d, k)` and `(n, k)`, in float64 on the host."""
    pairs = [_score_and_divergence(e, x, generator) for e in experts_in(product.experts)]
    scores = torch.stack([score for score, _ in pairs], -1).to("cpu", torch.float64)
    divergences = torch.stack([div for _, div in pairs], -1).to("cpu", torch.float64)
    require_finite(product, scores)
    require_finite(product, divergences)
    return scores, divergences


def _score_and_divergence(
    expert: Expert, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """s `(n, d)` and div s `(n,)`, both detached."""
    with torch.inference_mode(False), torch.enable_grad():
        position = x.clone().detach().requires_grad_()
        value = expert(position)
        if not value.requires_grad:  # a constant density
            return torch.zeros_like(x).flatten(1), torch.zeros_like(x).flatten(1).sum(1)
        score = torch.autograd.grad(
            value.sum(), position, create_graph=True, materialize_grads=True
        )[0]
        divergence = torch.zeros_like(value).detach()
        probes, scale = _probes(x, generator)
        for probe in probes if score.requires_grad else ():
            along = (score * probe).sum()
            slope = torch.autograd.grad(along, position, retain_graph=True, materialize_grads=True)
            divergence += scale * (slope[0] * probe).flatten(1).sum(1)
    return score.detach().flatten(1), divergence


def _probes(x: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Unit vectors, whose curvatures sum to the divergence; or random signs, where many."""
    num_dimensions = x[0].numel()
    if num_dimensions <= _EXACT_DIVERGENCE:
        eye = torch.eye(num_dimensions, dtype=x.dtype, device=x.device)
        return eye.reshape(num_dimensions, 1, *x.shape[1:]), 1.0
    shape = (_NUM_PROBES, *x.shape)
    bits = torch.randint(2, shape, generator=generator, device=x.device)
    return (2 * bits - 1).to(x.dtype), 1 / _NUM_PROBES
