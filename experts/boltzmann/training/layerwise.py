"""Greedy pre-training of a deep Boltzmann machine, layer by layer with doubled weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from experts.boltzmann.dbm import DBM
from experts.boltzmann.training.loop import (
    KIND,
    REMEDY,
    Checkpoint,
    Schedule,
    State,
    ascend,
    checkpoint_at,
    require_counts,
    require_rows,
    run,
)
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.files.tensor_file import understanding

WEIGHT_SCALE = 0.01
"""The standard deviation of the first weights."""
ROWS_AT_ONCE = 4096
"""So many rows become features at a time."""


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
    averaged: float = 0.0,
    final_share: float = 1.0,
    generator: torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> DBM:
    """A DBM of RBMs that are trained one after the other, each on the features of the one below.

    A unit of a hidden layer hears two layers in the DBM, but one in the RBM that it is trained in.
    So its input counts twice there: upward everywhere but into the top layer, downward everywhere
    but onto x. The DBM takes the weights undoubled, and of the two biases that a hidden layer was
    given, one in each of its RBMs, the mean.

    Args:
        data: Rows ``(n, layer_sizes[0])`` of 0 and 1, or of probabilities to draw them by.
        layer_sizes: Units of each layer, the visible one first.
        num_epochs: How often each layer goes through the data, by contrastive divergence.
        batch_size: Rows a batch; all of them, where there are fewer.
        learning_rate: Of each layer's first update, from 0 to 1.
        momentum: Share of the last update that the next one repeats, from 0 to 1.
        weight_decay: What weights lose for each unit of theirs, before the rate; from 0 to 1.
        averaged: Each layer is the mean of its parameters over this last share of its updates (of
            every tenth of them); the latest where it is 0.
        final_share: What is left of the learning rate at the end of each layer: 1, it stays; 0, it
            falls to nothing along a line.
        generator: Of all that is drawn.
        checkpoint: A file, written after every epoch of every layer; where it is there, training
            goes on from it, to the same bits as without a stop.
        progress: Whether a bar is shown, one for each layer.

    Returns:
        A DBM of these layers, in the dtype of the data where they are floating-point numbers.

    Raises:
        PoeError: Where there are fewer than two layers, the data have another size, a number is not
            in [0, 1], settings are out of range, or the parameters do not stay finite.
        StorageError: Where a checkpoint is of another training.

    References:
        Salakhutdinov & Hinton (2009), Deep Boltzmann machines, AISTATS, section 3.1.

        Salakhutdinov & Larochelle (2010), Efficient learning of deep Boltzmann machines, AISTATS,
        section 3.

        Hinton (2002), Training products of experts by minimizing contrastive divergence,
        doi:10.1162/089976602760128018 (contrastive divergence).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> data = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).repeat(50, 1)
        >>> pretrain_dbm(data, (2, 3, 2), num_epochs=1, generator=g, progress=False)
        DBM(layers of 2, 3, 2)
    """
    _require(data, layer_sizes)
    schedule = Schedule(
        num_epochs, batch_size, learning_rate, momentum, weight_decay, averaged, final_share
    )
    is_given, generator = generator is not None, resolve(generator, data.device)
    called_with = {
        "trainer": "pretrain_dbm", "layer_sizes": tuple(layer_sizes), "schedule": schedule,
    }  # fmt: skip
    file = checkpoint_at(checkpoint, generator, data, called_with, is_given=is_given)
    depth = len(layer_sizes) - 1
    pairs = [] if file is None else _finished(file, depth, data.device)
    for pair in pairs:
        data = _features(pair, data)
    for k in range(len(pairs), depth):
        own = None if file is None else replace(file, stage=k, last_stage=depth - 1)
        pair = _begun(data, layer_sizes[k + 1], *_counts(k, depth), generator)
        state = State([pair.W], [pair.b, pair.c], _named(pairs))
        move = partial(step, pair=pair, schedule=schedule, generator=generator)
        run(move, state, data, schedule, generator=generator, checkpoint=own, progress=progress)
        W, b, c = state.result()
        pairs.append(pair._replace(W=W, b=b, c=c))
        data = _features(pairs[-1], data)
    inner = [(lower.c + upper.b) / 2 for lower, upper in pairwise(pairs)]
    return DBM([pair.W for pair in pairs], [pairs[0].b, *inner, pairs[-1].c])


def step(
    state: State,
    batch: Tensor,
    rate: float,
    *,
    pair: Pair,
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Up the slopes of contrastive divergence."""
    ascend(state, contrastive_divergence(pair, batch, generator), rate, schedule)


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


def _counts(k: int, depth: int) -> tuple[int, int]:
    """How often a layer's input counts upward, and its output downward, in RBM k of ``depth``."""
    return 2 - (k == depth - 1), 2 - (k == 0)


def _features(pair: Pair, data: Tensor) -> Tensor:
    """p(z = 1 | x) of all rows, a part at a time."""
    return torch.cat([pair.above(part.to(pair.W.dtype)) for part in data.split(ROWS_AT_ONCE)])


def _named(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """The layers that are done, as checkpoints keep them."""
    return {
        f"{name}.{k}": value
        for k, pair in enumerate(pairs)
        for name, value in zip("Wbc", pair.parameters, strict=True)
    }


def _finished(checkpoint: Checkpoint, depth: int, device: torch.device) -> list[Pair]:
    """The layers that were done when the file was written; none before there is one."""
    saved, pairs = checkpoint.read(), list[Pair]()
    if saved is None:
        return pairs
    with understanding(checkpoint.path, KIND, REMEDY):
        for k in range(saved.stage):
            W, b, c = (saved.tensors[f"kept.{name}.{k}"].to(device) for name in "Wbc")
            pairs.append(Pair(W, b, c, *_counts(k, depth)))
        if not saved.stage < depth:
            raise ValueError(f"layer {saved.stage} of {depth}")
    return pairs


def _require(data: Tensor, layer_sizes: Sequence[int]) -> None:
    require_rows(data)
    if len(layer_sizes) < 2 or data.shape[1:] != (layer_sizes[0],):
        raise PoeError(
            f"expected sizes of at least two layers, the first that of the data (n, visible), got "
            f"{tuple(layer_sizes)} for data {tuple(data.shape)}"
        )
    require_counts(**{f"layer_sizes[{k}]": size for k, size in enumerate(layer_sizes)})
    if not bool(((data >= 0) & (data <= 1)).all()):
        raise PoeError(
            f"expected data in [0, 1], got {data.amin().item():g} to {data.amax().item():g}: scale "
            "or binarise them"
        )
