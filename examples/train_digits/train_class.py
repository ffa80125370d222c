"""Train the autoregressive expert on the class of a digit.

First by maximum likelihood at every noise level; then with the posterior of the class, against
three wrong classes drawn at random, added to the loss; then by maximum likelihood again, with a
label for "any" class, which one image in three is given; at last with both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.common import seeded
from examples.train_digits.data import Digits, training_digits
from examples.train_digits.loop import arguments, batch, noise_levels, train
from experts import PixelMixture
from experts.noised import ANY
from poe.demo.attributes import CLASSES

POSTERIOR_WEIGHT = 0.1
WRONG = 3


def draw(digits: Digits, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noised images (size, 16, 16), their class, and their noise levels."""
    index = batch(len(digits.images), size, generator)
    level = noise_levels(size, 0.05, 1.0, generator)
    noise = torch.randn(size, 16, 16, generator=generator)
    return digits.images[index] + level[:, None, None] * noise, digits.digit[index], level


def likelihood(digits: Digits, module: nn.Module, generator: torch.Generator) -> Tensor:
    x, digit, level = draw(digits, 64, generator)
    return -module.log_density_at(x, digit, level).mean() / 256


def with_posterior(digits: Digits, module: nn.Module, generator: torch.Generator) -> Tensor:
    own, posterior = own_and_posterior(digits, module, 32, generator)
    return -own / 256 - POSTERIOR_WEIGHT * posterior


def own_and_posterior(
    digits: Digits, module: nn.Module, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean log-density of the own class, and its mean log-posterior against some wrong ones."""
    x, digit, level = draw(digits, size, generator)
    away = 1 + torch.rand(size, len(CLASSES) - 1, generator=generator).argsort(-1)[:, :WRONG]
    labels = torch.cat([digit[:, None], (digit[:, None] + away) % len(CLASSES)], -1)
    pairs = [t.repeat_interleave(1 + WRONG, 0) for t in (x, level)]
    value = module.log_density_at(pairs[0], labels.flatten(), pairs[1]).view(size, -1)
    return value[:, 0].mean(), value.log_softmax(-1)[:, 0].mean()


def with_any(digits: Digits, module: nn.Module, generator: torch.Generator) -> Tensor:
    x, digit, level = draw(digits, 64, generator)
    hidden = torch.rand(len(x), generator=generator) < 1 / 3
    label = digit.masked_fill(hidden, len(CLASSES))
    return -module.log_density_at(x, label, level).mean() / 256


def with_both(digits: Digits, module: nn.Module, generator: torch.Generator) -> Tensor:
    own, posterior = own_and_posterior(digits, module, 16, generator)
    return with_any(digits, module, generator) - own / 1024 - POSTERIOR_WEIGHT * posterior


def with_unconditional(narrow: nn.Module) -> PixelMixture:
    """The same density with one label more, which starts at the mean of the others."""
    wide = PixelMixture((16, 16), (*CLASSES, ANY), 0.1, channels=32, blocks=7)
    state = dict(narrow.state_dict())
    known = state["net.embed.label.weight"]
    state["net.embed.label.weight"] = torch.cat([known, known.mean(0, keepdim=True)])
    wide.load_state_dict(state)
    return wide


def main() -> None:
    options = arguments(__doc__, steps=8500)
    digits = training_digits()
    with seeded(0):
        model: nn.Module = PixelMixture((16, 16), CLASSES, 0.1, channels=32, blocks=7)
    model = train(
        model,
        lambda module, generator: likelihood(digits, module, generator),
        steps=options.steps,
        learning_rate=2e-3,
        checkpoint=options.work / "class.pt",
    )
    model = train(
        model.requires_grad_(True),
        lambda module, generator: with_posterior(digits, module, generator),
        steps=options.steps * 2 // 5,
        learning_rate=6e-4,
        checkpoint=options.work / "class-posterior.pt",
    )
    model = train(
        with_unconditional(model),
        lambda module, generator: with_any(digits, module, generator),
        steps=options.steps * 2 // 5,
        learning_rate=1e-3,
        checkpoint=options.work / "class-any.pt",
    )
    model = train(
        model.requires_grad_(True),
        lambda module, generator: with_both(digits, module, generator),
        steps=options.steps // 5,
        learning_rate=6e-4,
        checkpoint=options.work / "class-both.pt",
    )
    torch.save(model.state_dict(), options.work / "class-final.pt")


if __name__ == "__main__":
    main()
