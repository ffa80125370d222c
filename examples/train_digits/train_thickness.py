"""Train the neural energy: of digits by score matching, of their thickness by cross-entropy.

f(x | thickness) = f(x) + log p(thickness | x), so the two parts are trained apart: f by denoising
score matching (Vincent 2011) without any label, the posterior as a classifier of noised images. A
fourth label, "between", is what lies near an edge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.common import seeded
from examples.train_digits.data import Digits, training_digits
from examples.train_digits.loop import arguments, batch, noise_levels, train
from experts import ReconstructionEnergy
from poe.demo.attributes import THICKNESSES

LABELS = (*THICKNESSES, "between", "any")


def draw(digits: Digits, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images (size, 16, 16), their thickness (3 where unclear), and noise levels."""
    index = batch(len(digits.images), size, generator)
    thickness = digits.thickness[index]
    label = thickness.masked_fill(thickness < 0, LABELS.index("between"))
    return digits.images[index], label, noise_levels(size, 0.04, 1.0, generator)


def score_matching(module: nn.Module, digits: Digits, generator: torch.Generator) -> Tensor:
    """Mean squared error of the score against that of the noise, in units of the noise."""
    images, _, level = draw(digits, 128, generator)
    noise = torch.randn(images.shape, generator=generator)
    x = (images + level[:, None, None] * noise).requires_grad_()
    value = module.log_marginal_at(x, level)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return (level[:, None, None] * score + noise).square().mean()


def cross_entropy(module: nn.Module, digits: Digits, generator: torch.Generator) -> Tensor:
    images, label, level = draw(digits, 128, generator)
    noise = torch.randn(images.shape, generator=generator)
    x = images + level[:, None, None] * noise
    return F.nll_loss(module.log_posterior_at(x, level), label)


def main() -> None:
    options = arguments(__doc__, steps=4000)
    digits = training_digits()
    with seeded(0):
        model: nn.Module = ReconstructionEnergy((16, 16), LABELS, 0.1, channels=24)
    model = train(
        model,
        lambda module, generator: score_matching(module, digits, generator),
        steps=options.steps,
        learning_rate=1e-3,
        checkpoint=options.work / "thickness.pt",
    )
    # The two parts share no weights, so neither phase undoes the other.
    model = train(
        model.requires_grad_(True),
        lambda module, generator: cross_entropy(module, digits, generator),
        steps=2 * options.steps,
        learning_rate=1.5e-3,
        checkpoint=options.work / "thickness-posterior.pt",
    )
    torch.save(model.state_dict(), options.work / "thickness-final.pt")


if __name__ == "__main__":
    main()
