"""Exponents of the largest log score on held-out rows, with shrinkage by cross-validation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import ImproperError, NormalizationError
from poe.core.randomness import resolve
from poe.density.expert import Expert, Product
from poe.exponents.fitted import Estimate, FittedExponents, Loss, never_worse, said, sandwich, split
from poe.exponents.log_z import LogZ, exact_log_z
from poe.exponents.newton import derivatives, maximise
from poe.normalizers.choose import find_log_partition


def log_score_loss(
    held_out: Tensor, generator: torch.Generator, *, progress: bool = False
) -> Callable[[Expert, Tensor], Loss]:
    """log Z − mean log p̃(x) of an expert over the points held out ``(n, *event)``.

    Where log Z is estimated its bounds are the loss's; where it is not to be trusted nothing bounds
    the loss from above.
    """

    def loss(target: Expert, weights: Tensor) -> Loss:
        with torch.no_grad():
            mean = float(target(held_out).double().mean())
        found = find_log_partition(target, None, None, generator, progress)
        upper = float(found.upper) if found.is_trusted else torch.inf
        return Loss(float(found.value) - mean, float(found.lower) - mean, upper - mean)

    return loss


NUM_FOLDS = 5

STRENGTHS = (0.0, 0.03, 0.3, 3.0, 30.0)

MAX_ROUNDS = 10

CLOSE = 1e-6

MAX_HALVINGS = 30


@checked
def fit_exponents_by_log_score(
    product: Product, x: Tensor, *, generator: torch.Generator | None = None
) -> FittedExponents:
    """The w that maximise the log score of points left out, where log Z is exact.

    With l(x) ``(k,)`` what the experts say, w maximises

        w' mean l(x) − log Z(w) − λ/2 (w − 1)' Cov l(x) (w − 1)

    over the points x: maximum likelihood, shrunk towards the product as it is given where few
    points would be overfitted. λ is the one of a few that gives the highest log score in five-fold
    cross-validation. log Z is in closed form, a sum over at most 2^20 states, or a quadrature in up
    to three dimensions.

    One point in five is held out from all of this; where the learned product is not better there
    than the best expert alone, that expert's weights are returned with a ``TrustWarning``.

    Args:
        product: The product, whose exponents count as 1.
        x: Points, ``(n, *event)``, n >= 2.
        generator: The source of randomness; a fresh one by default.

    Returns:
        The exponents, their errors, and how they did on the points held out.

    Raises:
        NormalizationError: Where log Z is not at hand (``fit_exponents_by_likelihood`` estimates
            it).
        ImproperError: Where the product has none as given.
        ShapeError: Where n < 2.
        NonFiniteError: Where an expert is not finite at a point.

    References:
        The pool: Heskes (1998), Selecting weighting factors in logarithmic opinion pools, Advances
        in Neural Information Processing Systems 10.

    Example:
        >>> product = poe.Product(a=experts.Gaussian([0.0], scale=[1.0]),
        ...                       b=experts.Gaussian([4.0], scale=[1.0]))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = experts.Gaussian([2.0], scale=[1.0]).sample(4000, generator=g)
        >>> fit_exponents_by_log_score(product, x, generator=g).weights.round(decimals=1)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    generator = resolve(generator, x.device)
    fit, held_out = split(product, x, generator)
    values = said(product, fit)
    weights, log_z = _exact_fit(product, values)
    strength = _cross_validated(values, log_z, weights)
    if strength > 0:
        weights, log_z = _exact_fit(product, values, strength)
    curvature = derivatives(lambda w: -log_z(w), weights)[1] + strength * _spread(values)
    learned = Estimate(weights, sandwich(curvature, values))
    criterion = f"-log p a point, nats; shrinkage {strength:g}"
    return never_worse(product, learned, log_score_loss(held_out, generator), criterion)


def _exact_fit(product: Product, values: Tensor, strength: float = 0.0) -> tuple[Tensor, LogZ]:
    """The weights, and the log Z that is exact there: its nodes are laid anew as weights move."""
    weights = torch.ones(values.shape[1], dtype=torch.float64)
    weights, log_z = _proper(product, weights, weights)
    for _ in range(MAX_ROUNDS):
        following = _fit(values, log_z, weights, strength)
        following, log_z = _proper(product, weights, following)
        is_close = float((following - weights).abs().max()) < CLOSE
        weights = following
        if is_close:
            break
    return weights, log_z


def _proper(product: Product, weights: Tensor, following: Tensor) -> tuple[Tensor, LogZ]:
    """The following weights, or on the way to them from weights the first that are proper."""
    for _ in range(MAX_HALVINGS):
        try:
            log_z = exact_log_z(product, following)
        except ImproperError:
            if torch.equal(following, weights):
                raise
            following = (following + weights) / 2
            continue
        if log_z is None:
            raise NormalizationError(
                f"expected a product whose log Z is at hand, got one on {product.space}; use "
                "poe.fit_exponents_by_likelihood, which estimates it"
            )
        return following, log_z
    return _proper(product, weights, weights)


def _fit(values: Tensor, log_z: LogZ, weights: Tensor, strength: float) -> Tensor:
    mean, spread = values.mean(0), _spread(values)

    def objective(w: Tensor) -> Tensor:
        away = w - 1
        return w @ mean - log_z(w) - strength / 2 * (away @ spread @ away)

    return maximise(objective, weights)


def _spread(values: Tensor) -> Tensor:
    centered = values - values.mean(0)
    return centered.mT @ centered / max(1, len(values) - 1)


def _cross_validated(values: Tensor, log_z: LogZ, weights: Tensor) -> float:
    """The strength of shrinkage with the highest log score of the folds left out.

    With fewer points than folds there is none to choose by: no shrinkage.
    """
    if len(values) < NUM_FOLDS:
        return 0.0
    fold = torch.arange(len(values)) % NUM_FOLDS

    def score(strength: float) -> float:
        total = 0.0
        for i in range(NUM_FOLDS):
            w = _fit(values[fold != i], log_z, weights, strength)
            total += float((values[fold == i] @ w - log_z(w)).sum())
        return total

    return max(STRENGTHS, key=score)
