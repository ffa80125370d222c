"""Convergence diagnostics of draws ``(chains, draws, *event)``; ArviZ computes them.

Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 (rank-normalised split R-hat, bulk and
tail ESS).
"""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIN_DRAWS = 4
"""Fewer draws a chain than this have no R-hat and no ESS: they are NaN."""


def import_arviz() -> ModuleType:
    """The ArviZ module. Raises ImportError with the remedy where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its announcement of version 1 at import
            import arviz
    except ImportError as error:
        raise ImportError(
            'ESS, R-hat and MCSE need ArviZ: pip install "product-of-experts[diagnostics]"'
        ) from error
    return arviz


def to_dataset(samples: Tensor, log_density: Tensor) -> Any:
    """Draws as ArviZ's container: posterior ``x``, sample statistic ``lp``.

    It is an ``arviz.InferenceData`` (an ``xarray.DataTree`` from ArviZ 1.0 on).
    """
    arviz = import_arviz()
    posterior = {"x": _to_numpy(samples)}
    sample_stats = {"lp": _to_numpy(log_density)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")  # many short chains are our way
        if hasattr(arviz, "InferenceData"):
            return arviz.from_dict(posterior=posterior, sample_stats=sample_stats)
        return arviz.from_dict({"posterior": posterior, "sample_stats": sample_stats})


def ess_bulk(samples: Tensor) -> Tensor:
    """Effective sample size of the bulk: ``(chains, draws, *event) -> (*event,)``.

    >>> g = torch.Generator().manual_seed(0)
    >>> 3000 < ess_bulk(torch.randn(4, 1000, generator=g)).item() < 5000
    True
    """
    return _by_component("ess", samples, method="bulk")


def ess_tail(samples: Tensor) -> Tensor:
    """Effective sample size of the 5 and 95 % quantiles: ``(chains, draws, *event) -> (*event,)``.

    >>> g = torch.Generator().manual_seed(0)
    >>> 3000 < ess_tail(torch.randn(4, 1000, generator=g)).item() < 5000
    True
    """
    return _by_component("ess", samples, method="tail")


def r_hat(samples: Tensor) -> Tensor:
    """Rank-normalised split R-hat: ``(chains, draws, *event) -> (*event,)``; 1 when chains agree.

    >>> g = torch.Generator().manual_seed(0)
    >>> r_hat(torch.randn(4, 1000, 2, generator=g)).max().item() < 1.01
    True
    """
    return _by_component("rhat", samples, method="rank")


def mcse_mean(samples: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean: ``(chains, draws, *event) -> (*event,)``.

    >>> g = torch.Generator().manual_seed(0)
    >>> round(mcse_mean(torch.randn(4, 1000, generator=g)).item(), 3)
    0.016
    """
    return _by_component("mcse", samples, method="mean")


def _by_component(function: str, samples: Tensor, method: str) -> Tensor:
    """An ArviZ function of each component's ``(chains, draws)`` array."""
    arviz = import_arviz()
    event_shape = samples.shape[2:]
    if samples.shape[1] < MIN_DRAWS:
        return torch.full(event_shape, math.nan, dtype=torch.float64)
    columns = _to_numpy(samples).reshape(*samples.shape[:2], -1)
    values = [
        _constant_aware(getattr(arviz, function), columns[:, :, i], method)
        for i in range(columns.shape[2])
    ]
    return torch.tensor(values, dtype=torch.float64).reshape(event_shape)


def _constant_aware(function: Any, column: np.ndarray, method: str) -> float:
    """NaN for a component that is not finite or does not vary, where the ratios are 0 / 0."""
    if not np.isfinite(column).all() or np.ptp(column) == 0:
        return math.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(function(column, method=method))


def _to_numpy(x: Tensor) -> np.ndarray:
    return x.detach().to("cpu", torch.float64).numpy()
