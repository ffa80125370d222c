"""Train the neural energy on the thickness of the stroke, and on no attribute at all.

First by denoising score matching (Vincent 2011) given the thickness; then, with a label for "any"
thickness added, together with the posterior of the thickness, so that the ratio of the two energies
tells thickness apart and not only digits from other pictures.
"""

from __future__ import annotations

import torch
from data import Digits, training_digits
from loop import arguments, batch, noise_levels, train
from torch import Tensor, nn
from torch.nn import functional as F

from experts.neural import ReconstructionEnergy
from poe.demo.attributes import THICKNESSES

UNCONDITIONAL = "any"
POSTERIOR_WEIGHT = 0.1


class WithOffsets(nn.Module):
    """An energy and one number for each label, which stands in for its unknown log partition."""

    def __init__(self, energy: ReconstructionEnergy) -> None:
        super().__init__()
        self.energy = energy
        self.offset = nn.Linear(2, len(THICKNESSES))

    def posterior(self, x: Tensor, level: Tensor) -> Tensor:
        """Logits of the thickness: (n, 16, 16), (n,) -> (n, 3). The offset depends on the noise."""
        labels = torch.arange(len(THICKNESSES))
        pairs = [t.repeat_interleave(len(labels), 0) for t in (x, level)]
        value = self.energy.log_density_at(pairs[0], labels.repeat(len(x)), pairs[1])
        return value.view(len(x), -1) - self.offset(torch.stack([level.log(), 1 / level], -1))


def score_matching(
    energy: nn.Module, images: Tensor, label: Tensor, level: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the score against that of the noise, in units of the noise."""
    noise = torch.randn(images.shape, generator=generator)
    x = (images + level[:, None, None] * noise).requires_grad_()
    value = energy.log_density_at(x, label, level)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return (level[:, None, None] * score + noise).square().mean()


def first_phase(digits: Digits, module: nn.Module, generator: torch.Generator) -> Tensor:
    clear = digits.thickness >= 0
    images, labels = digits.images[clear], digits.thickness[clear]
    index = batch(len(images), 128, generator)
    level = noise_levels(128, 0.05, 1.0, generator)
    return score_matching(module, images[index], labels[index], level, generator)


def second_phase(digits: Digits, module: WithOffsets, generator: torch.Generator) -> Tensor:
    index = batch(len(digits.images), 64, generator)
    images, thickness = digits.images[index], digits.thickness[index]
    level = noise_levels(64, 0.05, 1.0, generator)
    hidden = (thickness < 0) | (torch.rand(64, generator=generator) < 1 / 3)
    label = thickness.masked_fill(hidden, len(THICKNESSES))
    matching = score_matching(module.energy, images, label, level, generator)
    clear = thickness >= 0
    noise = torch.randn(images.shape, generator=generator)
    logits = module.posterior((images + level[:, None, None] * noise)[clear], level[clear])
    return matching + POSTERIOR_WEIGHT * F.cross_entropy(logits, thickness[clear])


def with_unconditional(narrow: nn.Module) -> ReconstructionEnergy:
    """The same energy with one label more, which starts at the mean of the others."""
    wide = ReconstructionEnergy((16, 16), (*THICKNESSES, UNCONDITIONAL), 0.1, channels=24)
    state = dict(narrow.state_dict())
    known = state["embed.label.weight"]
    state["embed.label.weight"] = torch.cat([known, known.mean(0, keepdim=True)])
    wide.load_state_dict(state)
    return wide


def main() -> None:
    options = arguments(__doc__, steps=4500)
    digits = training_digits()
    torch.manual_seed(0)
    narrow = train(
        ReconstructionEnergy((16, 16), THICKNESSES, 0.1, channels=24),
        lambda module, generator: first_phase(digits, module, generator),
        steps=options.steps,
        learning_rate=1e-3,
        checkpoint=options.work / "thickness.pt",
        stop=options.steps * 2 // 3,
    )
    both = train(
        WithOffsets(with_unconditional(narrow)),
        lambda module, generator: second_phase(digits, module, generator),
        steps=options.steps * 5 // 9,
        learning_rate=7e-4,
        checkpoint=options.work / "thickness-posterior.pt",
    )
    torch.save(both.energy.state_dict(), options.work / "thickness-final.pt")


if __name__ == "__main__":
    main()
