"""Experts that are neural networks."""

from __future__ import annotations

from experts.neural.causal_transformer import CausalTransformer
from experts.neural.classifier import Classifier
from experts.neural.discriminator import Discriminator
from experts.neural.jem import JEM, jem_loss
from experts.neural.made import MADE
from experts.neural.nade import NADE
from experts.neural.neural_energy import NeuralEnergy
from experts.neural.perceptron import MultilayerPerceptron
from experts.neural.residual_network import ResidualNetwork
from experts.neural.spectral_norm import power_iterate
from experts.neural.vae import VAE, GaussianDecoder, dense_vae
from poe.core.imports import found_when_asked

__all__ = [
    "JEM",
    "MADE",
    "NADE",
    "VAE",
    "CausalTransformer",
    "Classifier",
    "Discriminator",
    "GaussianDecoder",
    "MultilayerPerceptron",
    "NeuralEnergy",
    "ResidualNetwork",
    "dense_vae",
    "jem_loss",
    "power_iterate",
]

__getattr__ = found_when_asked(
    __name__,
    moved=dict.fromkeys(["FeatureShift", "ReconstructionEnergy", "double"], "experts.noised"),
)
