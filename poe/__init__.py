"""Compose pretrained models of different kinds as experts, and sample what they all agree on."""

from __future__ import annotations

from poe.conditional import Conditional, Given
from poe.errors import (
    AdaptationError,
    DtypeError,
    ImproperError,
    NonFiniteError,
    NormalizationError,
    OperatorError,
    PoeError,
    ShapeError,
    SpaceMismatchError,
    StorageError,
    TrustWarning,
)
from poe.expert import Expert, Product, Tempered
from poe.space import (
    Binary,
    Categorical,
    Count,
    Interval,
    Positive,
    PositiveDefinite,
    Real,
    Sequence,
    Simplex,
    Space,
)

__all__ = [
    "AdaptationError", "Binary", "Categorical", "Conditional", "Count", "DtypeError", "Expert",
    "Given", "ImproperError", "Interval", "NonFiniteError", "NormalizationError", "OperatorError",
    "PoeError", "Positive", "PositiveDefinite", "Product", "Real", "Sequence", "ShapeError",
    "Simplex", "Space", "SpaceMismatchError", "StorageError", "Tempered", "TrustWarning",
]  # fmt: skip

# --- samplers (marked block: extended by the inference half) ---
