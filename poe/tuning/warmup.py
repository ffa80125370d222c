"""Warm-up, apart from the kernels (none re-tunes itself): what was left out is learned here.

All chains learn together: one step size from their mean acceptance, one preconditioner from the
positions and scores of all of them, one trajectory length from both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.core.affine import MAX_DENSE_DIMENSION, Diagonal
from poe.core.arguments import checked, require_values
from poe.core.errors import PoeError
from poe.core.transport import push_score
from poe.core.transport_fit import still_fits
from poe.density.coordinates import require_chains
from poe.density.expert import Expert
from poe.density.wrappers import require_precision
from poe.diagnostics.components import MIN_DRAWS, split
from poe.diagnostics.ess import effective_size
from poe.diagnostics.settled import r_hat_of_settled
from poe.diagnostics.varying_scale import has_varying_scale
from poe.samplers.guarded import Counted
from poe.samplers.hmc import whole_turn
from poe.samplers.kernel import Info, Kernel, require_inside, started, stepped
from poe.samplers.ladder import AnnealedLangevin
from poe.samplers.questions import (
    Learned,
    Leg,
    Setting,
    filled,
    fit_map,
    from_far,
    is_tunable,
    joined,
    legs,
    max_scale,
    missing,
    needs_fit,
    needs_tuning,
    target_acceptance,
    warmup_steps,
    with_scale,
)
from poe.tuning.dual_averaging import DualAveraging, start_averaging, update_averaging
from poe.tuning.standstill import are_high, in_pits, stand_still

WINDOWS = (0.1, 0.1, 0.2, 0.2)
"""The shares of a warm-up at whose ends the preconditioner is fitted anew."""
SCALING = 0.15
"""The share after them in which the trajectory's length is found; the rest tunes its steps."""
SLOW = 8.0
"""Chains of such an autocorrelation time after their warm-up go through one twice as long."""
GRADIENTS_OF_A_DRAW = 48
REMEMBERED = 4.0
"""The autocorrelation time that draws shall have."""
SETTLING = 1 / 3
"""The share of such a window that is not fitted to."""
MAX_NUMBERS = 2**24
"""The most numbers that a window keeps of positions; beyond, some steps are left out."""


@checked
@dataclass(frozen=True)
class Warmup:
    """How to warm up.

    A step size for all is tuned in the second half of the steps. In the first half each chain has
    its own, so that one that starts where only small steps are accepted finds its way out. A
    preconditioner is fitted after a tenth, a fifth, two fifths and three fifths of the steps; what
    is left tunes the step size on the last one.

    Args:
        num_steps: The steps before sampling; with a ladder, the steps at the target after it.
        per_chain: Tune one step size for each chain, on its own acceptance, in place of one step
            size for all on the mean acceptance. For a batch of densities, where each chain has its
            own target; it is noisier, so it needs more steps.

    Raises:
        PoeError: For a number of steps that is negative or not whole.
    """

    num_steps: int = 1000
    per_chain: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.num_steps % 1:
            raise PoeError(f"expected num_steps >= 0, got {self.num_steps}: give a whole number")


class Window(NamedTuple):
    """That many steps of a kernel at a density, and the settings that are learned in them."""

    density: Expert
    kernel: Kernel
    num_steps: int
    learns: frozenset[Setting] = frozenset()
    """Learned step by step (its scale) or at its end (its preconditioner)."""
    per_chain: bool = False
    """Whether a step size left out is tuned for each chain apart."""
    is_last: bool = True
    """Whether the level's settings are those learned here."""
    descend: Callable[[Any], Tensor] = attrgetter("position")
    """Where the next window starts, from the state of this window's kernel."""
    needed_beyond: float = 0.0
    """It is left out where chains are known to have a shorter autocorrelation time, in steps.

    Not where the scale of the score varies: they may not have been in the far end of a neck yet.
    """

    def is_needed(self, learned: Learned) -> bool:
        """Whether chains of which so much is known shall go through it."""
        is_quick = learned.autocorrelation_time < self.needed_beyond
        return learned.has_varying_scale or not is_quick

    @property
    def is_compared(self) -> bool:
        """Whether its chains are compared at its end: once a preconditioner is known."""
        return self.is_last and needs_fit(self.kernel)

    @property
    def keeps_visits(self) -> bool:
        """Whether positions are kept, to fit to or to compare."""
        return self.is_compared or Setting.AFFINE in self.learns


def windows(
    target: Expert, kernel: Kernel, warmup: Warmup | None, num_chains: int
) -> tuple[Window, ...]:
    """The warm-up of a kernel, its own where None is asked for: the windows of each of its legs."""
    num_steps = None if warmup is None else warmup.num_steps
    way = legs(kernel, target, warmup_steps(kernel, num_chains) if num_steps is None else num_steps)
    wholes = [_whole(leg, per_chain=warmup is not None and warmup.per_chain) for leg in way]
    plan = tuple(window for whole in wholes for window in _windows(whole))
    is_open = num_steps is None and Setting.INTEGRATOR in missing(kernel)
    return (*plan, *_once_more(wholes[-1])) if is_open else plan


def _whole(leg: Leg, *, per_chain: bool) -> Window:
    """A leg as one window."""
    learns = missing(leg.kernel) & {Setting.SCALE}
    return Window(leg.density, leg.kernel, leg.num_steps, learns, per_chain, descend=leg.descend)


def _windows(whole: Window) -> tuple[Window, ...]:
    """One level's warm-up, window by window, each beginning with what the one before learned."""
    if not (needs_tuning(whole.kernel) or needs_fit(whole.kernel)):
        return (whole,)
    if whole.num_steps == 0:
        raise PoeError(
            f"expected warm-up steps to tune what {type(whole.kernel).__name__} leaves out, got 0: "
            "give the step size and the preconditioner, or a warm-up"
        )
    window = whole._replace(is_last=False, descend=attrgetter("position"))
    if not needs_fit(whole.kernel):
        first = 0 if whole.per_chain else whole.num_steps // 2
        before = [window._replace(num_steps=first)] if first else []
    else:
        before = _fitting(whole, window)
    # Before one step size for all is tuned, one for each chain, so that none stays behind.
    apart = [window._replace(per_chain=True) for window in before[:1]]
    left = whole.num_steps - sum(window.num_steps for window in before)
    return (*apart, *before[1:], whole._replace(num_steps=left))


def _fitting(whole: Window, window: Window) -> list[Window]:
    """The windows in which a preconditioner is fitted, and the one in which it is scaled."""
    lengths = [int(share * whole.num_steps) for share in WINDOWS]
    # A scale that was given is meant for the last map, not for those before.
    open_kernel = with_scale(whole.kernel, None) if is_tunable(whole.kernel) else whole.kernel
    learns = missing(open_kernel) & {Setting.SCALE, Setting.AFFINE, Setting.INTEGRATOR}
    fitting = window._replace(kernel=open_kernel, learns=learns)
    before = [fitting._replace(num_steps=length) for length in lengths]
    before[0] = before[0]._replace(kernel=from_far(fitting.kernel))
    return [*before, window._replace(num_steps=int(SCALING * whole.num_steps))]


def _once_more(whole: Window) -> tuple[Window, ...]:
    """Twice as long a warm-up for chains that mix slowly, from where they are after the first."""
    longer = whole._replace(num_steps=2 * whole.num_steps)
    first, *others = _windows(longer)
    rest = (others[0]._replace(num_steps=first.num_steps + others[0].num_steps), *others[1:])
    return tuple(window._replace(needed_beyond=SLOW) for window in rest)


def fill(window: Window, learned: Learned) -> Kernel:
    """The window's kernel with what it leaves out as learned at its end."""
    if learned.scale is None or Setting.SCALE not in window.learns:
        return filled(window.kernel, learned)
    scale = torch.as_tensor(learned.scale)
    scale = scale if window.per_chain else _common(scale)
    return filled(window.kernel, learned._replace(scale=scale if scale.ndim else scale.item()))


def shaped(kernel: Kernel, learned: Learned) -> Kernel:
    """The kernel with all but its scale as learned, where left out."""
    return filled(kernel, learned._replace(scale=None))


def rejoin(kernel: Kernel, plan: tuple[Window, ...], learned: tuple[Learned, ...]) -> Kernel:
    """The kernel with the tuned kernels of its windows in their places."""
    tuned = tuple(
        fill(window, known) for window, known in zip(plan, learned, strict=True) if window.is_last
    )
    return joined(kernel, tuned)


def first_learned(window: Window, x: Tensor) -> Learned:
    """Where tuning begins: scale d^(−1/2), and where one is needed a map fitted to the start."""
    dimension = max(1, x[0].numel())
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    scale = torch.full(x.shape[:1], dimension**-0.5, dtype=dtype, device=x.device)
    learned = Learned(scale, num_steps=1)
    if not needs_fit(window.kernel):
        return learned
    ones = torch.ones(dimension, dtype=x.dtype, device=x.device)
    learned = learned._replace(affine=Diagonal(torch.zeros_like(ones), ones))
    start = started(shaped(window.kernel, learned), window.density, x)
    visits = _all_of((_visit(start),), learned)
    return _fitted(window.kernel, window.density, visits, learned)


class WindowState(NamedTuple):
    """Where a window stands."""

    inner: Any
    """The kernel's state."""
    averaging: DualAveraging | None
    """Where the kernel's scale is tuned."""
    visited: tuple[tuple[Tensor, ...], ...] = ()
    """Positions, and scores where the kernel keeps them, to fit the preconditioner to."""


def begin_window(window: Window, x: Tensor, learned: Learned) -> WindowState:
    """Start a window at ``x``; tuning begins at the chains' scales, or at their geometric mean."""
    kernel = shaped(window.kernel, learned)
    inner = started(kernel, window.density, x)
    if Setting.SCALE not in window.learns:
        return WindowState(inner, None)
    first = torch.as_tensor(learned.scale)
    return WindowState(inner, start_averaging(first if window.per_chain else _common(first)))


def run_window(
    window: Window,
    state: WindowState,
    learned: Learned,
    generator: torch.Generator,
    begun: int = 0,
) -> Iterator[tuple[WindowState, Info]]:
    """The one loop of warm-up and sampling: a window's steps from the ``begun``-th on."""
    for step in range(begun, window.num_steps):
        state, info = window_step(window, state, step, learned, generator)
        yield state, info


def window_step(
    window: Window, state: WindowState, step: int, learned: Learned, generator: torch.Generator
) -> tuple[WindowState, Info]:
    """One step of a window's kernel, its ``step``-th, and one update of what is tuned."""
    averaging, kernel = state.averaging, shaped(window.kernel, learned)
    if averaging is not None:
        kernel = filled(kernel, Learned(scale=averaging.log_scale.exp()))
    inner, info = stepped(kernel, window.density, state.inner, generator=generator)
    if averaging is not None:
        # While the number of steps is not settled, one may go as far as all of them will.
        largest = max_scale(kernel if window.is_last else window.kernel)
        averaging = _averaged(averaging, info, target_acceptance(kernel), largest)
    visited = state.visited
    if window.keeps_visits and _is_kept(window, step, inner.position):
        visited = (*visited, _visit(inner))
    return WindowState(inner, averaging, visited), info


def _averaged(averaging: DualAveraging, info: Info, goal: float, largest: float) -> DualAveraging:
    probability = info.acceptance_probability
    acceptance = probability if averaging.log_scale.ndim else probability.mean()
    return update_averaging(averaging, acceptance, goal, largest)


def _is_kept(window: Window, step: int, position: Tensor) -> bool:
    every = math.ceil(position.numel() * window.num_steps / MAX_NUMBERS)
    return step >= SETTLING * window.num_steps and step % every == 0


def _visit(inner: Any) -> tuple[Tensor, ...]:
    score = getattr(inner.inner, "score", None)
    return (inner.position,) if score is None else (inner.position, score)


def end_window(window: Window, state: WindowState, learned: Learned) -> Learned:
    """What is known after a window."""
    require_inside(window.kernel, window.density.space, state.inner.position)
    averaging = state.averaging
    if averaging is not None and window.num_steps > 0:
        scale = averaging.log_scale_average.exp().expand(len(state.inner.position))
        learned = learned._replace(scale=scale)
    if window.is_compared and len(state.visited) > 1:
        visited = torch.stack([visit[0] for visit in state.visited])
        learned = learned._replace(
            r_hat=r_hat_of_settled(visited), autocorrelation_time=slowest(visited)
        )
    elif Setting.AFFINE in window.learns and state.visited:
        learned = _refitted(window, _all_of(state.visited, learned), learned)
    if Setting.AFFINE in window.learns or Setting.SCALE in window.learns:
        learned = learned._replace(num_steps=whole_turn(torch.as_tensor(learned.scale)))
    return learned


def slowest(position: Tensor) -> float:
    """The autocorrelation time of the slowest component or its square, in steps.

    Shapes: position ``(steps, chains, *event)``.

    >>> x = torch.randn(40, 100, 2, generator=torch.Generator().manual_seed(0))
    >>> round(slowest(x)), slowest(x.cumsum(0)) > 15
    (1, True)
    """
    x = position.reshape(*position.shape[:2], -1).permute(2, 1, 0).double()
    x = x - x.mean((1, 2), keepdim=True)
    values = split(torch.cat([x, x.square()]))
    if values.shape[2] < MIN_DRAWS or not bool(values.isfinite().all()):
        return math.inf
    times = values[0].numel() / effective_size(values)
    return float(times.nan_to_num(0.0).amax())


def brought_home(
    window: Window, state: WindowState, learned: Learned, generator: torch.Generator
) -> tuple[Tensor, Learned]:
    """Where chains go on from: those that stand still for nothing, from where others are that move.

    Where the kernel is left open. So do those far down, and those in a pit, which is high up with
    next to no mass around. Others that stand still as high up as others move are in a place that
    needs other steps than theirs: they stay, and the scale is known to vary.
    """
    x = window.descend(state.inner)
    if Setting.INTEGRATOR not in window.learns or len(state.visited) < MIN_DRAWS:
        return x, learned
    is_still = stand_still(torch.stack([visit[0] for visit in state.visited]))
    height = state.inner.log_density
    if bool(is_still.all()):
        return x, learned
    is_high = are_high(height, height[~is_still])
    moving = (~is_still & ~is_high).nonzero().flatten()
    is_lost = is_still & (height < height[moving].amin())
    is_up = (is_still & ~is_lost) | is_high
    is_small = x[0].numel() <= MAX_DENSE_DIMENSION  # where a Hessian can be had
    if bool(is_up.any()) and is_small and not window.per_chain:
        asked = Counted(window.density)
        is_lost[is_up] = in_pits(asked, x[is_up], x[moving])
        learned = learned._replace(
            has_varying_scale=learned.has_varying_scale or bool((is_still & is_up).any()),
            num_asked=learned.num_asked + asked.num_evaluations,
        )
    count = int(is_lost.sum())
    drawn = torch.empty(count, device=x.device).uniform_(generator=generator)
    others = moving[(drawn * len(moving)).long().clamp(max=len(moving) - 1)]
    x = x.index_copy(0, is_lost.nonzero().flatten(), x[others])
    return x, learned._replace(num_restarted=learned.num_restarted + count)


def spaced(window: Window, learned: Learned) -> Learned:
    """How many steps draws shall be apart, where that is left open, for a memory of four draws.

    No more than make 48 gradients a draw; one where the warm-up was too short to tell.
    """
    if Setting.INTEGRATOR not in missing(window.kernel):
        return learned
    affordable = max(1, GRADIENTS_OF_A_DRAW // (learned.num_steps or 1))
    time = learned.autocorrelation_time
    wanted = round(time / REMEMBERED) if math.isfinite(time) else 1
    return learned._replace(num_repeats=max(1, min(affordable, wanted)))


class Visits(NamedTuple):
    """Where chains were: positions, and scores there if these are known, ``(n, d)``."""

    position: Tensor
    score: Tensor | None


def _all_of(visited: tuple[tuple[Tensor, ...], ...], learned: Learned) -> Visits:
    """All that was visited and is finite; scores come in the coordinates of the map before."""
    parts = [torch.cat(part) for part in zip(*visited, strict=True)]
    rows = [part.reshape(len(part), -1) for part in parts]
    is_finite = torch.stack([part.isfinite().all(1) for part in rows]).all(0)
    position, *score = (part[is_finite] for part in parts)
    assert learned.affine is not None
    in_x = push_score(learned.affine, position, score[0]) if score else None
    return Visits(position, in_x)


def _refitted(window: Window, visits: Visits, learned: Learned) -> Learned:
    """The kind of integrator, and the map, by what was visited; far out, the map alone."""
    is_asked = Setting.INTEGRATOR in window.learns and not window.per_chain
    if is_asked and not learned.has_varying_scale and visits.score is not None:
        is_varying = has_varying_scale(visits.position, visits.score)
        learned = learned._replace(has_varying_scale=is_varying)
    return _fitted(shaped(window.kernel, learned), window.density, visits, learned)


def _fitted(kernel: Kernel, density: Expert, visits: Visits, learned: Learned) -> Learned:
    """The map that the kernel asks for; the one before while it fits, or nothing is finite."""
    x, score = visits
    if len(x) < 2 or (score is not None and still_fits(learned.affine, x, score)):
        return learned
    asked = Counted(density)
    affine = fit_map(kernel, asked, x, score)
    num_asked = learned.num_asked + asked.num_evaluations
    return learned._replace(affine=affine, num_asked=num_asked)


def _common(scale: Tensor) -> Tensor:
    """The geometric mean: ()."""
    return scale.log().mean().exp()


@checked
def warm_up(
    target: Expert,
    kernel: Kernel,
    x: Tensor,
    warmup: Warmup,
    *,
    generator: torch.Generator,
) -> tuple[Kernel, Tensor]:
    """Run a kernel's warm-up: the kernel with nothing left out, and where the chains ended.

    A setting given is kept (the warm-up is then burn-in); what is left out is learned: a step size
    by dual averaging to the kernel's target acceptance, a preconditioner from the positions and
    scores of all chains, a number of steps that makes a little more than a quarter turn; level by
    level where there is a ladder.

    Args:
        target: The density to sample.
        kernel: With its settings, or without some.
        x: Where the chains begin, ``(chains, *event)``.
        warmup: For how long.
        generator: Of all that is drawn.

    Returns:
        The kernel, and where the chains ended, ``(chains, *event)``.

    Raises:
        ShapeError: For x of no or several batch dimensions.
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        PoeError: Where something must be learned in no steps.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
        >>> g = torch.Generator().manual_seed(0)
        >>> kernel, x = warm_up(
        ...     target, poe.samplers.MALA(), torch.zeros(50, 2), Warmup(300), generator=g
        ... )
        >>> 0.5 < kernel.step_size < 2.0
        True
    """
    require_chains(target.space, x, "x")
    require_values("x", x)
    require_precision(target)
    plan = windows(target, kernel, warmup, len(x))
    learned: tuple[Learned, ...] = (first_learned(plan[0], x),)
    for window in plan:
        state = begin_window(window, x, learned[-1])
        for after, _ in run_window(window, state, learned[-1], generator):
            state = after
        learned = (*learned, end_window(window, state, learned[-1]))
        x = window.descend(state.inner)
    return rejoin(kernel, plan, learned[1:]), x


@checked
def tune_ladder(
    target: Expert,
    kernel: AnnealedLangevin,
    x: Tensor,
    *,
    num_steps: int,
    per_chain: bool = False,
    generator: torch.Generator,
) -> AnnealedLangevin:
    """Tune an annealed kernel's step size at each level, in ``num_steps`` steps a level.

    Every step size left out is tuned to its kernel's target acceptance at its own level, beginning
    with the one tuned for the level before.

    Args:
        target: The density at the end of the ladder.
        kernel: The annealed kernel.
        x: Positions on the first level, ``(chains, *event)``.
        num_steps: At each level, and at the target.
        per_chain: Whether each chain has a step size of its own.
        generator: Of all that is drawn.

    Returns:
        The kernel that holds them in ``step_size`` (L + 1 numbers, or with ``per_chain`` tensors of
        shape ``(chains,)``) and keeps its own ``steps_per_level``.

    Raises:
        ShapeError: For x of no or several batch dimensions.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: -50.0 * x.square().sum(-1), space=poe.Real(2))
        >>> ladder = poe.samplers.AnnealedLangevin((target ** 0.01,), steps_per_level=5)
        >>> g = torch.Generator().manual_seed(0)
        >>> tuned = tune_ladder(target, ladder, torch.zeros(50, 2), num_steps=200, generator=g)
        >>> broad, sharp = tuned.step_size
        >>> tuned.steps_per_level, broad > 10 * sharp
        (5, True)
    """
    longer = replace(kernel, steps_per_level=num_steps)
    tuned, _ = warm_up(target, longer, x, Warmup(num_steps, per_chain), generator=generator)
    assert isinstance(tuned, AnnealedLangevin)
    return replace(tuned, steps_per_level=kernel.steps_per_level)
