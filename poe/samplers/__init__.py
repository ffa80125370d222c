"""Markov kernels: settings in a frozen dataclass, ``init`` and ``step`` over all chains at once."""

from __future__ import annotations

from poe.core.affine import (
    Affine,
    Dense,
    Diagonal,
    LowRank,
    fit_affine,
)
from poe.core.transport import Transport
from poe.core.transport_fit import fit_transport
from poe.samplers.adaptive_step import AdaptiveStepHMC
from poe.samplers.alternating import Alternating, Repeated
from poe.samplers.discrete.block_gibbs import BlockGibbs
from poe.samplers.discrete.checkerboard import Checkerboard, CheckerboardState
from poe.samplers.discrete.chromatic import ChromaticGibbs
from poe.samplers.discrete.clusters import LabelClusters, SwendsenWang
from poe.samplers.discrete.counts import LatticeGibbs, LatticeMALA
from poe.samplers.discrete.discrete_langevin import DMALA, DULA
from poe.samplers.discrete.gibbs import Gibbs, RandomScanGibbs, SingleSiteMetropolis
from poe.samplers.discrete.gradient_gibbs import GibbsWithGradients, PathAuxiliary
from poe.samplers.discrete.suffix import SuffixMetropolisHastings
from poe.samplers.gaussian_gibbs import GaussianGibbs
from poe.samplers.hmc import HMC, GeneralizedHMC, SplitHMC
from poe.samplers.kernel import Info, Kernel, MetropolisState, Noise, State, TunableKernel
from poe.samplers.ladder import AnnealedLangevin, AnnealedState
from poe.samplers.langevin import MALA, ULA, LangevinState
from poe.samplers.metropolis import (
    IndependenceMetropolisHastings,
    MetropolisHastings,
    WeighedState,
)
from poe.samplers.microcanonical import MCLMC, AdjustedMCLMC
from poe.samplers.path import geometric_ladder
from poe.samplers.preconditioned import ModeJumps, Preconditioned, PreconditionedState
from poe.samplers.surrogate import DelayedAcceptance, DelayedState, SurrogateMALA, SurrogateState
from poe.samplers.tempering import ParallelTempering, TemperingState, swap_rates
from poe.samplers.underdamped import MomentumState, UnderdampedLangevin

__all__ = [
    "DMALA",
    "DULA",
    "HMC",
    "MALA",
    "MCLMC",
    "ULA",
    "AdaptiveStepHMC",
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
    "IndependenceMetropolisHastings",
    "Info",
    "Kernel",
    "LabelClusters",
    "LangevinState",
    "LatticeGibbs",
    "LatticeMALA",
    "LowRank",
    "MetropolisHastings",
    "MetropolisState",
    "ModeJumps",
    "MomentumState",
    "Noise",
    "ParallelTempering",
    "PathAuxiliary",
    "Preconditioned",
    "PreconditionedState",
    "RandomScanGibbs",
    "Repeated",
    "SingleSiteMetropolis",
    "SplitHMC",
    "State",
    "SuffixMetropolisHastings",
    "SurrogateMALA",
    "SurrogateState",
    "SwendsenWang",
    "TemperingState",
    "Transport",
    "TunableKernel",
    "UnderdampedLangevin",
    "WeighedState",
    "fit_affine",
    "fit_transport",
    "geometric_ladder",
    "swap_rates",
]
