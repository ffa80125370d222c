"""How many chains: what positions, conditions and the caller say of it."""

from __future__ import annotations

from torch import Tensor

from poe.core.errors import PoeError, ShapeError
from poe.core.space import Space
from poe.density.expert import Expert


def is_batch(target: Expert) -> bool:
    """Whether the target is a batch of densities, one for each chain."""
    return num_conditions(target) is not None


def num_conditions(target: Expert) -> int | None:
    """How many densities a batch of them has; None for one density.

    Args:
        target: Any.

    Returns:
        One for each chain, or None.

    Raises:
        ShapeError: Where experts of the target have different numbers of conditions.
    """
    found = (m.num_densities for m in target.modules() if isinstance(m, Expert))
    counts = sorted({count for count in found if count is not None})
    if len(counts) > 1:
        raise ShapeError(
            f"expected experts with one number of conditions, got {counts}: bind as many to each"
        )
    return counts[0] if counts else None


def require_one(target: Expert, remedy: str) -> None:
    """Refuse a batch of densities, one a condition, with what to do instead.

    Args:
        target: Any.
        remedy: What to do, in words.

    Raises:
        PoeError: Where it is a batch.
    """
    if num_conditions(target) is not None:
        raise PoeError(
            f"expected one density, got a batch of them (a condition for each chain): {remedy}"
        )


def number_of_chains(
    target: Expert, num_samples: int, num_chains: int | None, initial: Tensor | None
) -> int:
    """The number of chains, on which all who have a say must agree; by default 4 to 64.

    Args:
        target: With its number of conditions, if it is a batch.
        num_samples: By which the default goes, one chain for each 1000.
        num_chains: As asked for, or None.
        initial: Starts, ``(chains, *event)``, or None.

    Returns:
        At least 1.

    Raises:
        ShapeError: Where they do not agree, or ``initial`` is not ``(chains, *event)``.
    """
    conditions, said = num_conditions(target), dict[str, int]()
    if num_chains is not None:
        said["num_chains"] = num_chains
    if initial is not None:
        require_chains(target.space, initial, "`initial`")
        said["initial.shape[0]"] = len(initial)
    if conditions is not None:
        said["the target's number of conditions"] = conditions
    if len(set(said.values())) > 1 or any(count < 1 for count in said.values()):
        text = ", ".join(f"{who} = {count}" for who, count in said.items())
        raise ShapeError(f"expected one number of chains >= 1, got {text}: make them agree")
    return next(iter(said.values()), min(64, max(4, num_samples // 1000)))


def require_chains(space: Space, x: Tensor, name: str) -> None:
    """Refuse positions that are not ``(chains, *event)``. Raises ShapeError."""
    batch = space.batch_shape(x)
    if len(batch) != 1:
        event = tuple(space.event_shape)
        raise ShapeError(
            f"expected {name} of shape (chains, *event) with event shape {event}, got "
            f"{tuple(x.shape)}: one batch dimension, the chains; reshape it to (-1, *event)"
        )
