"""Experts fitted to rows of a table."""

from __future__ import annotations

from experts.tables.anomaly_detector import ProductDetector
from experts.tables.column_scaling import NormalScores, Standardize
from experts.tables.kernel_density import KernelDensity
from experts.tables.neighbours import Neighbours, RelativeNeighbours

__all__ = [
    "KernelDensity",
    "Neighbours",
    "NormalScores",
    "ProductDetector",
    "RelativeNeighbours",
    "Standardize",
]
