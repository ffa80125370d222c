"""Parallel tempering: replicas from an easy density to the target, which exchange positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.density.capabilities import can_sample_exactly
from poe.density.closed_forms import exact_sample
from poe.density.coordinates import require_chains
from poe.density.expert import Expert, shared_space
from poe.samplers.guarded import beside
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Kernel,
    OnDrawnNoise,
    accept,
    floats_like,
    in_two_parts,
    map_leaves,
    require_kernel,
    require_positive,
    require_rows,
    where_accepted,
)
from poe.samplers.path import GeometricPath, Level, Parts, join_parts
from poe.samplers.questions import (
    between,
    can_restart,
    draws_beforehand,
    ends_where_it_asked,
    gradients_per_step,
    guarantee,
    is_tunable,
    needs_score,
    with_scale,
)


class SwapTally(NamedTuple):
    """Counts over all chains, for each adjacent pair of levels: ``(levels - 1,)``."""

    tried: Tensor
    accepted: Tensor
    probability: Tensor
    """The acceptance probabilities, summed."""

    def plus(self, is_tried: Tensor, is_swapped: Tensor, probability: Tensor) -> SwapTally:
        """With one more step: is_tried ``(pairs,)``, the others ``(pairs, chains)``."""
        return SwapTally(
            self.tried + is_tried * probability.shape[1],
            self.accepted + is_swapped.sum(1),
            self.probability + is_tried * probability.sum(1, dtype=torch.float64),
        )


class TemperingState(NamedTuple):
    """Every replica, in rows: row l · chains + c is chain c at level l, the target's level last.

    Args:
        replicas: The kernel's state, at ``levels * chains`` rows.
        parts: What start and target say at each row, position by position.
        num_steps: Steps taken, (): its parity says which pairs are tried.
        tally: How often swaps of each adjacent pair were tried and accepted.
        came_from_start: ``(levels * chains,)``: whether the row's position was at the start since
            it last was at the target.
        num_round_trips: ``(chains,)``: how often a position came to the target all the way from the
            start.
    """

    replicas: Any
    parts: Parts
    num_steps: Tensor
    tally: SwapTally
    came_from_start: Tensor
    num_round_trips: Tensor

    @property
    def num_chains(self) -> int:
        """The number of chains, each of which has a replica at every level."""
        return len(self.num_round_trips)

    @property
    def position(self) -> Tensor:
        """``(chains, *event)``, at the target."""
        position: Tensor = self.replicas.position[-self.num_chains :]
        return position

    @property
    def log_density(self) -> Tensor:
        """``(chains,)``, of the target."""
        log_density: Tensor = self.replicas.log_density[-self.num_chains :]
        return log_density


LEAST_REJECTION = 1e-3
"""A pair that never rejects still takes some room, so that the exponents stay apart."""


@checked
def swap_rates(state: TemperingState) -> Tensor:
    """The mean acceptance probability of swaps, for each adjacent pair of levels.

    Args:
        state: Of ``ParallelTempering``, after at least two steps.

    Returns:
        Means over all chains and steps, ``(levels - 1,)``; NaN for a pair that was never tried.
    """
    return state.tally.probability / state.tally.tried


def respaced(
    tempering: ParallelTempering, state: TemperingState, num_levels: int | None
) -> tuple[ParallelTempering, Tensor]:
    """The ladder that cuts the barrier into equal parts, and replicas for it.

    A new level takes the replicas of the next colder old one, whose support it shares.
    """
    old, rates = tempering.exponents, swap_rates(state).tolist()
    levels = _num_levels(rates) if num_levels is None else num_levels
    new = equal_barriers(old, rates, levels)
    step_size = tempering.step_size
    if step_size is not None:
        log_scales = np.interp(new, old, np.log(step_size))
        step_size = tuple(np.exp(log_scales).tolist())
    colder = torch.from_numpy(np.searchsorted(old, new)).to(state.position.device)
    replicas = state.replicas.position.reshape(len(old), -1, *state.position.shape[1:])
    return replace(tempering, exponents=new, step_size=step_size), replicas[colder]


def _num_levels(rates: list[float]) -> int:
    """⌈2Λ⌉ + 1, at most twice as many as there were."""
    barrier = sum(1.0 - rate for rate in rates)
    return min(math.ceil(2.0 * barrier) + 1, 2 * (len(rates) + 1))


def equal_barriers(
    exponents: tuple[float, ...], rates: list[float], num_levels: int
) -> tuple[float, ...]:
    """The exponents between which swaps would be accepted equally often, from the rates so far.

    >>> equal_barriers((0.0, 0.5, 1.0), [0.1, 0.7], 3)
    (0.0, 0.333..., 1.0)
    """
    rejections = np.maximum(1.0 - np.asarray(rates), LEAST_REJECTION)
    barrier = np.concatenate([[0.0], rejections.cumsum()])
    new = np.interp(np.linspace(0.0, barrier[-1], num_levels), barrier, exponents)
    return (exponents[0], *new[1:-1].tolist(), exponents[-1])


def exchange(is_swapped: Tensor) -> Tensor:
    """From which row each row gets its position: ``(pairs, chains)`` to ``(levels * chains,)``.

    >>> exchange(torch.tensor([[True, False], [False, False]]))  # chain 0, levels 1 and 2
    tensor([2, 1, 0, 3, 4, 5])
    """
    none = torch.zeros_like(is_swapped[:1])
    step = torch.cat([is_swapped, none]).long() - torch.cat([none, is_swapped]).long()
    rows = torch.arange(step.numel(), device=step.device)
    return rows + step.flatten() * step.shape[1]


class TemperingNoise(NamedTuple):
    """The kernel's noise for its rows, uniforms ``(levels - 1, chains)``, and exact draws."""

    kernel: Any
    uniform: Tensor
    fresh: Tensor | None
    """``(chains, *event)``, where the start can be sampled exactly."""


@checked
@dataclass(frozen=True)
class ParallelTempering(Corrected[TemperingState]):
    """Replicas at p̃_l ∝ start^(1 − β_l) target^β_l, β_1 < … < β_L = 1, which exchange positions.

    A step moves every replica by the kernel, all levels and chains in one batch, then tries to swap
    the positions x, x' of levels (1, 2), (3, 4), … in even and of (2, 3), (4, 5), … in odd steps,
    accepted with min(1, exp((β' − β) (log r(x) − log r(x')))), r = target / start. To alternate the
    pairs in order, not by chance, carries a position along the ladder in O(L) steps, not O(L²).
    What start and target say is kept apart, so that a swap costs no evaluation of either: a kernel
    goes on from a position that was swapped as from a new start, with a fresh momentum.

    Position and log-density of the state, and ``Info``, are the target's; ``swap_rates(state)``
    and ``state.num_round_trips`` tell how well positions travel. In many dimensions a mode that is
    narrower than another has next to no mass at the warmer levels, and is found as slowly as if
    there were none.

    Args:
        start: A broad expert on the target's space, in the coordinates that the chains move in,
            that is one density (not a batch), as is the target. Where it can be sampled exactly and
            β_1 = 0, level 1 is drawn afresh in each step, which brings the target ever new modes.
        kernel: Any local kernel, also in ``Preconditioned`` with its map given. A surrogate's is
            evaluated once more in each step, at the positions swapped; the target is for one that
            may end elsewhere than where it asked last.
        exponents: β, increasing; ``poe.tune_tempering`` finds them, and the step sizes.
        step_size: One for each level, or None to keep the kernel's own.

    Raises:
        PoeError: For exponents that do not increase from [0, 1] to 1, step sizes of another number
            or of a kernel that has none, and a kernel that is none or cannot begin anew.

    References:
        Geyer (1991), Markov chain Monte Carlo maximum likelihood; Syed, Bouchard-Côté,
        Deligiannidis & Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
        MCMC scheme, algorithm 1, arXiv:1905.02939; Woodard, Schmidler & Huber (2009), Sufficient
        conditions for torpid mixing of parallel and simulated tempering (narrow modes).

    Example:
        >>> import poe, experts
        >>> modes = poe.FromLogDensity(
        ...     lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1)
        ... )
        >>> broad = experts.Gaussian([0.0], scale=[3.0])
        >>> kernel = ParallelTempering(broad, poe.samplers.MALA(0.1), exponents=(0.0, 0.2, 1.0))
        >>> g = torch.Generator().manual_seed(0)
        >>> state = kernel.init(modes, torch.full((100, 1), 3.0))  # all in one mode
        >>> for _ in range(100):
        ...     state, info = kernel.step(modes, state, generator=g)
        >>> state.position.shape, 40 < (state.position > 0).sum() < 60
        (torch.Size([100, 1]), tensor(True))
    """

    start: Expert = field(repr=False)
    kernel: Kernel
    exponents: tuple[float, ...]
    step_size: tuple[float, ...] | None = None
    has_exact_start: bool = field(init=False, repr=False)
    _follows: bool = field(init=False, repr=False)
    _between: Callable[[Tensor], Kernel] | None = field(init=False, repr=False, compare=False)

    has_memory: ClassVar[bool] = True
    can_restart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ends_well = len(self.exponents) > 1 and self.exponents[0] >= 0 and self.exponents[-1] == 1
        if not ends_well or any(not a < b for a, b in pairwise(self.exponents)):
            raise PoeError(
                f"expected at least two increasing exponents from [0, 1], the last of them 1, got "
                f"{self.exponents}"
            )
        if self.step_size is not None and len(self.step_size) != len(self.exponents):
            raise PoeError(
                f"expected {len(self.exponents)} step sizes, one for each exponent, got "
                f"{len(self.step_size)}"
            )
        for step_size in self.step_size or ():
            require_positive("step_size", step_size)
        require_kernel(self.kernel)
        if self.step_size is not None and not is_tunable(self.kernel):
            raise PoeError(f"{type(self.kernel).__name__} has no step size: leave step_size out")
        if not can_restart(self.kernel):
            raise PoeError(
                "expected a local kernel, which can begin anew where positions are swapped, got "
                f"{type(self.kernel).__name__}: use MetropolisHastings, MALA or HMC"
            )
        is_exact = self.exponents[0] == 0 and can_sample_exactly(self.start)
        # Asked once: frozen otherwise.
        object.__setattr__(self, "has_exact_start", is_exact)
        object.__setattr__(self, "_follows", ends_where_it_asked(self.kernel))
        object.__setattr__(self, "_between", between(self.kernel, self.start))

    @property
    def guarantee(self) -> str:
        """That of the kernel: swaps leave the joint density of the replicas invariant."""
        return guarantee(self.kernel)

    @property
    def needs_score(self) -> bool:
        """As the kernel does."""
        return needs_score(self.kernel)

    @property
    def draws_beforehand(self) -> bool:
        """As the kernel does."""
        return draws_beforehand(self.kernel)

    @property
    def gradients_per_step(self) -> int:
        """Those of the kernel at each level that it moves; exact draws take one.

        One more where the kernel may end elsewhere than where it asked last.
        """
        kernel, exact = self._at(torch.tensor(self.exponents)), int(self.has_exact_start)
        each = gradients_per_step(kernel) + int(not self._follows)
        return each * (len(self.exponents) - exact) + exact

    def init(self, target: Density, x: Tensor) -> TemperingState:
        """The state from which chains begin; each level starts a chain where another one does.

        Args:
            target: The density of the last level.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state of all replicas.

        Raises:
            NonFiniteError: Where a start is outside the support of its level.
        """
        starts = [x.roll(level, 0) for level in reversed(range(len(self.exponents)))]
        return self.init_replicas(target, torch.stack(starts))

    def init_replicas(self, target: Density, x: Tensor) -> TemperingState:
        """The state with a start for each replica.

        Args:
            target: The density of the last level.
            x: Positions, ``(levels, chains, *event)``, the target's last.

        Returns:
            The state of all replicas.

        Raises:
            NonFiniteError: Where a start is outside the support of its level.
            ShapeError: Where x has another number of levels.
            SpaceMismatchError: Where the start lives on another space than the target.
        """
        if x.ndim < 2 or len(x) != len(self.exponents):
            raise ShapeError(
                f"expected x of shape (levels, chains, *event) with {len(self.exponents)} levels, "
                f"got {tuple(x.shape)}"
            )
        if isinstance(target, Expert):
            require_chains(target.space, x[-1], "x at each level")
            shared_space(("target", "start"), [target, self.start], kind="path")
        chains, rows = x.shape[1], x.flatten(0, 1).detach()
        level = self._level(target, chains, rows)
        kernel = self._kernel_of_rows(chains, rows)
        replicas = kernel.init(level, rows)
        require_rows(self.kernel, replicas, len(rows))
        none = torch.zeros(len(x) - 1, dtype=torch.int64, device=x.device)
        return TemperingState(
            replicas=replicas,
            parts=level.parts_at(rows),
            num_steps=none.new_zeros(()),
            tally=SwapTally(none, none, none.to(torch.float64)),
            came_from_start=torch.arange(len(rows), device=x.device) < chains,
            num_round_trips=none.new_zeros(chains),
        )

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> TemperingNoise:
        levels, chains = len(self.exponents), len(position)
        moved = levels - 1 if self.has_exact_start else levels
        like = position.new_empty((moved * chains, *position.shape[1:]))
        noise = in_two_parts(self.kernel).draw_noise(like, generator)
        uniform = floats_like(position, levels - 1, chains).uniform_(generator=generator)
        fresh = exact_sample(self.start, chains, generator) if self.has_exact_start else None
        return TemperingNoise(noise, uniform, fresh)

    def transition(
        self, target: Density, state: TemperingState, noise: TemperingNoise
    ) -> tuple[TemperingState, Info]:
        state, info = self.transition_of_all(target, state, noise)
        return state, Info(*(part[-state.num_chains :] for part in info))

    def transition_of_all(
        self, target: Density, state: TemperingState, noise: TemperingNoise
    ) -> tuple[TemperingState, Info]:
        """One step, with the Info of every row that the kernel moved.

        Args:
            target: The density of the last level.
            state: Where the replicas are.
            noise: What ``draw_noise`` drew.

        Returns:
            The next state, and what happened at every row, those of the target last.
        """
        moved, info = self._move(target, state, noise)
        return self._swap(target, moved, noise.uniform), info

    def _move(
        self, target: Density, state: TemperingState, noise: TemperingNoise
    ) -> tuple[TemperingState, Info]:
        """One step of the kernel at every level; with exact draws, at every level but the first.

        There only the parts are new: the kernel's state follows with those that were swapped.
        """
        chains = state.num_chains
        moved = slice(0 if noise.fresh is None else chains, None)
        before = map_leaves(lambda leaf: leaf[moved], state.replicas)
        level = self._level(target, chains, before.position)
        kernel = self._kernel_of_rows(chains, before.position)
        after, info = kernel.transition(level, before, noise.kernel)
        follow = level.follow if self._follows else level.follow_or_evaluate
        parts = follow(state.parts.at(moved), info.is_accepted, after.position)
        if noise.fresh is not None:
            parts = join_parts([level.path.evaluate(noise.fresh, parts.has_score), parts])
            after = map_leaves(_under_first(chains), state.replicas, after)
        return state._replace(replicas=after, parts=parts), info

    def _swap(self, target: Density, state: TemperingState, uniform: Tensor) -> TemperingState:
        """Exchange adjacent levels' positions, and with them what start and target say there."""
        chains, levels = state.num_chains, len(self.exponents)
        info = self._decide(state, uniform)
        pair = torch.arange(levels - 1, device=uniform.device)
        is_tried = (pair + state.num_steps) % 2 == 0
        is_swapped = info.is_accepted & is_tried[:, None]
        source = exchange(is_swapped)
        came = state.came_from_start.index_select(0, source)
        at_start, at_target = torch.ones_like(came[:chains]), torch.zeros_like(came[:chains])
        return state._replace(
            replicas=self._restarted(target, state, source),
            parts=state.parts.at(source),
            num_steps=state.num_steps + 1,
            tally=state.tally.plus(is_tried, is_swapped, info.acceptance_probability),
            came_from_start=torch.cat([at_start, came[chains:-chains], at_target]),
            num_round_trips=state.num_round_trips + came[-chains:],
        )

    def _restarted(self, target: Density, state: TemperingState, source: Tensor) -> Any:
        """The kernel's state, begun anew at each row whose position comes from another or is fresh.

        The momentum there is drawn afresh: it is N(0, I) at every level, whatever the position.
        """
        chains, parts = state.num_chains, state.parts.at(source)
        rows = torch.arange(len(source), device=source.device)
        is_new = source != rows
        if self.has_exact_start:
            is_new = is_new | (rows < chains)
        kernel = self._kernel_of_rows(chains, parts.position)
        level = self._level(target, chains, parts.position)
        restarted = kernel.state_at(level.known(parts), parts.position)
        return map_leaves(partial(where_accepted, is_new), restarted, state.replicas)

    def _decide(self, state: TemperingState, uniform: Tensor) -> Info:
        """Whether each pair would swap, were it tried: fields ``(levels - 1, chains)``.

        log α = (β' − β) (log r(x) − log r(x')), r = target / start, with x at β and x' at β' > β.
        """
        chains = state.num_chains
        exponents = _of_rows(self.exponents, chains, uniform).reshape(-1, chains)
        start, of_target = state.parts.log_density.reshape(2, -1, chains)
        advantage = of_target - start
        log_ratio = exponents.diff(dim=0) * (advantage[:-1] - advantage[1:])
        return accept(log_ratio, of_target[:-1], uniform)

    def _level(self, target: Density, chains: int, rows: Tensor) -> Level:
        """The densities of these rows, the last of all, each at its level's exponent."""
        exponents = _of_rows(self.exponents, chains, rows)[-len(rows) :]
        return Level(GeometricPath(beside(target, self.start), target), exponents)

    def _kernel_of_rows(self, chains: int, rows: Tensor) -> OnDrawnNoise[Any]:
        """The kernel with its level's step size, and what else differs by levels, at each row."""
        kernel = self.kernel
        if self._between is not None:
            kernel = self._at(_of_rows(self.exponents, chains, rows)[-len(rows) :])
        if self.step_size is not None:
            kernel = with_scale(kernel, _of_rows(self.step_size, chains, rows)[-len(rows) :])
        return in_two_parts(kernel)

    def _at(self, exponents: Tensor) -> Kernel:
        """The kernel of rows at these exponents."""
        return self.kernel if self._between is None else self._between(exponents)


def _of_rows(values: tuple[float, ...], chains: int, like: Tensor) -> Tensor:
    """One value a level to one a row, ``(levels * chains,)``.

    Filled in place, with no copy from the host, which would have to wait for it.
    """
    return torch.cat([floats_like(like, chains).fill_(value) for value in values])


def _under_first(chains: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Puts the rows that moved under those of the first level."""
    return lambda old, new: torch.cat([old[:chains], new])
