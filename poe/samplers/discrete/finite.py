"""What kernels on discrete spaces share: their space, and moves from a value to another one.

A move is a site and a shift s = 1 … k − 1: the value v becomes (v + s) mod k, and k − s undoes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.space import Space
from poe.samplers.kernel import Corrected, Density, Info, OnDrawnNoise
from poe.samplers.langevin import LangevinState


def require_finite(space: Space, kernel: object) -> None:
    """Refuse a space whose elements do not take finitely many values, at least two."""
    if space.num_values is None or space.num_values < 2:
        raise PoeError(
            f"expected a space of finitely many values a site, at least two, got {space}: "
            f"{type(kernel).__name__} moves on Binary, Categorical and Sequence"
        )


def require_inside(space: Space, x: Tensor) -> None:
    """Refuse positions that are no events of the space."""
    space.batch_shape(x)
    if x.is_meta:
        return
    is_outside = ~space.contains(x)
    if is_outside.any():
        values = _values_of(space.num_values)
        raise PoeError(
            f"expected every element of x in {space} to be {values}, got others in "
            f"{int(is_outside.sum())} of {len(x)} chains: round x, or draw it from poe.sample"
        )


def _values_of(num_values: int | None) -> str:
    if num_values is None:
        return "0, 1, 2, …"
    return "0 or 1" if num_values == 2 else f"0 … {num_values - 1}"


def moved(x: Tensor, shift: Tensor, num_values: int) -> Tensor:
    """(x + s) mod k, in the dtype of x.

    >>> moved(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1, 0, 1]), 3)
    tensor([1., 1., 0.])
    """
    return (x + shift.to(x.dtype)) % num_values


def estimated_changes(x: Tensor, score: Tensor, num_values: int) -> Tensor:
    """First-order estimates of log p̃(x with one move) − log p̃(x), of every move.

    On Binary ∂ᵢ log p̃ · (1 − 2xᵢ); else the difference of the one-hot gradient at both values.
    Exact where log p̃ is linear in each element, as that of an Ising model is.

    Shapes: x ``(chains, *event)``, score of the same shape, or ``(chains, *event, k)``; result
    ``(chains, n, k − 1)`` with n elements of an event.

    >>> x, score = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.3, 0.3]])
    >>> estimated_changes(x, score, 2)
    tensor([[[ 0.3000],
             [-0.3000]]])
    """
    sites = x.reshape(len(x), -1)
    if score.shape == x.shape:
        return ((1.0 - 2.0 * sites) * score.reshape_as(sites)).unsqueeze(-1)
    slopes = score.reshape(*sites.shape, num_values)
    shifts = torch.arange(num_values, device=x.device)
    values = (sites.long().unsqueeze(-1) + shifts) % num_values
    ordered = slopes.gather(-1, values)  # the present value's first
    return ordered[..., 1:] - ordered[..., :1]


def swept(tried: Tensor) -> Info:
    """What draws from conditionals met, by all the log-densities tried: ``(chains, n)``."""
    is_outside = tried == -torch.inf
    is_undefined = tried.isnan() | (tried == torch.inf)
    is_free = ~(is_outside | is_undefined).all(1)
    probability = is_free.to(tried.dtype)
    nowhere = torch.zeros_like(is_free)
    return Info(probability, is_free, is_outside.any(1), is_undefined.any(1), nowhere)


@dataclass(frozen=True)
class OnFiniteSpace(OnDrawnNoise[LangevinState]):
    """A kernel on a finite space that goes by the score.

    ``space``: where x lives, Binary, Categorical or Sequence. Starts raise PoeError where x is not
    in the space, or the target has no gradient in it.
    """

    space: Space

    needs_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_finite(self.space, self)

    @property
    def num_values(self) -> int:
        """The values that a site may take, k."""
        assert self.space.num_values is not None
        return self.space.num_values

    def init(self, target: Density, x: Tensor) -> LangevinState:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            PoeError: Where x is not in the space, or the target has no gradient in it.
            NonFiniteError: Where log-density or score is not finite.
        """
        require_inside(self.space, x)
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> LangevinState:
        return LangevinState(x, *target.log_density_and_score(x))

    def _changes(self, state: LangevinState) -> Tensor:
        """What every move would change, estimated: ``(chains, n, k − 1)``."""
        return estimated_changes(state.position, state.score, self.num_values)


@dataclass(frozen=True)
class CorrectedOnFiniteSpace(OnFiniteSpace, Corrected[LangevinState]):
    """A corrected kernel on a finite space that goes by the score."""
