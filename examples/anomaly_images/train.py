"""Three experts on one space, and for each a background: what pictures have in common.

A flow and an autoregressive expert learn by maximum likelihood, an energy by denoising score
matching. A background is the same model, trained on the same pictures after a fifth of the pixels
were replaced by uniform noise: it knows how much is black and how smooth pictures are, but
less of what they show (Ren et al. 2019, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import experts
import poe
from examples.common import seeded
from examples.train_digits.loop import batch, train
from experts import NoisyConditional
from experts.noised import ANY

SHAPE = (16, 16)
NOISE = 0.01
"""Added to pixels in [0, 1], so that they have a density: 2.5 of 255 grey levels."""
ENERGY_NOISE = 0.1
"""Score matching at less noise learns what is next to a pixel, and little else.

Chosen after a first energy, at 0.01 and for 300 updates, had an AUROC below 1/2 against digits.
"""
REPLACED = 0.2
BATCH = 64


def flow(images: Tensor) -> NoisyConditional:
    model = experts.ImageFlow(SHAPE, [ANY], NOISE, layers=8, hidden=192)
    model.whitening.fit(images[:10_000])
    return model


def autoregressive(images: Tensor) -> NoisyConditional:
    return experts.PixelMixture(SHAPE, [ANY], NOISE, channels=24, blocks=4)


def energy(images: Tensor) -> NoisyConditional:
    return experts.ReconstructionEnergy(SHAPE, [ANY], ENERGY_NOISE, channels=16)


def likelihood(model: NoisyConditional, images: Tensor, generator: torch.Generator) -> Tensor:
    x = noised(images, generator)
    return poe.losses.negative_log_likelihood(model.given(ANY), x).value / x[0].numel()


def score_matching(model: NoisyConditional, images: Tensor, generator: torch.Generator) -> Tensor:
    loss = poe.losses.denoising_score_matching(
        model.given(ANY), images, ENERGY_NOISE, generator=generator
    )
    return loss.value / images[0].numel()


class Recipe(NamedTuple):
    """How an expert is made and learned: at most ``steps`` updates."""

    build: Callable[[Tensor], NoisyConditional]
    loss: Callable[[NoisyConditional, Tensor, torch.Generator], Tensor]
    steps: int
    learning_rate: float


RECIPES = {
    "flow": Recipe(flow, likelihood, 1500, 1e-3),
    "autoregressive": Recipe(autoregressive, likelihood, 1000, 2e-3),
    "energy": Recipe(energy, score_matching, 500, 2e-3),
}


class Learned(NamedTuple):
    """The three experts by name, and their backgrounds."""

    experts: dict[str, poe.Expert]
    backgrounds: dict[str, poe.Expert]


def learn(name: str, images: Tensor, most_steps: int, work: Path) -> Learned:
    """All six from pictures (n, 16, 16); a run that was cut off goes on from its checkpoints."""
    generator = torch.Generator().manual_seed(1)
    backgrounds = replaced(images, generator)
    return Learned(
        {kind: fit(kind, images, most_steps, work / name) for kind in RECIPES},
        {kind: fit(kind, backgrounds, most_steps, work / f"{name}-background") for kind in RECIPES},
    )


def fit(kind: str, images: Tensor, most_steps: int, work: Path) -> poe.Expert:
    """One expert, with averaged weights."""
    recipe = RECIPES[kind]
    steps = min(recipe.steps, most_steps)
    work.mkdir(parents=True, exist_ok=True)
    with seeded(0):
        model = recipe.build(images)

    def loss(model: NoisyConditional, generator: torch.Generator) -> Tensor:
        return recipe.loss(model, images[batch(len(images), BATCH, generator)], generator)

    model = train(
        model,
        loss,
        steps=steps,
        learning_rate=recipe.learning_rate,
        checkpoint=work / f"{kind}-{steps}.pt",
    )
    return model.given(ANY)


def noised(images: Tensor, generator: torch.Generator) -> Tensor:
    """What the experts are densities of: (n, 16, 16)."""
    return images + NOISE * torch.randn(images.shape, generator=generator)


def replaced(images: Tensor, generator: torch.Generator) -> Tensor:
    """A fifth of the pixels uniform in [0, 1], once for all."""
    is_replaced = torch.rand(images.shape, generator=generator) < REPLACED
    return torch.where(is_replaced, torch.rand(images.shape, generator=generator), images)
