"""How loudly each expert of a product speaks, and exponents that would make them equal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind, texts
from poe.core.errors import PoeError, ShapeError
from poe.density.expert import Product, experts_in, named_product
from poe.density.nonfinite import require_finite_of_each

_SILENCED = 0.05  # below this share of an equal one an expert hardly moves the product


@dataclass(frozen=True)
class Calibration:
    """What k experts, with their exponents, say at n common points in d dimensions.

    Args:
        names: The experts, in the order of all that follows.
        mean: Of w_i log p̃_i(x), nats per dimension, ``(k,)``.
        spread: Standard deviation of w_i log p̃_i(x), nats per dimension, ``(k,)``.
        share: cov(w_i log p̃_i, log p̃) / var(log p̃), ``(k,)``, which sum to 1; a negative one speaks
            against the rest; NaN where the experts cancel.
        correlation: Between the experts' log-densities, ``(k, k)``; NaN for a constant one.
        suggested: Factors of the present exponents that make the spreads equal, to their geometric
            mean, ``(k,)``; 1 for a constant expert.
    """

    names: tuple[str, ...]
    mean: Tensor
    spread: Tensor
    share: Tensor
    correlation: Tensor
    suggested: Tensor

    def rescaled(self, product: Product) -> Product:
        """A new product, each exponent times its ``suggested`` factor.

        Args:
            product: The one that was calibrated.

        Returns:
            The product, under the same names.

        Raises:
            PoeError: For a product of other names.
        """
        if product.names != self.names:
            raise PoeError(
                f"expected the product of {list(self.names)}, got {list(product.names)}; "
                "call poe.calibrate on this product"
            )
        pairs = zip(experts_in(product.experts), self.suggested.tolist(), strict=True)
        return named_product(self.names, [expert**factor for expert, factor in pairs])

    def doubts(self) -> tuple[Doubt, ...]:
        """Who is silenced and who speaks against the rest."""
        told = []
        for name, spread, share in zip(
            self.names, self.spread.tolist(), self.share.tolist(), strict=True
        ):
            if spread == 0:
                told.append(Doubt(Kind.SILENCED, f"{name} says the same at every point"))
            elif share < 0:
                told.append(Doubt(Kind.OPPOSED, f"{name} speaks against the rest"))
            elif share < _SILENCED / len(self.names):
                text = f"{name} is silenced: {share:.1%} of the variance is its own"
                told.append(Doubt(Kind.SILENCED, text))
        return tuple(told)

    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts())

    def __str__(self) -> str:
        width = max(len("expert"), *map(len, self.names))
        lines = [f"{'expert':<{width}}{'mean':>10}{'spread':>10}{'share':>8}{'exponent':>12}"]
        columns = (self.mean, self.spread, self.share, self.suggested)
        rows = zip(self.names, *(column.tolist() for column in columns), strict=True)
        for name, mean, spread, share, factor in rows:
            lines.append(
                f"{name:<{width}}{mean:>10.3g}{spread:>10.3g}{share:>8.1%}{f'x {factor:.3g}':>12}"
            )
        return "\n".join([*lines, *self.remarks()])


@checked
def calibrate(product: Product, x: Tensor) -> Calibration:
    """Compare the experts of a product at common points; changes nothing.

    Equal spreads are a suggestion, not a truth: an expert that knows more should speak louder.

    Args:
        product: The product, whose exponents count.
        x: Points, ``(n, *event)``, n >= 2.

    Returns:
        What each expert says there.

    Raises:
        ShapeError: Where x holds fewer than two points.
        NonFiniteError: Where an expert is NaN or infinite at one of them.

    Example:
        >>> product = poe.Product(sharp=experts.Gaussian([0.0], scale=[0.1]),
        ...                       broad=experts.Gaussian([0.0], scale=[1.0]))
        >>> print(calibrate(product, torch.linspace(-1, 1, 101)[:, None]))
        expert      mean    spread   share    exponent
        sharp      -15.6      15.3   99.0%       x 0.1
        broad      -1.09     0.153    1.0%        x 10
        broad is silenced: 1.0% of the variance is its own
    """
    if len(product.space.batch_shape(x)) != 1 or len(x) < 2:
        raise ShapeError(f"expected x of shape (n, *event) with n >= 2, got {tuple(x.shape)}")
    with torch.no_grad():
        said = product.contributions(x).to("cpu", torch.float64)
    require_finite_of_each(
        product.names, said, "log-densities at x", "choose points in the support of all experts"
    )
    centered = said - said.mean(0)
    covariance = centered.mT @ centered / (len(x) - 1)
    spread = covariance.diagonal().sqrt()
    is_constant = spread <= 1e-7 * said.abs().amax(0)  # rounding of float32
    spread = spread.masked_fill(is_constant, 0)
    covariance = covariance.masked_fill(is_constant | is_constant[:, None], 0)
    num_dimensions = product.space.event_shape.numel()
    return Calibration(
        names=product.names,
        mean=said.mean(0) / num_dimensions,
        spread=spread / num_dimensions,
        share=covariance.sum(1) / covariance.sum(),
        correlation=covariance / torch.outer(spread, spread),
        suggested=_equalising(spread),
    )


def _equalising(spread: Tensor) -> Tensor:
    speaks = spread > 0
    common = spread[speaks].log().mean().exp()
    return torch.where(speaks, common / spread, 1.0)
