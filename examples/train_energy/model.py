"""The energy that is trained: a Gaussian of the pictures' moments times a residual network."""

from __future__ import annotations

from torch import Tensor

import experts
import poe
from examples.common import seeded
from examples.train_energy.data import SIZE

COMPONENTS = 200
CHANNELS = (32, 64)


def moments_of(images: Tensor, noise: float) -> experts.ProbabilisticPCA:
    """The Gaussian, of few components, of the pictures with noise."""
    clean = experts.ProbabilisticPCA.fit(images, COMPONENTS)
    scale = (clean.scale.square() + noise**2).sqrt()
    return experts.ProbabilisticPCA(clean.loc, clean.loadings, scale)


def untrained(moments: experts.ProbabilisticPCA, seed: int = 0) -> poe.Product:
    """p(x) ∝ N(x; moments of the pictures with noise) exp f(x), with f near 0.

    So chains that begin at draws of the Gaussian are in equilibrium before the first update, and f
    learns what moments do not tell.
    """
    with seeded(seed):
        net = experts.neural.ResidualNetwork((SIZE, SIZE), CHANNELS)
    return poe.Product(moments=moments, shape=experts.NeuralEnergy(net, poe.Real((SIZE, SIZE))))


def learning(expert: poe.Product) -> poe.Product:
    """The same, with the network's weights asking for a gradient."""
    for part in expert.experts:
        part.requires_grad_(isinstance(part, experts.NeuralEnergy))
    return expert
