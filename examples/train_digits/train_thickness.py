"""Train the neural energy on the thickness of the stroke, and on no attribute at all.

First by denoising score matching (Vincent 2011) given the thickness; then, with a label for "any"
thickness added, together with the posterior of the thickness, so that the ratio of the two energies
tells thickness apart and not only digits from other pictures; last, with the digits near an edge
between two thicknesses as a fourth class, for which the energy of "any" stands.
"""

from __future__ import annotations

from typing import NamedTuple

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

    def __init__(self, energy: ReconstructionEnergy, num_labels: int) -> None:
        super().__init__()
        self.energy = energy
        self.offset = nn.Linear(2, num_labels)

    def posterior(self, x: Tensor, level: Tensor) -> Tensor:
        """Logits of the labels: (n, 16, 16), (n,) -> (n, labels)."""
        labels = torch.arange(self.offset.out_features)
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


class Batch(NamedTuple):
    """Clean images (n, 16, 16), their thickness (-1 where unclear), and noise levels."""

    images: Tensor
    thickness: Tensor
    level: Tensor

    def noised(self, generator: torch.Generator) -> Tensor:
        noise = torch.randn(self.images.shape, generator=generator)
        return self.images + self.level[:, None, None] * noise

    def matching(self, energy: nn.Module, generator: torch.Generator) -> Tensor:
        """Score matching; unclear digits, and one in three of the others, teach "any"."""
        chance = torch.rand(len(self.images), generator=generator)
        hidden = (self.thickness < 0) | (chance < 1 / 3)
        label = self.thickness.masked_fill(hidden, len(THICKNESSES))
        return score_matching(energy, self.images, label, self.level, generator)


def draw(digits: Digits, generator: torch.Generator) -> Batch:
    index = batch(len(digits.images), 64, generator)
    level = noise_levels(64, 0.05, 1.0, generator)
    return Batch(digits.images[index], digits.thickness[index], level)


def second_phase(digits: Digits, module: WithOffsets, generator: torch.Generator) -> Tensor:
    one = draw(digits, generator)
    matching = one.matching(module.energy, generator)
    clear = one.thickness >= 0
    logits = module.posterior(one.noised(generator)[clear], one.level[clear])
    return matching + POSTERIOR_WEIGHT * F.cross_entropy(logits, one.thickness[clear])


def third_phase(digits: Digits, module: WithOffsets, generator: torch.Generator) -> Tensor:
    one = draw(digits, generator)
    matching = one.matching(module.energy, generator)
    label = one.thickness.masked_fill(one.thickness < 0, len(THICKNESSES))
    logits = module.posterior(one.noised(generator), one.level)
    return matching + POSTERIOR_WEIGHT * F.cross_entropy(logits, label)


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
        WithOffsets(with_unconditional(narrow), len(THICKNESSES)),
        lambda module, generator: second_phase(digits, module, generator),
        steps=options.steps * 5 // 9,
        learning_rate=7e-4,
        checkpoint=options.work / "thickness-posterior.pt",
    )
    last = train(
        WithOffsets(both.energy.requires_grad_(True), len(THICKNESSES) + 1),
        lambda module, generator: third_phase(digits, module, generator),
        steps=options.steps * 4 // 15,
        learning_rate=5e-4,
        checkpoint=options.work / "thickness-edges.pt",
    )
    torch.save(last.energy.state_dict(), options.work / "thickness-final.pt")


if __name__ == "__main__":
    main()
