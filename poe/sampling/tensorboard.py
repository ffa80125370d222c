"""Scalars of runs and trainings for TensorBoard: a callback like any other."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from poe.core.arguments import checked
from poe.core.errors import PoeError, StorageError
from poe.sampling.progress import Progress


class TensorBoard:
    """Writes what a run or a training tells to TensorBoard; needs the extra ``tensorboard``.

    ``poe.sample(..., callback=TensorBoard(folder))`` writes the fields of `poe.Progress` under
    ``sample/``; ``report(step, scalars)`` any named numbers of a training loop. A number that is
    not known yet (NaN) is left out. Every report is flushed, so that a run can be watched.

    Args:
        folder: Where the file of events goes.

    Raises:
        ImportError: Where TensorBoard is missing, with the remedy.
        StorageError: Where nothing can be written there.

    Example:
        >>> import tempfile
        >>> board = TensorBoard(tempfile.mkdtemp())
        >>> board.report(10, {"loss": 0.5})
        >>> board.close()
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._writer = _writer(self.folder)

    def __call__(self, progress: Progress) -> None:
        """Write a run's progress."""
        known = progress._asdict()
        step = known.pop("step")
        scalars = {f"sample/{name}": float(value) for name, value in known.items()}
        self.report(step, {n: v for n, v in scalars.items() if not math.isnan(v)})

    def report(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write named numbers of a training's step.

        Args:
            step: Its number.
            scalars: Numbers, or tensors of one number, by name.

        Raises:
            PoeError: For a scalar that is no number.
        """
        for name, value in scalars.items():
            self._writer.add_scalar(name, _number(name, value), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file of events."""
        self._writer.close()


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PoeError(
            f"expected {name!r} to be one number, got {type(value).__name__}: write its mean"
        ) from error


def _writer(folder: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            'TensorBoard is missing: pip install "product-of-experts[tensorboard]"'
        ) from error
    try:
        return SummaryWriter(folder)
    except OSError as error:
        raise StorageError(
            f"expected a folder to write to at {folder}, got {error}: give another"
        ) from error
