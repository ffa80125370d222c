"""The one loop by which Boltzmann machines are trained: what a model gives is its own step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.errors import PoeError, ShapeError, StorageError
from poe.files.fingerprint import fingerprint
from poe.files.tensor_file import read, write

UPDATES_A_LOOK = 10
"""The mean of the parameters, and an RBM's centre, see every tenth update."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Makes of a batch ``(n, v)`` what to learn from in its stead, of the same shape."""


@dataclass(frozen=True)
class Schedule:
    """How long training goes on, and how far its updates go.

    Args:
        num_epochs: How often it goes through the data, at least once.
        batch_size: Rows a batch; the last one of an epoch has what is left, and where there are
            fewer rows altogether a batch is all of them.
        learning_rate: η of the first update, from 0 to 1.
        momentum: m, the share of the last update that the next one repeats, from 0 to 1.
        weight_decay: λ, what weights lose for each unit of theirs, before the rate; from 0 to 1.
        averaged: The last share of the updates, over which the result is the mean; 0 for the latest
            parameters, 1 for all updates.
        final_share: What is left of η at the end, from 0 (it falls to nothing along a line) to 1
            (it stays).

    Raises:
        PoeError: Where one is out of range.

    Example:
        >>> Schedule(10, 100, learning_rate=0.1, momentum=0.9, weight_decay=0.0, averaged=0.5)
        Schedule(num_epochs=10, batch_size=100, learning_rate=0.1, momentum=0.9, weight_decay=0.0,
                 averaged=0.5, final_share=0.0)
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    averaged: float
    final_share: float = 0.0

    def __post_init__(self) -> None:
        require_counts(num_epochs=self.num_epochs, batch_size=self.batch_size)
        require_shares(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            averaged=self.averaged,
            final_share=self.final_share,
        )


@dataclass
class State:
    """Where a training stands. It is changed in place, and a checkpoint holds all of it.

    Args:
        weights: Matrices, which decay.
        biases: Vectors, which do not.
        kept: What the model's step keeps from batch to batch, by name: chains, centres.
        num_updates: How many there were.
        num_terms: Over how many of them ``mean`` is the mean; 0 before the first.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)
    num_updates: int = 0
    num_terms: int = 0
    velocity: list[Tensor] = field(init=False)
    mean: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.velocity, self.mean = (
            [torch.zeros_like(value) for value in self.parameters] for _ in range(2)
        )

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, then biases."""
        return [*self.weights, *self.biases]

    def result(self) -> list[Tensor]:
        """A copy of the mean of the parameters where there is one yet, else of the latest."""
        return [value.clone() for value in (self.mean if self.num_terms else self.parameters)]


Step = Callable[[State, Tensor, float], None]
"""What a model gives: a batch ``(n, v)`` and a rate move the state, as by `ascend`."""


@torch.no_grad()
def run(
    step: Step,
    state: State,
    data: Tensor,
    schedule: Schedule,
    *,
    generator: torch.Generator,
    augment: Augment | None = None,
    checkpoint: Checkpoint | None = None,
    report: Callable[[int, State], None] | None = None,
    progress: bool = True,
) -> None:
    """Train ``state`` in place: a step for each batch, rows in a new order every epoch.

    Args:
        step: What a model does with a batch, at a rate.
        state: Where training begins; its tensors are those that move.
        data: Rows ``(n, v)`` of any dtype; batches have that of the weights.
        schedule: How long, and how far.
        generator: Of the order of the rows; steps and ``augment`` should draw from it too.
        augment: Called with each batch and the generator.
        checkpoint: Written after each epoch; training goes on from what it holds.
        report: Called after each epoch with the number of those done and the state.
        progress: Whether a bar is shown on standard error.

    Raises:
        PoeError: Where parameters are no longer finite after an epoch.
        ShapeError: Where ``augment`` makes another shape.
        StorageError: Where the checkpoint is of another training.

    Example:
        >>> def step(state, batch, rate):
        ...     ascend(state, [batch.mean(0)[:, None], -state.biases[0]], rate, schedule)
        >>> schedule = Schedule(2, 5, 0.5, momentum=0.0, weight_decay=0.0, averaged=0.0)
        >>> state, g = State([torch.zeros(3, 1)], [torch.ones(1)]), torch.Generator().manual_seed(0)
        >>> run(step, state, torch.ones(5, 3), schedule, generator=g, progress=False)
        >>> state.weights[0].mT, state.biases[0]  # 1/2 + 1/4, and 1 less a half less a quarter
        (tensor([[0.7500, 0.7500, 0.7500]]), tensor([0.3750]))
    """
    if checkpoint is not None:
        checkpoint.restore(state, generator)
    num_batches = -(-len(data) // schedule.batch_size)
    total = schedule.num_epochs * num_batches
    with _bar(state.num_updates, total, progress) as bar:
        for epoch in range(state.num_updates // num_batches, schedule.num_epochs):
            for batch in _batches(data, schedule.batch_size, state.weights[0], generator):
                update = state.num_updates
                left = falling(update, total, schedule.final_share)
                seen = batch if augment is None else _augmented(augment, batch, generator)
                step(state, seen, schedule.learning_rate * left)
                if is_averaged(update, total, schedule.averaged):
                    look(state)
                state.num_updates += 1
                bar.update()
            _require_finite(state, epoch + 1)
            if checkpoint is not None:
                checkpoint.write(state, generator)
            if report is not None:
                report(epoch + 1, state)


def falling(update: int, total: int, final_share: float = 0.0) -> float:
    """The share of the learning rate that is left at an update, of 0, ..., ``total`` - 1.

    1 − (1 − f) t / T: from 1 along a line that would come to f at T.

    >>> [falling(update, 4) for update in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return 1 - (1 - final_share) * update / total


def is_averaged(update: int, total: int, averaged: float) -> bool:
    """Whether the mean sees an update: every tenth of the last share ``averaged`` of them.

    >>> [update for update in range(40) if is_averaged(update, 40, 0.5)]
    [20, 30]
    """
    return update % UPDATES_A_LOOK == 0 and 1 - update / total <= averaged


def look(state: State) -> None:
    """Let the mean follow the parameters, each that it has seen with the same weight."""
    state.num_terms += 1
    for mean, value in zip(state.mean, state.parameters, strict=True):
        mean.lerp_(value, 1 / state.num_terms)


def ascend(state: State, gradient: Sequence[Tensor], rate: float, schedule: Schedule) -> None:
    """θ ← θ + u, u ← m u + η (g − λ θ), with λ for weights alone; the gradient is written over.

    Args:
        state: What moves.
        gradient: Of weights, then of biases, uphill.
        rate: η of this update.
        schedule: m and λ.
    """
    for slope, weight in zip(gradient, state.weights, strict=False):  # biases do not decay
        slope.add_(weight, alpha=-schedule.weight_decay)
    for value, velocity, slope in zip(state.parameters, state.velocity, gradient, strict=True):
        value.add_(velocity.mul_(schedule.momentum).add_(slope, alpha=rate))


class Saved(NamedTuple):
    """What a checkpoint holds: numbers of updates and of terms, its stage, and tensors by name."""

    stage: int
    num_updates: int
    num_terms: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A file that training goes on from, bit for bit.

    Args:
        path: The file; its folder has to be there.
        training: The fingerprint of all that it depends on: data, settings, start.
        stage: Which of several trainings in a row, such as layers, the state is of.

    Raises:
        StorageError: Where the folder is not there.
    """

    path: str | os.PathLike[str]
    training: str
    stage: int = 0

    def __post_init__(self) -> None:
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise StorageError(f"expected a folder {folder} for the checkpoint: make it first")

    def read(self) -> Saved | None:
        """What the file holds; None before there is one.

        Raises:
            StorageError: Where it cannot be read, or is of another training.
        """
        if not Path(self.path).exists():
            return None
        facts, tensors = read(
            self.path, kind="checkpoint of a training", remedy="delete it to begin afresh"
        )
        if facts.get("training") != self.training:
            raise StorageError(
                f"the checkpoint at {self.path} is of other data, other settings or another start, "
                "or of another version: give those that it was begun with, or another path"
            )
        return Saved(facts["stage"], facts["updates"], facts["terms"], tensors)

    def restore(self, state: State, generator: torch.Generator) -> None:
        """Put state and generator to where the file was written, if that was at this stage."""
        saved = self.read()
        if saved is None or saved.stage != self.stage:
            return
        generator.set_state(saved.tensors["generator"])
        state.num_updates, state.num_terms = saved.num_updates, saved.num_terms
        for name, value in _named(state):
            value.copy_(saved.tensors[name])  # in place: models share these tensors
        for name, value in state.kept.items():
            state.kept[name] = saved.tensors[f"kept.{name}"].to(value.device)

    def write(self, state: State, generator: torch.Generator) -> None:
        """Put all of it into the file, in the place of what was there."""
        facts: dict[str, Any] = {
            "training": self.training,
            "stage": self.stage,
            "updates": state.num_updates,
            "terms": state.num_terms,
        }
        kept = {f"kept.{name}": value for name, value in state.kept.items()}
        tensors = {"generator": generator.get_state(), **kept, **dict(_named(state))}
        write(self.path, facts, tensors)


def checkpoint_at(path: str | os.PathLike[str] | None, *facts: object) -> Checkpoint | None:
    """The checkpoint of a training that depends on these facts; None where there is no path."""
    return None if path is None else Checkpoint(path, fingerprint(facts))


def require_rows(data: Tensor, num_visible: int | None = None) -> None:
    """A tensor ``(n, num_visible)`` of at least one row.

    Args:
        data: What is to be learned from.
        num_visible: How many columns there have to be; None for any number but 0.

    Raises:
        PoeError: Where data are no tensor, or one that holds no numbers.
        ShapeError: Where there is no row or no column, or there are others than expected.

    Example:
        >>> require_rows(torch.zeros(5, 3), 3)
    """
    if not isinstance(data, Tensor):
        raise PoeError(f"expected a tensor, got {type(data).__name__}: give torch.as_tensor(data)")
    if data.is_meta:
        raise PoeError("expected data that hold numbers, got a tensor on the meta device")
    is_wrong = num_visible is not None and data.shape[1:] != (num_visible,)
    if data.ndim != 2 or 0 in data.shape or is_wrong:
        size = "visible" if num_visible is None else num_visible
        raise ShapeError(
            f"expected data of shape (n, {size}), got {tuple(data.shape)}: give at least one row, "
            "and flatten what is no row, as by data.flatten(1)"
        )


def require_bits(data: Tensor) -> None:
    """Numbers that are 0 or 1, of any dtype.

    Args:
        data: What is to be learned from.

    Raises:
        PoeError: For any other number.

    Example:
        >>> require_bits(torch.zeros(5, 3))
    """
    is_bit = (data == 0) | (data == 1)
    if not bool(is_bit.all()):
        raise PoeError(
            f"expected bits, 0 or 1, got {data[~is_bit][0].item():g} among the data: binarise them "
            "by (data > 0.5).float() or torch.bernoulli(data); for real numbers there is "
            "experts.GaussianRBM"
        )


def require_counts(**counts: object) -> None:
    """Raise PoeError, by name, for what is no whole number of at least 1.

    >>> require_counts(num_epochs=0)
    Traceback (most recent call last):
    poe.PoeError: expected num_epochs of at least 1, got 0
    """
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise PoeError(f"expected a whole number as {name}, got {count!r}")
        if count < 1:
            raise PoeError(f"expected {name} of at least 1, got {count}")


def require_shares(**shares: object) -> None:
    """Raise PoeError, by name, for what is no number from 0 to 1.

    >>> require_shares(momentum=1.5)
    Traceback (most recent call last):
    poe.PoeError: expected momentum from 0 to 1, got 1.5
    """
    for name, share in shares.items():
        if not isinstance(share, Real):
            raise PoeError(f"expected a number as {name}, got {share!r}")
        if not 0 <= float(share) <= 1:
            raise PoeError(f"expected {name} from 0 to 1, got {share}")


def _batches(data: Tensor, size: int, like: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Of an epoch: all rows, in a new order."""
    order = torch.randperm(len(data), generator=generator, device=data.device)
    for rows in order.split(size):
        yield data[rows].to(like.dtype)


def _augmented(augment: Augment, batch: Tensor, generator: torch.Generator) -> Tensor:
    seen = augment(batch, generator)
    if not isinstance(seen, Tensor) or seen.shape[1:] != batch.shape[1:] or len(seen) == 0:
        found = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
        raise ShapeError(
            f"expected rows like those of the batch {tuple(batch.shape)} from augment, got {found}"
        )
    return seen


def _require_finite(state: State, epoch: int) -> None:
    if not all(bool(value.isfinite().all()) for value in state.parameters):
        raise PoeError(
            f"expected finite parameters, got others in epoch {epoch}: lower the learning rate, or "
            "see that augment makes nothing but 0 and 1"
        )


def _named(state: State) -> Iterator[tuple[str, Tensor]]:
    """Tensors that keep their shape, by the names that files have for them."""
    groups = {"parameter": state.parameters, "velocity": state.velocity, "mean": state.mean}
    for name, values in groups.items():
        for index, value in enumerate(values):
            yield f"{name}.{index}", value


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
