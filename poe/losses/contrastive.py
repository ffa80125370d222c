"""Contrastive divergence: data against draws of the model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NonFiniteError, PoeError, ShapeError
from poe.density.expert import Expert
from poe.density.nonfinite import require_finite
from poe.losses.base import Loss, log_densities, require_rows


@checked
def contrastive_divergence(
    expert: Expert,
    data: Tensor,
    model: Tensor,
    *,
    regularization: float = 0.0,
    log_weights: Tensor | None = None,
) -> Loss:
    r"""A loss whose gradient is that of −log-likelihood, where ``model`` are draws of the expert.

    .. math:: E_\text{model} f - E_\text{data} f
       + \lambda\, (E_\text{data} f^2 + E_\text{model} f^2), \qquad f = \log \tilde p

    so that its gradient is :math:`E_\text{model} \nabla f - E_\text{data} \nabla f`, exact for
    exact draws and λ = 0. The *value* is no likelihood and need not fall. Where the draws come from
    decides the method: k steps of a kernel from the data are CD-k (Hinton 2002, eq. 5), chains that
    go on from update to update persistent CD (``ReplayBuffer``), k steps from noise short-run CD
    (``short_run``); ``advance`` takes the steps. λ > 0 holds the energies near 0, where the
    gradient leaves their height free (Du & Mordatch 2019, section 3.2).

    Parts: ``on_data`` :math:`E_\text{data} f`, ``on_model``, ``regularizer``.

    Args:
        expert: The one that learns.
        data: Rows of data, ``(n, *event)``.
        model: Draws of the expert, ``(m, *event)``; no gradient flows into them.
        regularization: λ.
        log_weights: ``(m,)``, of weighted draws, as those of ``smc``; normalised here.

    Returns:
        The loss.

    Raises:
        NonFiniteError: Naming the expert and counting the rows, where f is not finite or exceeds
            10,000 nats for each element of an event (that check is one synchronisation with the
            device).
        ShapeError: For other shapes.

    References:
        Hinton (2002), Training products of experts by minimizing contrastive divergence,
        doi:10.1162/089976602760128018.

        Du & Mordatch (2019), Implicit generation and modeling with energy based models,
        arXiv:1903.08689.

    Example:
        >>> expert = experts.Gaussian(torch.nn.Parameter(torch.zeros(1)), scale=[1.0])
        >>> data, model = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0]])
        >>> contrastive_divergence(expert, data, model).value
        tensor(2.5000, grad_fn=<AddBackward0>)
    """
    require_rows(expert, "data", data)
    require_rows(expert, "model", model)
    if not math.isfinite(regularization):
        raise PoeError(f"expected a finite regularization, got {regularization}")
    model = model.detach()
    on_data, on_model = expert(data), expert(model)
    require_finite(
        log_densities(expert, "data", data, on_data),
        log_densities(expert, "model", model, on_model),
    )
    mean_on_data, mean_on_model = on_data.mean(), _mean(on_model, log_weights)
    squares = on_data.square().mean() + _mean(on_model.square(), log_weights)
    regularizer = regularization * squares
    return Loss(
        mean_on_model - mean_on_data + regularizer,
        {
            "on_data": mean_on_data.detach(),
            "on_model": mean_on_model.detach(),
            "regularizer": regularizer.detach(),
        },
    )


def _mean(values: Tensor, log_weights: Tensor | None) -> Tensor:
    if log_weights is None:
        return values.mean()
    if log_weights.shape != values.shape:
        raise ShapeError(
            f"expected log_weights of shape {tuple(values.shape)}, one for each row of model, got "
            f"{tuple(log_weights.shape)}"
        )
    if not log_weights.is_meta and not bool((log_weights < torch.inf).all()):
        raise NonFiniteError("expected log_weights that are numbers or -inf, got NaN or inf")
    floats = log_weights if log_weights.is_floating_point() else log_weights.to(values)
    return (floats.detach().softmax(0).to(values) * values).sum()
