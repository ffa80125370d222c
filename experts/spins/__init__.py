"""Models of coupled spins and labels, and what is exact about them."""

from __future__ import annotations

from experts.spins import tractable_strips as tractable_strips
from experts.spins.bethe import Beliefs, belief_propagation
from experts.spins.denoiser import LearnedDenoiser, binary_channel, learn_denoiser
from experts.spins.ising import Ising
from experts.spins.minimum_cut import graph_cut
from experts.spins.potts import Potts

__all__ = [
    "Beliefs",
    "Ising",
    "LearnedDenoiser",
    "Potts",
    "belief_propagation",
    "binary_channel",
    "graph_cut",
    "learn_denoiser",
]
