"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts.autoregressive import PixelMixture
from experts.base_rate import BaseRateAIS
from experts.causal_transformer import CausalTransformer
from experts.classifier import Classifier
from experts.constraints import Constraint, at_least, at_most, exactly, parity
from experts.contrastive import CD, PCD, TemperedPCD, contrast
from experts.coordinates import NormalScores, Standardize
from experts.dbm import DBM
from experts.exponential import ExponentialFamily
from experts.factor_graph import FactorGraph
from experts.families import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Exponential,
    Gamma,
    Poisson,
    VonMises,
    Wishart,
)
from experts.fit_rbm import data_log_odds, fit_rbm
from experts.flow import Flow, ImageFlow
from experts.gaussian import Gaussian
from experts.gaussian_rbm import GaussianRBM
from experts.fit_dbm import fit_dbm
from experts.flow import Flow, ImageFlow
from experts.gaussian import Gaussian
from experts.grow_dbm import grow_dbm
from experts.ising import Ising
from experts.ladder import at_noise_level, noise_ladder
from experts.library import available, load
from experts.linear_gaussian import LinearGaussian
from experts.made import MADE
from experts.nade import NADE
from experts.neighbours import Neighbours, RelativeNeighbours
from experts.neural import NeuralEnergy, ReconstructionEnergy
from experts.noise import DensityRatio, NoisyConditional
from experts.potts_rbm import PottsRBM
from experts.rbm import RBM
from experts.rbm_gibbs import LayerGibbs, sweep

__all__ = [
    "CD",
    "MADE",
    "NADE",
    "PCD",
from experts.mean_field import mean_field, variational_bound
from experts.neighbours import Neighbours, RelativeNeighbours
from experts.neural import NeuralEnergy, ReconstructionEnergy
from experts.noise import DensityRatio, NoisyConditional
from experts.pretrain_dbm import pretrain_dbm
from experts.rbm import RBM
from experts.visible_dbm import VisibleDBM

__all__ = [
    "DBM",
    "RBM",
    "BaseRateAIS",
    "Bernoulli",
    "Beta",
    "Categorical",
    "CausalTransformer",
    "Classifier",
    "Constraint",
    "DensityRatio",
    "Dirichlet",
    "Exponential",
    "ExponentialFamily",
    "FactorGraph",
    "Flow",
    "Gamma",
    "Gaussian",
    "GaussianRBM",
    "ImageFlow",
    "Ising",
    "LayerGibbs",
    "LinearGaussian",
    "Neighbours",
    "NeuralEnergy",
    "NoisyConditional",
    "NormalScores",
    "PixelMixture",
    "Poisson",
    "PottsRBM",
    "ReconstructionEnergy",
    "RelativeNeighbours",
    "Standardize",
    "TemperedPCD",
    "VisibleDBM",
    "VonMises",
    "Wishart",
    "at_least",
    "at_most",
    "at_noise_level",
    "available",
    "contrast",
    "data_log_odds",
    "exactly",
    "fit_rbm",
    "fit_dbm",
    "grow_dbm",
    "load",
    "mean_field",
    "noise_ladder",
    "parity",
    "sweep",
    "pretrain_dbm",
    "variational_bound",
]
