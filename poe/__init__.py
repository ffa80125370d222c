"""Compose pretrained models of different kinds as experts, and sample what they all agree on."""

from __future__ import annotations

from poe import codecs as codecs
from poe import io, link
from poe.adapt import FromDistribution, FromEnergy, FromLogDensity, as_expert
from poe.algebra import At, Dequantized, Mixture, Relaxed, Transformed
from poe.calibration import Calibration, calibrate
from poe.conditional import Conditional, Given
from poe.contrast import contrast
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
from poe.evaluation import Autocast, Chunked
from poe.expert import Expert, Product, Tempered
from poe.io import load, save
from poe.normalizers.choose import log_partition
from poe.partition import LogPartition
from poe.properties import Simplified, simplify
from poe.ratio import log_ratio
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
from poe.together import Together

__all__ = [
    "AdaptationError", "At", "Autocast", "Binary", "Categorical", "Chunked", "Conditional",
    "Count", "Dequantized", "DtypeError", "Expert", "FromDistribution", "FromEnergy",
    "FromLogDensity", "Given", "ImproperError", "Interval", "LogPartition", "Mixture",
    "NonFiniteError", "NormalizationError", "OperatorError", "PoeError", "Positive",
    "PositiveDefinite", "Product", "Real", "Relaxed", "Sequence", "ShapeError", "Simplex",
    "Simplified", "Space", "SpaceMismatchError", "StorageError", "Tempered", "Together",
    "Transformed", "TrustWarning", "as_expert", "io", "link", "load", "log_partition", "log_ratio",
    "save", "simplify",
]  # fmt: skip

# --- samplers (marked block: extended by the inference half) ---
from poe import samplers
from poe.adapt_kernel import Warmup, tune_ladder, warm_up
from poe.adapt_tempering import tune_tempering
from poe.draws import Draws, Summary
from poe.run import sample
from poe.smc import smc

__all__ += [
    "Draws", "Summary", "Warmup", "sample", "samplers", "smc", "tune_ladder", "tune_tempering",
    "warm_up",
]  # fmt: skip

# --- exponents (marked block) ---
__all__ += ["Calibration", "calibrate", "contrast"]
