"""The judge of a digit's class: a small classifier trained on images that no expert has seen."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import NamedTuple

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from poe.core.randomness import Lent


class Judge(nn.Module):
    """Logits of the ten classes: images (n, 16, 16) of ink, clean or slightly noisy -> (n, 10)."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * channels * 16, 96),
            nn.SiLU(),
            nn.Linear(96, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images[:, None])
        return logits

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Most probable class of each image: (n, 16, 16) -> (n,)."""
        return self(images).argmax(-1)


class Facts(NamedTuple):
    """What was measured when the judge was trained, on images that it was not trained on.

    ``distances``: the mean distance between two real digits of each class, with noise 0.1.
    """

    accuracy_clean: float
    accuracy_noisy: float
    distances: tuple[float, ...]


def load_facts() -> Facts:
    """The shipped judge's facts."""
    return Facts(**json.loads(files("poe.demo").joinpath("judge.json").read_text()))


def load_judge() -> Judge:
    """The shipped judge, in evaluation mode."""
    with Lent(torch.Generator().manual_seed(0)):  # its first weights are replaced
        judge = Judge()
    judge.load_state_dict(
        load_tensors(files("poe.demo").joinpath("judge.safetensors").read_bytes())
    )
    return judge.eval().requires_grad_(False)
