"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts.autoregressive import PixelMixture
from experts.exponential import Gaussian
from experts.flow import Flow, ImageFlow
from experts.ladder import at_noise_level, noise_ladder
from experts.library import available, load
from experts.neural import NeuralEnergy, ReconstructionEnergy
from experts.noise import DensityRatio, NoisyConditional

__all__ = [
    "DensityRatio",
    "Flow",
    "Gaussian",
    "ImageFlow",
    "NeuralEnergy",
    "NoisyConditional",
    "PixelMixture",
    "ReconstructionEnergy",
    "at_noise_level",
    "available",
    "load",
    "noise_ladder",
]
