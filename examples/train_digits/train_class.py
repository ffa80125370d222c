"""Train the autoregressive expert on the class of a digit: maximum likelihood at every noise level."""

from __future__ import annotations

import torch
from data import training_digits
from loop import arguments, batch, noise_levels, train
from torch import Tensor, nn

from experts.autoregressive import PixelMixture
from poe.demo.attributes import CLASSES


def main() -> None:
    options = arguments(__doc__, steps=9000)
    digits = training_digits()
    torch.manual_seed(0)
    model = PixelMixture((16, 16), CLASSES, 0.1, channels=32, blocks=7)

    def loss(module: nn.Module, generator: torch.Generator) -> Tensor:
        index = batch(len(digits.images), 64, generator)
        level = noise_levels(64, 0.05, 1.0, generator)
        noise = torch.randn(64, 16, 16, generator=generator)
        x = digits.images[index] + level[:, None, None] * noise
        return -module.log_density_at(x, digits.digit[index], level).mean() / 256

    best = train(
        model, loss, steps=options.steps, learning_rate=2e-3, checkpoint=options.work / "class.pt"
    )
    torch.save(best.state_dict(), options.work / "class-final.pt")


if __name__ == "__main__":
    main()
