"""The one loop by which Boltzmann machines are trained: what a model gives is its own step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.doubt import warn
from poe.core.errors import PoeError, ShapeError
from poe.files.atomic import require_room
from poe.files.signature import Signature, Start, not_kept, sign
from poe.files.tensor_file import read, understanding, write

FORMAT = "product-of-experts training"
KIND = "checkpoint of a training"
REMEDY = "delete it to begin afresh"
ROWS_TRIED = 4
"""On so many rows ``augment`` is tried, to tell it from another."""
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
        checkpoint: Written after each epoch; training goes on from what it holds. Where it cannot
            be written, training goes on without, and this is said.
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
    num_batches = -(-len(data) // schedule.batch_size)
    total = schedule.num_epochs * num_batches
    if checkpoint is not None:
        checkpoint.restore(state, generator)
    keeper = Keeper(checkpoint, total)
    with keeper, _bar(state.num_updates, total, progress) as bar:
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
            keeper.keep(state, generator)
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
    training: Signature


@dataclass(frozen=True)
class Checkpoint:
    """A file that training goes on from, bit for bit.

    Args:
        path: The file; its folder has to be there.
        training: What tells it from all others: data, settings, start, ``augment``, and the state
            of the generator.
        stage: Which of several trainings in a row, such as layers, the state is of.
        last_stage: The last of them.
        functions: Those that ``training`` tried, which are tried again.

    Raises:
        StorageError: Where no file can be written there.
    """

    path: str | os.PathLike[str]
    training: Signature
    stage: int = 0
    last_stage: int = 0
    functions: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_room(self.path)

    def read(self) -> Saved | None:
        """What the file holds; None before there is one.

        Raises:
            StorageError: Where it cannot be read, or is of another training.
        """
        if not Path(self.path).exists():
            return None
        facts, tensors = read(self.path, form=FORMAT, kind=KIND, remedy=REMEDY)
        with understanding(self.path, KIND, REMEDY):
            self.training.require(self.path, facts, is_finished=facts["is_finished"])
            stage, updates, terms = (int(facts[name]) for name in ("stage", "updates", "terms"))
        self.training.require_said(self.path, tensors, self.functions)
        return Saved(stage, updates, terms, tensors, self.training.since(facts))

    def restore(self, state: State, generator: torch.Generator) -> None:
        """Put state and generator to where the file was written, if that was at this stage."""
        saved = self.read()
        if saved is None or saved.stage != self.stage:
            return
        with understanding(self.path, KIND, REMEDY):
            for name, value in _named(state):
                _require_shape(name, saved.tensors[name].shape, value.shape)
            for name, value in state.kept.items():  # of which rows may be as many as a batch's
                kept = saved.tensors[f"kept.{name}"]
                first = int(value.ndim == 2)
                _require_shape(name, kept.shape[first:], value.shape[first:])
            generator.set_state(saved.tensors["generator"])
        state.num_updates, state.num_terms = saved.num_updates, saved.num_terms
        for name, value in _named(state):
            value.copy_(saved.tensors[name])  # in place: models share these tensors
        for name, value in state.kept.items():
            state.kept[name] = saved.tensors[f"kept.{name}"].to(value.device)

    def write(self, state: State, generator: torch.Generator, *, is_finished: bool = False) -> None:
        """Put all of it into the file, in the place of what was there."""
        facts: dict[str, Any] = {
            "format": FORMAT,
            "stage": self.stage,
            "updates": state.num_updates,
            "terms": state.num_terms,
            "is_finished": is_finished and self.stage == self.last_stage,
            **self.training.facts(),
        }
        kept = {f"kept.{name}": value for name, value in state.kept.items()}
        tensors = {"generator": generator.get_state(), **kept, **dict(_named(state))}
        self.training.require_alone(self.path)
        write(self.path, facts, tensors | self.training.tensors())


class Keeper:
    """Writes a training to its checkpoint, and says in the end where it could not be.

    Args:
        checkpoint: The file; None keeps nothing.
        total: After so many updates nothing is left of this stage.
    """

    def __init__(self, checkpoint: Checkpoint | None, total: int) -> None:
        self._checkpoint, self._total = checkpoint, total
        self._failure: Exception | None = None

    def keep(self, state: State, generator: torch.Generator) -> None:
        """Write it, as far as possible: no epoch is lost with a full disk."""
        if self._checkpoint is None:
            return
        is_finished = state.num_updates == self._total
        try:
            self._checkpoint.write(state, generator, is_finished=is_finished)
            self._failure = None
        except Exception as error:  # a full disk, a lost folder
            self._failure = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._failure is not None and self._checkpoint is not None:
            warn([not_kept(self._checkpoint.path, self._failure)])


def checkpoint_at(
    path: str | os.PathLike[str] | None,
    generator: torch.Generator,
    data: Tensor,
    called_with: Mapping[str, object],
    *,
    is_given: bool,
    augment: Augment | None = None,
) -> Checkpoint | None:
    """The checkpoint of a training; None where there is no path.

    Args:
        path: The file.
        generator: Of the training, as it begins.
        data: What is learned from; on its first rows ``augment`` is tried.
        called_with: All else that the training depends on, by name.
        is_given: Whether the caller gave the generator.
        augment: What makes a batch of another.

    Returns:
        The checkpoint.

    Raises:
        StorageError: Where no file can be written there.
    """
    if path is None:
        return None
    require_room(path)
    functions: dict[str, Callable[[Tensor], Tensor]] = {}
    rows = data[:ROWS_TRIED].to(torch.get_default_dtype())
    if augment is not None:
        functions["augment"] = lambda batch: _augmented(augment, batch, _apart(batch))
    known = {**called_with, "data": data, "augment": augment}
    start = Start.of(generator, is_given=is_given)
    own = Checkpoint(path, sign(start, known, functions, rows), functions=functions)
    saved = own.read()
    return own if saved is None else replace(own, training=saved.training)


def _require_shape(name: str, found: torch.Size, expected: torch.Size) -> None:
    if found != expected:
        raise ValueError(f"{name} has shape {tuple(found)}, not {tuple(expected)}")


def _apart(batch: Tensor) -> torch.Generator:
    """A generator of its own, the same each time."""
    return torch.Generator(batch.device).manual_seed(0)


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
