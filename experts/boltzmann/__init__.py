"""Restricted and deep Boltzmann machines."""

from __future__ import annotations

from experts.boltzmann.base_rate_ais import BaseRateAIS
from experts.boltzmann.block_gibbs import LayerGibbs, sweep
from experts.boltzmann.dbm import DBM
from experts.boltzmann.gaussian_rbm import GaussianRBM
from experts.boltzmann.potts_rbm import PottsRBM
from experts.boltzmann.rbm import RBM
from experts.boltzmann.variational import mean_field, variational_bound
from experts.boltzmann.visible_dbm import VisibleDBM
from poe.core.imports import found_when_asked

__all__ = [
    "DBM",
    "RBM",
    "BaseRateAIS",
    "GaussianRBM",
    "LayerGibbs",
    "PottsRBM",
    "VisibleDBM",
    "mean_field",
    "sweep",
    "variational_bound",
]

__getattr__ = found_when_asked(__name__, submodules=["training"])
