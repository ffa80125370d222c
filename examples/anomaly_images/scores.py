"""What products say of test pictures, and how well it orders them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import poe
from examples.anomaly_images.pictures import Split
from examples.anomaly_images.train import noised


class Answers(NamedTuple):
    """What the experts of a product say: ``said[set]`` (n, experts), in the order of ``names``.

    ``calibration`` compares their loudness on held-out pictures of the learned kind.
    """

    names: tuple[str, ...]
    said: dict[str, Tensor]
    calibration: poe.Calibration

    def scores(self) -> dict[str, dict[str, Tensor]]:
        """By row of the table and by set: each expert, their product, that with equally loud
        experts, and what the most surprised of them says.
        """
        alone = {
            name: {key: value[:, i] for key, value in self.said.items()}
            for i, name in enumerate(self.names)
        }
        return alone | {
            "product": {key: value.sum(1) for key, value in self.said.items()},
            "equally loud": {key: value.sum(1) for key, value in self.equally_loud().items()},
            "loudest objection": {key: -value.amax(1) for key, value in self.surprise().items()},
        }

    def equally_loud(self) -> dict[str, Tensor]:
        """What the experts of `calibration.rescaled` say: (n, experts) by set."""
        return {key: value * self.calibration.suggested for key, value in self.said.items()}

    def surprise(self) -> dict[str, Tensor]:
        """How far below its mean over held-out pictures each expert is, in standard deviations."""
        size = 16 * 16  # calibration is in nats per dimension
        mean, spread = size * self.calibration.mean, size * self.calibration.spread
        return {key: (mean - value) / spread for key, value in self.said.items()}


def answers(product: poe.Product, sets: dict[str, Split], learned: str) -> Answers:
    """Noise of the experts' own level is added, the same for all products."""
    generator = torch.Generator().manual_seed(2)
    calibration = poe.calibrate(product, noised(sets[learned].held_out, generator))
    said = {name: contributions(product, noised(s.test, generator)) for name, s in sets.items()}
    return Answers(product.names, said, calibration)


@torch.no_grad()
def contributions(product: poe.Product, x: Tensor) -> Tensor:
    """Of pictures (n, 16, 16), a few at a time: (n, experts), float64."""
    return torch.cat([product.contributions(some) for some in x.split(200)]).double()


def auroc(normal: Tensor, anomalous: Tensor) -> tuple[float, float]:
    """The chance that an anomaly (m,) scores lower than a normal row (n,), and its standard error.

    Ties count half. Source: DeLong, DeLong & Clarke-Pearson 1988.

    >>> auroc(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0]))
    (0.75, 0.28867512941360474)
    """
    of_anomalies, of_normal = 1 - share_below(anomalous, normal), share_below(normal, anomalous)
    variance = of_anomalies.var() / len(anomalous) + of_normal.var() / len(normal)
    return float(of_anomalies.mean()), float(variance.sqrt())


def share_below(values: Tensor, others: Tensor) -> Tensor:
    """The share of ``others`` below each value, ties half: (n,), (m,) -> (n,)."""
    ordered, values = others.sort().values, values.contiguous()
    left, right = (torch.searchsorted(ordered, values, right=side) for side in (False, True))
    return (left + right) / (2 * len(others))
