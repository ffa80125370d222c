"""Parallel tempering: replicas from an easy density to the target, which exchange positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.density.capabilities import LogOdds, can_sample_exactly, conditionals
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert, shared_space
from poe.errors import PoeError, ShapeError
from poe.samplers.block_gibbs import BlockGibbs
from poe.samplers.checkerboard import Checkerboard
from poe.samplers.chromatic import ChromaticGibbs
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    Kernel,
    OnDrawnNoise,
    TunableKernel,
    accept,
    map_leaves,
    where_accepted,
)
from poe.samplers.label_clusters import LabelClusters
from poe.samplers.path import GeometricPath, Level, join_parts
from poe.samplers.replicas import SwapTally, TemperingState, exchange
from poe.samplers.swendsen_wang import SwendsenWang

OF_ONE_DENSITY = (Checkerboard, ChromaticGibbs, LabelClusters, SwendsenWang)
"""Kernels that are built for one density, and cannot move the rows of several levels."""
Given = Callable[[Tensor, Tensor], LogOdds]
"""What ``Conditionals.given`` is."""


class TemperingNoise(NamedTuple):
    """The kernel's noise for its rows, uniforms ``(levels - 1, chains)``, and exact draws."""

    kernel: Any
    uniform: Tensor
    fresh: Tensor | None
    """``(chains, *event)``, where the start can be sampled exactly."""


@dataclass(frozen=True)
class ParallelTempering(Corrected[TemperingState]):
    """Replicas at p̃_l ∝ start^(1 − β_l) target^β_l, β_1 < … < β_L = 1, which exchange positions.

    A step moves every replica by the kernel, all levels and chains in one batch, then tries to swap
    the positions x, x' of levels (1, 2), (3, 4), … in even and of (2, 3), (4, 5), … in odd steps,
    accepted with min(1, exp((β' − β) (log r(x) − log r(x')))), r = target / start. To alternate the
    pairs in order, not by chance, carries a position along the ladder in O(L) steps, not O(L²).
    What start and target say is kept apart, so that a swap costs no evaluation of either: a kernel
    goes on from a position that was swapped as from a new start, with a fresh momentum.

    - ``start``: a broad expert on the target's space, in the coordinates that the chains move in,
      that is one density (not a batch), as is the target. Where it can be sampled exactly and
      β_1 = 0, level 1 is drawn afresh in each step, which brings the target ever new modes.
    - ``kernel``: any local kernel of ``poe.samplers``, also in ``Preconditioned`` with its map
      given. A surrogate's is evaluated once more in each step, at the positions swapped.
    - ``exponents``: β, increasing; ``poe.tune_tempering`` finds them, and the step sizes.
    - ``step_size``: one for each level, or None to keep the kernel's own.

    Position and log-density of the state, and ``Info``, are the target's; ``swap_rates(state)``
    and ``state.num_round_trips`` tell how well positions travel. In many dimensions a mode that is
    narrower than another has next to no mass at the warmer levels, and is found as slowly as if
    there were none (Woodard, Schmidler & Huber 2009). Raises PoeError.

    Source: Geyer 1991; Syed, Bouchard-Côté, Deligiannidis & Doucet 2022, algorithm 1.

    >>> import poe, experts
    >>> modes = poe.FromLogDensity(lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1))
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
        if self.step_size is not None and not isinstance(self.kernel, TunableKernel):
            raise PoeError(f"{type(self.kernel).__name__} has no step size: leave step_size out")
        kernel = self.kernel
        if not isinstance(kernel, OnDrawnNoise) or type(kernel).state_at is OnDrawnNoise.state_at:
            raise PoeError(
                "expected a local kernel that draws its random numbers first (an OnDrawnNoise with "
                f"state_at), got {type(kernel).__name__}: use MetropolisHastings, MALA or HMC"
            )
        _refuse_of_one_density(kernel)
        if isinstance(kernel, BlockGibbs):
            object.__setattr__(self, "kernel", _with_edges_of(kernel, self.start))
        is_exact = self.exponents[0] == 0 and can_sample_exactly(self.start)
        object.__setattr__(self, "has_exact_start", is_exact)  # asked once: frozen otherwise

    @property
    def guarantee(self) -> str:
        """That of the kernel: swaps leave the joint density of the replicas invariant."""
        return self.kernel.guarantee

    @property
    def gradients_per_step(self) -> int:
        """Those of the kernel at each level that it moves; exact draws take one."""
        assert isinstance(self.kernel, OnDrawnNoise)
        each, exact = self.kernel.gradients_per_step, int(self.has_exact_start)
        return each * (len(self.exponents) - exact) + exact

    def init(self, target: Density, x: Tensor) -> TemperingState:
        """State at ``x`` ``(chains, *event)``; each level starts a chain where another one does."""
        starts = [x.roll(level, 0) for level in reversed(range(len(self.exponents)))]
        return self.init_replicas(target, torch.stack(starts))

    def init_replicas(self, target: Density, x: Tensor) -> TemperingState:
        """State with a start for each replica: x ``(levels, chains, *event)``, the target's last.

        Raises NonFiniteError where a start is outside the support of its level.
        """
        if x.ndim < 2 or len(x) != len(self.exponents):
            raise ShapeError(
                f"expected x of shape (levels, chains, *event) with {len(self.exponents)} levels, "
                f"got {tuple(x.shape)}"
            )
        if isinstance(target, Expert):
            shared_space(("target", "start"), [target, self.start], kind="path")
        chains, rows = x.shape[1], x.flatten(0, 1).detach()
        level = self._level(target, chains, rows)
        replicas = self._kernel_of_rows(chains, rows).init(level, rows)
        assert level.latest is not None
        none = torch.zeros(len(x) - 1, dtype=torch.int64, device=x.device)
        return TemperingState(
            replicas=replicas,
            parts=level.latest,
            num_steps=none.new_zeros(()),
            tally=SwapTally(none, none, none.to(torch.float64)),
            came_from_start=torch.arange(len(rows), device=x.device) < chains,
            num_round_trips=none.new_zeros(chains),
        )

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> TemperingNoise:
        """The kernel's noise for every row it moves, a uniform for each pair, and exact draws."""
        assert isinstance(self.kernel, OnDrawnNoise)
        levels, chains = len(self.exponents), len(position)
        moved = levels - 1 if self.has_exact_start else levels
        like = position.new_empty((moved * chains, *position.shape[1:]))
        noise = self.kernel.draw_noise(like, generator)
        uniform = _floats(position).new_empty((levels - 1, chains)).uniform_(generator=generator)
        fresh = exact_sample(self.start, chains, generator) if self.has_exact_start else None
        return TemperingNoise(noise, uniform, fresh)

    def _transition(
        self, target: Density, state: TemperingState, noise: TemperingNoise
    ) -> tuple[TemperingState, Info]:
        state, info = self.transition_of_all(target, state, noise)
        return state, Info(*(part[-state.num_chains :] for part in info))

    def transition_of_all(
        self, target: Density, state: TemperingState, noise: TemperingNoise
    ) -> tuple[TemperingState, Info]:
        """One step, with the Info of every row that the kernel moved."""
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
        assert isinstance(kernel, OnDrawnNoise)
        after, info = kernel._transition(level, before, noise.kernel)
        parts = level.follow(state.parts.at(moved), info.is_accepted, after.position)
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
        assert isinstance(kernel, OnDrawnNoise)
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
        return Level(GeometricPath(self.start, target), exponents)

    def _kernel_of_rows(self, chains: int, rows: Tensor) -> Kernel:
        """The kernel with its level's step size, or its level's log-odds, at each row."""
        if isinstance(self.kernel, BlockGibbs):
            exponents = _of_rows(self.exponents, chains, rows)[-len(rows) :]
            return self.kernel.with_given(_between(self.start, self.kernel, exponents))
        if self.step_size is None:
            return self.kernel
        assert isinstance(self.kernel, TunableKernel)
        return self.kernel.with_scale(_of_rows(self.step_size, chains, rows)[-len(rows) :])


def _of_rows(values: tuple[float, ...], chains: int, like: Tensor) -> Tensor:
    """One value a level to one a row, ``(levels * chains,)``; filled in place, with no copy from
    the host, which would have to wait for it."""
    return torch.cat([_floats(like).new_full((chains,), value) for value in values])


def _floats(like: Tensor) -> Tensor:
    """An empty tensor of its dtype, or of the default one where its values are counted."""
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return like.new_empty(0, dtype=dtype)


def _under_first(chains: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Puts the rows that moved under those of the first level."""
    return lambda old, new: torch.cat([old[:chains], new])


def _refuse_of_one_density(kernel: Kernel) -> None:
    """Kernels that cannot move the rows of several levels at once."""
    if isinstance(kernel, OF_ONE_DENSITY):
        raise PoeError(
            f"expected a kernel for every level, got {type(kernel).__name__}, which is built for "
            "one density: use BlockGibbs or Gibbs(space), or poe.smc, which gives each level its "
            "own"
        )


def _with_edges_of(kernel: BlockGibbs, start: Expert) -> BlockGibbs:
    """Block Gibbs whose sets suit the start's conditionals too. Raises PoeError for hidden units:
    p̃^β of an RBM is none, as its units are summed out before the power is taken."""
    found = conditionals(start)
    if found is None or found.num_hidden or kernel.conditionals.num_hidden:
        raise PoeError(
            "expected BlockGibbs without hidden units and a start whose conditionals are known, "
            f"got {kernel} from {type(start).__name__}, whose levels have none: use "
            "GibbsWithGradients(space) or Gibbs(space), or poe.smc"
        )
    edges = torch.cat([kernel.conditionals.edges, found.edges], 1)
    return BlockGibbs(kernel.conditionals._replace(edges=edges))


def _between(start: Expert, kernel: BlockGibbs, exponents: Tensor) -> Given:
    """The log-odds of the levels: (1 − β) those of the start + β those of the target."""
    at_start = conditionals(start)
    assert at_start is not None

    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        beta = exponents.reshape(-1, *([1] * (x.ndim - 1))).to(x.dtype)
        first, last = at_start.given(x, uniforms), kernel.conditionals.given(x, uniforms)
        return lambda x: torch.lerp(first(x), last(x), beta)

    return given
