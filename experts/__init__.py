"""Experts of several families, ready to be multiplied.

Models are here; their parts, trainings and functions are in the packages of the families
(``experts.boltzmann.training.fit_rbm``, say), which need no import of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from experts import adapters as adapters
from experts import boltzmann as boltzmann
from experts import families as families
from experts import graphs as graphs
from experts import images as images
from experts import language as language
from experts import neural as neural
from experts import noised as noised
from experts import pretrained as pretrained
from experts import spins as spins
from experts import tables as tables
from experts.boltzmann import DBM, RBM, GaussianRBM, PottsRBM, VisibleDBM
from experts.families import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Exponential,
    ExponentialFamily,
    Gamma,
    Gaussian,
    LinearGaussian,
    Poisson,
    ProbabilisticPCA,
    VonMises,
    Wishart,
)
from experts.graphs import Constraint, FactorGraph, LinearChain, Transitions
from experts.images import (
    FieldOfExperts,
    GaussianLikelihood,
    PatchMixture,
    SaltAndPepper,
    TiledMixture,
)
from experts.neural import (
    JEM,
    MADE,
    NADE,
    VAE,
    CausalTransformer,
    Classifier,
    Discriminator,
    GaussianDecoder,
    NeuralEnergy,
)
from experts.noised import (
    DensityRatio,
    ImageFlow,
    NoisyConditional,
    NoisyEnergy,
    PixelMixture,
    ReconstructionEnergy,
)
from experts.pretrained import available, load
from experts.spins import Ising, Potts
from experts.tables import KernelDensity, Neighbours, RelativeNeighbours
from poe.core.lazy import found_when_asked

if TYPE_CHECKING:  # for readers of types and of this documentation: nflows is loaded when asked for
    from experts.adapters.nflows import ContextFlow, Flow

__all__ = [
    "DBM",
    "JEM",
    "MADE",
    "NADE",
    "RBM",
    "VAE",
    "Bernoulli",
    "Beta",
    "Categorical",
    "CausalTransformer",
    "Classifier",
    "Constraint",
    "ContextFlow",
    "DensityRatio",
    "Dirichlet",
    "Discriminator",
    "Exponential",
    "ExponentialFamily",
    "FactorGraph",
    "FieldOfExperts",
    "Flow",
    "Gamma",
    "Gaussian",
    "GaussianDecoder",
    "GaussianLikelihood",
    "GaussianRBM",
    "ImageFlow",
    "Ising",
    "KernelDensity",
    "LinearChain",
    "LinearGaussian",
    "Neighbours",
    "NeuralEnergy",
    "NoisyConditional",
    "NoisyEnergy",
    "PatchMixture",
    "PixelMixture",
    "Poisson",
    "Potts",
    "PottsRBM",
    "ProbabilisticPCA",
    "ReconstructionEnergy",
    "RelativeNeighbours",
    "SaltAndPepper",
    "TiledMixture",
    "Transitions",
    "VisibleDBM",
    "VonMises",
    "Wishart",
    "adapters",
    "available",
    "boltzmann",
    "families",
    "graphs",
    "images",
    "language",
    "load",
    "neural",
    "noised",
    "pretrained",
    "spins",
    "tables",
]

__getattr__ = found_when_asked(
    __name__,
    names={"Flow": "experts.adapters.nflows", "ContextFlow": "experts.adapters.nflows"},
    moved={
        "BaseRateAIS": "experts.boltzmann",
        "Beliefs": "experts.spins",
        "BlockMean": "experts.images",
        "Blur": "experts.images",
        "CD": "experts.boltzmann.training",
        "Chains": "experts.graphs",
        "FilterBank": "experts.images",
        "Identity": "experts.images",
        "LayerGibbs": "experts.boltzmann",
        "LearnedDenoiser": "experts.spins",
        "LinearOperator": "experts.images",
        "Marginals": "experts.graphs",
        "Mask": "experts.images",
        "MostProbable": "experts.graphs",
        "MultilayerPerceptron": "experts.neural",
        "NormalScores": "experts.tables",
        "PCD": "experts.boltzmann.training",
        "ResidualNetwork": "experts.neural",
        "Standardize": "experts.tables",
        "TemperedPCD": "experts.boltzmann.training",
        "TileGibbs": "experts.images",
        "Window": "experts.images",
        "at_least": "experts.graphs",
        "at_most": "experts.graphs",
        "at_noise_level": "experts.noised",
        "belief_propagation": "experts.spins",
        "binary_channel": "experts.spins",
        "contrast": "experts.boltzmann.training",
        "data_log_odds": "experts.families",
        "dense_vae": "experts.neural",
        "exactly": "experts.graphs",
        "fit_dbm": "experts.boltzmann.training",
        "fit_rbm": "experts.boltzmann.training",
        "fit_transitions": "experts.graphs",
        "graph_cut": "experts.spins",
        "grow_dbm": "experts.boltzmann.training",
        "jem_loss": "experts.neural",
        "learn_denoiser": "experts.spins",
        "mean_field": "experts.boltzmann",
        "noise_ladder": "experts.noised",
        "parity": "experts.graphs",
        "pretrain_dbm": "experts.boltzmann.training",
        "stack_chains": "experts.graphs",
        "sweep": "experts.boltzmann",
        "variational_bound": "experts.boltzmann",
    },
)
