"""Numbers that experts say of rows: that every one is finite, and who is at fault if not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import NonFiniteError
from poe.density.expert import Expert, Product, Wrapper, experts_in

REMEDY = (
    "Go back to the last good checkpoint with a smaller step size or learning rate, or a "
    "regularization; see that these rows are in the support of every expert."
)


class Rows(NamedTuple):
    """One number for each row x ``(n, *event)``, and how to read it from an expert again."""

    expert: Expert
    where: str
    x: Tensor
    values: Tensor
    limit: float = math.inf
    read: Callable[[Expert, Tensor], Tensor] = Expert.log_density


def require_finite(*parts: Rows) -> None:
    """Refuse what is no number, or beyond its limit, and name the expert that said it.

    On the good path this is one synchronisation with the device, however many parts there are.
    Raises `NonFiniteError`, which says how many rows, on what, and of which factor of a product.

    >>> expert, x = experts.Gaussian([0.0], scale=[1.0]), torch.zeros(2, 1)
    >>> require_finite(Rows(expert, "data", x, torch.tensor([0.0, torch.nan])))
    Traceback (most recent call last):
    poe.NonFiniteError: expected finite values, got others on 1 of 2 rows of data (1 NaN)...
    """
    if any(part.values.is_meta for part in parts):
        return
    if bool(torch.stack([_is_bad(part.values, part.limit).any() for part in parts]).any()):
        said = "; ".join(said for part in parts if (said := _in_words(part)))
        raise NonFiniteError(f"{said}. {REMEDY}")


def require_finite_of_each(names: Sequence[str], values: Tensor, what: str, remedy: str) -> None:
    """Refuse what is no number among what each expert says, and name those that said it.

    Args:
        names: Of the experts.
        values: What each says, `(..., k)`.
        what: What the values are, and where.
        remedy: What to do about it.

    Raises:
        NonFiniteError: Where one is NaN or infinite.
    """
    if not bool(values.isfinite().all()):
        raise NonFiniteError(f"expected finite {what}, got {blame(names, values)}; {remedy}")


def blame(names: Sequence[str], values: Tensor) -> str:
    """Who says what is no number, and how often, in words; empty where nobody does.

    Args:
        names: Of the experts.
        values: What each says, `(..., k)`.

    Returns:
        The names of those at fault, each with its counts.

    >>> blame(("a", "b", "c"), torch.tensor([[0.0, torch.inf, 1.0], [torch.nan, torch.inf, 1.0]]))
    '1 NaN of 2 under a, 2 +inf of 2 under b'
    """
    columns = zip(names, values.detach().reshape(-1, len(names)).T, strict=True)
    return ", ".join(
        f"{_kinds(column[~column.isfinite()])} of {len(column)} under {name}"
        for name, column in columns
        if not bool(column.isfinite().all())
    )


def _is_bad(values: Tensor, limit: float) -> Tensor:
    """NaN, infinite, or beyond the limit: comparisons with NaN are False."""
    values = values.detach()
    return ~(values.isfinite() & (values.abs() <= limit))


@torch.no_grad()
def _in_words(part: Rows) -> str:
    is_bad = _is_bad(part.values, part.limit)
    if not bool(is_bad.any()):
        return ""
    within = "" if part.limit == math.inf else f", at most {part.limit:g} in size"
    return (
        f"expected finite values{within}, got others on {int(is_bad.sum())} of {len(is_bad)} rows "
        f"of {part.where} ({_kinds(part.values[is_bad])}), under {_culprits(part)}"
    )


def _kinds(values: Tensor) -> str:
    counts = {
        "NaN": values.isnan(),
        "+inf": values == torch.inf,
        "-inf": values == -torch.inf,
        "too large": values.isfinite(),
    }
    return ", ".join(f"{int(found.sum())} {kind}" for kind, found in counts.items() if found.any())


def _culprits(part: Rows) -> str:
    """The factors that are at fault by themselves, or else the expert as a whole."""
    if not bool(part.x.isfinite().all()):  # an expert is not asked about what is no position
        return f"{type(part.expert).__name__}, at positions that are not finite"
    factors = Product(part.expert)
    at_fault = [
        repr(name)
        for name, factor in zip(factors.names, experts_in(factors.experts), strict=True)
        if _is_bad(part.read(factor, part.x.detach()), part.limit).any()
    ]
    if at_fault:
        return f"expert{'s' * (len(at_fault) > 1)} {', '.join(at_fault)}"
    return f"{type(part.expert).__name__} ({', '.join(factors.names)}), no factor by itself"


def require_start(target: object, x: Tensor, log_density: Tensor, *others: Tensor) -> None:
    """Refuse a start where log-density or another part of the state is not finite.

    Such as a score; it names the experts at fault.
    """
    if x.is_meta:
        return
    bad = ~torch.isfinite(log_density)
    for part in others:
        bad = bad | ~torch.isfinite(part).reshape(len(x), -1).all(dim=1)
    if not bad.any():
        return
    chains = bad.nonzero().flatten().tolist()
    first = chains[0]
    said = "a position that is not finite"
    if bool(x.isfinite().all()):
        said = f"log-density {log_density[first].item()}{_factors_at_fault(target, x, first)}"
    raise NonFiniteError(
        f"expected a finite log-density and score at the start of every chain, got others at "
        f"{len(chains)} of {len(x)}: chain {first} has {said}. Start inside the support of every "
        "expert, by `initial=` in poe.sample."
    )


def _factors_at_fault(target: object, x: Tensor, chain: int) -> str:
    """Which experts of a product are not finite at that chain, in words."""
    while isinstance(target, Wrapper):
        target = target.inner()
    if not isinstance(target, Product):
        return ""
    with torch.no_grad():
        row = target.contributions(x)[chain].tolist()
    values = dict(zip(target.names, row, strict=True))
    at_fault = {name: v for name, v in values.items() if not abs(v) < float("inf")}
    return f" ({', '.join(f'expert {n!r}: {v}' for n, v in at_fault.items())})" if at_fault else ""
