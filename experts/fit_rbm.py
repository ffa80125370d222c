"""Training of a restricted Boltzmann machine by stochastic approximation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from experts.contrastive import PCD, Centre, Gradient, Particles, contrast
from experts.rbm import RBM
from poe.core.tensor_file import fingerprint, read, write
from poe.errors import PoeError, ShapeError, StorageError
from poe.randomness import resolve

PERSISTENT = PCD()
WEIGHT_SCALE = 0.01
"""The standard deviation of the first weights."""
UPDATES_A_LOOK = 10
"""The hidden units' centre, and the mean of parameters, see every tenth update."""
CENTRE_RATE = 0.1
"""How far the centre goes towards what it sees."""


class Training(NamedTuple):
    """All that training needs to go on as if it had not stopped; it is changed in place.

    Of W, b and c: the parameters, their velocity, and their mean over ``num_terms`` updates.
    """

    W: Tensor
    b: Tensor
    c: Tensor
    velocity_W: Tensor
    velocity_b: Tensor
    velocity_c: Tensor
    mean_W: Tensor
    mean_b: Tensor
    mean_c: Tensor
    num_terms: Tensor
    visible_centre: Tensor
    hidden_centre: Tensor
    particles: Tensor
    generator: Tensor

    @property
    def rbm(self) -> RBM:
        """The one that is being trained, which shares its tensors."""
        return RBM(self.W, self.b, self.c)

    @property
    def mean(self) -> RBM:
        """The mean of those of the last epochs, if there were any; else the latest."""
        return RBM(self.mean_W, self.mean_b, self.mean_c) if self.num_terms else self.rbm


@torch.no_grad()
def fit_rbm(
    data: Tensor,
    num_hidden: int,
    *,
    particles: Particles = PERSISTENT,
    num_epochs: int = 20,
    batch_size: int = 100,
    learning_rate: float = 0.05,
    momentum: float = 0.5,
    weight_decay: float = 1e-4,
    averaged: float = 0.2,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[int, RBM], None] | None = None,
    progress: bool = True,
) -> RBM:
    """An RBM fitted to rows of bits, ``data (n, v)``, by gradient ascent of the log-likelihood.

    θ ← θ + u, u ← m u + η_t (g − λ θ): g the centred gradient of a batch (`contrast`), with the
    model's half from ``particles``, momentum m, weight decay λ (of W only) and a learning rate that
    falls from η to 0 along a line. Visible biases begin at the data's log-odds, W at N(0, 0.01²).
    The result is the mean of the parameters over the last share ``averaged`` of the updates.

    - ``data``: any dtype, on the device to train on; batches are made float32;
    - ``augment``: called with each batch ``(n, v)`` and the generator, for what to learn from in
      its stead: rows of 0 and 1 that might as well have been the data, such as pictures moved a
      little;
    - ``checkpoint``: a file, written after every epoch; where it is there, training goes on from
      it, to the same bits as without a stop;
    - ``report``: called with the number of epochs done and the RBM of that time.

    Raises PoeError where data are not rows of 0 and 1, or settings out of range, and StorageError
    where a checkpoint is of another training.

    Source: Younes 1989; Tieleman 2008; Polyak & Juditsky 1992; the centre: Melchior, Fischer &
    Wiskott 2016.

    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.randint(2, (500, 1), generator=g).expand(500, 4)  # four elements, all equal
    >>> rbm = fit_rbm(data, 2, batch_size=50, learning_rate=0.5, generator=g, progress=False)
    >>> rbm(torch.ones(1, 4)) - rbm(torch.tensor([[1.0, 0.0, 1.0, 1.0]])) > 2
    tensor([True])
    """
    _require_bits(data)
    _require_settings(
        num_hidden, num_epochs, batch_size,
        learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay,
        averaged=averaged,
    )  # fmt: skip
    generator = resolve(generator, data.device)
    settings = (num_hidden, particles, num_epochs, batch_size, learning_rate, momentum)
    run = fingerprint((data, *settings, weight_decay, averaged, augment))
    found = _resumed(checkpoint, run, data.device, generator)
    training, first = found or (_begun(data, num_hidden, particles, generator), 0)
    rbm, num_batches = training.rbm, -(-len(data) // batch_size)
    total = num_epochs * num_batches
    with tqdm(
        total=total, initial=first * num_batches, disable=not progress, unit="update", delay=2,
        leave=False, file=sys.stderr,
    ) as bar:  # fmt: skip
        for epoch in range(first, num_epochs):
            order = torch.randperm(len(data), generator=generator, device=data.device)
            for update, rows in enumerate(order.split(batch_size), epoch * num_batches):
                batch, left = data[rows].float(), 1 - update / total
                if augment is not None:
                    batch = augment(batch, generator)
                moved = particles.step(rbm, batch, training.particles, generator=generator)
                training = training._replace(particles=moved)
                centre = Centre(training.visible_centre, training.hidden_centre)
                gradient = contrast(rbm, batch, particles.at_model(moved), centre)
                _move(training, gradient, learning_rate * left, momentum, weight_decay)
                if update % UPDATES_A_LOOK == 0:
                    _look(training, batch, is_averaged=left <= averaged)
                bar.update()
            if checkpoint is not None:
                _store(checkpoint, training, {"run": run, "epochs": epoch + 1}, generator)
            if report is not None:
                report(epoch + 1, training.mean)
    return training.mean


def data_log_odds(data: Tensor) -> Tensor:
    """log p̂ − log(1 − p̂) of each column, with half a row of each value added: ``(n, v) -> (v,)``.

    >>> data_log_odds(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([1.6094, 0.0000])
    """
    ones = data.sum(0, dtype=torch.float64)
    return torch.log((ones + 0.5) / (len(data) - ones + 0.5)).float()


def _begun(
    data: Tensor, num_hidden: int, particles: Particles, generator: torch.Generator
) -> Training:
    W = torch.empty(data.shape[1], num_hidden, device=data.device)
    W.normal_(std=WEIGHT_SCALE, generator=generator)
    b, c = data_log_odds(data), W.new_zeros(num_hidden)
    first = particles.init(RBM(W, b, c), data, generator=generator).float()
    means = data.mean(0, dtype=torch.float64).float()
    half = torch.full_like(c, 0.5)
    count = torch.zeros((), dtype=torch.int64)
    zero = torch.zeros_like
    return Training(
        *(W, b, c),
        *(zero(W), zero(b), zero(c)),
        *(zero(W), zero(b), zero(c)),
        *(count, means, half, first, generator.get_state()),
    )


def _move(
    training: Training, gradient: Gradient, rate: float, momentum: float, weight_decay: float
) -> None:
    """One step up the gradient."""
    gradient.W.add_(training.W, alpha=-weight_decay)
    parameters = training.W, training.b, training.c
    velocities = training.velocity_W, training.velocity_b, training.velocity_c
    for parameter, velocity, own in zip(parameters, velocities, gradient, strict=True):
        parameter.add_(velocity.mul_(momentum).add_(own, alpha=rate))


def _look(training: Training, batch: Tensor, is_averaged: bool) -> None:
    """Let the centre follow the hidden units' means, and the mean the parameters."""
    rbm = training.rbm
    training.hidden_centre.lerp_(rbm.hidden_probabilities(batch).mean(0), CENTRE_RATE)
    if not is_averaged:
        return
    weight = 1 / float(training.num_terms.add_(1))
    means = training.mean_W, training.mean_b, training.mean_c
    for mean, parameter in zip(means, (rbm.W, rbm.b, rbm.c), strict=True):
        mean.lerp_(parameter, weight)


def _store(
    path: str | os.PathLike[str], training: Training, facts: dict[str, object],
    generator: torch.Generator,
) -> None:  # fmt: skip
    now = training._replace(generator=generator.get_state())
    write(path, facts, now._asdict())


def _resumed(
    path: str | os.PathLike[str] | None,
    run: str,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[Training, int] | None:
    """What the file holds and its number of epochs; the generator goes on from there."""
    if path is None or not Path(path).exists():
        return None
    facts, tensors = read(path)
    if facts.get("run") != run:
        raise StorageError(
            f"the checkpoint at {path} is of other data or other settings: give those that it was "
            "begun with, or another path"
        )
    generator.set_state(tensors["generator"])
    training = Training(**{name: tensor.to(device) for name, tensor in tensors.items()})
    return training, facts["epochs"]


def _require_bits(data: Tensor) -> None:
    if data.ndim != 2 or 0 in data.shape:
        raise ShapeError(f"expected data of shape (n, visible), got {tuple(data.shape)}")
    if not bool(((data == 0) | (data == 1)).all()):
        odd = data[(data != 0) & (data != 1)][0].item()
        raise PoeError(
            f"expected bits, 0 or 1, got {odd:g} among the data: binarise them, as by "
            "(data > 0.5).float(); for real numbers take a Gaussian RBM"
        )


def _require_settings(num_hidden: int, num_epochs: int, batch_size: int, **shares: float) -> None:
    counts = {"num_hidden": num_hidden, "num_epochs": num_epochs, "batch_size": batch_size}
    for name, count in counts.items():
        if count < 1:
            raise PoeError(f"expected {name} of at least 1, got {count}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise PoeError(f"expected {name} from 0 to 1, got {share}")
