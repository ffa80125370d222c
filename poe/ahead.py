"""Random numbers drawn ahead, in a thread of their own, while the steps before are computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Ahead:
    """Draws the next block's random numbers while the current block is computed.

    Only that thread touches the generator, in order, so the numbers are those of drawing when they
    are needed. ``generator_state`` is the generator's after what was taken, and not after what was
    drawn ahead: a run resumed from there draws that again.

    >>> g = torch.Generator().manual_seed(0)
    >>> ahead = Ahead(lambda: torch.rand(2, generator=g), g)
    >>> first, second = ahead.take(is_last=False), ahead.take(is_last=True)
    >>> torch.equal(torch.cat([first, second]), torch.rand(4, generator=g.manual_seed(0)))
    True
    """

    def __init__(self, draw: Callable[[], Any], generator: torch.Generator) -> None:
        self.generator_state = generator.get_state()
        self._draw = draw
        self._generator = generator
        self._pool = ThreadPoolExecutor(1, "random-numbers")
        self._pending: Future[tuple[Any, Tensor]] | None = None

    def take(self, is_last: bool) -> Any:
        """The next block's numbers; unless it is the last, those after it are begun."""
        drawn = self._pending if self._pending is not None else self._begin()
        numbers, self.generator_state = drawn.result()
        self._pending = None if is_last else self._begin()
        return numbers

    def give_back(self) -> None:
        """Put the generator where it was before what was drawn ahead and never taken."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        self._generator.set_state(self.generator_state)

    def _begin(self) -> Future[tuple[Any, Tensor]]:
        return self._pool.submit(lambda: (self._draw(), self._generator.get_state()))
