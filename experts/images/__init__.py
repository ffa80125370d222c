"""Experts on images: linear observations, patches and filters."""

from __future__ import annotations

from experts.images.field_of_experts import FieldOfExperts
from experts.images.likelihoods import GaussianLikelihood, SaltAndPepper
from experts.images.operators import (
    BlockMean,
    Blur,
    FilterBank,
    Identity,
    LinearOperator,
    Mask,
    Window,
)
from experts.images.patch_mixture import PatchMixture
from experts.images.tile_gibbs import TileGibbs
from experts.images.tiled_mixture import TiledMixture

__all__ = [
    "BlockMean",
    "Blur",
    "FieldOfExperts",
    "FilterBank",
    "GaussianLikelihood",
    "Identity",
    "LinearOperator",
    "Mask",
    "PatchMixture",
    "SaltAndPepper",
    "TileGibbs",
    "TiledMixture",
    "Window",
]
