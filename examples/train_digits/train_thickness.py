"""Train the neural energy on the thickness of the stroke: denoising score matching at every level."""

from __future__ import annotations

import torch
from data import training_digits
from loop import arguments, batch, noise_levels, train
from torch import Tensor, nn

from experts.neural import ReconstructionEnergy
from poe.demo.attributes import THICKNESSES


def main() -> None:
    options = arguments(__doc__, steps=6000)
    digits = training_digits()
    clear = digits.thickness >= 0
    images, labels = digits.images[clear], digits.thickness[clear]
    torch.manual_seed(0)
    model = ReconstructionEnergy((16, 16), THICKNESSES, 0.1, channels=24)

    def loss(module: nn.Module, generator: torch.Generator) -> Tensor:
        index = batch(len(images), 128, generator)
        level = noise_levels(128, 0.05, 1.0, generator)
        noise = torch.randn(128, 16, 16, generator=generator)
        x = (images[index] + level[:, None, None] * noise).requires_grad_()
        value = module.log_density_at(x, labels[index], level)
        (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return (level[:, None, None] * score + noise).square().mean()

    best = train(
        model,
        loss,
        steps=options.steps,
        learning_rate=1e-3,
        checkpoint=options.work / "thickness.pt",
    )
    torch.save(best.state_dict(), options.work / "thickness-final.pt")


if __name__ == "__main__":
    main()
