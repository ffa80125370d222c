"""log Z of a product as a function of its exponents, where it is at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from poe.density.capabilities import exact_log_partition
from poe.density.checks import device_of
from poe.density.expert import Product, experts_in
from poe.exponents.fitted import weighted
from poe.normalizers.charts import can_integrate
from poe.normalizers.enumeration import MAX_TABLE, num_states, states
from poe.normalizers.quadrature import Nodes, nodes

LogZ = Callable[[Tensor], Tensor]
"""Of the weights ``(k,)``, in float64; can be differentiated twice."""
NEGLIGIBLE = 60.0
"""So many nats below the heaviest node another one is not worth its time."""
AT_ONCE = 2**16
TOLERANCE = 1e-6
"""Of Z by quadrature, relative: far below what any number of points can tell of the exponents."""


def exact_log_z(product: Product, weights: Tensor) -> LogZ | None:
    """log ∫ ∏_i p̃_i(x)^(w_i) as a function of w, right near ``weights``; None where not at hand.

    In closed form; by the sum over up to 2^20 states; by the nodes of a quadrature at ``weights``.
    Its gradient is what the experts say on average, E_w log p̃_i, its Hessian their covariance.

    Raises `ImproperError` where Z is infinite at ``weights``.

    >>> product = poe.Product(a=experts.Gaussian([0.0], scale=[1.0]))
    >>> log_z = exact_log_z(product, torch.ones(1))
    >>> log_z(torch.tensor([1.0])), log_z(torch.tensor([2.0]))  # log ∫ N² = −log(4π) / 2
    (tensor(0., dtype=torch.float64), tensor(-1.2655, dtype=torch.float64))
    """
    # Exponents that vary: a mixture has a closed form at 1 and at no other.
    if _closed_form(product, weights.clone().requires_grad_()) is not None:
        return lambda w: cast("Tensor", _closed_form(product, w))
    found = _nodes(product, weights)
    if found is None:
        return None
    values, log_weights = _said_at(product, found, weights)
    return lambda w: torch.logsumexp(log_weights + values @ w, 0)


def _closed_form(product: Product, weights: Tensor) -> Tensor | None:
    pairs = zip(experts_in(product.experts), weights.unbind(), strict=True)
    value = exact_log_partition(Product(*(expert**w for expert, w in pairs)))
    return None if value is None else value.to("cpu", torch.float64)


def _nodes(product: Product, weights: Tensor) -> Nodes | None:
    if num_states(product.space) <= MAX_TABLE:
        x = states(product.space).to(device_of(product))
        return Nodes(x, torch.zeros(len(x), dtype=torch.float64))
    if can_integrate(product.space):
        return nodes(weighted(product, weights), TOLERANCE)
    return None


def _said_at(product: Product, at: Nodes, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What the experts say at the nodes that have a say, and these nodes' weights."""
    with torch.no_grad():
        parts = [product.contributions(x).to("cpu", torch.float64) for x in at.x.split(AT_ONCE)]
    values, log_weights = torch.cat(parts), at.log_weights.to("cpu", torch.float64)
    mass = log_weights + values @ weights
    mass = mass.masked_fill(~values.isfinite().all(1), -torch.inf)
    has_say = mass > mass.max() - NEGLIGIBLE
    return values[has_say], log_weights[has_say]
