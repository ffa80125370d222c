"""Exponents of a product learned from data, never worse on held-out data than one expert alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from poe.errors import ImproperError, NonFiniteError, PoeError, ShapeError, TrustWarning
from poe.expert import Expert, Product, experts_in, named_product
from poe.properties import check_proper
from poe.randomness import resolve
from poe.space import Real

_EXACT_DIVERGENCE = 32  # dimensions up to which every second derivative is taken
_NUM_PROBES = 32


@dataclass(frozen=True)
class FittedExponents:
    """Learned exponents, and how they did on the points held out.

    - ``names``, ``weights`` ``(k,)``: the experts and their exponents, times the present ones;
    - ``product``: with these exponents; experts of weight 0 are left out;
    - ``loss``: the criterion of ``product`` on the held-out points, lower is better;
    - ``best_alone``, ``best_alone_loss``: the best single expert there, and its criterion;
    - ``is_learned``: False where the learned exponents lost and the best expert is returned.

    The choice is made on the held-out points, so ``loss`` flatters a little.
    """

    names: tuple[str, ...]
    weights: Tensor
    product: Product
    loss: float
    best_alone: str
    best_alone_loss: float
    is_learned: bool


def fit_exponents_by_score_matching(
    product: Product, x: Tensor, *, generator: torch.Generator | None = None
) -> FittedExponents:
    """The w that minimise J(w) = E[1/2 |sum_i w_i s_i|^2 + sum_i w_i div s_i] over x `(n, *event)`.

    s_i is the score of expert i, so J is quadratic in w and needs no normaliser (Hyvarinen 2005,
    "Estimation of non-normalized statistical models by score matching", eq. 4 and section 4).
    The divergence is exact up to 32 dimensions, by Hutchinson's probes beyond. One point in five
    is held out; where the learned product is improper, or no better there than the best expert
    alone, that expert's weights are returned with a `TrustWarning`.

    Raises `PoeError` off `Real` spaces, `ShapeError` where n < 2, `NonFiniteError` where a score
    or a divergence is not finite.

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
    fit, held_out = _split(product, x, generator)
    quadratic, slope = _quadratic(product, fit, generator)
    learned = -torch.linalg.pinv(quadratic, hermitian=True) @ slope
    quadratic, slope = _quadratic(product, held_out, generator)

    def loss(w: Tensor) -> float:
        check_proper(_weighted(product, w))
        return float(w @ quadratic @ w / 2 + slope @ w)

    return _never_worse(product, learned, loss)


def _never_worse(
    product: Product, learned: Tensor, loss: Callable[[Tensor], float]
) -> FittedExponents:
    alone = torch.eye(len(learned), dtype=learned.dtype)
    losses = [_or_infinite(loss, w) for w in alone]
    best = min(range(len(losses)), key=losses.__getitem__)
    learned_loss = _or_infinite(loss, learned)
    if min(learned_loss, losses[best]) == torch.inf:
        raise ImproperError(
            "expected a proper product or expert, got none; add an expert with a finite normaliser"
        )
    is_learned = learned_loss < losses[best]
    if not is_learned:
        warnings.warn(
            f"the learned exponents are no better on held-out points ({learned_loss:.4g}) than "
            f"{product.names[best]} alone ({losses[best]:.4g}), whose weights are returned",
            TrustWarning,
            stacklevel=3,
        )
    weights = learned if is_learned else alone[best]
    return FittedExponents(
        product.names, weights, _weighted(product, weights), min(learned_loss, losses[best]),
        product.names[best], losses[best], is_learned,
    )  # fmt: skip


def _or_infinite(loss: Callable[[Tensor], float], w: Tensor) -> float:
    """The loss, infinite where w makes the product improper."""
    try:
        return loss(w)
    except ImproperError:
        return torch.inf


def _quadratic(product: Product, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A `(k, k)` and b `(k,)` of J(w) = 1/2 w' A w + b' w."""
    pairs = [_score_and_divergence(e, x, generator) for e in experts_in(product.experts)]
    scores = torch.stack([score for score, _ in pairs], -1).to("cpu", torch.float64)
    divergences = torch.stack([div for _, div in pairs], -1).to("cpu", torch.float64)
    _require_finite(product, scores.flatten(0, -2))
    _require_finite(product, divergences)
    return torch.einsum("ndi,ndj->ij", scores, scores) / len(x), divergences.mean(0)


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


def _weighted(product: Product, weights: Tensor) -> Product:
    rows = zip(product.names, experts_in(product.experts), weights.tolist(), strict=True)
    kept = [(name, expert**w) for name, expert, w in rows if w != 0]
    return named_product(tuple(name for name, _ in kept), [expert for _, expert in kept])


def _split(product: Product, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four fifths to fit, and at least one point held out."""
    if len(product.space.batch_shape(x)) != 1 or len(x) < 2:
        raise ShapeError(f"expected x of shape (n, *event) with n >= 2, got {tuple(x.shape)}")
    order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    num_held_out = max(1, len(x) // 5)
    return x[order[num_held_out:]], x[order[:num_held_out]]


def _require_finite(product: Product, values: Tensor) -> None:
    for name, column in zip(product.names, values.unbind(-1), strict=True):
        if not bool(column.isfinite().all()):
            raise NonFiniteError(
                f"expected finite log-densities and scores at x, got others under {name}; "
                "leave out the points or the expert"
            )
