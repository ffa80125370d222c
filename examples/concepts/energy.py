"""Energies of noised pictures: one of pictures as such, and one for each concept, trained apart.

What a label adds to a picture is p(y | x), by Bayes' rule; the rest of p(x | y) is the same for all
labels. So the energy of a concept is that of pictures less the log-posterior of its own label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from examples.concepts.data import CELLS, FACTORS, SIZE
from experts import NoisyConditional
from experts.noised import ANY, FeatureShift, NoiseEmbedding, double

SPACE = poe.Real((3, SIZE, SIZE))
SPREAD = 0.15
"""About the root mean square of ink, by which the networks' inputs are scaled."""
EMBEDDING = 64
GREY = (0.5025, 0.5025, 0.7035)
"""Of length one, and such that no colour's ink is much fainter than another's."""
LOWEST, HIGHEST = 0.05, 4.0
"""The noise levels that are trained. At the highest the objects' places are hardly seen."""


def total(noise_level: Tensor) -> Tensor:
    """The spread of noised pictures: (n,) -> (n, 1, 1, 1)."""
    return (SPREAD**2 + noise_level**2).sqrt()[:, None, None, None]


class ThreeScales(nn.Module):
    """Features of a picture folded to 16 x 16 pixels of 12 channels, and at 8 x 8 and 4 x 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = FeatureShift(13, channels, EMBEDDING)
        self.fine = FeatureShift(channels, channels, EMBEDDING)
        self.down = FeatureShift(channels, 2 * channels, EMBEDDING)
        self.middle = FeatureShift(2 * channels, 2 * channels, EMBEDDING)
        self.deep = FeatureShift(2 * channels, 4 * channels, EMBEDDING)

    def features(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, 32, 32), (n, e) -> (n, c, 16, 16), (n, 2c, 8, 8), (n, 4c, 4, 4)."""
        folded = F.pixel_unshuffle(x, 2)
        # A channel of ones tells paper from the padding around it, and so where things are.
        folded = torch.cat([folded, torch.ones_like(folded[:, :1])], 1)
        fine = self.enter(folded.contiguous(memory_format=torch.channels_last), embedding)
        fine = self.fine(fine, embedding)
        middle = self.middle(self.down(F.avg_pool2d(fine, 2), embedding), embedding)
        return fine, middle, self.deep(F.avg_pool2d(middle, 2), embedding)


class Reconstruction(ThreeScales):
    """A U-shaped network: (n, 3, 32, 32), (n, e) -> (n, 3, 32, 32)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.deeper = FeatureShift(4 * channels, 4 * channels, EMBEDDING)
        self.narrow = nn.Conv2d(4 * channels, 2 * channels, 1)
        self.up = FeatureShift(2 * channels, 2 * channels, EMBEDDING)
        self.narrower = nn.Conv2d(2 * channels, channels, 1)
        self.leave = FeatureShift(channels, channels, EMBEDDING)
        self.last = nn.Conv2d(channels, 12, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        fine, middle, deep = self.features(x, embedding)
        deep = self.deeper(deep, embedding)
        middle = self.up(middle + double(self.narrow(deep)), embedding)
        fine = self.leave(fine + double(self.narrower(middle)), embedding)
        return F.pixel_shuffle(self.last(fine), 2)


class Posterior(ThreeScales):
    """Logits of one label: (n, 3, 32, 32), (n, e) -> (n, labels)."""

    def __init__(self, num_labels: int, channels: int) -> None:
        super().__init__(channels)
        self.last = nn.Sequential(
            nn.Linear(64 * channels, 64), nn.SiLU(), nn.Linear(64, num_labels)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.last(self.features(x, embedding)[-1].flatten(1))


class PresenceLogits(ThreeScales):
    """A logit for each cell: (n, 3, 32, 32), (n, e) -> (n, 64)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.narrow = nn.Conv2d(4 * channels, 2 * channels, 1)
        self.up = FeatureShift(2 * channels, 2 * channels, EMBEDDING)
        self.last = nn.Conv2d(2 * channels, 1, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        _, middle, deep = self.features(x, embedding)
        return self.last(self.up(middle + double(self.narrow(deep)), embedding)).flatten(1)


class PictureEnergy(NoisyConditional):
    r"""p(x): the energy of pictures, of which no label was ever told.

    .. math:: f_\sigma(x) = -\frac{\lVert x - D(x, \sigma) \rVert^2}{2 \sigma^2}, \qquad
       D = \frac{s^2 x + \sigma s\, \sqrt{s^2 + \sigma^2}\, r(x, \sigma)}{s^2 + \sigma^2}

    As ``experts.ReconstructionEnergy``, in colour. Shapes: x ``(*batch, 3, 32, 32)``.
    """

    def __init__(self, noise_level: float | Tensor = LOWEST, channels: int = 32) -> None:
        super().__init__(SPACE, (ANY,), noise_level)
        self.embed = NoiseEmbedding(EMBEDDING)
        self.net = Reconstruction(channels)

    def embedding(self, label: Tensor, noise_level: Tensor) -> Tensor:
        return self.embed(noise_level)

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        scale, level = total(noise_level), noise_level[:, None, None, None]
        r = self.net(x / scale, self.embedding(label, noise_level))
        # (x - D) / sigma, written so that nothing is divided by a small number.
        residual = (x * level / scale - SPREAD * r) / scale
        return -0.5 * residual.square().sum((-3, -2, -1))


class JointEnergy(PictureEnergy):
    """p(x | all six labels at once), the alternative to composing: one network is told them all.

    A label here is the index of a combination of six; the network gets six one-hot vectors.
    """

    def __init__(self, noise_level: float | Tensor = LOWEST, channels: int = 32) -> None:
        super().__init__(noise_level, channels)
        sizes = [len(values) for values in FACTORS.values()]
        table = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
        self.labels = tuple(map(str, range(len(table))))
        one_hot = [F.one_hot(column, size) for column, size in zip(table.T, sizes, strict=True)]
        self.register_buffer("table", torch.cat(one_hot, -1).float(), persistent=False)
        self.tell = nn.Sequential(nn.Linear(sum(sizes), 64), nn.SiLU(), nn.Linear(64, EMBEDDING))

    def embedding(self, label: Tensor, noise_level: Tensor) -> Tensor:
        return self.embed(noise_level) + self.tell(self.table[label])


def combination(labels: Tensor) -> Tensor:
    """The index of six labels among all combinations: (n, 6) -> (n,)."""
    index = torch.zeros(len(labels), dtype=torch.long)
    for column, values in zip(labels.T, FACTORS.values(), strict=True):
        index = index * len(values) + column
    return index


class Concept(NoisyConditional):
    r"""p(x | y) of one attribute: the shared energy of pictures, and the attribute's own posterior.

    .. math:: f_\sigma(x \mid y) = f_\sigma(x) + \log p_\sigma(y \mid x) - \log p(y)

    With p(y) its normaliser is that of f(x), whatever y. The posterior was trained by
    cross-entropy on this attribute's labels alone.
    """

    frequency: Tensor

    def __init__(
        self,
        prior: PictureEnergy,
        labels: Sequence[str],
        noise_level: float | Tensor = LOWEST,
        channels: int = 12,
    ) -> None:
        super().__init__(SPACE, labels, noise_level)
        self.prior = prior
        self.embed = NoiseEmbedding(EMBEDDING)
        self.net = self.network(channels)
        self.register_buffer("frequency", torch.full((len(self.labels),), 1 / len(self.labels)))

    def network(self, channels: int) -> nn.Module:
        return Posterior(len(self.labels), channels)

    def logits(self, x: Tensor, noise_level: Tensor) -> Tensor:
        return self.net(x / total(noise_level), self.embed(noise_level))

    def log_posterior_at(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """log p(y | x) of every label y: (n, 3, 32, 32), (n,) -> (n, labels)."""
        return self.logits(x, noise_level).log_softmax(-1)

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        plain = torch.zeros_like(label)
        shared = self.prior.log_density_at(x, plain, noise_level)
        return shared + self.log_ratio_at(x, label, noise_level)

    def log_ratio_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        known = self.log_posterior_at(x, noise_level) - self.frequency.log()
        return known.gather(1, label[:, None])[:, 0]

    def marginal(self) -> poe.Expert:
        """p(x), the energy of pictures."""
        return self.prior.at_noise_level(self.noise_level).given(ANY)

    def own_state(self) -> dict[str, Tensor]:
        """The weights that are its own."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("prior.")}

    def with_own_state(self, state: dict[str, Tensor]) -> Self:
        """With those weights read in."""
        self.load_state_dict(self.prior.state_dict(prefix="prior.") | state)
        return self


class Colourless(Concept):
    """A concept that is told of ink, and not of its colour: the network sees one sum of channels.

    So a shape's posterior cannot infer from a colour what the shape must be, and no combination of
    what it sees is new to it. The noise of the sum is that of a channel.
    """

    def logits(self, x: Tensor, noise_level: Tensor) -> Tensor:
        grey = torch.einsum("...chw,c->...hw", x, x.new_tensor(GREY))[..., None, :, :]
        return super().logits(grey.expand_as(x), noise_level)


KINDS = {name: Colourless if name in ("shape", "rotation") else Concept for name in FACTORS}
"""What each concept may see: the held-out combinations are of shape, colour, size and rotation."""


class Presence(Concept):
    """p(x | an object's centre is in cell y), y one of 8 x 8 cells: events, of which several hold.

    So log p(y | x) is a log-sigmoid of its own for each cell.
    """

    def __init__(
        self, prior: PictureEnergy, noise_level: float | Tensor = LOWEST, channels: int = 12
    ) -> None:
        cells = tuple(f"{column},{row}" for row in range(CELLS) for column in range(CELLS))
        super().__init__(prior, cells, noise_level, channels)

    def network(self, channels: int) -> nn.Module:
        return PresenceLogits(channels)

    def log_posterior_at(self, x: Tensor, noise_level: Tensor) -> Tensor:
        return F.logsigmoid(self.logits(x, noise_level))
