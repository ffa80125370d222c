"""Train the flow on the slant of a digit, and on no attribute at all: maximum likelihood."""

from __future__ import annotations

import torch
from data import training_digits
from loop import arguments, batch, noise_levels, train
from torch import Tensor, nn

from experts.flow import ImageFlow
from poe.demo.attributes import SLANTS

UNCONDITIONAL = "any"


def main() -> None:
    options = arguments(__doc__, steps=16000)
    digits = training_digits()
    torch.manual_seed(0)
    model = ImageFlow((16, 16), (*SLANTS, UNCONDITIONAL), 0.1, layers=10, hidden=192)
    model.whitening.fit(digits.images)

    def loss(module: nn.Module, generator: torch.Generator) -> Tensor:
        index = batch(len(digits.images), 128, generator)
        level = noise_levels(128, 0.05, 1.0, generator)
        noise = torch.randn(128, 16, 16, generator=generator)
        x = digits.images[index] + level[:, None, None] * noise
        # Unclear slants, and one in three of the others, teach the unconditional density.
        hidden = (digits.slant[index] < 0) | (torch.rand(128, generator=generator) < 1 / 3)
        label = digits.slant[index].masked_fill(hidden, len(SLANTS))
        return -module.log_density_at(x, label, level).mean() / 256

    best = train(
        model, loss, steps=options.steps, learning_rate=1e-3, checkpoint=options.work / "slant.pt"
    )
    torch.save(best.state_dict(), options.work / "slant-final.pt")


if __name__ == "__main__":
    main()
