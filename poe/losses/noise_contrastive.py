"""Noise-contrastive estimation: data told from noise by their densities, which finds log Z too."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from poe.core.arguments import checked
from poe.core.errors import (
    NormalizationError,
    PoeError,
    ShapeError,
    SpaceMismatchError,
)
from poe.core.randomness import resolve
from poe.density.capabilities import can_sample_exactly, log_prob_of
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.losses.base import Loss, log_densities, require_rows


@checked
def noise_contrastive_estimation(
    expert: Expert,
    noise: Expert,
    data: Tensor,
    log_partition: Tensor,
    *,
    noise_per_row: int = 1,
    generator: torch.Generator | None = None,
) -> Loss:
    r"""The logistic loss of telling data from draws of the noise by the ratio of the densities.

    .. math:: E_\text{data}\, \zeta(-h) + \nu\, E_\text{noise}\, \zeta(h), \qquad
       h = \log \tilde p - c - \log p_\text{noise} - \log \nu

    with ζ the softplus. Its minimiser over expert and c has :math:`\tilde p e^{-c}` the density of
    the data and so c its log Z, which is learned with the expert: let c be an ``nn.Parameter`` of
    the optimiser. Of an expert that is known already, c alone estimates log Z from draws of it.

    Parts: ``on_data``, ``on_noise`` (both terms, the second with ν), and ``accuracy``, the share of
    rows told right, data and noise alike: near 1 the noise is too far off to teach much.

    Args:
        expert: The one that learns, on any space.
        noise: An expert with ``sample`` and ``log_prob``, such as a flow or an autoregressive one,
            which is not trained here; best where it is near the data, and nowhere without mass
            where they are.
        data: Rows of data, ``(n, *event)``.
        log_partition: c, ``()``.
        noise_per_row: ν, draws of the noise for each row of data, at least 1.
        generator: The source of the noise; a fresh one by default.

    Returns:
        The loss.

    Raises:
        NormalizationError: For noise without exact draws or ``log_prob``.
        SpaceMismatchError: Where the noise lives on another space.
        ShapeError: For other shapes.
        NonFiniteError: Naming the expert or the noise, where a log-density is not finite or exceeds
            10,000 nats for each element (one synchronisation with the device).
        PoeError: For less than one draw of the noise a row.

    References:
        Gutmann & Hyvärinen (2012), Noise-contrastive estimation of unnormalized statistical models,
        with applications to natural image statistics, Journal of Machine Learning Research 13, eqs.
        8 and 20.

    Example:
        >>> expert, noise = (experts.Gaussian([0.0], scale=[s]) for s in (1.0, 2.0))
        >>> g, data = torch.Generator().manual_seed(0), torch.zeros(1000, 1)
        >>> loss = noise_contrastive_estimation(expert, noise, data, torch.zeros(()), generator=g)
        >>> loss.parts["on_data"]  # log(1 + 1/2): all data lie where the ratio is 2
        tensor(0.4055)
    """
    _require_noise(expert, noise, data, log_partition, noise_per_row)
    generator = resolve(generator, data.device)
    with torch.no_grad():
        draws = exact_sample(noise, noise_per_row * len(data), generator)
    on_data = _log_ratio(expert, noise, "data", data, log_partition)
    on_noise = _log_ratio(expert, noise, "noise", draws, log_partition)
    require_finite(*on_data.parts, *on_noise.parts)
    h_data, h_noise = (ratio.value - math.log(noise_per_row) for ratio in (on_data, on_noise))
    for_data, for_noise = F.softplus(-h_data).mean(), noise_per_row * F.softplus(h_noise).mean()
    is_right = torch.cat([h_data > 0, h_noise < 0])
    return Loss(
        for_data + for_noise,
        {
            "on_data": for_data.detach(),
            "on_noise": for_noise.detach(),
            "accuracy": is_right.to(h_data.dtype).mean(),
        },
    )


class _LogRatio(NamedTuple):
    """log p̃ − c − log p_noise at some rows ``(n,)``, and what of it has to be finite."""

    value: Tensor
    parts: tuple[Rows, Rows]


def _log_ratio(
    expert: Expert, noise: Expert, where: str, x: Tensor, log_partition: Tensor
) -> _LogRatio:
    log_density = expert(x) - log_partition
    with torch.no_grad():
        of_noise: Tensor = noise.log_prob(x)
    parts = (
        log_densities(expert, where, x, log_density),
        log_densities(noise, f"{where}, by the noise", x, of_noise),
    )
    return _LogRatio(log_density - of_noise, parts)


def _require_noise(
    expert: Expert, noise: Expert, data: Tensor, log_partition: Tensor, noise_per_row: int
) -> None:
    require_rows(expert, "data", data)
    if noise.space != expert.space:
        raise SpaceMismatchError(
            f"expected noise on the expert's space {expert.space}, got one on {noise.space}"
        )
    if log_prob_of(noise) is None or not can_sample_exactly(noise):
        raise NormalizationError(
            f"expected noise with exact draws and log_prob, got {type(noise).__name__}: give a "
            "Gaussian, a flow or an autoregressive expert"
        )
    if log_partition.ndim != 0:
        raise ShapeError(
            f"expected log_partition of shape (), got {tuple(log_partition.shape)}: use "
            "torch.nn.Parameter(torch.zeros(()))"
        )
    if noise_per_row < 1:
        raise PoeError(f"expected noise_per_row of at least 1, got {noise_per_row}")
