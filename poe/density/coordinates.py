"""The unconstrained coordinates in which chains move, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.affine import Affine
from poe.core.distribution_modules import Parts, parts_of
from poe.core.errors import DtypeError, ShapeError
from poe.core.space import Binary, Categorical, Real, Sequence, Space
from poe.density.capabilities import (
    check_proper,
    conditionals,
    exact_log_partition,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
)
from poe.density.checks import device_of
from poe.density.conditional import num_conditions
from poe.density.expert import Expert, LogDensity, Sampler
from poe.density.questions import keeps_default
from poe.density.transformed import Transformed


class Rescaled(Expert):
    """The density of u where x = μ + L u, Jacobian included."""

    def __init__(self, expert: Expert, affine: Affine) -> None:
        super().__init__()
        self.space = expert.space
        self.expert = expert
        self.affine = affine

    def forward(self, u: Tensor) -> Tensor:
        return self.expert(self.affine.to_x(u)) + self.affine.log_abs_det()


@log_prob_of.register
def _(expert: Rescaled) -> LogDensity | None:
    inner, affine = log_prob_of(expert.expert), expert.affine
    return None if inner is None else lambda u: inner(affine.to_x(u)) + affine.log_abs_det()


@sampler_of.register
def _(expert: Rescaled) -> Sampler | None:
    inner, affine = sampler_of(expert.expert), expert.affine

    @torch.no_grad()
    def sample(num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert inner is not None
        return affine.to_u(inner(num_samples, generator=generator))

    return None if inner is None else sample


@exact_log_partition.register
def _(expert: Rescaled) -> Tensor | None:
    """The expert's own: its mass is moved, and none is lost."""
    return exact_log_partition(expert.expert)


@check_proper.register
def _(expert: Rescaled) -> None:
    check_proper(expert.expert)


@tails.register
def _(expert: Rescaled) -> Tensor | None:
    """L' G L, with x = μ + L u."""
    inner = tails(expert.expert)
    if inner is None or not isinstance(expert.space, Real):
        return None
    shape = expert.space.event_shape
    log_det = expert.affine.log_abs_det()
    u = torch.eye(shape.numel(), dtype=log_det.dtype, device=log_det.device)
    origin = expert.affine.to_x(torch.zeros_like(u[:1]).reshape(1, *shape))
    columns = (expert.affine.to_x(u.reshape(-1, *shape)) - origin).flatten(1)
    transposed = columns.to("cpu", torch.float64)  # row j is L times the j-th unit vector
    return transposed @ inner @ transposed.mT


@dataclass(frozen=True)
class Coordinates:
    """Chains move in u = T(x), with T the space's bijection to all of ℝⁿ; discrete ones stay put.

    With an ``affine`` map u is rescaled too: T(x) = μ + L u. log p̃(u) = log p̃(x) + log |det dx/du|.

    >>> import poe
    >>> coordinates = Coordinates(poe.Positive(2))
    >>> u = coordinates.to_u(torch.tensor([[1.0, 1.0]]))
    >>> u, coordinates.to_x(u)
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """

    space: Space
    affine: Affine | None = None

    @property
    def is_unbounded(self) -> bool:
        """Whether T is the identity."""
        return self.space.is_discrete or isinstance(self.space, Real)

    @property
    def is_identity(self) -> bool:
        """Whether u is x itself."""
        return self.is_unbounded and self.affine is None

    @property
    def u_space(self) -> Space:
        """The space of the coordinates."""
        return self.space if self.is_unbounded else self.space.unconstrained()

    def pull(self, expert: Expert) -> Expert:
        """The density of u, Jacobian included.

        Of a density that was one of u before, that one: x of u may lie where rounding allows no way
        back.
        """
        return self._rescaled(expert if self.is_unbounded else self._unbounded(expert))

    def was_of_u(self, expert: Expert) -> bool:
        """Whether an expert is a density of u that was moved to x, so that it is known in u."""
        if not isinstance(expert, Transformed) or expert.space != self.space:
            return False
        came_from = expert.bijection
        back = parts_of(self.space.to_unconstrained.inv)
        return isinstance(came_from, Parts) and came_from.is_same_as(back)

    def _unbounded(self, expert: Expert) -> Expert:
        if isinstance(expert, Transformed) and self.was_of_u(expert):
            return expert.expert
        return Transformed(expert, self.space.to_unconstrained)

    def _rescaled(self, expert: Expert) -> Expert:
        return expert if self.affine is None else Rescaled(expert, self.affine)

    def to_u(self, x: Tensor) -> Tensor:
        """``(*batch, *event)`` to unconstrained coordinates."""
        unbounded = x if self.is_unbounded else self.space.to_unconstrained(x)
        return unbounded if self.affine is None else self.affine.to_u(unbounded)

    def to_x(self, u: Tensor) -> Tensor:
        """Back to the space."""
        unbounded = u if self.affine is None else self.affine.to_x(u)
        return unbounded if self.is_unbounded else self.space.to_unconstrained.inv(unbounded)

    def log_density_of_x(self, u: Tensor, x: Tensor, log_density_of_u: Tensor) -> Tensor:
        """log p̃(x) from log p̃(u): the Jacobian taken out again; all of shape ``(*batch,)``."""
        if self.affine is not None:
            log_density_of_u = log_density_of_u - self.affine.log_abs_det()
            u = self.affine.to_x(u)
        if self.is_unbounded:
            return log_density_of_u
        jacobian: Tensor = self.space.to_unconstrained.inv.log_abs_det_jacobian(u, x)
        return log_density_of_u - jacobian


keeps_default(
    Rescaled,
    "lives on a continuous space",
    conditionals,
    spin_pairs,
    label_pairs,
    log_density_of_one_hot,
)


def number_of_chains(
    target: Expert, num_samples: int, num_chains: int | None, initial: Tensor | None
) -> int:
    """The number of chains, on which all who have a say must agree.

    Args:
        target: With its number of conditions, if it is a batch.
        num_samples: By which the default goes (``default_chains``).
        num_chains: As asked for, or None.
        initial: Starts, ``(chains, *event)``, or None.

    Returns:
        At least 1.

    Raises:
        ShapeError: Where they do not agree, or ``initial`` is not ``(chains, *event)``.
        DtypeError: For ``initial`` in a dtype that chains cannot move in.
        PoeError: Where ``initial`` is not in the space.
    """
    conditions, said = num_conditions(target), dict[str, int]()
    if num_chains is not None:
        said["num_chains"] = num_chains
    if initial is not None:
        require_chains(target.space, initial, "`initial`")
        _require_values(target.space, initial)
        said["initial.shape[0]"] = len(initial)
    if conditions is not None:
        said["the target's number of conditions"] = conditions
    if len(set(said.values())) > 1 or any(count < 1 for count in said.values()):
        text = ", ".join(f"{who} = {count}" for who, count in said.items())
        raise ShapeError(f"expected one number of chains >= 1, got {text}: make them agree")
    if said:
        return next(iter(said.values()))
    return default_chains(num_samples, target.space.event_shape.numel(), device_of(target))


def default_chains(num_samples: int, dimension: int, device: torch.device) -> int:
    """As many chains as are free: a step of many takes hardly longer than one of few.

    One for each 100 samples, up to 128 and to 2¹³ numbers in all, on an accelerator up to 1024 and
    2²⁰; where that is more, one for each 1000 samples, up to 64. At least 4.

    Args:
        num_samples: Of all chains together.
        dimension: Of x.
        device: Where they move.

    Returns:
        The number of chains.

    Example:
        >>> [default_chains(20_000, d, torch.device("cpu")) for d in (2, 100, 784)]
        [128, 81, 20]
    """
    most, numbers = (128, 2**13) if device.type == "cpu" else (1024, 2**20)
    free = min(num_samples // 100, most, numbers // max(1, dimension))
    return max(4, free, min(num_samples // 1000, 64))


def _require_values(space: Space, initial: Tensor) -> None:
    """Refuse starts that are no numbers of the space; what is NaN is told of with its density."""
    if initial.is_meta or initial.layout != torch.strided:
        raise DtypeError(
            f"expected `initial` of numbers in memory, got {initial.layout} on {initial.device}: "
            "use x.to_dense(), on a device"
        )
    if initial.dtype == torch.bool:
        raise DtypeError(f"expected `initial` of numbers in {space}, got bools: use x.float()")
    if not isinstance(space, Real):
        space.require(initial)


def require_chains(space: Space, x: Tensor, name: str) -> None:
    """Refuse positions that are not ``(chains, *event)``, or too coarse to move in small steps.

    Raises ShapeError and DtypeError.
    """
    batch = space.batch_shape(x)
    goes_by = torch.int64 if isinstance(space, Categorical | Sequence) else torch.float32
    is_known = x.dtype in (torch.float32, torch.float64, torch.int64)
    if not is_known and not (x.dtype == torch.bool and isinstance(space, Binary)):
        raise DtypeError(
            f"expected {name} of float32 or float64, or of int64 where values are counted, got "
            f"{x.dtype}: use {name.strip('`')}.to({goes_by})"
        )
    if len(batch) != 1 or not batch[0]:
        event = tuple(space.event_shape)
        raise ShapeError(
            f"expected {name} of shape (chains, *event) with event shape {event}, got "
            f"{tuple(x.shape)}: one batch dimension, at least one chain; reshape it to (-1, *event)"
        )
