"""Diagnostics of draws ``(chains, draws, *event)``: tensors in, tensors out, on their device."""

from __future__ import annotations

from poe.diagnostics.arviz_module import import_arviz
from poe.diagnostics.components import MIN_DRAWS
from poe.diagnostics.convergence import (
    MAX_DISTANCE,
    distance_from_others,
    longest_stay,
    mcse_mean,
    mcse_sd,
    nested_r_hat,
    r_hat,
)
from poe.diagnostics.ess import ess_bulk, ess_mean, ess_tail
from poe.diagnostics.experts import (
    ExpertReport,
    binds_chains,
    contributions_along,
    expert_report,
)
from poe.diagnostics.stein import (
    SteinTest,
    squared_stein_discrepancy,
    stein_discrepancy,
    stein_test,
)
from poe.diagnostics.weights import Moments, kish_ess, normalized_weights, weighted_moments

__all__ = [
    "MAX_DISTANCE", "MIN_DRAWS", "ExpertReport", "Moments", "SteinTest", "binds_chains",
    "contributions_along", "distance_from_others", "ess_bulk", "ess_mean", "ess_tail",
    "expert_report", "import_arviz", "kish_ess", "longest_stay", "mcse_mean", "mcse_sd",
    "nested_r_hat", "normalized_weights", "r_hat", "squared_stein_discrepancy",
    "stein_discrepancy", "stein_test", "weighted_moments",
]  # fmt: skip
