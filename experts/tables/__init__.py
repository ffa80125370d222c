"""Experts fitted to rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experts.tables.column_scaling import NormalScores, Standardize
from experts.tables.kernel_density import KernelDensity
from experts.tables.neighbours import Neighbours, RelativeNeighbours
from poe.core.imports import found_when_asked

if TYPE_CHECKING:  # scikit-learn is loaded when the detector is asked for
    from experts.tables.anomaly_detector import ProductDetector

__all__ = [
    "KernelDensity",
    "Neighbours",
    "NormalScores",
    "ProductDetector",
    "RelativeNeighbours",
    "Standardize",
]

__getattr__ = found_when_asked(
    __name__, names={"ProductDetector": "experts.tables.anomaly_detector"}
)
