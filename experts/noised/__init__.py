"""Experts that know the noise level of what they see."""

from __future__ import annotations

from experts.noised.conditional import ANY, DensityRatio, NoisyConditional
from experts.noised.embedding import NoiseEmbedding
from experts.noised.image_flow import ImageFlow
from experts.noised.ladder import at_noise_level, noise_ladder
from experts.noised.noisy_energy import NoisyEnergy
from experts.noised.pixel_mixture import PixelMixture
from experts.noised.reconstruction_energy import FeatureShift, ReconstructionEnergy, double
from experts.noised.score_model import ScoreModel

__all__ = [
    "ANY",
    "DensityRatio",
    "FeatureShift",
    "ImageFlow",
    "NoiseEmbedding",
    "NoisyConditional",
    "NoisyEnergy",
    "PixelMixture",
    "ReconstructionEnergy",
    "ScoreModel",
    "at_noise_level",
    "double",
    "noise_ladder",
]
