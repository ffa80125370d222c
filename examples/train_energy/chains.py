"""Where the model's half of the gradient comes from: persistent chains, or short runs."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

import poe


class Chains(Protocol):
    """Draws of the model as training has it, more or less biased."""

    def draw(self, expert: poe.Expert, n: int, *, generator: torch.Generator) -> Tensor:
        """``(n, *event)``, without a gradient."""

    def describe(self) -> str:
        """The settings: a run does not go on with others."""

    def state_dict(self) -> dict[str, Tensor]:
        """What goes on from update to update."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""


class Persistent(NamedTuple):
    """Chains that go on from update to update; some begin anew.

    Source: Tieleman 2008; Du & Mordatch 2019, section 3.2.
    """

    buffer: poe.ReplayBuffer
    kernel: poe.samplers.ULA
    num_steps: int

    def draw(self, expert: poe.Expert, n: int, *, generator: torch.Generator) -> Tensor:
        slots, positions = self.buffer.take(n, generator=generator)
        moved = poe.advance(
            expert, self.kernel, positions, self.num_steps, generator=generator
        ).positions
        self.buffer.put(slots, moved)
        return moved

    def describe(self) -> str:
        many = f"{len(self.buffer.positions)} persistent chains"
        return f"{many}, {self.buffer.reseeded} anew, {self.num_steps} x {self.kernel}"

    def state_dict(self) -> dict[str, Tensor]:
        return {"positions": self.buffer.positions}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.buffer.positions.copy_(state["positions"])


class ShortRun(NamedTuple):
    """Chains that begin anew at every update: what is learned is the run, and not the density.

    Source: Nijkamp, Hill, Zhu & Wu 2019, section 3.
    """

    start: poe.Expert
    step_size: float
    num_steps: int

    def draw(self, expert: poe.Expert, n: int, *, generator: torch.Generator) -> Tensor:
        begun = self.start.sample(n, generator=generator)
        found = poe.short_run(expert, begun, self.num_steps, self.step_size, generator=generator)
        return found.samples[:, 0]

    def describe(self) -> str:
        return f"short runs of {self.num_steps} steps of {self.step_size}"

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: no chain goes on."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Of nothing."""
