"""Losses by which experts learn: functions of an expert and rows, which return a `Loss`."""

from poe.losses.contrastive_divergence import contrastive_divergence
from poe.losses.denoising import denoising_score_matching, multiscale_denoising_score_matching
from poe.losses.loss import Loss

__all__ = [
    "Loss",
    "contrastive_divergence",
    "denoising_score_matching",
    "multiscale_denoising_score_matching",
]
