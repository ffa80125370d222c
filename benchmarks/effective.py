"""What draws ``(chains, draws, dimension)`` are worth: ESS by ArviZ, R-hat, errors."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np


class Run(NamedTuple):
    """What an engine did: draws ``(chains, draws, dimension)``, seconds, and gradients a chain."""

    samples: np.ndarray
    compile_seconds: float
    warmup_seconds: float
    sampling_seconds: float
    warmup_gradients: float
    gradients: float


def _arviz() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its announcement of version 1 at import
        import arviz
    return arviz


def ess(x: np.ndarray) -> float:
    """The smallest bulk ESS of all components of x and of (x − mean)².

    The squares count too: short trajectories of one length are antithetic, which flatters the mean.
    """
    arviz = _arviz()
    x = np.asarray(x, dtype=np.float64)
    functions = {"x": x, "squares": (x - x.mean((0, 1))) ** 2}
    found = arviz.ess(arviz.convert_to_dataset(functions), method="bulk")
    return float(min(found[name].values.min() for name in functions))


def worst_r_hat(x: np.ndarray) -> float:
    """The largest rank-normalised split R-hat of all components."""
    arviz = _arviz()
    dataset = arviz.convert_to_dataset({"x": np.asarray(x, dtype=np.float64)})
    return float(arviz.rhat(dataset)["x"].values.max())


def variance_error(x: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative error of the components' variances."""
    return float(np.abs(np.asarray(x, dtype=np.float64).var((0, 1)) / truth - 1).max())


def mode_masses(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The fraction of positions ``(..., dimension)`` nearest to each mean: ``(modes,)``."""
    flat = np.asarray(x).reshape(-1, means.shape[1])
    nearest = ((flat[:, None] - means) ** 2).sum(-1).argmin(1)
    return np.bincount(nearest, minlength=len(means)) / len(flat)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """½ Σ |p − q| of two vectors of masses."""
    return 0.5 * float(np.abs(p - q).sum())


def figures(run: Run, variance: np.ndarray) -> dict[str, float]:
    """The figures of the table."""
    size = ess(run.samples)
    with_warmup = run.sampling_seconds + run.warmup_seconds
    return {
        "ess": size,
        "ess_per_second": size / run.sampling_seconds,
        "ess_per_second_with_warmup": size / with_warmup,
        "ess_per_gradient": size / (run.gradients * len(run.samples)),
        "warmup_gradients": run.warmup_gradients,
        "sampling_seconds": run.sampling_seconds,
        "warmup_seconds": run.warmup_seconds,
        "compile_seconds": run.compile_seconds,
        "r_hat": worst_r_hat(run.samples),
        "variance_error": variance_error(run.samples, variance),
    }
