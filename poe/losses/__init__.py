"""Losses by which experts learn: functions of an expert and rows, which return a `Loss`.

There is no trainer: call ``loss.value.backward()`` and step an optimiser of your own. Whatever is
not finite raises `poe.NonFiniteError`, which names the expert, before it can reach the weights.
"""

from poe.losses.base import Loss
from poe.losses.contrastive import contrastive_divergence
from poe.losses.denoising import denoising_score_matching, multiscale_denoising_score_matching
from poe.losses.hyvarinen import score_matching, sliced_score_matching
from poe.losses.likelihood import negative_log_likelihood
from poe.losses.noise_contrastive import noise_contrastive_estimation

__all__ = [
    "Loss",
    "contrastive_divergence",
    "denoising_score_matching",
    "multiscale_denoising_score_matching",
    "negative_log_likelihood",
    "noise_contrastive_estimation",
    "score_matching",
    "sliced_score_matching",
]
