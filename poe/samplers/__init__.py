"""Markov kernels: settings in a frozen dataclass, ``init`` and ``step`` over all chains at once."""

from __future__ import annotations

from poe.core.affine import (
    Affine,
    Dense,
    Diagonal,
    LowRank,
    fit_affine,
)
from poe.samplers.alternating import Alternating
from poe.samplers.annealed import AnnealedLangevin, AnnealedState
from poe.samplers.block_gibbs import BlockGibbs
from poe.samplers.checkerboard import Checkerboard, CheckerboardState
from poe.samplers.chromatic import ChromaticGibbs
from poe.samplers.delayed import DelayedAcceptance, DelayedState
from poe.samplers.discrete_langevin import DMALA, DULA
from poe.samplers.gaussian_gibbs import GaussianGibbs
from poe.samplers.generalized import GeneralizedHMC
from poe.samplers.gibbs import Gibbs
from poe.samplers.gradient_gibbs import GibbsWithGradients
from poe.samplers.hmc import HMC
from poe.samplers.kernel import Info, Kernel, MetropolisState, Noise, State, TunableKernel
from poe.samplers.label_clusters import LabelClusters
from poe.samplers.langevin import MALA, ULA, LangevinState
from poe.samplers.metropolis import MetropolisHastings
from poe.samplers.microcanonical import MCLMC, AdjustedMCLMC
from poe.samplers.momentum import MomentumState
from poe.samplers.path import geometric_ladder
from poe.samplers.path_auxiliary import PathAuxiliary
from poe.samplers.preconditioned import Preconditioned, PreconditionedState
from poe.samplers.random_scan import RandomScanGibbs
from poe.samplers.replicas import TemperingState, swap_rates
from poe.samplers.single_site import SingleSiteMetropolis
from poe.samplers.split import SplitHMC
from poe.samplers.suffix import SuffixMetropolisHastings, SuffixState
from poe.samplers.surrogate import SurrogateMALA, SurrogateState
from poe.samplers.swendsen_wang import SwendsenWang
from poe.samplers.tempering import ParallelTempering
from poe.samplers.underdamped import UnderdampedLangevin

__all__ = [
    "DMALA",
    "DULA",
    "HMC",
    "MALA",
    "MCLMC",
    "ULA",
    "AdjustedMCLMC",
    "Affine",
    "Alternating",
    "AnnealedLangevin",
    "AnnealedState",
    "BlockGibbs",
    "Checkerboard",
    "CheckerboardState",
    "ChromaticGibbs",
    "DelayedAcceptance",
    "DelayedState",
    "Dense",
    "Diagonal",
    "GaussianGibbs",
    "GeneralizedHMC",
    "Gibbs",
    "GibbsWithGradients",
    "Info",
    "Kernel",
    "LabelClusters",
    "LangevinState",
    "LowRank",
    "MetropolisHastings",
    "MetropolisState",
    "MomentumState",
    "Noise",
    "ParallelTempering",
    "PathAuxiliary",
    "Preconditioned",
    "PreconditionedState",
    "RandomScanGibbs",
    "SingleSiteMetropolis",
    "SplitHMC",
    "State",
    "SuffixMetropolisHastings",
    "SuffixState",
    "SurrogateMALA",
    "SurrogateState",
    "SwendsenWang",
    "TemperingState",
    "TunableKernel",
    "UnderdampedLangevin",
    "fit_affine",
    "geometric_ladder",
    "swap_rates",
]
