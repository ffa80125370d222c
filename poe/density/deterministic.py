"""Whether a log-density is a function: what a corrected kernel needs, and noise does not give.

A Metropolis step compares two values. Where each is an estimate, drawn anew at every call (a
stochastic trace, dropout), the step leaves another density invariant than the one that was given.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from poe.core.errors import AdaptationError, PoeError
from poe.density.expert import Expert, Tempered


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


@torch.no_grad()
def require_deterministic(target: Expert, density: Expert, u: Tensor, x: Tensor) -> None:
    """Raise `PoeError`, naming the experts at fault, where two calls give two log-densities.

    `density` is the target in the chains' coordinates u, and x the same positions in its space.
    Two calls may differ by half of the digits of their dtype, as sums in no fixed order do.
    """
    require_evaluation_mode(target)
    if u.is_meta:
        return
    gap = _gap(density, u)
    if gap is None:
        return
    varying = [name for name, factor in _named(target) if _gap(factor, x) is not None]
    blamed = ", ".join(f"expert {name!r}" for name in varying) or "the target"
    raise PoeError(
        "expected the same log-density from two calls at the same positions, which a corrected "
        f"kernel needs; {blamed} gave values that differ by up to {gap:.3g}. Use an exact trace in "
        "place of Hutchinson's estimate, or an uncorrected kernel such as poe.samplers.ULA, whose "
        "draws are biased"
    )


def _named(target: Expert) -> Iterator[tuple[str, Expert]]:
    for name, factor in target._factors():
        while isinstance(factor, Tempered):
            factor = factor.expert
        yield name, factor


def _gap(expert: Expert, x: Tensor) -> float | None:
    """The largest difference of two calls, if more than rounding; infinities must be the same."""
    first, second = expert(x), expert(x)
    is_same = (first == second) | (first.isnan() & second.isnan())
    difference = (first - second).abs()
    tolerance = torch.finfo(first.dtype).eps ** 0.5 * (1 + torch.minimum(first.abs(), second.abs()))
    is_more = ~is_same & ~(difference <= tolerance)
    return float(difference[is_more].max()) if bool(is_more.any()) else None
