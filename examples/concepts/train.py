"""Train the energy of pictures, then each concept apart, and one model of everything to compare.

Each of the six attributes learns from its own labels alone, "several objects" being one of them;
the presence of an object at a place learns from places alone. None is told of another's labels, and
pictures of the held-out combinations are in no training set.

    python -m examples.concepts.train [--fast] [--only colour] [--weights examples/concepts/weights]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.common import options, seeded
from examples.concepts.data import FACTORS, Pictures, in_other_colours, labels_of, training_pictures
from examples.concepts.energy import (
    HIGHEST,
    KINDS,
    LOWEST,
    SPREAD,
    Concept,
    JointEnergy,
    PictureEnergy,
    Presence,
    combination,
)
from examples.concepts.weights import WEIGHTS, read, write
from examples.train_digits.loop import batch, noise_levels, train

PICTURES = 60_000
STEPS = dict.fromkeys(FACTORS, 600) | {
    "shape": 3000,
    "rotation": 3000,
    "colour": 800,
    "presence": 800,
    "picture": 5000,
    "joint": 800,
}


def attribute_labels(pictures: Pictures, name: str) -> Tensor:
    """The index of an attribute's label in each picture: (n,)."""
    column = pictures.labels[:, list(FACTORS).index(name)]
    return column.masked_fill(column < 0, len(FACTORS[name]))


def noised(ink: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices, noise levels (size,), noise and noised pictures (size, 3, 32, 32)."""
    index = batch(len(ink), size, generator)
    level = noise_levels(size, LOWEST, HIGHEST, generator)
    noise = torch.randn(size, *ink.shape[1:], generator=generator)
    return index, level, noise, ink[index] + level[:, None, None, None] * noise


def score_matching(
    model: nn.Module, ink: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the score against that of the noise, at the levels' own scales.

    Times the noised picture's variance it is the error of the denoised picture over the least that
    is possible without looking (Karras et al. 2022, table 1): else the lowest levels would drown
    the highest, which decide what is where.
    """
    index, level, noise, x = noised(ink, 64, generator)
    x.requires_grad_()
    value = model.log_density_at(x, labels[index], level)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    error = (level[:, None, None, None] * score + noise).square().mean((1, 2, 3))
    return (error * (1 + (level / SPREAD) ** 2)).mean()


def cross_entropy(
    model: nn.Module, pictures: Pictures, labels: Tensor, generator: torch.Generator
) -> Tensor:
    index, level, _, x = noised(pictures.ink, 128, generator)
    return F.cross_entropy(model.logits(x, level), labels[index])


def presence_entropy(model: nn.Module, pictures: Pictures, generator: torch.Generator) -> Tensor:
    """The sum over cells of the cross-entropy of whether an object is there."""
    index, level, _, x = noised(pictures.ink, 128, generator)
    truth = pictures.present[index].flatten(1).float()
    logits = model.logits(x, level)
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1).mean()


class Workshop:
    """The training set, and where weights and checkpoints go."""

    def __init__(self, pictures: Pictures, share: float, weights: Path, work: Path) -> None:
        self.pictures, self.share, self.weights, self.work = pictures, share, weights, work

    def fit(
        self, name: str, model: nn.Module, loss: Callable[..., Tensor], rate: float
    ) -> nn.Module:
        began = time.perf_counter()
        steps = max(int(STEPS[name] * self.share), 2)
        path = self.work / f"{name}.pt"
        model = train(model, loss, steps=steps, learning_rate=rate, checkpoint=path)
        print(f"{name}: {steps} updates, {time.perf_counter() - began:.0f} s", flush=True)
        return model

    def picture(self) -> None:
        """From more than labels are told of: half as many again are in other colours."""
        ink = self.pictures.ink
        ink = torch.cat([ink, in_other_colours(len(ink) // 2)])
        model = PictureEnergy()
        labels = torch.zeros(len(ink), dtype=torch.long)
        trained = self.fit(
            "picture",
            model,
            lambda module, generator: score_matching(module, ink, labels, generator),
            1.5e-3,
        )
        write("picture", trained.state_dict(), self.weights)

    def joint(self) -> None:
        """Goes on from the weights of p(x), with all six labels, on pictures of one object."""
        model = JointEnergy()
        model.load_state_dict(read("picture", self.weights), strict=False)
        nn.init.zeros_(model.tell[-1].weight)
        nn.init.zeros_(model.tell[-1].bias)
        is_single = self.pictures.labels[:, 0] >= 0
        ink, labels = self.pictures.ink[is_single], self.pictures.labels[is_single]
        index = combination(labels)
        trained = self.fit(
            "joint",
            model,
            lambda module, generator: score_matching(module, ink, index, generator),
            1e-3,
        )
        write("joint", trained.state_dict(), self.weights)

    def attribute(self, name: str) -> None:
        labels = attribute_labels(self.pictures, name)
        model = KINDS[name](PictureEnergy(), labels_of(name))
        model.frequency = labels.bincount() / len(labels)
        model.prior.requires_grad_(False)
        self.fit_concept(
            name,
            model,
            lambda module, generator: cross_entropy(module, self.pictures, labels, generator),
        )

    def presence(self) -> None:
        model = Presence(PictureEnergy())
        model.frequency = self.pictures.present.float().mean(0).flatten().clamp(min=1e-4)
        model.prior.requires_grad_(False)
        self.fit_concept(
            "presence",
            model,
            lambda module, generator: presence_entropy(module, self.pictures, generator),
        )

    def fit_concept(self, name: str, model: Concept, loss: Callable[..., Tensor]) -> None:
        trained = self.fit(name, model, loss, 2e-3)
        write(name, trained.own_state(), self.weights)

    def make(self, name: str) -> None:
        whole = {"picture": self.picture, "joint": self.joint, "presence": self.presence}
        with seeded(0):  # the first weights; all later draws take a generator
            whole[name]() if name in whole else self.attribute(name)


def main() -> None:
    parser = options(__doc__, fast="a few updates, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=tuple(STEPS), default=tuple(STEPS))
    parser.add_argument("--share", type=float, default=1.0, help="of the updates")
    parser.add_argument("--weights", type=Path, help="shipped ones; if --fast, in --work")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pictures = training_pictures(600 if arguments.fast else PICTURES)
    weights = arguments.weights or (arguments.work / "weights" if arguments.fast else WEIGHTS)
    share = 0.003 if arguments.fast else arguments.share
    workshop = Workshop(pictures, share, weights, arguments.work)
    order = ("picture", *FACTORS, "presence", "joint")
    for name in order:
        if name in arguments.only:
            workshop.make(name)


if __name__ == "__main__":
    main()
