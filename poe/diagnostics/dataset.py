"""Draws in ArviZ's container; the one place that needs ArviZ."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def import_arviz() -> ModuleType:
    """The ArviZ module. Raises ImportError with the remedy where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its announcement of version 1 at import
            import arviz
    except ImportError as error:
        raise ImportError(
            'ArviZ\'s container needs ArviZ: pip install "product-of-experts[diagnostics]"'
        ) from error
    return arviz


def to_dataset(samples: Tensor, log_density: Tensor) -> Any:
    """Draws as ArviZ's container: posterior ``x``, sample statistic ``lp``.

    It is an ``arviz.InferenceData`` (an ``xarray.DataTree`` from ArviZ 1.0 on).
    """
    arviz = import_arviz()
    posterior = {"x": samples.detach().to("cpu", torch.float64).numpy()}
    sample_stats = {"lp": log_density.detach().to("cpu", torch.float64).numpy()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains")  # many short chains are our way
        if hasattr(arviz, "InferenceData"):
            return arviz.from_dict(posterior=posterior, sample_stats=sample_stats)
        return arviz.from_dict({"posterior": posterior, "sample_stats": sample_stats})
