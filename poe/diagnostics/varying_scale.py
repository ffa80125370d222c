"""Whether the scale of the score varies."""

from torch import Tensor

from poe.core.affine import fit_affine


def has_varying_scale(position: Tensor, score: Tensor) -> bool:
    """Temporary."""
    position = position.flatten(1)
    score = fit_affine(position, None).pull_score(score.reshape(position.shape))
    size = score.square().mean(1).log()
    low, high = size.quantile(0.05), size.quantile(0.95)
    return bool(high - low > 4.5 / score.shape[1] ** 0.5 * 2.0)
