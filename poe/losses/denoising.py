"""Denoising score matching, at one level of noise and over a ladder of levels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import checked, require_dimensions
from poe.core.errors import DtypeError, PoeError, ShapeError
from poe.core.randomness import resolve
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.losses.base import (
    Loss,
    require_real,
    require_rows,
    score_of,
    square,
    square_of_score,
)


@checked
def denoising_score_matching(
    expert: Expert,
    data: Tensor,
    noise_level: float | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Loss:
    r"""Half the squared distance of the expert's score from that of noised data, times σ².

    .. math:: \tfrac12\, E\, \lVert \sigma \nabla \log \tilde p(x + \sigma z) + z \rVert^2,
       \qquad z \sim N(0, I)

    Over all functions its minimiser is the score of the *noised* data, and not of the data (Vincent
    2011, eq. 9, whose objective this is times σ²). At one level the factor σ² changes nothing but
    the scale; over several it gives them equal weight (Song & Ermon 2019, eq. 6).

    Parts: ``denoising_error``, the mean square of an element of x̃ + σ² ∇log p̃(x̃) − x, by which the
    expert denoises.

    Args:
        expert: The one that learns, on a Real space.
        data: Rows of data, ``(n, *event)``.
        noise_level: σ > 0: a number, or ``(n,)`` for an expert that is a batch of densities, one
            for each row.
        generator: The source of the noise; a fresh one by default.

    Returns:
        The loss.

    Raises:
        NonFiniteError: Where a score is not finite (one synchronisation with the device).
        PoeError: Off Real spaces and for levels that are not positive.
        ShapeError: For other shapes.

    References:
        Vincent (2011), A connection between score matching and denoising autoencoders,
        doi:10.1162/NECO_a_00142.

        Song & Ermon (2019), Generative modeling by estimating gradients of the data distribution,
        arXiv:1907.05600.

    Example:
        >>> expert = experts.Gaussian([0.0], scale=[0.5])
        >>> g = torch.Generator().manual_seed(0)
        >>> loss = denoising_score_matching(expert, torch.zeros(20_000, 1), 0.5, generator=g)
        >>> loss.value < 1e-10
        tensor(True)
    """
    require_real(expert)
    require_rows(expert, "data", data)
    level = _per_row(noise_level, data)
    noise = torch.empty_like(data).normal_(generator=resolve(generator, data.device))
    noised = data.detach() + level * noise
    residual = level * score_of(expert, noised).value + noise
    rows = 0.5 * square(residual)
    require_finite(Rows(expert, "noised data", noised, rows, read=square_of_score))
    error = (level * residual.detach()).square().mean()
    return Loss(rows.mean(), {"denoising_error": error})


@checked
def multiscale_denoising_score_matching(
    at_level: Callable[[Tensor], Expert],
    data: Tensor,
    noise_levels: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Loss:
    r"""``denoising_score_matching`` of a family of experts, one for each level of a ladder.

    .. math:: \frac1k \sum_{i=1}^k \tfrac12\, E\, \lVert \sigma_i \nabla \log
       \tilde p_{\sigma_i}(x + \sigma_i z) + z \rVert^2

    Every row draws its level from the ladder, so that all are learned in one pass (Song & Ermon
    2019, eq. 6 with λ(σ) = σ²; for energies: Li, Chen & Sommer 2019).

    Args:
        at_level: From levels ``(n,)`` to an expert that is a batch of densities, one a row:
            ``conditional.given`` where the level is the condition,
            ``lambda level: conditional.at_noise_level(level).given(label)`` where it is not.
        data: Rows of data, ``(n, *event)``.
        noise_levels: The ladder σ, ``(k,)``, positive.
        generator: The source of levels and noise; a fresh one by default.

    Returns:
        The loss.

    Raises:
        NonFiniteError: Where a score is not finite (one synchronisation with the device).
        PoeError: Off Real spaces and for levels that are not positive.
        ShapeError: For other shapes.

    References:
        Song & Ermon (2019), Generative modeling by estimating gradients of the data distribution,
        arXiv:1907.05600.

        Li, Chen & Sommer (2019), Learning energy-based models in high-dimensional spaces with
        multi-scale denoising score matching, arXiv:1910.07762.

    Example:
        >>> at_level = lambda level: poe.FromEnergy(
        ...     lambda x: x.square().sum(-1) / (2 * level.square()), space=poe.Real(1)
        ... )
        >>> data, levels = torch.zeros(9, 1), torch.tensor([2.0, 0.5])
        >>> g = torch.Generator().manual_seed(0)
        >>> loss = multiscale_denoising_score_matching(at_level, data, levels, generator=g)
        >>> loss.value < 1e-10
        tensor(True)
    """
    if noise_levels.ndim != 1 or len(noise_levels) == 0:
        raise ShapeError(
            f"expected noise_levels of shape (k,) with k >= 1, got {tuple(noise_levels.shape)}"
        )
    generator = resolve(generator, data.device)
    require_dimensions("data", data, "(n, *event)")
    place = torch.randint(
        len(noise_levels), (len(data),), generator=generator, device=generator.device
    )
    levels = noise_levels.to(data)[place.to(data.device)]
    return denoising_score_matching(at_level(levels), data, levels, generator=generator)


def _per_row(noise_level: float | Tensor, data: Tensor) -> Tensor:
    """The level ready to multiply rows: ``()``, or ``(n, 1, ..., 1)``."""
    if isinstance(noise_level, Tensor) and noise_level.is_meta and not data.is_meta:
        raise DtypeError("expected a noise level of numbers, got a tensor on the meta device")
    level = torch.as_tensor(noise_level, dtype=data.dtype, device=data.device)
    if level.ndim and level.shape != data.shape[:1]:
        raise ShapeError(
            f"expected a noise level of shape () or ({len(data)},), one for each row of data, got "
            f"{tuple(level.shape)}"
        )
    if not isinstance(noise_level, Tensor) and not 0.0 < noise_level < float("inf"):
        raise PoeError(f"expected a positive finite noise level, got {noise_level}")
    return level if level.ndim == 0 else level.reshape(-1, *([1] * (data.ndim - 1)))
