"""Joint training of a deep Boltzmann machine: mean field on data, chains on the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from experts.dbm import DBM
from experts.dbm_gradient import centred_gradient, moments, sweeps, with_odd_means
from experts.mean_field import mean_field
from poe.core.tensor_file import fingerprint, read, write
from poe.errors import PoeError, StorageError
from poe.randomness import resolve

CENTRE_RATE = 0.01
"""How far the centres go towards the means of each batch."""
UPDATES_A_LOOK = 10
"""The mean of the parameters sees every tenth update."""


@dataclass
class Training:
    """All that training is at one moment; it is changed in place.

    - ``dbm``: what is learned; ``velocity``: the running step of each weight and bias;
    - ``even`` ``(chains, Σ n_even)``: the persistent chains;
    - ``centres`` ``(n_l,)``: running means of the layers on data;
    - ``mean``: of each weight and bias over the last ``num_terms`` updates that were looked at.
    """

    dbm: DBM
    velocity: list[Tensor]
    even: Tensor
    centres: list[Tensor]
    mean: list[Tensor]
    num_terms: int = 0
    epoch: int = 0

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, then biases."""
        return [*self.dbm.weights, *self.dbm.biases]

    @property
    def averaged(self) -> DBM:
        """The DBM of the mean parameters, where there are any yet; else the latest."""
        if self.num_terms == 0:
            return self.dbm
        return DBM(self.mean[: self.dbm.depth], self.mean[self.dbm.depth :])

    def look(self) -> None:
        """Let the mean follow the parameters."""
        self.num_terms += 1
        for mean, value in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(value, 1 / self.num_terms)


@torch.no_grad()
def fit_dbm(
    dbm: DBM,
    data: Tensor,
    *,
    num_epochs: int = 100,
    batch_size: int = 100,
    num_chains: int = 100,
    num_sweeps: int = 1,
    num_mean_field_steps: int = 3,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    averaged: float = 0.5,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[int, DBM], None] | None = None,
    progress: bool = True,
) -> DBM:
    """A DBM fitted to rows of bits, ``data (n, n_0)``, by stochastic approximation from ``dbm``.

    θ ← θ + u, u ← m u + η_t (g − λ θ): g the centred difference of E_q[h_l h_{l+1}'], by mean field
    at each batch, and E_p[h_l h_{l+1}'], by chains that go on from batch to batch; momentum m,
    weight decay λ (of weights only), and a learning rate that falls from η to 0 along a line, so
    that the chains catch up. The result is the mean of the parameters over the last share
    ``averaged`` of the updates, in which their noise averages out. It climbs the variational bound
    on log p(x), up to the chains' lag. ``dbm`` itself is not changed.

    - ``data``: any dtype, on the device of ``dbm``;
    - ``augment``: called with each batch ``(n, n_0)``, of the dtype of the weights, and with the
      generator, for what to learn from in its stead: rows of 0 and 1 that might as well have been
      the data, such as pictures moved a little;
    - ``checkpoint``: a file, written after every epoch; where it is there, training goes on from
      it, to the same bits as without a stop;
    - ``report``: called with the number of epochs done and the DBM of that time.

    Raises PoeError where data are not rows of 0 and 1, or settings out of range, and StorageError
    where a checkpoint is of another training.

    Source: Salakhutdinov & Hinton 2009, section 2; persistent chains: Younes 1989, Tieleman 2008;
    the mean: Polyak & Juditsky 1992.

    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.rand(500, 1, generator=g).lt(0.5).float().expand(500, 4)  # all equal
    >>> start = experts.pretrain_dbm(data, (4, 3, 2), num_epochs=1, generator=g, progress=False)
    >>> dbm = fit_dbm(start, data, learning_rate=0.1, generator=g, progress=False)
    >>> visible = experts.VisibleDBM(dbm)
    >>> visible(torch.ones(1, 4)) - visible(torch.tensor([[1.0, 0.0, 1.0, 1.0]])) > 2
    tensor([True])
    """
    require_bits(data, dbm.layer_sizes[0])
    counts = num_epochs, batch_size, num_chains, num_sweeps, num_mean_field_steps
    _require_settings(*counts, learning_rate, momentum, weight_decay, averaged)
    generator = resolve(generator, data.device)
    shares = learning_rate, momentum, weight_decay, averaged
    facts = fingerprint((dbm, data, *counts, *shares, augment))
    training = _begun(dbm, data, num_chains, generator)
    if checkpoint is not None and Path(checkpoint).exists():
        _resume(training, checkpoint, facts, generator)
    move = partial(
        step,
        num_sweeps=num_sweeps,
        num_mean_field_steps=num_mean_field_steps,
        momentum=momentum,
        weight_decay=weight_decay,
        generator=generator,
    )
    num_batches = -(-len(data) // batch_size)
    total = num_epochs * num_batches
    with _bar(training.epoch * num_batches, total, progress) as bar:
        for epoch in range(training.epoch, num_epochs):
            order = torch.randperm(len(data), generator=generator, device=data.device)
            for update, rows in enumerate(order.split(batch_size), epoch * num_batches):
                left, batch = 1 - update / total, data[rows].to(dbm.W0.dtype)
                if augment is not None:
                    batch = augment(batch, generator)
                move(training, batch, learning_rate=learning_rate * left)
                if left <= averaged and update % UPDATES_A_LOOK == 0:
                    training.look()
                bar.update()
            training.epoch = epoch + 1
            if checkpoint is not None:
                _store(training, checkpoint, facts, generator)
            if report is not None:
                report(training.epoch, training.averaged)
    return training.averaged


@torch.no_grad()
def step(
    training: Training,
    batch: Tensor,
    *,
    num_sweeps: int,
    num_mean_field_steps: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    generator: torch.Generator,
) -> None:
    """One batch: means settle, chains sweep, and the parameters take a step with momentum."""
    dbm = training.dbm
    data = moments(mean_field(dbm, batch, num_mean_field_steps))
    training.even = sweeps(dbm, training.even, num_sweeps, generator)
    model = moments(with_odd_means(dbm, training.even))
    for centre, mean in zip(training.centres, data.means, strict=True):
        centre.lerp_(mean, CENTRE_RATE)
    gradient = centred_gradient(data, model, training.centres)
    for k, value in enumerate(training.parameters):
        velocity = training.velocity[k].mul_(momentum).add_(gradient[k], alpha=learning_rate)
        if k < dbm.depth:
            velocity.add_(value, alpha=-learning_rate * weight_decay)
        value.add_(velocity)


def require_bits(data: Tensor, num_visible: int) -> None:
    """Rows of 0 and 1. Raises PoeError.

    >>> require_bits(torch.zeros(5, 3), 3)
    """
    if data.ndim != 2 or len(data) == 0 or data.shape[1] != num_visible:
        raise PoeError(f"expected data of shape (n, {num_visible}), got {tuple(data.shape)}")
    is_bit = (data == 0) | (data == 1)
    if not bool(is_bit.all()):
        raise PoeError(
            f"expected bits, 0 or 1, got {data[~is_bit][0].item():g} among the data: binarise them "
            "by (data > 0.5).float() or torch.bernoulli(data)"
        )


def _begun(dbm: DBM, data: Tensor, num_chains: int, generator: torch.Generator) -> Training:
    """With chains at the mean-field distribution of some of the data."""
    dbm = deepcopy(dbm).requires_grad_(False)
    rows = torch.randint(len(data), (num_chains,), generator=generator, device=data.device)
    means = mean_field(dbm, data[rows])
    even = torch.bernoulli(torch.cat(means[::2], 1), generator=generator)
    parameters = [*dbm.weights, *dbm.biases]
    velocity, mean = ([torch.zeros_like(value) for value in parameters] for _ in range(2))
    return Training(dbm, velocity, even, [layer.mean(0) for layer in means], mean)


def _store(
    training: Training,
    path: str | os.PathLike[str],
    facts: str,
    generator: torch.Generator,
) -> None:
    tensors = {"even": training.even, "generator": generator.get_state()}
    facts_now = {"run": facts, "epochs": training.epoch, "terms": training.num_terms}
    for name, values in _named(training):
        tensors |= {f"{name}.{k}": value for k, value in enumerate(values)}
    write(path, facts_now, tensors)


def _resume(
    training: Training,
    path: str | os.PathLike[str],
    facts: str,
    generator: torch.Generator,
) -> None:
    """Put the training and the generator back to where the file was written."""
    told, tensors = read(path)
    if told.get("run") != facts:
        raise StorageError(
            f"the checkpoint at {path} is of other data, other settings or another start: give "
            "those that it was begun with, or another path"
        )
    generator.set_state(tensors["generator"])
    training.epoch, training.num_terms = told["epochs"], told["terms"]
    training.even = tensors["even"].to(training.even)
    for name, values in _named(training):
        for k, value in enumerate(values):
            value.copy_(tensors[f"{name}.{k}"])


def _named(training: Training) -> list[tuple[str, list[Tensor]]]:
    return [
        ("parameter", training.parameters),
        ("velocity", training.velocity),
        ("centre", training.centres),
        ("mean", training.mean),
    ]


def _bar(first: int, total: int, progress: bool) -> tqdm:
    return tqdm(
        total=total,
        initial=first,
        disable=not progress,
        unit="update",
        delay=2,
        leave=False,
        file=sys.stderr,
    )


def _require_settings(
    num_epochs: int,
    batch_size: int,
    num_chains: int,
    num_sweeps: int,
    num_mean_field_steps: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    averaged: float,
) -> None:
    counts = {
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "num_chains": num_chains,
        "num_sweeps": num_sweeps,
        "num_mean_field_steps": num_mean_field_steps,
    }
    for name, count in counts.items():
        if count < 1:
            raise PoeError(f"expected {name} of at least 1, got {count}")
    shares = {
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "averaged": averaged,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise PoeError(f"expected {name} from 0 to 1, got {share}")
