"""Diagnostics of draws ``(chains, draws, *event)``: tensors in, tensors out, on their device."""

from __future__ import annotations

from poe.diagnostics.components import MIN_DRAWS
from poe.diagnostics.convergence import mcse_mean, mcse_sd, r_hat
from poe.diagnostics.dataset import import_arviz, to_dataset
from poe.diagnostics.ess import ess_bulk, ess_mean, ess_tail

__all__ = [
    "MIN_DRAWS", "ess_bulk", "ess_mean", "ess_tail", "import_arviz", "mcse_mean", "mcse_sd",
    "r_hat", "to_dataset",
]  # fmt: skip
