"""What a kernel can do, asked in one place: every question, and what is taken where it is silent.

A kernel answers by an attribute of the question's name. One of ``init`` and ``step`` alone says
nothing of itself, and gets the answer that is safe; nobody asks for a kernel's type.

| attribute | says | else |
|---|---|---|
| ``guarantee`` | whether the target is left invariant | "biased" |
| ``is_reversible`` | whether it is in detailed balance with the target | False |
| ``needs_score`` | whether it asks for the target's score | True |
| ``gradients_per_step`` | how often a step evaluates the target | 1 |
| ``log_odds_per_step`` | how often a step works out log-odds of all elements beside | 0 |
| ``ends_where_it_asked`` | whether it ends where it evaluated last, or stays | False |
| ``draws_beforehand`` | whether its random numbers are drawn before a step | False |
| ``can_restart`` | whether ``init`` at a draw is a draw of all that a state holds | True |
| ``has_memory`` | whether a state holds what does not follow from its position | False |
| ``space`` | the space that it is built for | any |
| ``is_of_one_density`` | whether it is built from the parts of one density | False |
| ``at_level(level)`` | the kernel for another density on a path to its own | itself |
| ``between(start)`` | the kernel of many levels at once | itself |
| ``missing``, ``filled(learned)`` | the settings left out, and how they are filled in | its scale |
| ``fit_map(target, x, score)`` | the map of coordinates that warm-up fits for it | an affine one |
| ``max_scale`` | the largest scale worth tuning to | ∞ |
| ``from_far`` | the kernel to come in from far out by | itself |
| ``legs(target, num_steps)``, ``joined(kernels)`` | the densities it is warmed up at | its target |
| ``warmup_steps(num_chains)`` | the steps of a warm-up that nobody gave | 1000 |
| ``way_out`` | what to do about chains that never move | smaller steps |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple, TypeGuard, cast

from torch import Tensor

from poe.core.affine import Affine, fit_affine
from poe.core.errors import PoeError
from poe.core.space import Space
from poe.core.transport import Transport
from poe.density.expert import Expert
from poe.samplers.kernel import BIASED, Density, Kernel, TunableKernel

WARMUP_STEPS = 1000
WAY_OUT = "use a smaller step size, a longer warm-up or another start"
WAY_OUT_OF_A_TUNED = "use a longer warm-up, another start, another parametrisation or kernel"


class Setting(Enum):
    """A setting that a kernel may leave out, for warm-up to fill in."""

    SCALE = "step size"
    AFFINE = "preconditioner"
    NUM_STEPS = "number of steps"
    INTEGRATOR = "integrator"


# Asked at every step, so not made anew.
NOTHING: frozenset[Setting] = frozenset()
ITS_SCALE = frozenset({Setting.SCALE})
OF_A_SCALE = ("scale_setting", "target_acceptance", "with_scale")


class Learned(NamedTuple):
    """What warm-up knows of the settings that a kernel may leave out; None where nothing is known.

    Args:
        scale: The step size, () or ``(chains,)``.
        affine: The preconditioner.
        num_steps: Of a trajectory.
        r_hat: The largest of chains that no longer drift, over a fitted kernel's last stretch.
        has_varying_scale: Whether one step size does not fit all places that chains come to.
        autocorrelation_time: Of the slowest component or its square, in steps, over that stretch.
        num_repeats: So many steps from one draw to the next.
        num_restarted: So many chains that stood still were started again where others are.
        num_asked: At so many positions was the target asked beside those of chains.
    """

    scale: Tensor | float | None = None
    affine: Affine | Transport | None = None
    num_steps: int | None = None
    r_hat: float = math.nan
    has_varying_scale: bool = False
    autocorrelation_time: float = math.nan
    num_repeats: int = 1
    num_restarted: int = 0
    num_asked: int = 0


class Leg(NamedTuple):
    """A stretch of the way that a kernel is warmed up on: one density, and what moves there.

    Args:
        density: Where it is warmed up.
        kernel: What moves there.
        num_steps: For how long.
        descend: From the kernel's last state, where the next leg starts, ``(chains, *event)``.
    """

    density: Expert
    kernel: Kernel
    num_steps: int
    descend: Callable[[Any], Tensor] = attrgetter("position")


# What a step is


def guarantee(kernel: Kernel) -> str:
    """Whether the target is left invariant, in the words of a result.

    Args:
        kernel: Any.

    Returns:
        ``"asymptotically exact"`` where it is, else ``"biased"``.

    Example:
        >>> guarantee(poe.samplers.MALA(0.1)), guarantee(poe.samplers.ULA(0.1))
        ('asymptotically exact', 'biased')
    """
    return str(getattr(kernel, "guarantee", BIASED))


def is_reversible(kernel: Kernel) -> bool:
    """Whether its steps are in detailed balance with the target: p(x) k(y | x) = p(y) k(x | y).

    More than invariance, which a sweep through the elements in order has, and this it has not.

    Args:
        kernel: Any.

    Returns:
        False where it does not say.

    Example:
        >>> space = poe.Binary(3)
        >>> kernels = poe.samplers.Gibbs(space), poe.samplers.RandomScanGibbs(space)
        >>> tuple(map(is_reversible, kernels))
        (False, True)
    """
    return _claims(kernel, "is_reversible")


def needs_score(kernel: Kernel) -> bool:
    """Whether it asks for the target's score, and not for log-densities alone."""
    return _yes_or_no(kernel, "needs_score") if hasattr(kernel, "needs_score") else True


def says_whether_it_needs_score(kernel: Kernel) -> bool:
    """Whether the last answer is the kernel's own."""
    return hasattr(kernel, "needs_score")


def starts_with_score(kernel: Kernel, density: Expert, u: Tensor) -> bool:
    """Whether it asks for the score where chains begin at u; one that does not say is watched."""
    if says_whether_it_needs_score(kernel):
        return needs_score(kernel)
    watched = _Watched(density)
    kernel.init(watched, u)
    return watched.was_asked_for_score


class _Watched:
    """A density that remembers whether it was asked for its score."""

    def __init__(self, density: Expert) -> None:
        self.density = density
        self.was_asked_for_score = False

    def log_density(self, x: Tensor) -> Tensor:
        return self.density.log_density(x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.was_asked_for_score = True
        return self.density.log_density_and_score(x)


def gradients_per_step(kernel: Kernel) -> int:
    """How often a step evaluates the target, with its score where the kernel needs one."""
    return int(getattr(kernel, "gradients_per_step", 1))


def log_odds_per_step(kernel: Kernel) -> int:
    """How often a step works out log-odds of all elements, each as dear as a log-density."""
    return int(getattr(kernel, "log_odds_per_step", 0))


def ends_where_it_asked(kernel: Kernel) -> bool:
    """Whether a chain that accepted ends where the target was evaluated last, others nowhere new.

    Then what the parts of a path say there is known, and need not be asked again.
    """
    return _claims(kernel, "ends_where_it_asked")


def can_restart(kernel: Kernel) -> bool:
    """Whether ``init`` at draws of the target is as good as a state that came to be there.

    So it is for every kernel that ``poe.testing.check_kernel`` passes from its own ``init``; not
    for one that begins far from the target.
    """
    return _yes_or_no(kernel, "can_restart") if hasattr(kernel, "can_restart") else True


def draws_beforehand(kernel: Kernel) -> bool:
    """Whether its random numbers are drawn before a step, which then compiles in one graph."""
    return _yes_or_no(kernel, "draws_beforehand") if hasattr(kernel, "draws_beforehand") else False


def has_memory(kernel: Kernel) -> bool:
    """Whether a state holds what does not follow from its position, such as a momentum."""
    return _yes_or_no(kernel, "has_memory") if hasattr(kernel, "has_memory") else False


# Where it moves


def space_of(kernel: Kernel) -> Space | None:
    """The space that it is built for; None where it moves on any."""
    return cast(Space | None, getattr(kernel, "space", None))


def is_of_one_density(kernel: Kernel) -> bool:
    """Whether it is built from the parts of one density, and leaves that one invariant."""
    return (
        _yes_or_no(kernel, "is_of_one_density") if hasattr(kernel, "is_of_one_density") else False
    )


def at_level(kernel: Kernel, level: Expert) -> Kernel:
    """The kernel for another density, on a path that leads to its own.

    Args:
        kernel: Any.
        level: That density.

    Returns:
        The kernel itself, where it moves by the density it is handed.

    Raises:
        PoeError: For one that is of one density and does not say what it is at another.
    """
    if hasattr(kernel, "at_level"):
        return cast(Kernel, kernel.at_level(level))
    if is_of_one_density(kernel):
        raise PoeError(
            f"expected a kernel for every level, got {type(kernel).__name__}, which is built for "
            "one density and has no `at_level(level)`: use one that moves by the density it is "
            "handed, such as HMC or Gibbs(space)"
        )
    return kernel


def between(kernel: Kernel, start: Expert) -> Callable[[Tensor], Kernel] | None:
    """The kernel of many levels at once: for rows at start^(1 − β) target^β.

    Args:
        kernel: Any.
        start: The density at β = 0.

    Returns:
        From β, ``(rows,)``, the kernel of that many rows; None where it is the same at all of them.

    Raises:
        PoeError: For one that is of one density and does not say what it is between two.
    """
    if hasattr(kernel, "between"):
        return cast(Callable[[Tensor], Kernel], kernel.between(start))
    if is_of_one_density(kernel):
        raise PoeError(
            f"expected a kernel for every level, got {type(kernel).__name__}, which is built for "
            "one density and has no `between(start)`: use BlockGibbs or Gibbs(space), or poe.smc, "
            "which gives each level its own"
        )
    return None


# What it leaves out


def is_tunable(kernel: Kernel) -> TypeGuard[TunableKernel]:
    """Whether it has a scale, given or not, that can be tuned on the acceptance rate.

    What ``isinstance(kernel, TunableKernel)`` says, in a hundredth of the time.
    """
    return all(hasattr(kernel, name) for name in OF_A_SCALE)


def missing(kernel: Kernel) -> frozenset[Setting]:
    """The settings that were left out.

    >>> kernel = poe.samplers.Preconditioned(poe.samplers.MALA())
    >>> sorted(setting.value for setting in missing(kernel))
    ['preconditioner', 'step size']
    """
    if hasattr(kernel, "missing"):
        return cast(frozenset[Setting], kernel.missing)
    return ITS_SCALE if is_tunable(kernel) and kernel.scale_setting is None else NOTHING


def needs_tuning(kernel: Kernel) -> bool:
    """Whether the kernel's scale was left out."""
    return Setting.SCALE in missing(kernel)


def needs_fit(kernel: Kernel) -> bool:
    """Whether the kernel's preconditioner was left out."""
    return Setting.AFFINE in missing(kernel)


def filled(kernel: Kernel, learned: Learned) -> Kernel:
    """The kernel with what it leaves out as learned, as far as that is known.

    Args:
        kernel: Any.
        learned: What warm-up knows.

    Returns:
        A copy, or the kernel itself where nothing is missing.

    Example:
        >>> filled(poe.samplers.MALA(), Learned(scale=0.3))
        MALA(step_size=0.3)
        >>> filled(poe.samplers.MALA(0.1), Learned(scale=0.3))
        MALA(step_size=0.1)
    """
    left_out = missing(kernel)
    if left_out and hasattr(kernel, "filled"):
        return cast(Kernel, kernel.filled(learned))
    if Setting.SCALE in left_out and learned.scale is not None:
        return with_scale(kernel, learned.scale)
    return kernel


def fit_map(kernel: Kernel, target: Density, x: Tensor, score: Tensor | None) -> Affine | Transport:
    """The map of coordinates that warm-up fits for a kernel: affine, where it asks for no other.

    Args:
        kernel: Any.
        target: What it shall move on.
        x: Positions, ``(n, *event)``.
        score: ∇ log p̃ there, ``(n, *event)``; None where there is none.

    Returns:
        The map.
    """
    if score is not None and hasattr(kernel, "fit_map"):
        return cast("Affine | Transport", kernel.fit_map(target, x, score))
    return fit_affine(x, score)


def with_scale(kernel: Kernel, value: Tensor | float | None) -> Kernel:
    """The kernel with another scale.

    Args:
        kernel: One that has a scale.
        value: A number, or a tensor of shape () or ``(chains,)``; None leaves it out.

    Returns:
        A copy.

    Raises:
        PoeError: Where it has none.
    """
    if not is_tunable(kernel):
        raise PoeError(f"{type(kernel).__name__} has no step size to tune: give it with one")
    return kernel.with_scale(value)  # type: ignore[arg-type]


def target_acceptance(kernel: Kernel) -> float:
    """The mean acceptance probability to tune for.

    Args:
        kernel: One that has a scale.

    Returns:
        Between 0 and 1.

    Raises:
        PoeError: Where it has none.
    """
    if not hasattr(kernel, "target_acceptance"):
        raise PoeError(f"{type(kernel).__name__} has no step size to tune: give it with one")
    return float(kernel.target_acceptance)


def max_scale(kernel: Kernel) -> float:
    """The largest scale worth tuning to.

    >>> max_scale(poe.samplers.SplitHMC(num_steps=2)), max_scale(poe.samplers.MALA())
    (0.825, inf)
    """
    return float(getattr(kernel, "max_scale", math.inf))


def from_far(kernel: Kernel) -> Kernel:
    """The kernel to come in from far out by, where a first stretch of warm-up begins."""
    return cast(Kernel, getattr(kernel, "from_far", kernel))


def legs(kernel: Kernel, target: Expert, num_steps: int) -> tuple[Leg, ...]:
    """The densities that it is warmed up at, the last of them the target.

    Args:
        kernel: Any.
        target: The density to sample.
        num_steps: How many steps at the target.

    Returns:
        One leg at least.
    """
    if hasattr(kernel, "legs"):
        return cast(tuple[Leg, ...], kernel.legs(target, num_steps))
    return (Leg(target, kernel, num_steps),)


def joined(kernel: Kernel, kernels: tuple[Kernel, ...]) -> Kernel:
    """The kernel with those of its legs, warmed up, in their places.

    Args:
        kernel: Any.
        kernels: One for each of its legs.

    Returns:
        The last of them, where there is but one.
    """
    if hasattr(kernel, "joined"):
        return cast(Kernel, kernel.joined(kernels))
    return kernels[-1]


def warmup_steps(kernel: Kernel, num_chains: int) -> int:
    """The steps of a warm-up that nobody gave."""
    if hasattr(kernel, "warmup_steps"):
        return int(kernel.warmup_steps(num_chains))
    return WARMUP_STEPS


def way_out(kernel: Kernel | None, *, is_tuned: bool = False) -> str:
    """What to do about chains that never move, in words: for who did or did not set a step size."""
    return str(getattr(kernel, "way_out", WAY_OUT_OF_A_TUNED if is_tuned else WAY_OUT))


def _claims(kernel: Kernel, name: str) -> bool:
    """Whether the class that makes the step claims it, or one derived from it.

    A claim about a step does not pass on to another step: a subclass that makes its own says anew.
    """
    if name in getattr(kernel, "__dict__", {}):
        return _yes_or_no(kernel, name)
    for kind in type(kernel).__mro__:
        if name in vars(kind):
            return _yes_or_no(kernel, name)
        if "transition" in vars(kind) or "step" in vars(kind):
            return False
    return False


def _yes_or_no(kernel: Kernel, name: str) -> bool:
    """What the attribute says: a method in its place would be true whatever it returned."""
    said = getattr(kernel, name)
    if not isinstance(said, bool):
        raise PoeError(
            f"expected {type(kernel).__name__}.{name} to be True or False, got {said!r}: make it "
            "an attribute or a property"
        )
    return said
