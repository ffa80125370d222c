"""Compose pretrained models of different kinds as experts, and sample what they all agree on."""

from __future__ import annotations

from poe import io, link, losses, normalizers, plot, ranges, samplers
from poe.core.doubt import Doubt
from poe.core.errors import (
    AdaptationError,
    DtypeError,
    GradientError,
    ImproperError,
    NonFiniteError,
    NormalizationError,
    OperatorError,
    PoeError,
    ShapeError,
    SizeError,
    SpaceMismatchError,
    StorageError,
    TrustWarning,
)
from poe.core.imports import found_when_asked
from poe.core.joint_space import Joint
from poe.core.space import (
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
from poe.density import closed_forms as closed_forms
from poe.density.adapt import (
    FromDistribution,
    FromEnergy,
    FromLogDensity,
    FromOneHot,
    as_expert,
)
from poe.density.capabilities import Simplified, simplify
from poe.density.conditional import Conditional, Given
from poe.density.expert import At, Expert, Mixture, Product, Tempered, contrast
from poe.density.latent import Chain, Marginal
from poe.density.normalized import LogPartition, Normalized
from poe.density.transformed import Dequantized, Relaxed, Transformed
from poe.density.wrappers import Autocast, Chunked, Together
from poe.draws import Draws, Summary
from poe.draws.store import load_draws, save_draws
from poe.exponents import (
    FittedExponents,
    fit_exponents_by_likelihood,
    fit_exponents_by_log_score,
    fit_exponents_by_score_matching,
)
from poe.exponents.calibration import Calibration, calibrate
from poe.io import codecs as codecs
from poe.io.tree import load, save
from poe.losses.replay import ReplayBuffer
from poe.normalizers.choose import log_partition
from poe.particles.smc import smc
from poe.particles.smc_over_positions import smc_over_positions
from poe.probabilities.any_of import any_of
from poe.probabilities.compatibility import Compatibility, compatibility
from poe.probabilities.density_bounds import LogDensityBounds, log_density_bounds
from poe.probabilities.evidence import EvidenceRatio, evidence_ratio
from poe.probabilities.normalize import normalize
from poe.probabilities.normalizer_error import log_density_error
from poe.probabilities.ratio import (
    LogRatio,
    log_prob_ratio,
    log_ratio,
    log_ratio_contributions,
)
from poe.sampling.progress import Progress
from poe.sampling.reached import Reached
from poe.sampling.sample import sample
from poe.sampling.short_run import Advanced, advance, short_run
from poe.sampling.simulated_annealing import simulated_annealing
from poe.sampling.tensorboard import TensorBoard
from poe.structure import (
    conditionals as conditionals,
    distribution_tails as distribution_tails,
    pairs as pairs,
    tails as tails,
)
from poe.structure.autoregressive import Autoregressive
from poe.structure.gaussian_factors import GaussianFactor, gaussian_factors
from poe.structure.twists import (
    LocalProduct,
    OnPrefixes,
    Twist,
    twists,
)
from poe.tuning.tempering import tune_tempering
from poe.tuning.warmup import Warmup, tune_ladder, warm_up

__all__ = [
    "AdaptationError", "Advanced", "At", "Autocast", "Autoregressive", "Binary", "Calibration",
    "Categorical", "Chain", "Chunked", "Compatibility", "Conditional", "Count", "Dequantized",
    "Doubt", "Draws", "DtypeError", "EvidenceRatio", "Expert", "FittedExponents",
    "FromDistribution", "FromEnergy", "FromLogDensity", "FromOneHot", "GaussianFactor", "Given",
    "GradientError", "ImproperError", "Interval", "Joint", "LocalProduct", "LogDensityBounds",
    "LogPartition", "LogRatio", "Marginal", "Mixture", "NonFiniteError", "NormalizationError",
    "Normalized", "OnPrefixes", "OperatorError", "PoeError", "Positive", "PositiveDefinite",
    "Product", "Progress", "Reached", "Real", "Relaxed", "ReplayBuffer", "Sequence", "ShapeError",
    "Simplex", "Simplified", "SizeError", "Space", "SpaceMismatchError", "StorageError", "Summary",
    "Tempered", "TensorBoard", "Together", "Transformed", "TrustWarning", "Twist", "Warmup",
    "advance", "any_of", "as_expert", "calibrate", "compatibility", "contrast",
    "distribution_tails", "evidence_ratio", "fit_exponents_by_likelihood",
    "fit_exponents_by_log_score", "fit_exponents_by_score_matching", "gaussian_factors", "io",
    "link", "load", "load_draws", "log_density_bounds", "log_density_error", "log_partition",
    "log_prob_ratio", "log_ratio", "log_ratio_contributions", "losses", "normalize", "normalizers",
    "plot", "ranges", "sample", "samplers", "save", "save_draws", "short_run", "simplify",
    "simulated_annealing", "smc", "smc_over_positions", "tune_ladder", "tune_tempering", "twists",
    "warm_up",
]  # fmt: skip

__getattr__ = found_when_asked(__name__, submodules=["hub", "testing"])
