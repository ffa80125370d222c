"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts import strips as strips
from experts.autoregressive import PixelMixture
from experts.belief_propagation import Beliefs, belief_propagation
from experts.channel import binary_channel
from experts.coordinates import NormalScores, Standardize
from experts.denoising import LearnedDenoiser, learn_denoiser
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
from experts.graph_cut import graph_cut
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
    "Beliefs",
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
    "LearnedDenoiser",
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
    "belief_propagation",
    "binary_channel",
    "graph_cut",
    "learn_denoiser",
    "load",
    "noise_ladder",
]
