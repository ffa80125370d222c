"""Maximum likelihood, for experts that know their normaliser."""

from __future__ import annotations

from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import NormalizationError
from poe.density.capabilities import log_prob_of
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.losses.base import Loss, require_rows


@checked
def negative_log_likelihood(expert: Expert, data: Tensor) -> Loss:
    r"""The mean of −log p over the rows, where p is normalised.

    .. math:: -E_\text{data} \log p

    Parts: ``log_likelihood`` :math:`E_\text{data} \log p`.

    Args:
        expert: The one that learns, with ``log_prob``.
        data: Rows of data, ``(n, *event)``.

    Returns:
        The loss.

    Raises:
        NormalizationError: For an expert without ``log_prob``.
        NonFiniteError: Naming the expert and counting the rows, where a log p is not finite (one
            synchronisation with the device).
        ShapeError: For other shapes.

    Example:
        >>> negative_log_likelihood(experts.Gaussian([0.0], scale=[1.0]), torch.zeros(3, 1)).value
        tensor(0.9189)
    """
    require_rows(expert, "data", data)
    if log_prob_of(expert) is None:
        raise NormalizationError(
            f"expected an expert with log_prob, got {type(expert).__name__}, whose normaliser is "
            "not known: use contrastive_divergence, score matching or noise_contrastive_estimation"
        )
    log_prob: Tensor = expert.log_prob(data)
    require_finite(Rows(expert, "data", data, log_prob))
    mean = log_prob.mean()
    return Loss(-mean, {"log_likelihood": mean.detach()})
