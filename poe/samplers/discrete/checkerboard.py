"""Checkerboard Gibbs: the two halves of a grid of spins in turn, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.capabilities import SpinPairs, spin_pairs
from poe.density.expert import Expert
from poe.samplers.discrete.block_gibbs import gibbs_of
from poe.samplers.discrete.gibbs import NO_SINGLE_ELEMENT
from poe.samplers.kernel import Corrected, Density, Info, Kernel, all_accepted, map_leaves


class Lattice(NamedTuple):
    """Nearest neighbours on a grid, all of one coupling.

    - ``coupling``; ``wraps``: whether the last row is joined to the first, and the last column.
    """

    coupling: float
    wraps: tuple[bool, bool]

    def degrees(self, shape: tuple[int, int]) -> Tensor:
        """How many neighbours each site has: ``(rows, cols)``."""
        ones = torch.ones((1, *shape), dtype=torch.uint8)
        even, odd = halves(ones)
        counts = (self.counts(odd, True), self.counts(even, False))
        return whole(*counts)[0]

    def counts(self, other: Tensor, is_even: bool) -> Tensor:
        """How many neighbours of each site of one half are 1.

        Shapes: ``other``, the half of the neighbours, and the result ``(chains, rows, cols / 2)``.
        """
        k = other.clone()  # the neighbour beside a site, at the same place of the other half
        k[:, 1:] += other[:, :-1]
        k[:, :-1] += other[:, 1:]
        if self.wraps[0]:
            k[:, 0] += other[:, -1]
            k[:, -1] += other[:, 0]
        own, source = _row_pairs(k), _row_pairs(other)
        before, after = (0, 1) if is_even else (1, 0)
        own[:, :, before, :, 1:] += source[:, :, before, :, :-1]
        own[:, :, after, :, :-1] += source[:, :, after, :, 1:]
        if self.wraps[1]:
            own[:, :, before, :, 0] += source[:, :, before, :, -1]
            own[:, :, after, :, -1] += source[:, :, after, :, 0]
        return k


def lattice(pairs: SpinPairs, shape: torch.Size) -> Lattice | None:
    """The grid of even sides and one coupling that the pairs are, or None.

    >>> from poe.density.capabilities import spin_pairs
    >>> lattice(spin_pairs(experts.Ising.grid((4, 6), coupling=0.25)), torch.Size((4, 6)))
    Lattice(coupling=0.25, wraps=(False, False))
    """
    found = pairs.grid(shape)
    return None if found is None else Lattice(*found)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The sites where row + column is even, and the others.

    Shapes: ``(chains, rows, cols)`` to twice ``(chains, rows, cols / 2)``.
    """
    blocks = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    even = torch.stack([blocks[:, :, 0, :, 0], blocks[:, :, 1, :, 1]], 2)
    odd = torch.stack([blocks[:, :, 0, :, 1], blocks[:, :, 1, :, 0]], 2)
    return even.flatten(1, 2), odd.flatten(1, 2)


def whole(even: Tensor, odd: Tensor) -> Tensor:
    """The grid of both halves.

    >>> x = torch.rand(2, 4, 6)
    >>> torch.equal(whole(*halves(x)), x)
    True
    """
    e, o = (half.unflatten(1, (-1, 2)) for half in (even, odd))
    first = torch.stack([e[:, :, 0], o[:, :, 0]], -1)
    second = torch.stack([o[:, :, 1], e[:, :, 1]], -1)
    return torch.stack([first, second], 2).flatten(3).flatten(1, 2)


def _row_pairs(half: Tensor) -> Tensor:
    return half.unflatten(1, (-1, 2))[:, :, :, None]


IN_CACHE = 2**20
"""Sites that are swept at a time: 4 MB of random bits."""


class CheckerboardState(NamedTuple):
    """Both halves of the grid, 0 or 1, and the log-density.

    Args:
        even: The sites of even row + column, ``(chains, rows, cols / 2)`` uint8.
        odd: The others, of the same shape.
        log_density: log p̃(x), ``(chains,)``.
        constant: What is in it beside couplings and fields, ``(chains,)``.
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


@checked
@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare by value
class Checkerboard(Corrected[CheckerboardState]):
    """Block Gibbs on a grid of one coupling: all sites of even row + column, then the others.

    With k of its deg neighbours at 1, a site's log-odds are 2 (J (2k − deg) + h): one of five for
    each kind of site. Spins are held as bytes, and 32 random bits are compared with ⌊2³² p⌉, the
    nearest whole number: no probability is off by more than 2⁻³². Fields may differ from site
    to site; the faster, the fewer values they have. Positions come in the dtype of the log-density.

    Args:
        pairs: Those of the very target that is sampled, as
            ``poe.density.capabilities.spin_pairs`` gives them.
        shape: Rows and columns of the grid, even and at least 4, free or periodic.

    Raises:
        PoeError: For anything else: use ``BlockGibbs``.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Preis et al. (2009), GPU accelerated
        Monte Carlo simulation of the 2D and 3D Ising model, doi:10.1016/j.jcp.2009.03.018
        (thresholds for whole random words).

    Example:
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
        """The same by the pairs of that level, or (block) Gibbs where they are no such grid.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it.
        """
        found = spin_pairs(level)
        if found is None or lattice(found, torch.Size(self.shape)) is None:
            return gibbs_of(level)
        return Checkerboard(found, self.shape)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> RandomBits:
        # Two sites a word of 64 bits.
        chains, (rows, cols) = len(position), self.shape
        words = torch.empty(chains * rows * cols // 2, dtype=torch.int64, device=position.device)
        words.random_(-(2**63), None, generator=generator)
        return RandomBits(words.view(torch.int32).reshape(2, chains, rows, cols // 2))

    def step(
        self, target: Density, state: CheckerboardState, *, generator: torch.Generator
    ) -> tuple[CheckerboardState, Info]:
        """One sweep of every chain, of so many at a time that their numbers stay in the cache.

        Args:
            target: The density to leave invariant.
            state: Where the chains are.
            generator: Of all that is drawn.

        Returns:
            The next state, and what happened.
        """
        num_chains = max(1, IN_CACHE // (self.shape[0] * self.shape[1]))
        swept = []
        for part in zip(*(tensor.split(num_chains) for tensor in state), strict=True):
            noise = self.draw_noise(part[0], generator)
            swept.append(self.transition(target, CheckerboardState(*part), noise))
        states, infos = zip(*swept, strict=True)
        return map_leaves(_cat, *states), map_leaves(_cat, *infos)

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> CheckerboardState:
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
