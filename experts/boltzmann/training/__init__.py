"""How Boltzmann machines are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experts.boltzmann.training.contrastive_divergence import CD, PCD, TemperedPCD, contrast
from experts.boltzmann.training.dbm import fit_dbm
from experts.boltzmann.training.growth import grow_dbm
from experts.boltzmann.training.layerwise import pretrain_dbm
from experts.boltzmann.training.rbm import fit_rbm
from poe.core.imports import found_when_asked

if TYPE_CHECKING:  # scikit-learn is loaded when the features are asked for
    from experts.boltzmann.training.rbm_features import RBMFeatures

__all__ = [
    "CD",
    "PCD",
    "RBMFeatures",
    "TemperedPCD",
    "contrast",
    "fit_dbm",
    "fit_rbm",
    "grow_dbm",
    "pretrain_dbm",
]

__getattr__ = found_when_asked(
    __name__, names={"RBMFeatures": "experts.boltzmann.training.rbm_features"}
)
