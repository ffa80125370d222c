"""Train the flow on the slant of a digit: left, upright, right, or between two of these.

First by maximum likelihood, where the fourth label stands for any slant; then the fourth label
learns the slants in between, and the posterior of the slant is added to the loss, so that the ratio
p(x | slant) / p(x) is sharp as well (Ardizzone et al. 2020, "Training normalizing flows with the
information bottleneck for competitive generative classification").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.common import seeded
from examples.train_digits.data import Digits, training_digits
from examples.train_digits.loop import arguments, batch, noise_levels, train
from experts import ImageFlow
from poe.demo.attributes import SLANTS

BETWEEN = "between"
POSTERIOR_WEIGHT = 0.1

Batch = tuple[Tensor, Tensor, Tensor]


def draw(digits: Digits, size: int, generator: torch.Generator) -> Batch:
    """Noised images (size, 16, 16), their slant (-1 where unclear), and their noise levels."""
    index = batch(len(digits.images), size, generator)
    level = noise_levels(size, 0.05, 1.0, generator)
    noise = torch.randn(size, 16, 16, generator=generator)
    return digits.images[index] + level[:, None, None] * noise, digits.slant[index], level


def likelihood(module: nn.Module, digits: Digits, generator: torch.Generator) -> Tensor:
    x, slant, level = draw(digits, 128, generator)
    # Unclear slants, and one in three of the others, teach the unconditional density.
    hidden = (slant < 0) | (torch.rand(128, generator=generator) < 1 / 3)
    label = slant.masked_fill(hidden, len(SLANTS))
    return -module.log_density_at(x, label, level).mean() / 256


def with_posterior(module: nn.Module, digits: Digits, generator: torch.Generator) -> Tensor:
    x, slant, level = draw(digits, 96, generator)
    label = slant.masked_fill(slant < 0, len(SLANTS))
    pairs = [t.repeat_interleave(len(SLANTS) + 1, 0) for t in (x, level)]
    labels = torch.arange(len(SLANTS) + 1).repeat(96)
    value = module.log_density_at(pairs[0], labels, pairs[1]).view(96, -1)
    own = value.gather(1, label[:, None])
    # The classes are about as frequent as each other, so no prior of theirs enters.
    return -own.mean() / 256 + POSTERIOR_WEIGHT * F.cross_entropy(value, label)


def main() -> None:
    options = arguments(__doc__, steps=14000)
    digits = training_digits()
    with seeded(0):
        model: nn.Module = ImageFlow((16, 16), (*SLANTS, BETWEEN), 0.1, layers=10, hidden=192)
        model.whitening.fit(digits.images)

    def phase(name: str, loss: Callable[..., Tensor], steps: int, rate: float) -> nn.Module:
        def of(module: nn.Module, generator: torch.Generator) -> Tensor:
            return loss(module, digits, generator)

        path = options.work / f"{name}.pt"
        return train(model, of, steps=steps, learning_rate=rate, checkpoint=path)

    model = phase("slant", likelihood, options.steps, 1e-3).requires_grad_(True)
    model = phase("slant-posterior", with_posterior, options.steps * 2 // 7, 5e-4)
    torch.save(model.state_dict(), options.work / "slant-final.pt")


if __name__ == "__main__":
    main()
