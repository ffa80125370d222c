"""Checkerboard Gibbs: the two halves of a grid of spins in turn, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.density.capabilities import SpinPairs, spin_pairs
from poe.density.expert import Expert
from poe.samplers.block_gibbs import gibbs_of
from poe.samplers.gibbs import NO_SINGLE_ELEMENT
from poe.samplers.kernel import Corrected, Density, Info, Kernel, all_accepted, map_leaves
from poe.samplers.lattice import Lattice, halves, lattice, whole

IN_CACHE = 2**20
"""Sites that are swept at a time: 4 MB of random bits."""


class CheckerboardState(NamedTuple):
    """Both halves of the grid, 0 or 1: ``(chains, rows, cols / 2)`` uint8.

    ``log_density``, and the ``constant`` in it beside couplings and fields: ``(chains,)``.
    """

    even: Tensor
    odd: Tensor
    log_density: Tensor
    constant: Tensor

    @property
    def position(self) -> Tensor:
        """x in the log-density's dtype: ``(chains, rows, cols)``."""
        return whole(self.even, self.odd).to(self.log_density.dtype)


class RandomBits(NamedTuple):
    """32 random bits for each site of each half: ``(2, chains, rows, cols / 2)`` int32."""

    bits: Tensor


class _Half(NamedTuple):
    """``offset`` hᵢ − J degᵢ; ``first``: where the sites' five thresholds begin in the table."""

    offset: Tensor
    first: Tensor


@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare by value
class Checkerboard(Corrected[CheckerboardState]):
    """Block Gibbs on a grid of one coupling: all sites of even row + column, then the others.

    With k of its deg neighbours at 1, a site's log-odds are 2 (J (2k − deg) + h): one of five for
    each kind of site. Spins are held as bytes, and 32 random bits are compared with ⌊2³² p⌉, the
    nearest whole number: no probability is off by more than 2⁻³². Fields may differ from site
    to site; the faster, the fewer values they have.

    ``pairs``: those of the very target that is sampled, as
    ``poe.density.capabilities.spin_pairs`` gives them, on a grid ``shape`` of even
    sides, free or periodic. Positions come in the dtype of the log-density. Raises PoeError for
    anything else: use ``BlockGibbs``.

    Source: Geman & Geman 1984; thresholds for whole random words: Preis et al. 2009.

    >>> target = experts.Ising.grid((16, 16), coupling=0.44, field=0.01)
    >>> kernel = Checkerboard(poe.density.capabilities.spin_pairs(target), (16, 16))
    >>> state = kernel.init(target, torch.zeros(5, 16, 16))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel
    (torch.Size([5, 16, 16]), Checkerboard(16 x 16))
    """

    pairs: SpinPairs
    shape: tuple[int, int]
    _grid: Lattice = field(init=False)
    _halves: tuple[_Half, _Half] = field(init=False)
    _thresholds: Tensor = field(init=False)

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True
    way_out: ClassVar[str] = NO_SINGLE_ELEMENT

    def __post_init__(self) -> None:
        shape = torch.Size(self.shape)
        found = lattice(self.pairs, shape) if isinstance(self.pairs, SpinPairs) else None
        if found is None:
            raise PoeError(
                f"expected SpinPairs that join all nearest neighbours of a grid of even sides, at "
                f"least 4, by one coupling, got others on {tuple(shape)}: use BlockGibbs, or "
                "SwendsenWang"
            )
        h = self.pairs.fields.double().reshape(shape)
        offset = h - found.coupling * found.degrees(self.shape).to(h)
        kinds, kind = offset.unique(return_inverse=True)
        ups = torch.arange(5, dtype=h.dtype, device=h.device)
        p = torch.sigmoid(2 * (2 * found.coupling * ups + kinds[:, None]))
        words = (p * 2.0**32).round() - 2.0**31
        first = 5 * kind.to(torch.uint8 if len(kinds) <= 51 else torch.int32)
        pairs = zip(halves(offset[None]), halves(first[None]), strict=True)
        object.__setattr__(self, "_grid", found)
        object.__setattr__(self, "_halves", tuple(_Half(*pair) for pair in pairs))
        object.__setattr__(
            self, "_thresholds", words.clamp(max=2.0**31 - 1).to(torch.int32).flatten()
        )

    def __repr__(self) -> str:
        return f"Checkerboard({self.shape[0]} x {self.shape[1]})"

    def at_level(self, level: Expert) -> Kernel:
        """The same by the pairs of that level, or (block) Gibbs where they are no such grid."""
        found = spin_pairs(level)
        if found is None or lattice(found, torch.Size(self.shape)) is None:
            return gibbs_of(level)
        return Checkerboard(found, self.shape)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> RandomBits:
        """Whole random words, two sites a word of 64 bits."""
        chains, (rows, cols) = len(position), self.shape
        words = torch.empty(chains * rows * cols // 2, dtype=torch.int64, device=position.device)
        words.random_(-(2**63), None, generator=generator)
        return RandomBits(words.view(torch.int32).reshape(2, chains, rows, cols // 2))

    def step(
        self, target: Density, state: CheckerboardState, *, generator: torch.Generator
    ) -> tuple[CheckerboardState, Info]:
        """One sweep of every chain, of so many at a time that their numbers stay in the cache."""
        num_chains = max(1, IN_CACHE // (self.shape[0] * self.shape[1]))
        swept = []
        for part in zip(*(tensor.split(num_chains) for tensor in state), strict=True):
            noise = self.draw_noise(part[0], generator)
            swept.append(self.transition(target, CheckerboardState(*part), noise))
        states, infos = zip(*swept, strict=True)
        return map_leaves(_cat, *states), map_leaves(_cat, *infos)

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> CheckerboardState:
        """The halves of x, with its log-density."""
        even, odd = halves(x.to(torch.uint8))
        log_density = target.log_density(x)
        own = self._log_density(even, odd, self._grid.counts(even, False), log_density)
        return CheckerboardState(even, odd, log_density, log_density - own)

    @torch.no_grad()
    def transition(
        self, target: Density, state: CheckerboardState, noise: RandomBits
    ) -> tuple[CheckerboardState, Info]:
        even, _ = self._drawn(0, state.odd, noise.bits[0])
        odd, counts = self._drawn(1, even, noise.bits[1])
        log_density = state.constant + self._log_density(even, odd, counts, state.constant)
        moved = CheckerboardState(even, odd, log_density, state.constant)
        return moved, all_accepted(log_density)

    def _drawn(self, half: int, other: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
        """One half given the other, and how many of its sites' neighbours are 1."""
        counts = self._grid.counts(other, half == 0)
        kinds = (counts + self._halves[half].first).flatten().int()
        is_one = bits.flatten() < self._thresholds.index_select(0, kinds)
        return is_one.view(torch.uint8).reshape(other.shape), counts

    def _log_density(self, even: Tensor, odd: Tensor, counts: Tensor, like: Tensor) -> Tensor:
        """4 J N₁₁ + 2 Σ xᵢ (hᵢ − J degᵢ): that of couplings and fields, less that of x = 0."""
        both = (counts * odd).flatten(1).sum(1, dtype=torch.int32).to(like)
        alone = (
            x.flatten(1).to(like) @ half.offset.flatten().to(like)
            for x, half in zip((even, odd), self._halves, strict=True)
        )
        return 4 * self._grid.coupling * both + 2 * sum(alone)


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts)
