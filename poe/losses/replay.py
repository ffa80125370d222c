"""Chains that go on from one update of a model to the next."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import resolve
from poe.density.capabilities import can_sample_exactly


class Start(Protocol):
    """Where chains begin: any expert with exact draws."""

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""


class Taken(NamedTuple):
    """Chains to move on: ``slots`` ``(n,)``, all different, and ``positions`` ``(n, *event)``."""

    slots: Tensor
    positions: Tensor


class ReplayBuffer(nn.Module):
    """The positions of ``num_chains`` persistent chains, each in a slot of its own.

    ``take`` hands some out, with a share of them begun anew; ``put`` writes each back into the very
    slot that it was taken from, so that a slot holds one chain, through all updates::

        taken = buffer.take(128, generator=g)
        positions = poe.advance(expert, kernel, taken.positions, 40, generator=g).positions
        buffer.put(taken.slots, positions)
        loss = poe.losses.contrastive_divergence(expert, data, positions)

    ``positions`` ``(num_chains, *event)`` is a buffer, on the device of the start and in
    ``state_dict``: with that and the generators' states a run resumes bit for bit.

    Args:
        start: Where chains begin, an expert that can be sampled exactly; one that is a module
            belongs to this one, and moves and is saved with it.
        num_chains: How many, at least 1.
        reseeded: The probability with which a chain that is taken begins anew, each by itself.
        generator: The source of the first positions; a fresh one by default.

    Raises:
        PoeError: For counts and shares out of range, and where the start cannot be sampled.

    References:
        Persistent chains: Tieleman (2008), Training restricted Boltzmann machines using
        approximations to the likelihood gradient, doi:10.1145/1390156.1390290.

        Reseeding: Du & Mordatch (2019), Implicit generation and modeling with energy based models,
        section 3.2, arXiv:1903.08689.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> buffer = ReplayBuffer(experts.Gaussian([0.0], scale=[1.0]), 100, generator=g)
        >>> slots, positions = buffer.take(3, generator=g)
        >>> buffer.put(slots, positions + 1.0)
        >>> torch.equal(buffer.positions[slots], positions + 1.0)
        True
    """

    positions: Tensor

    @checked
    def __init__(
        self,
        start: Start,
        num_chains: int,
        *,
        reseeded: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_chains < 1 or not 0.0 <= reseeded <= 1.0:
            raise PoeError(
                f"expected num_chains of at least 1 and a share reseeded in [0, 1], got "
                f"{num_chains} and {reseeded}"
            )
        if not can_sample_exactly(start):
            raise PoeError(
                f"expected a start that can be sampled, got {type(start).__name__}: give an expert "
                "with exact draws, as poe.as_expert(torch.distributions.Normal(...))"
            )
        self.start, self.reseeded = start, reseeded
        self.register_buffer("positions", self._draw(num_chains, generator))

    @property
    def num_chains(self) -> int:
        """How many chains there are."""
        return len(self.positions)

    def take(self, n: int, *, generator: torch.Generator | None = None) -> Taken:
        """Different chains at random, each begun anew with probability ``reseeded``.

        The buffer stays as it is until they are put back. All n starts are drawn, and then kept or
        not: nothing waits for the device.

        Args:
            n: How many chains, 1 to ``num_chains``.
            generator: The source of randomness; a fresh one by default.

        Returns:
            Their slots ``(n,)`` and positions ``(n, *event)``.

        Raises:
            PoeError: Where n is out of range.
        """
        if not 1 <= n <= self.num_chains:
            raise PoeError(
                f"expected to take 1 to {self.num_chains} chains, got {n}: make a larger buffer"
            )
        device = self.positions.device
        generator = resolve(generator, device)
        slots = torch.randperm(self.num_chains, generator=generator, device=device)[:n]
        kept = self.positions[slots]
        if self.reseeded == 0.0:
            return Taken(slots, kept)
        uniform = torch.rand(n, generator=generator, device=device)
        is_new = (uniform < self.reseeded).reshape(-1, *([1] * (kept.ndim - 1)))
        return Taken(slots, torch.where(is_new, self._draw(n, generator), kept))

    @torch.no_grad()
    def put(self, slots: Tensor, positions: Tensor) -> None:
        """Write chains back into their own slots.

        Args:
            slots: Those that ``take`` gave, ``(n,)``.
            positions: Where the chains are now, ``(n, *event)``.

        Raises:
            ShapeError: Where there is not one position for each slot.
        """
        expected = (*slots.shape, *self.positions.shape[1:])
        if slots.ndim != 1 or positions.shape != expected:
            raise ShapeError(
                f"expected positions of shape {expected}, one for each of slots (n,), got "
                f"{tuple(positions.shape)} for slots {tuple(slots.shape)}"
            )
        self.positions[slots] = positions.detach().to(self.positions.dtype)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            return self.start.sample(count, generator=generator).clone()  # ours to write to

    def extra_repr(self) -> str:
        return f"num_chains={self.num_chains}, reseeded={self.reseeded:g}"
