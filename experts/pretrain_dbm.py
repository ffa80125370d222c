"""Greedy pre-training of a deep Boltzmann machine, layer by layer with doubled weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from experts.dbm import DBM
from poe.errors import PoeError
from poe.randomness import resolve

WEIGHT_SCALE = 0.01
"""The standard deviation of the first weights."""


class Pair(NamedTuple):
    """A layer, the one above, and how often each hears the other: an RBM, but for the counts.

    p(z = 1 | x) = σ(c + up W'x), p(x = 1 | z) = σ(b + down W z).
    """

    W: Tensor
    b: Tensor
    c: Tensor
    up: float
    down: float

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, b and c."""
        return self.W, self.b, self.c

    def above(self, x: Tensor) -> Tensor:
        """p(z = 1 | x)."""
        return torch.sigmoid(self.c + self.up * (x @ self.W))

    def below(self, z: Tensor) -> Tensor:
        """p(x = 1 | z)."""
        return torch.sigmoid(self.b + self.down * (z @ self.W.mT))


@torch.no_grad()
def pretrain_dbm(
    data: Tensor,
    layer_sizes: Sequence[int],
    *,
    num_epochs: int = 10,
    batch_size: int = 100,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 2e-4,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> DBM:
    """A DBM of RBMs that are trained one after the other, each on the features of the one below.

    A unit of a hidden layer hears two layers in the DBM, but one in the RBM that it is trained in.
    So its input counts twice there: upward everywhere but into the top layer, downward everywhere
    but onto x. The DBM takes the weights undoubled, and of the two biases that a hidden layer was
    given, one in each of its RBMs, the mean.

    - ``data`` ``(n, layer_sizes[0])``: 0 and 1, or probabilities to draw them by;
    - ``layer_sizes``: visible first; ``num_epochs``: of each layer, by contrastive divergence.

    Raises PoeError where there are fewer than two layers, the data have another size, or a number
    is not in [0, 1].

    Source: Salakhutdinov & Hinton 2009, section 3.1; Salakhutdinov & Larochelle 2010, section 3;
    contrastive divergence: Hinton 2002.

    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).repeat(50, 1)
    >>> pretrain_dbm(data, (2, 3, 2), num_epochs=1, generator=g, progress=False)
    DBM(layers of 2, 3, 2)
    """
    _require(data, layer_sizes)
    generator = resolve(generator, data.device)
    depth, pairs = len(layer_sizes) - 1, list[Pair]()
    num_updates = depth * num_epochs * -(-len(data) // batch_size)
    with tqdm(
        total=num_updates,
        disable=not progress,
        unit="update",
        delay=2,
        leave=False,
        file=sys.stderr,
    ) as bar:
        for k in range(depth):
            pair = _begun(data, layer_sizes[k + 1], 2 - (k == depth - 1), 2 - (k == 0), generator)
            velocity = [torch.zeros_like(value) for value in pair.parameters]
            for _ in range(num_epochs):
                order = torch.randperm(len(data), generator=generator, device=data.device)
                for rows in order.split(batch_size):
                    batch = data[rows].to(pair.W.dtype)
                    slopes = contrastive_divergence(pair, batch, generator)
                    slopes[0].add_(pair.W, alpha=-weight_decay)
                    for value, speed, slope in zip(pair.parameters, velocity, slopes, strict=True):
                        value.add_(speed.mul_(momentum).add_(slope, alpha=learning_rate))
                    bar.update()
            pairs.append(pair)
            data = torch.cat([pair.above(part.to(pair.W.dtype)) for part in data.split(4096)])
    inner = [(lower.c + upper.b) / 2 for lower, upper in pairwise(pairs)]
    return DBM([pair.W for pair in pairs], [pairs[0].b, *inner, pairs[-1].c])


def contrastive_divergence(pair: Pair, x: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The step of W, b and c by one sweep from x ``(n, n_l)``, of which bits are drawn first.

    >>> pair = Pair(torch.zeros(1, 1), torch.tensor([-9.0]), torch.zeros(1), 2.0, 1.0)
    >>> contrastive_divergence(pair, torch.ones(4, 1), torch.Generator().manual_seed(0))
    [tensor([[0.5000]]), tensor([1.]), tensor([0.])]
    """
    x = torch.bernoulli(x, generator=generator)
    z = pair.above(x)
    drawn = torch.bernoulli(z, generator=generator)
    back = torch.bernoulli(pair.below(drawn), generator=generator)
    again = pair.above(back)
    return [(x.mT @ z - back.mT @ again) / len(x), (x - back).mean(0), (z - again).mean(0)]


def _begun(
    data: Tensor, num_hidden: int, up: float, down: float, generator: torch.Generator
) -> Pair:
    """W at random, b the log-odds of the data's means, c zero."""
    dtype = data.dtype if data.is_floating_point() else torch.get_default_dtype()
    mean = (data.to(dtype).sum(0) + 1) / (len(data) + 2)
    W = torch.empty(data.shape[1], num_hidden, dtype=dtype, device=data.device)
    W.normal_(0, WEIGHT_SCALE, generator=generator)
    return Pair(W, mean.logit(), W.new_zeros(num_hidden), up, down)


def _require(data: Tensor, layer_sizes: Sequence[int]) -> None:
    if len(layer_sizes) < 2 or data.shape[1:] != (layer_sizes[0],) or len(data) == 0:
        raise PoeError(
            f"expected sizes of at least two layers, the first that of the data (n, visible), got "
            f"{tuple(layer_sizes)} for data {tuple(data.shape)}"
        )
    if not bool(((data >= 0) & (data <= 1)).all()):
        raise PoeError(
            f"expected data in [0, 1], got {data.amin().item():g} to {data.amax().item():g}: scale "
            "or binarise them"
        )
