"""What is found out about a log-density by trying it, before a run trusts it.

Whether it is a function of x: noise, drawn anew at every call, leaves another density invariant
than the one that was given, since a Metropolis step compares two values. Whether each row has its
value by itself: one that depends on the other chains is no density of x. And whether its score is
its slope: a graph that was lost on the way counts as a constant, in silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from poe.core.errors import AdaptationError, GradientError, PoeError
from poe.core.no_gradient import (
    WRITE_IT_IN_TORCH,
    directions,
    has_steps,
    in_double,
    units_in_last_place,
    value_near,
)
from poe.density.expert import Expert, is_power

Pull = Callable[[Expert], Expert]
"""What brings an expert to the chains' coordinates."""
MOVES = [2.0**-power for power in (4, 7, 10, 14, 17, 20, 24, 28)]
"""How far differences reach, of the spread of the chains."""
MOST_ROWS = 16
"""So many rows of one density are tried at most, spread over all."""
FEWEST_PROBES = 8
"""And rows times directions at least."""
DECISIVE = 0.25
"""Bends and rounding are at most this part of a change that tells a slope."""
LOST = 0.03
"""The part of a slope that must be missing, beyond what bends and rounding explain."""
ACCUSED = 0.25
"""More than this share of the rows and directions that tell a slope must contradict the score."""
FEWEST_ACCUSERS = 3
HIDDEN = 2 * torch.finfo(torch.float32).eps
"""A change smaller than this, of the value, is hidden where a part was computed in float32."""


def training_layers(module: nn.Module, *others: type[nn.Module]) -> list[str]:
    """The layers in training mode whose output is random, or depends on the rest of the batch.

    These are dropout with p > 0, attention and recurrent layers with such, RReLU, batch
    normalisation (one without running statistics counts in evaluation mode too), and `others`, a
    library's own.

    >>> training_layers(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)))
    ['1 (Dropout)']
    """
    found = ((p, m) for p, m in module.named_modules() if _is_in_training(m, others))
    return [f"{path} ({type(m).__name__})" if path else type(m).__name__ for path, m in found]


def require_settled(model: nn.Module, *others: type[nn.Module]) -> None:
    """Raise `AdaptationError` where a model has `training_layers`: it is no one density yet.

    Args:
        model: What is to be adapted.
        *others: As of `training_layers`, a library's own.

    Raises:
        AdaptationError: Where a layer is in training mode.
    """
    if layers := training_layers(model, *others):
        raise AdaptationError(
            f"expected {type(model).__name__} in evaluation mode, since its {', '.join(layers)} "
            "in training mode gives no log-density that is one number for each x: call "
            "model.eval() before it is adapted"
        )


def _is_in_training(part: nn.Module, others: tuple[type[nn.Module], ...]) -> bool:
    if isinstance(part, _BatchNorm):
        return part.training or not part.track_running_stats
    if isinstance(part, _DropoutNd):
        return part.training and part.p > 0
    if isinstance(part, nn.MultiheadAttention | nn.RNNBase):
        return part.training and part.dropout > 0
    return part.training and isinstance(part, (nn.RReLU, *others))


def require_evaluation_mode(target: Expert) -> None:
    """Raise `PoeError`, naming expert and layer, where one is in training mode and it matters."""
    for name, factor in _named(target):
        if layers := training_layers(factor):
            raise PoeError(
                f"expected experts in evaluation mode, since a corrected kernel needs one "
                f"log-density for each x; expert {name!r} has {', '.join(layers)} in training "
                "mode: call target.eval() first"
            )


def require_no_batch_statistics(target: Expert) -> None:
    """Raise `PoeError`, naming the expert, where batch normalisation reads a row by the others.

    To be asked before the expert is: each call in training mode changes what the layer keeps.
    """
    for name, factor in _named(target):
        if any(isinstance(m, _BatchNorm) and _is_in_training(m, ()) for m in factor.modules()):
            raise PoeError(
                f"expected a log-density that each row of x has by itself, got expert {name!r} "
                "with batch normalisation in training mode: call target.eval() first"
            )


@torch.no_grad()
def require_function(
    target: Expert, density: Expert, pull: Pull, u: Tensor, *, is_corrected: bool = True
) -> None:
    """Raise where a log-density is no function of x alone, row by row.

    An uncorrected kernel takes noise, so that of a noisy one nothing more can be told.

    Args:
        target: What is sampled.
        density: The same in the chains' coordinates.
        pull: What brings a factor of the target to these.
        u: Positions in these, ``(chains, *event)``.
        is_corrected: Whether what follows compares values, as a Metropolis step does.

    Raises:
        PoeError: Naming the experts at fault, where two calls give two log-densities, or where a
            row's depends on what other rows are evaluated with it.
    """
    if is_corrected:
        require_deterministic(target, density, pull, u)
    if not u.is_meta:
        require_row_by_row(target, density, pull, u)


@torch.no_grad()
def require_deterministic(target: Expert, density: Expert, pull: Pull, u: Tensor) -> None:
    """Raise `PoeError`, naming the experts at fault, where two calls give two log-densities.

    Arguments as of `require_function`. Two calls may differ by half of the digits of their dtype,
    as sums in no fixed order do.
    """
    require_evaluation_mode(target)
    if u.is_meta:
        return
    gap = _gap(density, u)
    if gap is None:
        return
    raise PoeError(
        "expected the same log-density from two calls at the same positions, which a corrected "
        f"kernel needs; {_blamed(target, lambda factor: _gap(pull(factor), u) is not None)} gave "
        f"values that differ by up to {gap:.3g}. Use an exact trace in place of Hutchinson's "
        "estimate, or an uncorrected kernel such as poe.samplers.ULA, whose draws are biased"
    )


@torch.no_grad()
def require_row_by_row(target: Expert, density: Expert, pull: Pull, u: Tensor) -> None:
    """Raise `PoeError`, naming the experts at fault, where a row's value depends on the others.

    Arguments as of `require_function`. Values may differ by half of the digits of their dtype, as
    sums of another order do.
    """
    u = _apart(density, u)
    gap = _gap_in_company(density, u)
    if gap is None or _gap(density, u) is not None:
        return
    blamed = _blamed(target, lambda factor: _gap_in_company(pull(factor), u) is not None)
    raise PoeError(
        "expected a log-density that each row of x has by itself, whatever other rows are "
        f"evaluated with it; {blamed} gave the same rows values that differ by up to {gap:.3g} in "
        "other company. Call .eval() on networks whose layers are in training mode, as batch "
        "normalisation is until then, and take means, softmax and sums over the event's dimensions "
        "only, as in x.sum(-1)"
    )


@torch.no_grad()
def require_same_with_gradients(density: Expert, u: Tensor) -> None:
    """Raise `PoeError` where a log-density is another one while gradients are recorded.

    So it is where one factor writes into x behind torch's back, through ``x.data`` or a numpy view
    of it: without gradients each has a copy, and with them the factors after it read the change.

    Args:
        density: In the chains' coordinates.
        u: Positions in these, ``(chains, *event)``; of integers or on meta nothing is tried.
    """
    if u.is_meta or density.space.is_discrete:
        return
    with_gradients = _value_with_gradients(density, u)
    gap = None if with_gradients is None else _difference(density(u), with_gradients)
    if gap is not None and _gap(density, u) is None:  # noise would differ anyway
        raise PoeError(
            "expected one log-density, whether gradients are recorded or not, got values that "
            f"differ by up to {gap:.3g}: an expert that changes x in place, as in x.data.clamp_() "
            "or by a numpy view of x.detach(), is to work on x.clone()"
        )


def _value_with_gradients(density: Expert, u: Tensor) -> Tensor | None:
    """None where it cannot be had: what comes of that is said where a score is asked for."""
    with torch.enable_grad():
        value = value_near(density, u.clone().requires_grad_()).detach()
    return None if value.shape != u.shape[:1] else value


def _blamed(target: Expert, is_at_fault: Callable[[Expert], bool]) -> str:
    """The experts at fault, in words; the target where none is so by itself."""
    names = [repr(name) for name, factor in _named(target) if is_at_fault(factor)]
    return ", ".join(f"expert {name}" for name in names) or "the target"


def _gap_in_company(expert: Expert, u: Tensor) -> float | None:
    """The largest change of rows in other company, if more than rounding.

    The even rows beside other ones in place of the odd ones; then the odd rows by themselves or, of
    a batch of densities, in which each keeps its place, likewise.
    """
    value = expert(u)
    pairs = [(value[::2], expert(_beside(u, 0))[::2])]
    if expert.num_densities is None:
        pairs += _by_themselves(expert, u, value)
    else:
        pairs += [(value[1::2], expert(_beside(u, 1))[1::2])]
    gaps = (_difference(one, other) for one, other in pairs)
    return max((gap for gap in gaps if gap is not None), default=None)


def _by_themselves(expert: Expert, u: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The odd rows' values, and those without the other rows; of a lone row that beside one more.

    Nothing of an expert that is built for one number of rows. One whose value had its shape by
    chance, of the first number, raises ShapeError.
    """
    is_alone = len(u) == 1
    values, rows = value[1::2], u[1::2]
    if is_alone:
        values, rows = value, torch.cat([u, _elsewhere(expert, u)])
    try:
        return [(values, expert(rows)[: len(values)])]
    except PoeError:
        raise
    except Exception:
        return []


def _beside(u: Tensor, kept: int) -> Tensor:
    """The even rows (0) or the odd rows (1) as they are, and the row before in place of others."""
    is_kept = (torch.arange(len(u), device=u.device) % 2 == kept).reshape(-1, *[1] * (u.ndim - 1))
    return torch.where(is_kept, u, u.roll(1, 0))


def _apart(expert: Expert, u: Tensor) -> Tensor:
    """The rows, moved apart where all are at one place, which may be a summit."""
    return u if _spread(u.double()) is not None else _elsewhere(expert, u)


def _elsewhere(expert: Expert, u: Tensor) -> Tensor:
    """Other positions near by; on a discrete space the same."""
    return u if expert.space.is_discrete else u + 0.5 * directions(u, 1)[0]


def require_score(target: Expert, density: Expert, pull: Pull, u: Tensor) -> None:
    """Raise where the score is contradicted by differences of the log-density.

    Arguments as of `require_function`.

    Raises:
        GradientError: Naming the experts at fault.
    """
    if not is_score_contradicted(density, u):
        return
    blamed = _blamed(target, lambda factor: is_score_contradicted(pull(factor), u))
    raise GradientError(
        f"expected a score that is the slope of the log-density; that of {blamed} is another than "
        "differences of its values show, so that a part of its graph to x was lost. "
        f"{WRITE_IT_IN_TORCH}"
    )


# Kept beside the experts, not on them, as what is known of their graphs is.
_COMPARED: weakref.WeakSet[Expert] = weakref.WeakSet()


def require_score_once(target: Expert, density: Expert, pull: Pull, u: Tensor) -> None:
    """The same at an expert's first positions alone: for what is called anew at every step."""
    if target not in _COMPARED:
        require_no_batch_statistics(target)
        require_score(target, density, pull, u)
        _COMPARED.add(target)


def is_score_contradicted(density: Expert, u: Tensor) -> bool:
    """Whether differences of a log-density show another slope than its score, on many rows.

    Along fixed directions at ever smaller moves, in float64 where the density takes it. A row and
    direction speaks where a change is much larger than its bend (by which kinks are told, where a
    slope is none) and its rounding: for the score at whatever scale they agree, since steps and
    rounded energies have the slope of their score near by; against it where neighbouring scales
    show one and the same other slope. An expert whose score is by design not its slope says so, by
    an attribute ``has_own_score``.

    Args:
        density: In unconstrained coordinates.
        u: Positions, ``(chains, *event)``.

    Returns:
        False where nothing can be told, as on discrete spaces.

    Example:
        >>> u = torch.linspace(-2, 2, 16)[:, None]
        >>> half = lambda x: -(x.square() + x.detach().square()).sum(-1)
        >>> kinked = lambda x: -x.abs().sum(-1)
        >>> functions = [poe.FromLogDensity(f, space=poe.Real(1)) for f in (half, kinked)]
        >>> [is_score_contradicted(function, u) for function in functions]
        [True, False]
    """
    if density.space.is_discrete or u.is_meta or _says_its_own_score(density):
        return False
    if density.num_densities is None:
        u = u[:: -(-len(u) // MOST_ROWS)]
    with torch.no_grad():
        u = in_double(density, u)
    if not _is_accused(density, u, HIDDEN):
        return False
    return not _is_rounded(density, u) or _is_accused(density, u, 0.0)


def _is_accused(density: Expert, u: Tensor, hidden: float) -> bool:
    """By so many rows and directions; what is smaller than `hidden`, of a value, none can see."""
    spread, u = _spread(u), _apart(density, u)
    value, score = _both_near(density, u)
    verdicts = [
        _verdicts(density, u, value, score, (1.0 if spread is None else spread) * direction, hidden)
        for direction in directions(u, -(-FEWEST_PROBES // len(u)))
    ]
    for_it, against_it = (torch.cat(part).sum() for part in zip(*verdicts, strict=True))
    is_many = against_it > ACCUSED * (for_it + against_it)
    return bool(is_many & (against_it >= FEWEST_ACCUSERS))


def _is_rounded(density: Expert, u: Tensor) -> bool:
    with torch.enable_grad():
        return has_steps(density(u.detach().requires_grad_()))


def _both_near(density: Expert, u: Tensor) -> tuple[Tensor, Tensor]:
    """The log-density and its score, NaN where it refuses places that nobody asked for."""
    try:
        return density.log_density_and_score(u)
    except GradientError:
        raise
    except Exception:
        return u.new_full((len(u),), torch.nan), torch.full_like(u, torch.nan)


def _says_its_own_score(density: Expert) -> bool:
    return any(getattr(part, "has_own_score", False) for part in density.modules())


def _spread(u: Tensor) -> Tensor | None:
    """The chains' standard deviation, (); None where they are at one place."""
    spread = (u - u.mean(0)).square().mean().sqrt()
    return spread if bool(spread > 1e-6 * u.abs().mean()) else None


@torch.no_grad()
def _verdicts(
    density: Expert, u: Tensor, value: Tensor, score: Tensor, direction: Tensor, hidden: float
) -> tuple[Tensor, Tensor]:
    """Which rows agree with the score, and which contradict it, each ``(chains,)``."""
    seen = [_changes(density, u, value, score, move * direction) for move in MOVES]
    change, expected, bend = (torch.stack(part) for part in zip(*seen, strict=True))
    unit = units_in_last_place(value).double()
    rounding = torch.maximum(8 * unit, 4 * bend[-1].nanmedian())
    moves = torch.tensor(MOVES, dtype=change.dtype, device=u.device)[:, None]
    largest = torch.maximum(change.abs(), expected.abs())
    doubt, missing = 2 * bend + rounding, (change - expected).abs()
    is_still = (change == 0) & (expected == 0)
    is_told = change.isfinite() & (change != 0)
    is_lost = is_told & (doubt <= DECISIVE * change.abs()) & (missing > 2 * doubt + LOST * largest)
    slope, lacking = change / moves, missing / moves
    is_same = (slope[1:] - slope[:-1]).abs() <= DECISIVE * torch.minimum(lacking[1:], lacking[:-1])
    is_against = (is_lost[1:] & is_lost[:-1] & is_same).any(0)
    is_seen = lacking.amax(0) * moves > hidden * value.abs().double()
    agrees = is_told & (doubt <= LOST * largest) & (missing <= LOST * largest)
    is_for = ((agrees | is_still) & (is_seen | ~is_lost.any(0))).any(0)
    return is_for, is_against & ~is_for


def _changes(
    density: Expert, u: Tensor, value: Tensor, score: Tensor, move: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Half the change from behind to ahead, that by the score, and the bend, each ``(chains,)``."""
    ahead, behind = u + move, u - move
    up, down = (value_near(density, place).double() - value.double() for place in (ahead, behind))
    along = (score.double() * (ahead - behind).double()).reshape(len(u), -1).sum(1)
    return 0.5 * (up - down), 0.5 * along, 0.5 * (up + down).abs()


def _named(target: Expert) -> Iterator[tuple[str, Expert]]:
    for name, factor in target._factors():
        while is_power(factor):
            factor = factor.expert
        yield name, factor


def _gap(expert: Expert, x: Tensor) -> float | None:
    """The largest difference of two calls, if more than rounding."""
    return _difference(expert(x), expert(x))


def _difference(first: Tensor, second: Tensor) -> float | None:
    """The largest, if more than rounding; infinities must be the same, of NaN nothing is said."""
    is_same = (first == second) | (first.isnan() & second.isnan())
    difference = (first - second).abs()
    tolerance = torch.finfo(first.dtype).eps ** 0.5 * (1 + torch.minimum(first.abs(), second.abs()))
    is_more = ~is_same & ~(difference <= tolerance)
    return float(difference[is_more].max()) if bool(is_more.any()) else None
