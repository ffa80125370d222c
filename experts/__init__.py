"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts import adapters as adapters
from experts import language as language
from experts.boltzmann.base_rate_ais import BaseRateAIS
from experts.boltzmann.block_gibbs import LayerGibbs, sweep
from experts.boltzmann.dbm import DBM
from experts.boltzmann.gaussian_rbm import GaussianRBM
from experts.boltzmann.potts_rbm import PottsRBM
from experts.boltzmann.rbm import RBM
from experts.boltzmann.training.contrastive_divergence import (
    CD,
    PCD,
    TemperedPCD,
    contrast,
)
from experts.boltzmann.training.dbm import fit_dbm
from experts.boltzmann.training.growth import grow_dbm
from experts.boltzmann.training.layerwise import pretrain_dbm
from experts.boltzmann.training.rbm import fit_rbm
from experts.boltzmann.variational import mean_field, variational_bound
from experts.boltzmann.visible_dbm import VisibleDBM
from experts.context_flow import ContextFlow
from experts.families.continuous import (
    Beta,
    Dirichlet,
    Exponential,
    Gamma,
    VonMises,
    Wishart,
)
from experts.families.discrete import (
    Bernoulli,
    Categorical,
    Poisson,
    data_log_odds,
)
from experts.families.exponential_family import ExponentialFamily
from experts.families.gaussian import Gaussian
from experts.families.linear_gaussian import LinearGaussian
from experts.families.probabilistic_pca import ProbabilisticPCA
from experts.flow import Flow, ImageFlow
from experts.graphs import widen_categorical as independent_classes
from experts.graphs.count_constraints import (
    Constraint,
    at_least,
    at_most,
    exactly,
    parity,
)
from experts.graphs.factor_graph import FactorGraph
from experts.graphs.forward_backward import Chains, Marginals, MostProbable
from experts.graphs.linear_chain import LinearChain, stack_chains
from experts.graphs.transitions import Transitions, fit_transitions
from experts.images.field_of_experts import FieldOfExperts
from experts.images.likelihoods import GaussianLikelihood, SaltAndPepper
from experts.images.operators import (
    BlockMean,
    Blur,
    FilterBank,
    Identity,
    LinearOperator,
    Mask,
    Window,
)
from experts.images.patch_mixture import PatchMixture
from experts.images.tile_gibbs import TileGibbs
from experts.images.tiled_mixture import TiledMixture
from experts.neural.causal_transformer import CausalTransformer
from experts.neural.classifier import Classifier
from experts.neural.discriminator import Discriminator
from experts.neural.jem import JEM, jem_loss
from experts.neural.made import MADE
from experts.neural.nade import NADE
from experts.neural.neural_energy import NeuralEnergy
from experts.neural.perceptron import MultilayerPerceptron
from experts.neural.residual_network import ResidualNetwork
from experts.neural.vae import VAE, GaussianDecoder, dense_vae
from experts.noised.conditional import DensityRatio, NoisyConditional
from experts.noised.ladder import at_noise_level, noise_ladder
from experts.noised.noisy_energy import NoisyEnergy
from experts.noised.pixel_mixture import PixelMixture
from experts.noised.reconstruction_energy import ReconstructionEnergy
from experts.pretrained.loading import available, load
from experts.spins import tractable_strips as strips
from experts.spins.bethe import Beliefs, belief_propagation
from experts.spins.denoiser import LearnedDenoiser, binary_channel, learn_denoiser
from experts.spins.ising import Ising
from experts.spins.minimum_cut import graph_cut
from experts.spins.potts import Potts
from experts.tables.column_scaling import NormalScores, Standardize
from experts.tables.kernel_density import KernelDensity
from experts.tables.neighbours import Neighbours, RelativeNeighbours

__all__ = [
    "CD",
    "DBM",
    "JEM",
    "MADE",
    "NADE",
    "PCD",
    "RBM",
    "VAE",
    "BaseRateAIS",
    "Beliefs",
    "Bernoulli",
    "Beta",
    "BlockMean",
    "Blur",
    "Categorical",
    "CausalTransformer",
    "Chains",
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
    "FilterBank",
    "Flow",
    "Gamma",
    "Gaussian",
    "GaussianDecoder",
    "GaussianLikelihood",
    "GaussianRBM",
    "Identity",
    "ImageFlow",
    "Ising",
    "KernelDensity",
    "LayerGibbs",
    "LearnedDenoiser",
    "LinearChain",
    "LinearGaussian",
    "LinearOperator",
    "Marginals",
    "Mask",
    "MostProbable",
    "MultilayerPerceptron",
    "Neighbours",
    "NeuralEnergy",
    "NoisyConditional",
    "NoisyEnergy",
    "NormalScores",
    "PatchMixture",
    "PixelMixture",
    "Poisson",
    "Potts",
    "PottsRBM",
    "ProbabilisticPCA",
    "ReconstructionEnergy",
    "RelativeNeighbours",
    "ResidualNetwork",
    "SaltAndPepper",
    "Standardize",
    "TemperedPCD",
    "TileGibbs",
    "TiledMixture",
    "Transitions",
    "VisibleDBM",
    "VonMises",
    "Window",
    "Wishart",
    "at_least",
    "at_most",
    "at_noise_level",
    "available",
    "belief_propagation",
    "binary_channel",
    "contrast",
    "data_log_odds",
    "dense_vae",
    "exactly",
    "fit_dbm",
    "fit_rbm",
    "fit_transitions",
    "graph_cut",
    "grow_dbm",
    "jem_loss",
    "learn_denoiser",
    "load",
    "mean_field",
    "noise_ladder",
    "parity",
    "pretrain_dbm",
    "stack_chains",
    "sweep",
    "variational_bound",
]
