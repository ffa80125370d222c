"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts.autoregressive import PixelMixture
from experts.coordinates import NormalScores, Standardize
from experts.dbm import DBM
from experts.exponential import ExponentialFamily
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
from experts.fit_dbm import fit_dbm
from experts.flow import Flow, ImageFlow
from experts.gaussian import Gaussian
from experts.grow_dbm import grow_dbm
from experts.ising import Ising
from experts.ladder import at_noise_level, noise_ladder
from experts.library import available, load
from experts.linear_gaussian import LinearGaussian
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
    "Bernoulli",
    "Beta",
    "Categorical",
    "DensityRatio",
    "Dirichlet",
    "Exponential",
    "ExponentialFamily",
    "Flow",
    "Gamma",
    "Gaussian",
    "ImageFlow",
    "Ising",
    "LinearGaussian",
    "Neighbours",
    "NeuralEnergy",
    "NoisyConditional",
    "NormalScores",
    "PixelMixture",
    "Poisson",
    "ReconstructionEnergy",
    "RelativeNeighbours",
    "Standardize",
    "VisibleDBM",
    "VonMises",
    "Wishart",
    "at_noise_level",
    "available",
    "fit_dbm",
    "grow_dbm",
    "load",
    "mean_field",
    "noise_ladder",
    "pretrain_dbm",
    "variational_bound",
]
