"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts import strips as strips
from experts.autoregressive import PixelMixture
from experts.coordinates import NormalScores, Standardize
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
from experts.flow import Flow, ImageFlow
from experts.gaussian import Gaussian
from experts.ising import Ising
from experts.ladder import at_noise_level, noise_ladder
from experts.library import available, load
from experts.linear_gaussian import LinearGaussian
from experts.neighbours import Neighbours, RelativeNeighbours
from experts.neural import NeuralEnergy, ReconstructionEnergy
from experts.noise import DensityRatio, NoisyConditional
from experts.potts import Potts
from experts.rbm import RBM

__all__ = [
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
    "Potts",
    "ReconstructionEnergy",
    "RelativeNeighbours",
    "Standardize",
    "VonMises",
    "Wishart",
    "at_noise_level",
    "available",
    "load",
    "noise_ladder",
]
